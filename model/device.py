"""The device that a command works on."""

import os
import re

import torch

from model.config import Device
from pipeline.errors import UserError
from pipeline.wording import counted


def choose_device(name: Device) -> torch.device:
    """UserError where this machine has no such device. Of several processes that torchrun starts
    on a machine, each takes its own GPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and "LOCAL_RANK" in os.environ:
        name = f"cuda:{os.environ['LOCAL_RANK']}"
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise UserError(f"--device {name}: give auto, cpu, cuda or cuda:N")
    device = torch.device(name)
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        count = torch.cuda.device_count()
        found = f"{counted(count, 'CUDA device')}, from cuda:0" if count else "no CUDA device"
        raise UserError(f"--device {name}: this machine has {found}; give auto, or cpu")
    return device


def compute_deterministically() -> None:
    """The same results every time; RuntimeError where torch has no such way. To be called before a
    GPU is used."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.benchmark = False
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
