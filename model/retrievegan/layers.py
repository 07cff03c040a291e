"""Layers that composition, decoder and discriminators have in common."""

from torch import nn

SLOPE = 0.1  # of PasteGAN's LeakyReLU


def norm(channels: int) -> nn.Module:
    """Group normalisation: the same in training and sampling, whatever the batch holds."""
    return nn.GroupNorm(max(1, channels // 16), channels)
