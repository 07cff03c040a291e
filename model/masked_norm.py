"""Batch normalisation that leaves fillers out: rows of a batch that count for nothing."""

import torch
from torch import Tensor, nn

from model.precision import in_float32


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d`, of whose rows some may be fillers: neither the batch's statistics nor the
    running ones hold anything of those."""

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor
    momentum: float

    def forward(self, maps: Tensor, rows: Tensor | None = None) -> Tensor:
        """
        maps  (n, C, h, w)
        rows  (n,)  False for fillers; None: there are none
        """
        if rows is None or not self.training:
            return super().forward(maps)
        with in_float32(maps.device):
            values = maps.float()
            # Weights in place of a selection, whose size a GPU would be waited for.
            num_rows = rows.sum()
            shares = rows / num_rows
            mean = shares @ values.mean((2, 3))
            centred = values - mean[:, None, None]
            variance = shares @ centred.square().mean((2, 3))
            self._track(mean, variance, num_rows * maps[0, 0].numel())
            scale = self.weight * torch.rsqrt(variance + self.eps)
            out = centred * scale[:, None, None] + self.bias[:, None, None]
        return out.to(maps.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        """Go on with the running statistics; count: values per channel."""
        self.running_mean.lerp_(mean, self.momentum)
        self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        self.num_batches_tracked.add_(1)


class MaskedSequential(nn.Sequential):
    """Layers one after the other, of which those that normalise are told which rows count."""

    def forward(self, maps: Tensor, rows: Tensor | None = None) -> Tensor:
        """maps (n, ...), rows (n,) as in `MaskedBatchNorm2d`"""
        for layer in self:
            if isinstance(layer, MaskedBatchNorm2d | MaskedSequential):
                maps = layer(maps, rows)
            else:
                maps = layer(maps)
        return maps
