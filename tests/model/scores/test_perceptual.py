"""LPIPS is that of its library, of pictures in [-1, 1]."""

import numpy as np
import pytest
import torch

from model.scores.perceptual import ALEXNET, open_lpips
from pipeline.errors import UserError

CPU = torch.device("cpu")
N, M = 3, 4
PAIRS = [(0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3)]


@pytest.fixture(scope="module")
def lpips(random_alexnet):
    return open_lpips(random_alexnet, CPU)


@pytest.fixture(scope="module")
def theirs(random_alexnet):
    """The library's network, as it would be with these weights in the place of a download."""
    from lpips import LPIPS

    state = torch.load(random_alexnet, weights_only=True)
    network = LPIPS(net="alex", pnet_rand=True, verbose=False)
    for part in network.net.children():
        for number, layer in part.named_children():
            if f"features.{number}.weight" in state:
                layer.weight.data = state[f"features.{number}.weight"]
                layer.bias.data = state[f"features.{number}.bias"]
    return network


def pictures():
    return np.random.default_rng(0).integers(0, 256, (N, M, 64, 64, 3), dtype=np.uint8)


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:The parameter 'pretrained'", "ignore:Arguments other than")
def test_distances_of_all_pairs_are_the_library_s(lpips, theirs):
    pixels = pictures()
    inputs = torch.from_numpy(pixels / 127.5 - 1).float().movedim(-1, 2)  # (N, M, 3, 64, 64)
    expected = [
        [theirs(inputs[n, i : i + 1], inputs[n, j : j + 1]).item() for i, j in PAIRS]
        for n in range(N)
    ]
    distances = lpips.pair_distances(pixels)
    assert distances.shape == (N, len(PAIRS))
    torch.testing.assert_close(distances, torch.tensor(expected).double(), rtol=1e-5, atol=1e-7)


def test_equal_pictures_are_at_no_distance(lpips):
    same = pictures()[:, :1].repeat(2, axis=1)
    assert torch.equal(lpips.pair_distances(same), torch.zeros(N, 1).double())


def test_pictures_in_another_range_are_refused(lpips):
    with pytest.raises(ValueError, match="not uint8"):
        lpips.pair_distances(pictures() / 255)
    with pytest.raises(ValueError, match="channels last"):
        lpips.pair_distances(pictures().transpose(0, 1, 4, 2, 3))


def test_only_with_the_published_weights_is_their_mean_called_ds(lpips):
    assert lpips.name == f"diversity (LPIPS, weights {lpips.weights.sha256[:8]})"
    assert lpips.describe()["published"] is False
    published = type(lpips)(lpips.weights, True, lpips.network, CPU)
    assert published.name == "DS"


def test_without_its_weights_one_line_says_which_file_to_put_there(tmp_path, random_alexnet):
    with pytest.raises(UserError, match=rf"has no {ALEXNET.names[0]}; put it there, from https:"):
        open_lpips(tmp_path, CPU)


def test_opening_it_draws_nothing_from_the_global_generator(random_alexnet):
    state = torch.get_rng_state()
    open_lpips(random_alexnet, CPU)
    assert torch.equal(torch.get_rng_state(), state)
