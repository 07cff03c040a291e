"""The bank's frozen networks: files that execute nothing, training that is the same every time."""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.optim import Adam

from pipeline.errors import UserError
from pipeline.files import write_bytes
from pipeline.progress import progress

THREADS = 2  # of a training, on every machine: part of what makes it the same everywhere
SAVE_EVERY_S = 15.0
TRAINING = "training, format 1"


def write_network(path: Path, network: nn.Module, kind: str, about: Mapping[str, Any]) -> None:
    """Write a `.safetensors`; the same network gives the same bytes."""
    _write(path, network.state_dict(), {"kind": kind, **about})


def _write(path: Path, tensors: Mapping[str, Tensor], about: Mapping[str, Any]) -> None:
    values = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    # One entry, because the order of several is not fixed.
    header = {"network": json.dumps(about, sort_keys=True)}
    write_bytes(path, save(values, metadata=header))


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


class SizedNetwork(nn.Module):
    """A network that its sizes alone describe, kept in a file with them."""

    KIND: ClassVar[str]  # what a file of it says that it holds

    def __init__(self, **sizes: int) -> None:
        """sizes  the arguments of the network's own `__init__`"""
        super().__init__()
        self.sizes = sizes

    def save(self, path: Path) -> None:
        """Weights, with the sizes in the file's own header."""
        write_network(path, self, self.KIND, {"sizes": self.sizes})

    @classmethod
    def load(cls, path: Path) -> Self:
        """Frozen, in evaluation mode, on the CPU."""
        weights, about = read_network(path, cls.KIND)
        with built_from(path):
            network = cls(**about["sizes"])
            network.load_state_dict(weights)
        return network.eval().requires_grad_(False)


@dataclass(frozen=True)
class SavedTraining:
    """The file in which a network's training is saved as it goes: weights, optimiser, step.

    A training that finds it goes on from there and ends in the same bytes as one that never
    stopped. `key` stands for all that decides the network (inputs, code, machine): what was saved
    under another is not used, nor is a file that cannot be read.
    """

    path: Path
    key: str

    def save(self, step: int, network: nn.Module, optimiser: Adam) -> None:
        """`step` is how many have been taken. FileNotFoundError where the folder is gone."""
        self.path.parent.stat()
        tensors = network.state_dict()
        for number, moments in optimiser.state_dict()["state"].items():
            tensors |= {f"{number}/{name}": tensor for name, tensor in moments.items()}
        _write(self.path, tensors, {"kind": TRAINING, "key": self.key, "step": step})

    def load(self, network: nn.Module, optimiser: Adam) -> int:
        """Fill both from the file; returns how many steps have been taken, 0 without a file."""
        try:
            tensors, about = read_network(self.path, TRAINING)
        except UserError:
            return 0
        if about["key"] != self.key:
            return 0
        weights, moments = {}, defaultdict[int, dict[str, Tensor]](dict)
        for place, tensor in tensors.items():
            number, _, name = place.rpartition("/")
            if number:
                moments[int(number)][name] = tensor
            else:
                weights[name] = tensor
        network.load_state_dict(weights)
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": moments, "param_groups": groups})
        step: int = about["step"]
        return step


def training_steps(
    what: str, steps: int, network: nn.Module, optimiser: Adam, saved: SavedTraining | None
) -> Iterator[int]:
    """The steps that are left of a training, which is saved now and then between two of them.

    A step draws from `rng_of_step` alone and sets the learning rate by its number.
    """
    done = saved.load(network, optimiser) if saved else 0
    last = time.monotonic()
    for step in progress(range(done, steps), what, steps, "step", done=done):
        yield step
        if saved and time.monotonic() - last >= SAVE_EVERY_S:
            saved.save(step + 1, network, optimiser)
            last = time.monotonic()
