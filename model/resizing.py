"""Square maps at another side.

On a GPU by products with matrices of weights along each axis, in channels-last: their gradient is
the same every time, which those of `F.interpolate` and `F.adaptive_avg_pool2d` are not there.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def resized(maps: Tensor, side: int) -> Tensor:
    """(N, C, h, h) -> (N, C, side, side): averaged where it shrinks, bilinear where it grows."""
    if side == maps.shape[-1]:
        return maps
    if maps.is_cuda:
        return by_products(maps, side)
    if side < maps.shape[-1]:
        return F.adaptive_avg_pool2d(maps, side)
    return F.interpolate(maps, size=(side, side), mode="bilinear")


def doubled(maps: Tensor) -> Tensor:
    """(N, C, h, w) -> (N, C, 2h, 2w): every value four times."""
    if not maps.is_cuda:
        return F.interpolate(maps, scale_factor=2.0, mode="nearest")
    return by_expansion(maps)


def by_expansion(maps: Tensor) -> Tensor:
    """`doubled`, on any device."""
    last = maps.permute(0, 2, 3, 1)
    n, h, w, c = last.shape
    four = last[:, :, None, :, None].expand(n, h, 2, w, 2, c)
    return four.reshape(n, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def by_products(maps: Tensor, side: int) -> Tensor:
    """`resized`, on any device."""
    n, c, h, _ = maps.shape
    weights = _weights(h, side, maps)
    last = maps.permute(0, 2, 3, 1)  # (N, h, h, C)
    rows = torch.bmm(weights.expand(n, -1, -1), last.flatten(2))  # (N, side, h * C)
    columns = torch.bmm(weights.expand(n * side, -1, -1), rows.reshape(n * side, h, c))
    return columns.view(n, side, side, c).permute(0, 3, 1, 2)


def _weights(h: int, side: int, like: Tensor) -> Tensor:
    """(side, h) the share of each of h values in each of `side`."""
    one_hot = torch.eye(h, dtype=like.dtype, device=like.device)[None]  # (1, h, h)
    if side > h:
        return F.interpolate(one_hot, size=side, mode="linear")[0].mT
    return F.adaptive_avg_pool1d(one_hot, side)[0].mT
