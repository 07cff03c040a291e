"""Maps at another side are those of F.interpolate and F.adaptive_avg_pool2d, gradients too."""

import pytest
import torch
from torch.autograd import gradgradcheck
from torch.nn import functional as F

from model.resizing import by_products, doubled_and_convolved, resized


def maps_of(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def convolved(maps):
    weight = torch.linspace(-1, 1, 5 * maps.shape[1] * 9, dtype=maps.dtype)
    return doubled_and_convolved(maps, weight.reshape(5, -1, 3, 3))


def torchs(maps, side):
    if side > maps.shape[-1]:
        return F.interpolate(maps, size=(side, side), mode="bilinear")
    return F.adaptive_avg_pool2d(maps, side)


@pytest.mark.parametrize(
    ("h", "side"), [(8, 4), (8, 1), (7, 3), (4, 8), (2, 8), (1, 4), (3, 5), (5, 4)]
)
def test_a_smaller_side_is_averaged_and_a_larger_one_bilinear(h, side):
    maps = maps_of(2, 3, h, h)
    ours, theirs = by_products(maps, side), torchs(maps, side)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(resized(maps, side), theirs)  # on a CPU
    weights = torch.randn_like(theirs)
    gradients = [torch.autograd.grad((made * weights).sum(), maps)[0] for made in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_at_the_same_side_the_maps_are_the_same():
    maps = maps_of(2, 3, 4, 4)
    assert resized(maps, 4) is maps


def test_doubled_maps_are_convolved_as_if_every_value_were_there_four_times():
    maps, weight = maps_of(2, 3, 4, 5), maps_of(7, 3, 3, 3)
    ours = doubled_and_convolved(maps, weight)
    theirs = F.conv2d(F.interpolate(maps, scale_factor=2, mode="nearest"), weight, padding=1)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn_like(theirs)
    both = [torch.autograd.grad((made * weights).sum(), (maps, weight)) for made in (ours, theirs)]
    torch.testing.assert_close(*both)


@pytest.mark.parametrize(
    "make", [lambda m: by_products(m, 2), lambda m: by_products(m, 8), convolved]
)
def test_what_is_made_lies_in_channels_last_and_keeps_its_type(make):
    for dtype in (torch.float32, torch.bfloat16):
        made = make(torch.randn(2, 4, 4, 3, dtype=dtype).permute(0, 3, 1, 2))
        assert made.is_contiguous(memory_format=torch.channels_last)
        assert made.dtype == dtype


@pytest.mark.parametrize(
    "make", [lambda m: by_products(m, 2), lambda m: by_products(m, 5), convolved]
)
def test_gradients_of_gradients_are_there(make):
    gradgradcheck(lambda m: make(m) ** 2, maps_of(1, 2, 3, 3))
