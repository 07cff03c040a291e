"""Pictures <-> the normalised values that sg2im learns and makes (facts.md 3.3)."""

import torch
from torch import Tensor

from model.batch import pixels

MEAN = (0.485, 0.456, 0.406)  # of ImageNet's pictures in [0, 1], by channel
STD = (0.229, 0.224, 0.225)
LEAST_SPREAD = 1e-5  # a picture of one colour has nothing to rescale


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, device=like.device, dtype=like.dtype)[:, None, None]


def normalised(images: Tensor, side: int) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, side, side) float32 of mean 0 and spread 1 over ImageNet."""
    shares = (pixels(images, side) + 1) / 2
    return (shares - _channels(MEAN, shares)) / _channels(STD, shares)


def pictures(images: Tensor, *, rescale: bool = True) -> Tensor:
    """(N, 3, H, W) -> (N, H, W, 3) uint8, on the CPU.

    rescale  every picture from its own least value to its own greatest, as sg2im's sampling does;
             without it, what lies outside [0, 1] is cut off
    """
    shares = images.detach().float()
    shares = shares * _channels(STD, shares) + _channels(MEAN, shares)
    if rescale:
        least, most = (f(shares, (1, 2, 3), keepdim=True) for f in (torch.amin, torch.amax))
        shares = (shares - least) / (most - least).clamp_min(LEAST_SPREAD)
    # Cut off to whole numbers, not rounded: as the published sampling writes its files.
    return (shares * 255).clamp(0, 255).to(torch.uint8).movedim(1, -1).cpu()
