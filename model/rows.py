"""Rows by index: to gather them, to sum them up where they go, to move each to another place.

Sums on a CPU are made by index. On a GPU, which makes those in whatever order threads come, they
are products with matrices of zeros and ones: so sums and gradients are the same every time.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


def gather(values: Tensor, at: Tensor) -> Tensor:
    """values (n, d, ...), at (m,) -> (m, d, ...): the rows `at`."""
    if _sums_in_order(values):
        # index_select: the gradient of values[at] is summed in whatever order threads come.
        return values.index_select(0, at)
    return (_ones(at, len(values), values) @ values.flatten(1)).reshape(-1, *values.shape[1:])


def scatter(values: Tensor, at: Tensor, rows: int) -> Tensor:
    """values (m, d, ...), at (m,) -> (rows, d, ...): the sum of what goes to each row."""
    if _sums_in_order(values):
        return values.new_zeros(rows, *values.shape[1:]).index_add(0, at, values)
    return (_ones(at, rows, values).mT @ values.flatten(1)).reshape(-1, *values.shape[1:])


def count(at: Tensor, rows: int) -> Tensor:
    """(m,) -> (rows,) int64: how many go to each row."""
    if _sums_in_order(at):
        return torch.bincount(at, minlength=rows)
    return F.one_hot(at, rows).sum(0)


def _sums_in_order(rows: Tensor) -> bool:
    """Whether sums by index are made in the same order every time."""
    return not rows.is_cuda


def _ones(at: Tensor, rows: int, like: Tensor) -> Tensor:
    return F.one_hot(at, rows).to(like.dtype)


class Places(NamedTuple):
    """Where each row of a result comes from."""

    row: Tensor  # (n,) of what is moved
    kept: Tensor | None = None  # (n,) False: zeros come instead; None: nowhere


def move(values: Tensor, there: Places, back: Places) -> Tensor:
    """values (m, ...) -> (n, ...): the rows `there`, each of which goes to one place; `back` (m,)
    says to which, and so where its gradient comes from: no sum is made."""
    moved: Tensor = _Move.apply(values, *there, *back)  # type: ignore[no-untyped-call]
    return moved


class _Move(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        values: Tensor,
        row: Tensor,
        kept: Tensor | None,
        row_back: Tensor,
        kept_back: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(row, kept, row_back, kept_back)
        moved = values.index_select(0, row)
        if kept is None:
            return moved
        return moved.masked_fill_(~kept.reshape(-1, *[1] * (moved.dim() - 1)), 0)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        row, kept, row_back, kept_back = ctx.saved_tensors
        gradient = move(gradients[0], Places(row_back, kept_back), Places(row, kept))
        return gradient, None, None, None, None
