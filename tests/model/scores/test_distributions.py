"""Scores of sets of pictures: known answers, and those of torchmetrics and torch-fidelity."""

import warnings
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from model.scores import distributions
from model.scores.distributions import (
    distribution_scores,
    frechet_distance,
    inception_score,
    kernel_distance,
    names_of,
    precision_recall,
)
from model.scores.extractors import Extractor, PictureFeatures
from model.scores.published import import_torchvision
from model.scores.weights import Weights
from pipeline.errors import UserError

D = 24


def random_sets():
    """Reference (400, D) and pictures (300, D) with logits (300, 12), the same everywhere."""
    random = np.random.default_rng(0)
    reference, pictures = random.normal(size=(400, D)), random.normal(0.3, 1.2, size=(300, D))
    return (torch.from_numpy(x) for x in (reference, pictures, random.normal(size=(300, 12)) * 2))


# What torch-fidelity 0.4.0 answers on these sets: metric_fid.fid_statistics_to_metric of
# fid_features_to_statistics of each; metric_kid.kid_features_to_metric(pictures, reference,
# kid_subsets=7, kid_subset_size=100, rng_seed=5); metric_isc.isc_features_to_metric(logits, 10,
# True, 5); metric_prc.prc_features_to_metric(pictures, reference).
FRECHET = 4.17138085288471
KERNEL = (0.39916611573552896, 0.10125961352072797)
CLASSES = (2.6346139274855753, 0.16059680231896906)
PRECISION, RECALL = 91 / 300, 372 / 400


def extractor(name="efficientnet-lite0", published=False):
    weights = Weights(Path("weights.pth"), "89abcdef" * 8)
    nothing = torch.device("cpu")
    return Extractor(name, published, weights, D, 8, "none", lambda x: (x, None), nothing)


def test_scores_are_those_of_torch_fidelity():
    reference, pictures, logits = random_sets()
    assert frechet_distance(reference, pictures) == pytest.approx(FRECHET, rel=1e-10)
    kernel = kernel_distance(pictures, reference, 5, subsets=7, size=100)
    assert kernel == pytest.approx(KERNEL, rel=1e-10)
    assert inception_score(logits, 5) == pytest.approx(CLASSES, rel=1e-10)
    assert precision_recall(reference, pictures) == pytest.approx((PRECISION, RECALL), rel=1e-12)


def test_scores_are_those_of_torch_fidelity_as_it_is_installed():
    if not find_spec("torch_fidelity"):
        pytest.skip("extra eval is not installed: no torch-fidelity")
    import_torchvision()
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
    from torch_fidelity.metric_isc import isc_features_to_metric
    from torch_fidelity.metric_kid import kid_features_to_metric
    from torch_fidelity.metric_prc import prc_features_to_metric

    random = torch.Generator().manual_seed(1)
    reference = torch.randn(2300, 70, generator=random).double()
    shift = 0.2 * torch.rand(70, generator=random)
    pictures = torch.randn(1200, 70, generator=random).double() + shift
    both = [fid_features_to_statistics(x) for x in (pictures, reference)]
    (frechet,) = fid_statistics_to_metric(*both, False).values()
    assert frechet_distance(reference, pictures) == pytest.approx(frechet, rel=1e-6)
    kernel = kid_features_to_metric(pictures, reference, kid_subsets=9, rng_seed=3, verbose=False)
    ours = kernel_distance(pictures, reference, 3, subsets=9)
    assert ours == pytest.approx(tuple(kernel.values()), rel=1e-6)
    classes = tuple(isc_features_to_metric(pictures, 10, True, 3).values())
    assert inception_score(pictures, 3) == pytest.approx(classes, rel=1e-6)
    shares = prc_features_to_metric(pictures, reference, verbose=False)
    expected = (shares["precision"], shares["recall"])
    assert 0 < min(expected) < max(expected) < 1
    assert precision_recall(reference, pictures) == pytest.approx(expected, rel=1e-6)


def test_scores_are_those_of_torchmetrics():
    """Over all pictures at once: it draws subsets by itself."""
    if not find_spec("torchmetrics"):
        pytest.skip("extra dev is not installed: no torchmetrics")
    if find_spec("torchvision"):
        import_torchvision()  # which torchmetrics imports where it is installed
    from torchmetrics.image.fid import FrechetInceptionDistance
    from torchmetrics.image.inception import InceptionScore
    from torchmetrics.image.kid import KernelInceptionDistance

    reference, pictures, logits = random_sets()
    reference = reference[: len(pictures)]
    as_they_are = torch.nn.Identity()
    as_they_are.num_features = D
    frechet = FrechetInceptionDistance(feature=as_they_are).set_dtype(torch.float64)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they say that they may need much memory
        kernel = KernelInceptionDistance(as_they_are, subsets=1, subset_size=len(pictures))
        classes = InceptionScore(as_they_are, splits=1)
    for metric in (frechet, kernel):
        metric.update(reference, real=True)
        metric.update(pictures, real=False)
    classes.update(logits)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one split has no standard deviation
        score, _ = classes.compute()

    assert frechet_distance(reference, pictures) == pytest.approx(
        float(frechet.compute()), rel=1e-6
    )
    mean, _ = kernel.compute()
    assert kernel_distance(reference, pictures, 0).mean == pytest.approx(float(mean), rel=1e-6)
    assert inception_score(logits, 0, splits=1).mean == pytest.approx(float(score), rel=1e-6)


@pytest.mark.parametrize("n", [10, 300])
def test_equal_sets_are_at_no_distance_with_few_pictures_too(n):
    pictures = torch.randn(n, D, generator=torch.Generator().manual_seed(0))
    assert frechet_distance(pictures, pictures) == pytest.approx(0, abs=1e-12)
    assert precision_recall(pictures, pictures) == (1, 1)
    assert kernel_distance(pictures, pictures, 0).mean < 0


def test_equal_pictures_of_one_set_lie_among_those_of_the_other():
    """Their third neighbour is at no distance, of which products leave a rounding."""
    pictures = 1e3 * torch.randn(40, D, generator=torch.Generator().manual_seed(0)).double()
    assert precision_recall(pictures.repeat(5, 1), pictures.repeat(4, 1)) == (1, 1)
    assert precision_recall(pictures.repeat(5, 1), pictures.repeat(4, 1) + 1e-3) == (0, 0)


def exact_gaussian(mean, deviation):
    """(n, D) with exactly this mean and, in each dimension alone, this deviation."""
    samples = torch.randn(200, D, generator=torch.Generator().manual_seed(2)).double()
    samples -= samples.mean(0)
    white = samples @ torch.linalg.cholesky(torch.linalg.inv(samples.T.cov()))
    return white * deviation + mean


def test_frechet_distance_of_gaussians_is_its_closed_form():
    """|m - n|^2 + sum of (s - t)^2 over the dimensions."""
    random = torch.Generator().manual_seed(3)
    m, n, s, t = torch.rand(4, D, generator=random).double()
    expected = (m - n).square().sum() + (s - t).square().sum()
    distance = frechet_distance(exact_gaussian(m, s), exact_gaussian(n, t).flip(0))
    assert distance == pytest.approx(float(expected), rel=1e-9)


def test_kernel_distance_of_points_is_its_sum_over_pairs():
    x, y = torch.tensor([[0.0], [1.0]]), torch.tensor([[2.0], [-1.0], [0.0]])
    within = (0 * 1 + 1) ** 3
    of_other = ((-2 + 1) ** 3 + 1 + 1) / 3
    across = (1 + 1 + 1 + 3**3 + 0 + 1) / 6
    assert kernel_distance(x, y, 0).mean == pytest.approx(within + of_other - 2 * across)


def test_blocks_of_rows_change_no_score(monkeypatch):
    reference, pictures, _ = random_sets()
    whole = precision_recall(reference, pictures), kernel_distance(reference, pictures, 0).mean
    monkeypatch.setattr(distributions, "ROWS_AT_ONCE", 7)
    divided = precision_recall(reference, pictures), kernel_distance(reference, pictures, 0).mean
    assert divided[0] == whole[0]
    assert divided[1] == pytest.approx(whole[1], rel=1e-12)


def test_points_lie_among_others_within_the_third_neighbour_of_one():
    """On a line: of 0, 1, 2, 3, 10 the third neighbours are 3, 2, 2, 3 and 9 away."""
    real = torch.tensor([[0.0], [1.0], [2.0], [3.0], [10.0]])
    made = torch.tensor([[-3.0], [-3.1], [18.9], [19.1], [19.0]])
    assert precision_recall(real, made).precision == pytest.approx(3 / 5)
    assert precision_recall(made, real).recall == pytest.approx(3 / 5)


def test_the_inception_score_is_the_number_of_classes_that_are_surely_and_evenly_met():
    sure = 2000.0 * torch.eye(4).repeat(30, 1)  # so sure that other classes have probability 0
    assert inception_score(sure, 0, splits=1).mean == pytest.approx(4)
    assert inception_score(torch.zeros(50, 4), 0) == pytest.approx((1, 0))
    assert inception_score(sure[[0, 4, 8]], 0) == pytest.approx((1, 0))  # fewer than splits


def test_the_names_of_the_literature_are_for_its_networks_with_their_own_weights():
    ours = names_of(extractor("inception", published=True))
    assert ours[:5] == ("FID", "KID", "precision", "recall", "IS")
    assert names_of(extractor("dinov2", published=True)).frechet == "FD-DINOv2"
    known = {"FID", "KID", "IS", "precision", "recall", "FD-DINOv2", "DS", "LPIPS"}
    others = [extractor(), extractor("squeezenet"), extractor("inception"), extractor("dinov2")]
    for other in others:
        assert not known & set(names_of(other))
        assert all(other.name in name for name in names_of(other))
    assert names_of(others[0]).frechet == "Fréchet distance (efficientnet-lite0)"
    assert names_of(others[2]).frechet == "Fréchet distance (inception, weights 89abcdef)"


def test_fewer_pictures_than_dimensions_or_classes_are_told_beside_the_score():
    reference, pictures, logits = (x.float() for x in random_sets())
    enough = distribution_scores(
        extractor(),
        PictureFeatures(reference, None),
        PictureFeatures(pictures, logits),
        seed=0,
    )
    assert [score.unreliable for score in enough] == [None] * 5
    few = distribution_scores(
        extractor(),
        PictureFeatures(reference[:D], None),
        PictureFeatures(pictures, logits[:11]),
        seed=0,
    )
    assert few[0].unreliable == "24 pictures for 24 dimensions"
    assert few[4].unreliable == "11 pictures for 12 classes"
    just_enough = distribution_scores(
        extractor(),
        PictureFeatures(reference[: D + 1], None),
        PictureFeatures(pictures, logits[:12]),
        seed=0,
    )
    assert [score.unreliable for score in just_enough] == [None] * 5


def test_scores_come_by_name_for_pictures_against_a_reference():
    reference, pictures, logits = random_sets()
    scores = distribution_scores(
        extractor("inception", published=True),
        PictureFeatures(reference, None),
        PictureFeatures(pictures, logits),
        seed=5,
    )
    values = {score.name: (score.value, score.spread) for score in scores}
    assert list(values) == ["FID", "KID", "precision", "recall", "IS"]
    assert values["FID"] == (pytest.approx(FRECHET), None)
    assert values["precision"] == (pytest.approx(PRECISION), None)
    assert values["recall"] == (pytest.approx(RECALL), None)
    assert values["IS"] == pytest.approx(CLASSES)
    without_classes = PictureFeatures(pictures, None)
    assert len(distribution_scores(extractor(), without_classes, without_classes, seed=0)) == 4


def test_without_more_pictures_than_a_subset_has_all_are_taken_once():
    x, y, _ = random_sets()
    assert kernel_distance(x, y, 0, size=300).deviation is None
    assert kernel_distance(x, y, 0, size=300) == kernel_distance(x, y, 1)
    assert kernel_distance(x, y, 0, size=299).deviation is not None


def test_subsets_are_drawn_of_the_pictures_first_as_torch_fidelity_does():
    sets = torch.randn(2, 1001, 3, generator=torch.Generator().manual_seed(0))
    made, real = (PictureFeatures(vectors, None) for vectors in sets)
    score = distribution_scores(extractor(), real, made, seed=1)[1]
    assert (score.value, score.spread) == kernel_distance(made.vectors, real.vectors, 1)


def test_a_seed_gives_the_same_subsets_and_another_one_others():
    x = torch.randn(1100, 3, generator=torch.Generator().manual_seed(0))
    y = torch.randn(1100, 3, generator=torch.Generator().manual_seed(1))
    state = torch.get_rng_state()
    first = kernel_distance(x, y, 1, subsets=3)
    assert first == kernel_distance(x, y, 1, subsets=3)
    assert first != kernel_distance(x, y, 2, subsets=3)
    assert first.deviation > 0
    assert torch.equal(state, torch.get_rng_state())


def test_too_few_pictures_for_any_score_are_refused():
    reference, pictures, _ = random_sets()
    sets = PictureFeatures(reference, None), PictureFeatures(pictures[:3], None)
    with pytest.raises(UserError, match="pictures: 3 pictures; scores of sets need at least 4"):
        distribution_scores(extractor(), *sets, seed=0)
    with pytest.raises(UserError, match="reference: 3 pictures; "):
        distribution_scores(extractor(), *sets[::-1], seed=0)
