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


def doubled_and_convolved(maps: Tensor, weight: Tensor) -> Tensor:
    """Maps (N, C, h, w) with every value four times, (N, C, 2h, 2w), and zeros around, convolved
    with weight (D, C, 3, 3): (N, D, 2h, 2w).

    Of the nine values under the kernel only four differ: a transposed convolution, whose weights
    are the sums of those that meet the same value, has 4 / 9 of the products.
    """
    sums = _of_same_value(_of_same_value(weight, 2), 3)  # (D, C, 4, 4)
    return F.conv_transpose2d(maps, sums.transpose(0, 1), stride=2, padding=1)


def _of_same_value(weight: Tensor, dim: int) -> Tensor:
    """The 3 weights along an axis -> the 4 with which a value meets the results around it."""
    first, middle, last = weight.unbind(dim)
    return torch.stack([last, middle + last, first + middle, first], dim)


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
