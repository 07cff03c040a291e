"""In which precision a step computes."""

from dataclasses import dataclass
from typing import Any

import torch

from model.config import Precision


@dataclass(frozen=True)
class Arithmetic:
    """float32; on a GPU tf32 (float32 whose convolutions round their factors to 10 bits), or bf16
    (products and maps of 7 bits, sums in float32)."""

    precision: Precision
    device: torch.device

    @classmethod
    def of(
        cls, precision: Precision, device: torch.device, on_gpu: Precision = "tf32"
    ) -> "Arithmetic":
        """on_gpu: what "auto" is on a GPU that has it"""
        if precision == "auto":
            precision = on_gpu if device.type == "cuda" else "float32"
            if precision == "bf16" and not torch.cuda.is_bf16_supported(including_emulation=False):
                precision = "tf32"
        if precision == "tf32" and device.type == "cpu":
            precision = "float32"
        return cls(precision, device)

    def apply(self) -> None:
        """Let this process's GPU compute so: cuDNN has one precision of float32 for all."""
        if self.device.type == "cuda":
            kept = "ieee" if self.precision == "float32" else "tf32"
            cudnn: Any = torch.backends.cudnn
            cudnn.conv.fp32_precision = cudnn.rnn.fp32_precision = kept

    def autocast(self) -> torch.autocast:
        """For the forward pass and the losses. Without a cache of rounded weights: within a step
        they change."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled, cache_enabled=False)


def in_float32(device: torch.device) -> torch.autocast:
    """Inside, nothing is rounded to bf16: for retrieval, statistics, losses and places."""
    return torch.autocast(device.type, enabled=False)
