"""A training step captured as CUDA graphs, and replayed: one launch where there were thousands.

A captured step holds for batches of one shape, which model/fixed_shapes.py makes few. What lies
between two exchanges with other processes is a graph of its own.
"""

from collections.abc import Callable, Hashable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor

from model.batch import changed, tensors_of
from model.config import Capture
from model.parallel import ALONE, Phases, Ranks, run_phases
from pipeline.errors import UserError

Batch = TypeVar("Batch")


def captures(capture: Capture, device: torch.device, reason_against: str | None) -> bool:
    """Whether a training's steps are captured. UserError where that is asked for and cannot be."""
    if capture == "graph" and device.type != "cuda":
        raise UserError(
            "--capture graph, as asked for or as the run that goes on has it, needs a GPU: give "
            "--capture auto"
        )
    if capture == "graph" and reason_against:
        raise UserError(f"--capture graph: {reason_against}; give --capture off")
    if capture == "auto":
        return device.type == "cuda" and not reason_against
    return capture == "graph"


@dataclass(frozen=True)
class _CapturedStep:
    inputs: Sequence[Tensor]  # where the graphs read a batch
    graphs: Sequence[torch.cuda.CUDAGraph]
    exchanges: Sequence[Sequence[Tensor]]  # after each graph but the last
    names: Sequence[str]
    values: Tensor  # (names,) that the last graph writes

    def replay(self, batch: Sequence[Tensor], ranks: Ranks) -> dict[str, Tensor]:
        for there, tensor in zip(self.inputs, batch, strict=True):
            there.copy_(tensor, non_blocking=True)
        for i, graph in enumerate(self.graphs):
            graph.replay()
            if i < len(self.exchanges):
                ranks.add_up(self.exchanges[i])
        return dict(zip(self.names, self.values.clone().unbind(), strict=True))


class CapturedSteps(Generic[Batch]):
    """A step for each shape of a batch: captured with the first such batch, then replayed."""

    def __init__(
        self,
        phases: Callable[[Sequence[Batch]], Phases],
        without_effect: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self._phases, self._without_effect = phases, without_effect
        self._steps: dict[Hashable, _CapturedStep] = {}
        # One pool of memory: only one step is replayed at a time.
        self._pool: Any = None
        self._stream: Any = None  # of the warm-up

    def run(self, parts: Sequence[Batch], ranks: Ranks, mode: Hashable) -> dict[str, Tensor]:
        """Take the step of a batch. mode: all else on which its kernels depend."""
        tensors = tensors_of(parts)
        key = (mode, ranks.size, *((tensor.shape, tensor.dtype) for tensor in tensors))
        if key not in self._steps:
            self._steps[key] = self._capture(parts, ranks)
        return self._steps[key].replay(tensors, ranks)

    def forget(self) -> None:
        """Drop all captured steps: what they update is no longer used."""
        self._steps.clear()
        self._pool = None  # it is freed with its last graph

    def _capture(self, parts: Sequence[Batch], ranks: Ranks) -> _CapturedStep:
        static = [changed(part, torch.clone) for part in parts]
        self._warm_up(static)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graphs, exchanges, values = [], [], None
        full: torch.OutOfMemoryError | None = None
        phases = self._phases(static)
        while values is None:
            graph = torch.cuda.CUDAGraph()
            # The loader's thread may use the GPU meanwhile.
            with torch.cuda.graph(graph, self._pool, capture_error_mode="thread_local"):
                try:
                    exchange = next(phases)
                    while ranks.size == 1:
                        exchange = next(phases)
                    exchanges.append(exchange)
                except StopIteration as end:
                    values = end.value
                    stacked = torch.stack([*values.values()])
                except torch.OutOfMemoryError as error:  # raised here, another would hide it
                    full = error
            if full is not None:
                raise full
            graphs.append(graph)
        return _CapturedStep(tensors_of(static), graphs, exchanges, [*values], stacked)

    def _warm_up(self, parts: Sequence[Batch]) -> None:
        """What is done once (choosing kernels, compiling, making an optimiser's moments), so that
        it is not captured."""
        if self._stream is None:
            self._stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream), self._without_effect():
            run_phases(self._phases(parts), ALONE)
        torch.cuda.current_stream().wait_stream(self._stream)
