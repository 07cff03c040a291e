"""The device that a command works on."""

import re

import torch

from model.config import Device
from pipeline.errors import UserError
from pipeline.wording import counted


def choose_device(name: Device) -> torch.device:
    """UserError where this machine has no such device."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: give auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        found = counted(torch.cuda.device_count(), "CUDA device")
        raise UserError(
            f"--device {name}: this machine has {found}, from cuda:0; give auto, or cpu"
        )
    return device
