"""uint8 images <-> values normalised by ImageNet's statistics, as in sg2im/data/utils.py."""

import torch
from torch import Tensor

from model.pixels import to_float

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's images in [0, 1], by channel
STD = (0.229, 0.224, 0.225)
LEAST_RANGE = 1e-5  # an image of one colour has nothing to rescale


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    # Filled where they are: a GPU waits for numbers that come from the host.
    return torch.stack([like.new_full((1, 1), value) for value in values])


def normalised(images: Tensor, side: int) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, side, side) float32, mean 0 and std 1 over ImageNet."""
    values = (to_float(images, side) + 1) / 2
    return (values - _channels(MEAN, values)) / _channels(STD, values)


def denormalised(images: Tensor, *, rescale: bool = True) -> Tensor:
    """(N, 3, H, W) -> (N, H, W, 3) uint8, on the CPU.

    rescale  every image from its own least value to its own greatest, as sg2im's sampling does;
             without it, what lies outside [0, 1] is cut off
    """
    values = images.detach().float()
    values = values * _channels(STD, values) + _channels(MEAN, values)
    if rescale:
        least, most = (f(values, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        values = (values - least) / (most - least).clamp_min(LEAST_RANGE)
    # Truncated, not rounded, as the published sampling writes its files.
    return (values * 255).clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu()
