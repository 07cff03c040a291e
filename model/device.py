"""The device that a command works on."""

import re

import torch

from model.config import Device
from pipeline.errors import UserError


def choose_device(name: Device) -> torch.device:
    """UserError where this machine has no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: give auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(
            f"--device {name}: this machine's CUDA devices are {torch.cuda.device_count()} in "
            f"number, counted from 0; give auto, or cpu"
        )
    return device
