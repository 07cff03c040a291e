"""The bank's frozen networks: files that execute nothing, training that is the same every time."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from pipeline.errors import UserError
from pipeline.files import write_bytes

THREADS = 2  # of a training, on every machine: part of what makes it the same everywhere


def write_network(path: Path, network: nn.Module, kind: str, about: Mapping[str, Any]) -> None:
    """Write a `.safetensors`; the same network gives the same bytes."""
    weights = {k: v.detach().cpu().contiguous() for k, v in network.state_dict().items()}
    # One entry, because the order of several is not fixed.
    header = {"network": json.dumps({"kind": kind, **about}, sort_keys=True)}
    write_bytes(path, save(weights, metadata=header))


def read_network(path: Path, kind: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Weights and what was said about them, where the file holds a network of that kind."""
    try:
        with safe_open(path, framework="pt") as file:
            header = (file.metadata() or {}).get("network")
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise UserError(f"no file at {path}: a saved network is expected there") from error
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is not a safetensors file that can be read: {error}") from error
    try:
        about = json.loads(header) if header else {}
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise UserError(f"{path} has a header that cannot be read; save the network again")
    if about.get("kind") != kind:
        raise UserError(f"{path} holds {about.get('kind')!r} where {kind!r} is needed")
    return weights, about


@contextmanager
def built_from(path: Path) -> Iterator[None]:
    """UserError where a network cannot be built from what the file says, or its weights differ."""
    try:
        yield
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(
            f"{path} does not hold the network its header promises ({reason[:200]}); give another "
            f"file, or 'train'"
        ) from error


@contextmanager
def repeatable(seed: int) -> Iterator[None]:
    """Fixed threads and a seeded torch generator inside; outside, all is as it was."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        torch.set_num_threads(THREADS)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def rng_of_step(seed: int, step: int) -> np.random.Generator:
    """The random choices of one training step: the same whatever came before it."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, step], dtype=np.uint64)))
