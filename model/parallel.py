"""One training in several processes, which torchrun starts, each with its part of every batch.

All processes hold the same weights. Each takes the gradients of its own part, they are added up,
and each makes the same update. The first one writes the run and speaks; what concerns all (to stop,
to end because the disk is full) they agree on at every step, so that none waits for one that has
gone.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist

# Loaded later (by an optimiser, by way of torch._dynamo), its default arguments would hold the
# group for ever, and with it the threads that `processes` ends.
import torch.distributed.nn
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from pipeline.errors import Stopped, UserError
from pipeline.output import show_log

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """This process among those of a training. Alone, it exchanges nothing."""

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this is the process that writes the run."""
        return self.rank == 0

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace the tensors by their sums over all processes, in one exchange."""
        if self.size == 1:
            return
        flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
        with _exchange():
            dist.all_reduce(flat)
        sums = torch.split(flat, [tensor.numel() for tensor in tensors])
        for tensor, total in zip(tensors, sums, strict=True):
            tensor.copy_(total.view_as(tensor))

    @torch.no_grad()
    def share(self, tensors: Iterable[Tensor]) -> None:
        """Give all processes the first one's values."""
        if self.size == 1:
            return
        for tensor in tensors:
            values = tensor.contiguous()
            with _exchange():
                dist.broadcast(values, 0)
            tensor.copy_(values)

    def agree(self, *numbers: int) -> tuple[int, ...]:
        """The largest of each number over all processes. No GPU is waited for."""
        if self.size == 1:
            return numbers
        shared = torch.tensor(numbers)
        with _exchange():
            dist.all_reduce(shared, dist.ReduceOp.MAX)
        return tuple(shared.tolist())

    def lead(self, work: Callable[[], Result]) -> Result:
        """What `work` gives in the first process, to all of them; where it fails, all end."""
        if self.size == 1:
            return work()
        result: list[Result | None] = [None]
        failed: BaseException | None = None
        if self.leads:
            try:
                result = [work()]
            except BaseException as error:
                failed = error
        (ends,) = self.agree(failed is not None)
        if failed is not None:
            raise failed
        if ends:
            raise SystemExit(1)  # the first process says why
        with _exchange():
            dist.broadcast_object_list(result, 0, device=torch.device("cpu"))
        return result[0]  # type: ignore[return-value]


ALONE = Ranks()

# The phases of a step: what is yielded is to be added up over all processes, in place, before the
# next one. The result is what was measured, 0-dim tensors by their names.
Phases = Generator[Sequence[Tensor], None, dict[str, Tensor]]


def run_phases(phases: Phases, ranks: Ranks) -> dict[str, Tensor]:
    """Take a step."""
    try:
        while True:
            ranks.add_up(next(phases))
    except StopIteration as end:
        values: dict[str, Tensor] = end.value
        return values


class LostProcessError(UserError):
    """Another process of the training has ended without a word."""


@contextmanager
def _exchange() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        # Its frames hold the group, whose threads would live until the interpreter is gone.
        error.__traceback__ = None
        raise LostProcessError(
            "another process of this training has ended; --resume goes on from the last checkpoint"
        ) from error


def restarts() -> int:
    """How often torchrun has started this training again."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


@contextmanager
def processes(device: torch.device) -> Iterator[Ranks]:
    """All that torchrun has started for this training; this one alone where it has not.

    Where one of them ends with an error, the others end without another word.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield ALONE
        return
    if device.type == "cuda":
        torch.cuda.set_device(device)  # of which nccl makes use
    store, rank, size = next(rendezvous("env://"))
    # Some of torchrun's stores outlive a restart, with the addresses of processes that are gone.
    store = PrefixStore(f"attempt {restarts()}", store)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)
    ranks = Ranks(rank, size)
    if not ranks.leads:
        show_log(quiet=True)
    ranks.agree(0)  # none ends while another still connects to it
    try:
        yield ranks
    except Stopped as stopped:
        if ranks.leads:
            raise
        raise SystemExit(128 + stopped.number) from None
    except Exception as error:
        if _is_first_to_end(store) or not isinstance(error, UserError):
            raise
        raise SystemExit(1) from None
    finally:
        # Threads of gloo that outlive the interpreter abort the process.
        dist.destroy_process_group()


def _is_first_to_end(store: Any) -> bool:
    try:
        return bool(store.add("ended", 1) == 1)
    except RuntimeError:  # the process that kept the store has gone
        return True
