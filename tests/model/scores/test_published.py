"""Inception's scores are those of torch-fidelity on the same weights and pictures."""

import warnings
from importlib.util import find_spec

import numpy as np
import pytest
import torch
from PIL import Image

from model.scores.distributions import distribution_scores
from model.scores.extractors import open_extractor
from model.scores.published import import_torchvision
from pipeline.errors import UserError

CPU = torch.device("cpu")
SEED = 7


def folder_of_pictures(folder, seed, darkest):
    """20 pictures of coarse noise, written as PNG, and as an array (20, 48, 48, 3)."""
    folder.mkdir()
    random = np.random.default_rng(seed)
    coarse = random.integers(darkest, 256, (20, 6, 6, 3), dtype=np.uint8)
    pictures = [Image.fromarray(c).resize((48, 48)) for c in coarse]
    for number, picture in enumerate(pictures):
        picture.save(folder / f"{number:02}.png")
    return np.stack([np.asarray(picture) for picture in pictures])


def test_scores_are_those_that_torch_fidelity_computes_of_two_folders(tmp_path, random_inception):
    """It computes the kernel in float32, and the Fréchet distance from eigenvalues of a singular
    product: these came out 3e-4 and 3e-6 from ours. Of enough features in float64 they are equal
    (test_distributions)."""
    made = folder_of_pictures(tmp_path / "made", 0, 0)
    real = folder_of_pictures(tmp_path / "real", 1, 60)
    extractor = open_extractor("inception", random_inception, CPU)
    features = [extractor.features(pictures) for pictures in (real, made)]
    ours = [score.value for score in distribution_scores(extractor, *features, SEED)]

    import torch_fidelity

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of more workers than cores
        theirs = torch_fidelity.calculate_metrics(
            input1=str(tmp_path / "made"),
            input2=str(tmp_path / "real"),
            feature_extractor="inception-v3-compat",
            feature_extractor_weights_path=str(random_inception),
            fid=True,
            kid=True,
            prc=True,
            isc=True,
            kid_subsets=1,
            kid_subset_size=20,
            rng_seed=SEED,
            cuda=False,
            cache=False,
            verbose=False,
        )
    frechet, kernel, precision, recall, classes = ours
    assert frechet == pytest.approx(theirs["frechet_inception_distance"], rel=1e-5)
    assert kernel == pytest.approx(theirs["kernel_inception_distance_mean"], rel=1e-3)
    assert classes == pytest.approx(theirs["inception_score_mean"], rel=1e-9)
    assert (precision, recall) == pytest.approx((theirs["precision"], theirs["recall"]), rel=1e-6)


def test_features_are_bitwise_those_of_the_library_s_network(random_inception):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    extractor = open_extractor("inception", random_inception, CPU)
    theirs = FeatureExtractorInceptionV3("x", ["2048", "logits_unbiased"], str(random_inception))
    pixels = np.random.default_rng(0).integers(0, 256, (3, 40, 50, 3), dtype=np.uint8)
    features = extractor.features(pixels)
    vectors, logits = theirs(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert torch.equal(features.vectors, vectors)
    assert torch.equal(features.logits, logits)
    assert vectors.shape == (3, extractor.width)


def test_scores_of_other_weights_are_not_called_fid(random_inception):
    extractor = open_extractor("inception", random_inception, CPU)
    assert not extractor.published
    told = extractor.describe()
    assert (told["weights"], told["sha256"]) == ("random.pth", extractor.sha256)
    assert told["versions"]["torch-fidelity"]


def test_a_file_under_the_published_name_with_other_weights_is_refused(tmp_path, random_inception):
    copy = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    copy.symlink_to(random_inception)
    with pytest.raises(UserError, match="but 6726825d0af5f729cebd5821db510b11"):
        open_extractor("inception", copy, CPU)


class Command:
    """What a pickle runs as it is opened."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (open, (str(self.file), "w"))


def test_weights_that_would_run_as_they_are_opened_are_not_opened(tmp_path, random_inception):
    torch.save(Command(tmp_path / "ran"), tmp_path / "mine.pth")
    with pytest.raises(UserError, match=r"of Inception \(Weights only load failed"):
        open_extractor("inception", tmp_path / "mine.pth", CPU)
    assert not (tmp_path / "ran").exists()


def test_torchvision_is_imported_beside_a_torch_without_its_operators():
    if not find_spec("torchvision"):
        pytest.skip("extra eval is not installed: no torchvision")
    import_torchvision()
    import torchvision

    assert torchvision.ops.box_iou(torch.ones(1, 4), torch.ones(1, 4)).shape == (1, 1)
