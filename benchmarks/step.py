"""Seconds per training step, with freed memory kept and not, in turn; medians and their ratio.

python -m benchmarks.step --rounds 5

Each figure is a process of its own, since malloc's settings hold for a whole process. The batch is
random numbers in the demo recipe's sizes: 12 scenes of 5 objects.
"""

import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch

from model.batch import CandidateBatch, SceneBatch
from model.config import RetrieveGANConfig
from model.draws import ByPosition
from model.graph.network import graph_tensors
from model.padding import padding_of
from model.recipes import demo
from model.retrieval.choice import draw_passes, numbers_per_object
from model.retrieval.crops import Crops
from model.retrievegan.trainer import RetrieveGANTrainer
from model.sources import Counts
from pipeline.memory import keep_freed_memory
from pipeline.options import option, run
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Relation, Vocabulary

OBJECTS = 5  # per scene
STEPS = 6  # timed, after one that is not


@dataclass(frozen=True, kw_only=True)
class StepOptions:
    rounds: Annotated[int, option("processes of each kind, in turn")] = 5


def random_batch(config: RetrieveGANConfig, vocabulary: Vocabulary) -> SceneBatch:
    n, k = config.batch_size, config.retrieval.candidates
    total = n * OBJECTS
    names = vocabulary.objects[1 : OBJECTS + 1]
    relations = [Relation(i, "above", (i + 1) % OBJECTS) for i in range(OBJECTS)]
    corner = torch.rand(total, 2) / 2

    def bytes_of(*shape: int) -> torch.Tensor:
        return torch.randint(0, 256, shape, dtype=torch.uint8)

    graph = graph_tensors([(names, relations)] * n, vocabulary)
    padding = padding_of(graph.object_image, n)
    valid = torch.ones(total, k, dtype=torch.bool)
    counts = np.full(n, OBJECTS)
    uniforms = ByPosition(config.seed, range(n), counts, numbers_per_object(k))
    return SceneBatch(
        torch.arange(n),
        bytes_of(n, 128, 128, 3),
        graph,
        torch.cat([corner, corner + 0.4], 1),
        torch.arange(total),
        bytes_of(total, 64, 64, 3),
        torch.rand(total, 64),
        Crops(torch.arange(total), torch.rand(total, 4)),
        CandidateBatch(
            torch.zeros(total, k, dtype=torch.long),
            bytes_of(total, k, 64, 64, 3),
            valid,
            torch.rand(total, k, 64),
            Crops(torch.arange(total * k).reshape(total, k), torch.rand(total, k, 4)),
        ),
        padding,
        draw_passes(config.retrieval, valid, padding, uniforms, noise=True),
        Counts.of(counts),
    )


def seconds_per_step() -> float:
    vocabulary = Vocabulary((IMAGE, *(f"category {i}" for i in range(14))), (IN_IMAGE, *GEOMETRIC))
    trainer = RetrieveGANTrainer(demo(), vocabulary)
    batch = random_batch(trainer.config, vocabulary)
    trainer.step(batch)
    started = time.perf_counter()
    for _ in range(STEPS):
        trainer.step(batch)
    return (time.perf_counter() - started) / STEPS


def main(options: StepOptions) -> None:
    times: dict[str, list[float]] = {"kept": [], "given back": []}
    for _ in range(options.rounds):
        for kind, seconds in times.items():
            command = [sys.executable, "-m", "benchmarks.step", "--one", kind]
            out = subprocess.run(command, capture_output=True, text=True, check=True)
            seconds.append(float(out.stdout))
    medians = {kind: statistics.median(seconds) for kind, seconds in times.items()}
    for kind, seconds in times.items():
        print(f"freed memory {kind}: {medians[kind]:.3f} s per step, of {sorted(seconds)}")
    print(f"ratio given back / kept: {medians['given back'] / medians['kept']:.2f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        if sys.argv[2] == "kept":
            keep_freed_memory()
        print(seconds_per_step())
    else:
        run(main, StepOptions, __doc__)
