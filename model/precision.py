"""In which precision a step computes."""

from dataclasses import dataclass

import torch

from model.config import Precision

ON_GPU: Precision = "tf32"  # what "auto" is there


@dataclass(frozen=True)
class Arithmetic:
    """float32; on a GPU tf32 (float32 whose convolutions round their factors to 10 bits), or bf16
    (products and maps of 7 bits, sums in float32)."""

    precision: Precision
    device: torch.device

    @classmethod
    def of(cls, precision: Precision, device: torch.device) -> "Arithmetic":
        if precision == "auto":
            precision = ON_GPU if device.type == "cuda" else "float32"
        if precision == "tf32" and device.type == "cpu":
            precision = "float32"
        if device.type == "cuda":
            convolutions = "ieee" if precision == "float32" else "tf32"
            torch.backends.cudnn.conv.fp32_precision = convolutions  # type: ignore[attr-defined]
        return cls(precision, device)

    def autocast(self) -> torch.autocast:
        """For the forward pass and the losses. Without a cache of rounded weights: within a step
        they change."""
        enabled = self.precision == "bf16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled, cache_enabled=False)


def in_float32(device: torch.device) -> torch.autocast:
    """Inside, nothing is rounded to bf16: for retrieval, statistics, losses and places."""
    return torch.autocast(device.type, enabled=False)
