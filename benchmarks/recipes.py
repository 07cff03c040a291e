"""Seconds per training step of each recipe, on the CPU and on the GPU side by side.

python -m benchmarks.recipes --bank bank/toy --recipes demo sg2im-demo
python -m benchmarks.recipes --bank bank/toy --recipes paper --devices cuda

The batch of the first step is loaded once and trained on again and again, so the loader takes no
part. Devices take turns; a figure is the median of the steps after three.
"""

import statistics
import time
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from model.config import RecipeName
from model.recipes import RECIPES
from pipeline.errors import UserError
from pipeline.options import option, run

WARM_UP = 3


@dataclass(frozen=True, kw_only=True)
class RecipeOptions:
    bank: Annotated[Path, option("built bank")]
    recipes: Annotated[tuple[RecipeName, ...], option("recipes to time")] = ("demo", "sg2im-demo")
    devices: Annotated[tuple[str, ...], option("cpu, cuda")] = ("cpu", "cuda")
    steps: Annotated[int, option("timed steps of each")] = 8


def seconds_of(trainer: Any, batch: Any) -> float:
    """Of one step, up to when the device has finished."""
    started = time.perf_counter()
    losses = trainer.step(batch)
    losses["total"].item()
    return time.perf_counter() - started


def first_batch(trainer: Any, bank: Any) -> Any:
    """The batch of a training's first step, on the CPU."""
    from model.loader import training_batches

    config = trainer.config
    batches = training_batches(
        bank,
        trainer.collate,
        block_shards=config.block_shards,
        batch_size=config.batch_size,
        seed=config.seed,
        kind="stream",
    )
    with closing(batches):
        return next(batches)


def main(options: RecipeOptions) -> None:
    import torch

    from bank.bank import Bank
    from model.trainers import trainer_for

    if "cuda" in options.devices and not torch.cuda.is_available():
        raise UserError("there is no CUDA device here: give --devices cpu")
    bank = Bank.open(options.bank)
    print(
        "| recipe | batch | " + " | ".join(f"s/step, {d}" for d in options.devices) + " | ratio |"
    )
    for name in options.recipes:
        config = RECIPES[name]()
        trainers = [trainer_for(config, bank, torch.device(d)) for d in options.devices]
        batch = first_batch(trainers[0], bank)
        times: list[list[float]] = [[] for _ in trainers]
        for step in range(WARM_UP + options.steps):
            for trainer, seconds in zip(trainers, times, strict=True):
                took = seconds_of(trainer, batch)
                if step >= WARM_UP:
                    seconds.append(took)
        medians = [statistics.median(seconds) for seconds in times]
        figures = " | ".join(f"{median:.4f}" for median in medians)
        print(
            f"| {name} | {config.batch_size} | {figures} | {medians[0] / medians[-1]:.1f} |",
            flush=True,
        )


if __name__ == "__main__":
    run(main, RecipeOptions, __doc__)
