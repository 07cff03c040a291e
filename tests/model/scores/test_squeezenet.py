"""SqueezeNet is read as Keras wrote it, and takes pixels in its order."""

from importlib.util import find_spec

import pytest
import torch
from torch.nn import functional as F

from model.scores.squeezenet import FILE, FIRES, MEAN_BGR, SIDE, SqueezeNet, read


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """A file in Keras's layout, with random weights: its path and what it holds by layer."""
    if not find_spec("h5py"):
        pytest.skip("extra scores is not installed: no h5py")
    import h5py

    random = torch.Generator().manual_seed(0)
    held = {"conv1": (torch.randn(3, 3, 3, 64, generator=random), torch.randn(64))}
    for name, (inputs, squeezed, expanded) in FIRES.items():
        shapes = {
            "squeeze1x1": (1, 1, inputs, squeezed),
            "expand1x1": (1, 1, squeezed, expanded),
            "expand3x3": (3, 3, squeezed, expanded),
        }
        for layer, shape in shapes.items():
            kernel = torch.randn(shape, generator=random) / (shape[0] * shape[1] * shape[2]) ** 0.5
            held[f"{name}/{layer}"] = kernel, torch.randn(shape[3], generator=random)
    path = tmp_path_factory.mktemp("weights") / "net.h5"
    with h5py.File(path, "w") as file:
        for number, (layer, (kernel, bias)) in enumerate(held.items()):
            group = file.create_group(f"{layer}/{layer}_{number}")
            group["kernel:0"], group["bias:0"] = kernel.numpy(), bias.numpy()
    return path, held


def test_features_are_the_mean_of_the_last_map_of_bgr_pixels_less_their_mean(file):
    path, held = file
    pixels = torch.randint(256, (2, SIDE, SIDE, 3), dtype=torch.uint8)

    def convolved(layer, maps, **how):
        kernel, bias = held[layer]
        return F.relu(F.conv2d(maps, kernel.permute(3, 2, 0, 1), bias, **how))

    bgr = torch.stack([pixels[..., 2 - i].float() - MEAN_BGR[i] for i in range(3)], 1)
    maps = convolved("conv1", bgr, stride=2)
    for name in FIRES:
        if name in ("fire2", "fire4", "fire6"):
            maps = F.max_pool2d(maps, 3, 2)
        squeezed = convolved(f"{name}/squeeze1x1", maps)
        maps = torch.cat(
            [
                convolved(f"{name}/expand1x1", squeezed),
                convolved(f"{name}/expand3x3", squeezed, padding=1),
            ],
            1,
        )
    vectors, logits = read(path)(pixels)
    torch.testing.assert_close(vectors, maps.mean((2, 3)), rtol=1e-3, atol=1e-3)
    assert vectors.shape == (2, 512)
    assert logits is None


def test_neighbouring_squares_of_photos_are_found_better_than_by_random_weights(data, squares):
    if not find_spec("h5py"):
        pytest.skip("extra scores is not installed: no h5py")

    def share(network):
        vectors, _ = network(torch.from_numpy(squares))
        units = F.normalize(vectors, dim=1)
        nearest = (units @ units.T).fill_diagonal_(-1).argmax(1)
        photo = torch.arange(len(vectors)) // 4  # four squares of a photo follow each other
        return (photo[nearest] == photo).float().mean().item()

    torch.manual_seed(0)
    assert share(read(data / "weights" / FILE)) > share(SqueezeNet().requires_grad_(False)) + 0.2
