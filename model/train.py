"""Train a generator with differentiable retrieval on a patch bank, or sg2im as a baseline.

python -m model.train --bank bank/coco                  a numbered folder under runs/
python -m model.train --bank bank/toy --recipe demo     minutes on a CPU
python -m model.train --bank bank/coco --recipe sg2im   sg2im, which retrieves nothing
python -m model.train --resume runs/00001-coco          goes on as if it had never stopped
python -m model.train --recipe demo --help              with the defaults of that recipe

In a run that goes on, only how it is executed may change (--device, --loader-workers, --grid-every,
--checkpoint-every, --keep-checkpoints, --eval-every), and --steps.
"""

import argparse
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from model.config import RunConfig, flags_of
from model.recipes import RECIPES
from model.run_folder import (
    CONFIG,
    LOCK,
    RunError,
    check_begun_on,
    new_run,
    read_run,
    writing_alone,
)
from pipeline.errors import UserError
from pipeline.memory import keep_freed_memory
from pipeline.options import REQUIRED, option, run, write_json
from pipeline.output import log


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    bank: Annotated[
        Path | None,
        option("built bank, e.g. bank/coco; beside --resume only where the run's own has moved"),
    ] = None
    out: Annotated[Path | None, option("folder to write; by default a new one in runs/")] = None
    resume: Annotated[Path | None, option("run folder to go on with")] = None
    config: Annotated[RunConfig, option("", name="")] = field(default_factory=RECIPES["paper"])

    def __post_init__(self) -> None:
        if self.resume is not None and self.out is not None:
            raise ValueError(f"--resume {self.resume} goes on in its folder; leave out --out")


def prepare(arguments: list[str]) -> TrainOptions:
    """The defaults of a command line: those of its recipe, or those of the run that goes on."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", nargs="?")
    first.add_argument("--resume", nargs="?")
    asked, _ = first.parse_known_args(arguments)
    if asked.resume is None:
        config = RECIPES.get(asked.recipe, RECIPES["paper"])()
    else:
        config, _ = read_run(Path(asked.resume))
    others = {flag for recipe in RECIPES.values() for flag in flags_of(recipe())}
    for flag in (argument.split("=")[0] for argument in arguments):
        if flag in others - flags_of(config).keys():
            raise ValueError(
                f"{flag} does not go with recipe {config.recipe}; --recipe {config.recipe} --help "
                f"shows what does"
            )
    return TrainOptions(bank=REQUIRED if asked.resume is None else None, config=config)


def main(options: TrainOptions) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training works in one process yet: start it without torchrun")
    bank_path = path_of_bank(options)

    from bank.bank import Bank
    from model import checkpoint
    from model.device import choose_device
    from model.loop import restore, train
    from model.scores.retrieval import validation_score
    from model.trainers import trainer_for

    keep_freed_memory()
    config = options.config
    device = choose_device(config.execution.device)
    bank = Bank.open(bank_path)
    trainer = trainer_for(config, bank, device)
    folder = options.resume or options.out or new_run(Path("runs"), bank.path.name)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    there = {path.name for path in folder.iterdir()} if folder.exists() else set()
    if there - {LOCK} and not there & {CONFIG, checkpoint.FOLDER}:
        raise UserError(f"--out {folder} holds other files; name a folder that is new or empty")
    with checkpoint.writing(folder, CONFIG):
        folder.mkdir(parents=True, exist_ok=True)
    with writing_alone(folder):
        trained = checkpoint.newest(folder)
        if options.resume is None and (trained or (folder / CONFIG).exists()):
            raise UserError(f"{folder} holds a run already: --resume {folder}, or another --out")
        if trained:
            restore(trainer, bank, folder)
        elif options.resume is not None:
            check_begun_on(bank.content_digest, bank.path, folder)
        if trainer.step_number > config.steps:
            raise UserError(
                f"{folder} is at step {trainer.step_number:,} already, beyond --steps "
                f"{config.steps:,}; give a larger number"
            )
        if options.resume is not None:
            log.info(f"{folder} goes on from step {trainer.step_number:,} of {config.steps:,}")
        with checkpoint.writing(folder, CONFIG):
            value = {"bank": str(bank.path), "bank_digest": bank.content_digest, "train": config}
            write_json(folder / CONFIG, value)
        size = sum(p.numel() for p in trainer.model.parameters())
        log.info(f"{folder}: recipe {config.recipe}, {size:,} parameters, {device}")
        score = validation_score(trainer.model, bank) if config.execution.eval_every else None
        train(trainer, bank, folder, score)
    print(f"trained to step {trainer.step_number:,}: {folder}/")


def path_of_bank(options: TrainOptions) -> Path:
    """RunError where more would change in a run that goes on than may."""
    if options.resume is None:
        assert options.bank is not None, "the command line asks for it"
        return options.bank
    stored, trained_on = read_run(options.resume)
    asked = replace(options.config, steps=stored.steps, execution=stored.execution)
    was = flags_of(stored)
    for flag, value in flags_of(asked).items():
        if value != was.get(flag):
            raise RunError(
                f"{flag} is {was.get(flag)} in {options.resume} and cannot become {value}: what a "
                f"run learns from is fixed; leave it out, or start a new run"
            )
    return options.bank or trained_on


if __name__ == "__main__":
    run(main, TrainOptions, __doc__, prepare)
