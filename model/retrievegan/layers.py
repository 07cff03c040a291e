"""Layers that composition, decoder and discriminators have in common."""

from torch import nn

SLOPE = 0.1  # of PasteGAN's LeakyReLU


def norm(channels: int) -> nn.Module:
    """Group normalisation: the same in training and sampling, whatever the batch holds.

    As many groups as divide the channels into 16 or more each; one where none does.
    """
    groups = max(n for n in range(1, max(1, channels // 16) + 1) if channels % n == 0)
    return nn.GroupNorm(groups, channels)
