"""uint8 images, channels last <-> float images in [-1, 1], channels first."""

import torch
from torch import Tensor
from torch.nn import functional as F


def to_float(images: Tensor, side: int) -> Tensor:
    """(..., H, W, 3) uint8 -> (..., 3, side, side) float32 in [-1, 1].

    Antialiased bilinear where the side differs, to a smaller side or a larger one.
    """
    flat = images.reshape(-1, *images.shape[-3:]).permute(0, 3, 1, 2)
    resized = flat.float()
    if resized.shape[-2:] != (side, side):
        resized = F.interpolate(resized, size=(side, side), mode="bilinear", antialias=True)
    return (resized / 127.5 - 1).reshape(*images.shape[:-3], 3, side, side)


def to_uint8(images: Tensor) -> Tensor:
    """(..., 3, H, W) about [-1, 1] -> (..., H, W, 3) uint8, clamped, on the CPU."""
    scaled = ((images.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return scaled.to(torch.uint8).movedim(-3, -1).cpu()
