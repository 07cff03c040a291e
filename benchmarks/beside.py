"""Seconds per training step on the CPU beside another version of the code; medians and ratios.

git worktree add ../landed 90aa28f
python -m benchmarks.beside --other ../landed --bank bank/toy --recipes demo sg2im-demo

A process of each version in turn, each with the same first batches of a training: one round of them
untimed, then timed ones. Processor time tells more than time where the machine has other work.
"""

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from model.config import RecipeName
from model.recipes import RECIPES
from pipeline.options import option, run

HERE = Path(__file__).parents[1]
BATCHES, TIMED_ROUNDS = 4, 2


@dataclass(frozen=True, kw_only=True)
class BesideOptions:
    other: Annotated[Path, option("checkout of the other version")]
    bank: Annotated[Path, option("built bank")]
    recipes: Annotated[tuple[RecipeName, ...], option("recipes to time")] = ("demo",)
    rounds: Annotated[int, option("processes of each version, in turn")] = 5

    def __post_init__(self) -> None:
        if not (self.other / "model/train.py").is_file():
            raise ValueError(f"--other {self.other} is no checkout: there is no model/train.py")
        if not (self.bank / "manifest.json").is_file():
            raise ValueError(f"--bank {self.bank} is no built bank: there is no manifest.json")
        if self.rounds < 1:
            raise ValueError(f"--rounds is at least 1, not {self.rounds}")


def measured(recipe: RecipeName, bank_path: Path) -> dict[str, Any]:
    """Median seconds and processor seconds of a step; the first step's losses."""
    import torch

    from bank.bank import Bank
    from model.loader import training_batches
    from model.trainers import trainer_for
    from pipeline.memory import keep_freed_memory

    keep_freed_memory()
    config, bank = RECIPES[recipe](), Bank.open(bank_path)
    trainer: Any = trainer_for(config, bank, torch.device("cpu"))
    batches = training_batches(
        bank,
        trainer.collate,
        block_shards=config.block_shards,
        batch_size=config.batch_size,
        seed=config.seed,
        kind="stream",
    )
    with closing(batches):
        first = [next(batches) for _ in range(BATCHES)]
    losses, *_ = [trainer.step(batch) for batch in first]
    times = []
    for batch in first * TIMED_ROUNDS:
        wall, cpu = time.perf_counter(), time.process_time()
        trainer.step(batch)
        times.append((time.perf_counter() - wall, time.process_time() - cpu))
    wall_s, cpu_s = map(statistics.median, zip(*times, strict=True))
    values = {name: float(value) for name, value in losses.items()}
    return {"wall_s": wall_s, "cpu_s": cpu_s, "losses": values}


def in_checkout(checkout: Path, recipe: RecipeName, bank: Path) -> dict[str, Any]:
    """What `measured` gives with the modules of a checkout, in a process of its own."""
    command = [sys.executable, "-P", __file__, "--one", recipe, str(bank.resolve())]
    environment = {**os.environ, "PYTHONPATH": str(checkout.resolve())}
    out = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    result: dict[str, Any] = json.loads(out.stdout)
    return result


def farthest(ours: Mapping[str, float], others: Mapping[str, float]) -> float:
    """The largest difference of two losses of one name, as a share of the other version's."""
    return max(abs(ours[name] / others[name] - 1) for name in others if others[name])


def main(options: BesideOptions) -> None:
    print("| recipe | time | other, s/step | here, s/step | ratio | losses of step 1 differ by |")
    for recipe in options.recipes:
        here, other = [], []
        for _ in range(options.rounds):
            other.append(in_checkout(options.other, recipe, options.bank))
            here.append(in_checkout(HERE, recipe, options.bank))
        apart = farthest(here[0]["losses"], other[0]["losses"])
        for kind, key in (("wall", "wall_s"), ("processor", "cpu_s")):
            others, ours = (statistics.median(each[key] for each in of) for of in (other, here))
            figures = f"{others:.3f} | {ours:.3f} | {ours / others:.2f}"
            print(f"| {recipe} | {kind} | {figures} | {apart:.1g} |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(sys.argv[2], Path(sys.argv[3]))))
    else:
        run(main, BesideOptions, __doc__)
