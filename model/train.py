"""Train a generator with differentiable retrieval on a patch bank.

python -m model.train --bank bank/coco                  a numbered folder under runs/
python -m model.train --bank bank/toy --recipe demo     minutes on a CPU
python -m model.train --resume runs/00001-coco          goes on as if it had never stopped
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import torch

from bank.bank import Bank
from model import checkpoint
from model.config import RECIPES, RecipeName, RetrievalMode, TrainConfig
from model.retrieval import Relaxation, Start
from model.trainer import Trainer, train
from pipeline.errors import UserError
from pipeline.options import option, run, write_json


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    bank: Annotated[Path | None, option("built bank; with --resume, the run's own")] = None
    recipe: Annotated[RecipeName | None, option("sizes and rules of the run; by default paper")] = (
        None
    )
    steps: Annotated[int | None, option("steps in all; by default the recipe's")] = None
    batch: Annotated[int | None, option("scenes per step; by default the recipe's")] = None
    seed: Annotated[int, option("decides weights, order of scenes and noise")] = 0
    out: Annotated[Path | None, option("folder to write; by default a new one in runs/")] = None
    resume: Annotated[Path | None, option("run folder to go on with")] = None
    retrieval: Annotated[RetrievalMode | None, option("how patches are chosen")] = None
    relaxation: Annotated[Relaxation | None, option("what the generator is given")] = None
    start: Annotated[Start | None, option("where retrieval starts at generation")] = None
    gt_in_candidates: Annotated[bool, option("the true patch may be chosen in training")] = False

    def __post_init__(self) -> None:
        if self.bank is None and self.resume is None:
            raise ValueError("give --bank BANK, e.g. --bank bank/coco, or --resume RUN")
        for name, least in (("steps", 1), ("batch", 1), ("seed", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--{name} must be at least {least}, not {value}")
        if self.resume is not None:
            fixed = ("batch", "seed", "out", "retrieval", "relaxation", "start", "recipe")
            for name in (*fixed, "gt_in_candidates"):
                if getattr(self, name) != getattr(type(self), name):
                    raise ValueError(
                        f"--{name.replace('_', '-')} cannot change in a run that goes on; "
                        f"only --steps and --bank may stand beside --resume"
                    )


def main(options: TrainOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.resume is not None:
        folder = options.resume
        config, trained_on = checkpoint.read_config(folder)
        if options.steps is not None:
            config = replace(config, steps=options.steps)
        trainer = Trainer(config, Bank.open(options.bank or trained_on), device)
        if (folder / checkpoint.NAME).exists():
            trainer.restore(folder)
        if trainer.step_number > config.steps:
            raise UserError(
                f"{folder} is at step {trainer.step_number:,} already, beyond --steps "
                f"{config.steps:,}; give a larger number"
            )
        print(f"{folder} goes on from step {trainer.step_number:,} of {config.steps:,}")
    else:
        assert options.bank is not None
        config = configure(options)
        trainer = Trainer(config, Bank.open(options.bank), device)
        folder = options.out or new_run(Path("runs"), trainer.bank.path.name)
        if (folder / "config.json").exists():
            raise UserError(f"{folder} holds a run already: --resume {folder}, or another --out")
        folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "config.json", {"bank": str(trainer.bank.path), "train": config})
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{folder}: recipe {config.recipe}, {size:,} parameters, {device}", flush=True)
    train(trainer, folder)
    print(f"trained to step {trainer.step_number:,}: {folder}/")


def configure(options: TrainOptions) -> TrainConfig:
    """The recipe with what the command line changes."""
    config = RECIPES[options.recipe or "paper"]()
    rules = {
        "mode": options.retrieval,
        "relaxation": options.relaxation,
        "start": options.start,
        "gt_in_candidates": options.gt_in_candidates or None,
    }
    given = {name: value for name, value in rules.items() if value is not None}
    top = {"steps": options.steps, "batch": options.batch}
    top_given = {name: value for name, value in top.items() if value is not None}
    return replace(
        config,
        seed=options.seed,
        retrieval=replace(config.retrieval, **given),  # type: ignore[arg-type]
        **top_given,  # type: ignore[arg-type]
    )


def new_run(runs: Path, name: str) -> Path:
    """runs/00001-coco, or the next free number."""
    runs.mkdir(parents=True, exist_ok=True)
    taken = [int(m[1]) for p in runs.iterdir() if (m := re.match(r"(\d{5})-", p.name))]
    return runs / f"{max(taken, default=0) + 1:05d}-{name}"


if __name__ == "__main__":
    run(main, TrainOptions, __doc__)
