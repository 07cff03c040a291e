"""Train a generator with differentiable retrieval on a patch bank, or sg2im as a baseline.

python -m model.train --bank bank/coco                  a numbered folder under runs/
python -m model.train --bank bank/toy --recipe demo     minutes on a CPU
python -m model.train --bank bank/coco --recipe sg2im   sg2im, which retrieves nothing
python -m model.train --resume runs/00001-coco          goes on as if it had never stopped
python -m model.train --recipe demo --help              with the defaults of that recipe

In a run that goes on, only how it is executed may change (--device, --loader-workers, --grid-every,
--checkpoint-every), and --steps.
"""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

from model.config import RunConfig, Sg2ImConfig, flags_of
from model.recipes import RECIPES
from model.run_folder import CONFIG, RunError, new_run, read_run, writing_alone
from pipeline.errors import UserError
from pipeline.memory import keep_freed_memory
from pipeline.options import option, run, write_json
from pipeline.output import log

# Other names of flags.
ALIASES = {
    "--image-size": "--image-px",
    "--retrieval": "--retrieval.mode",
    "--relaxation": "--retrieval.relaxation",
    "--start": "--retrieval.start",
    "--gt-in-candidates": "--retrieval.gt-in-candidates",
    "--mask-loss": "--losses.masks",
}


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    bank: Annotated[
        Path | None, option("built bank; with --resume, where the run's own has moved")
    ] = None
    out: Annotated[Path | None, option("folder to write; by default a new one in runs/")] = None
    resume: Annotated[Path | None, option("run folder to go on with")] = None
    config: Annotated[RunConfig, option("", name="")] = field(default_factory=RECIPES["paper"])


def prepare(arguments: Sequence[str]) -> tuple[list[str], TrainOptions]:
    """The arguments without aliases, and the defaults: those of the recipe, or the run's own."""
    spelled = []
    for argument in arguments:
        flag, *value = argument.split("=", 1)
        spelled.append("=".join([ALIASES.get(flag, flag), *value]))
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--recipe", nargs="?")
    first.add_argument("--resume", nargs="?")
    asked, _ = first.parse_known_args(spelled)
    if asked.resume is None:
        config = RECIPES.get(asked.recipe, RECIPES["paper"])()
    else:
        config, _ = read_run(Path(asked.resume))
    others = {flag for recipe in RECIPES.values() for flag in flags_of(recipe())}
    for typed, argument in zip(arguments, spelled, strict=True):
        if argument.split("=")[0] in others - flags_of(config).keys():
            raise UserError(
                f"{typed.split('=')[0]} does not go with recipe {config.recipe}; --recipe "
                f"{config.recipe} --help shows what does"
            )
    return spelled, TrainOptions(config=config)


def main(options: TrainOptions) -> None:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("training works in one process yet: start it without torchrun")
    bank_path = path_of_bank(options)

    from bank.bank import Bank
    from model import checkpoint
    from model.device import choose_device
    from model.loop import restore, train
    from model.sg2im.trainer import has_masks, masks_are_not_learned
    from model.trainers import trainer_for

    keep_freed_memory()
    config = options.config
    device = choose_device(config.execution.device)
    bank = Bank.open(bank_path)
    trainer = trainer_for(config, bank, device)
    if (weight := asked_mask_weight(options)) and not has_masks(bank):
        raise UserError(
            f"--losses.masks {weight}: {bank_path} has no masks that could teach any; leave it out"
        )
    folder = options.resume or options.out or new_run(Path("runs"), bank.path.name)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    with checkpoint.writing(folder, CONFIG):
        folder.mkdir(parents=True, exist_ok=True)
    with writing_alone(folder):
        trained = checkpoint.newest(folder)
        if options.resume is None and (trained or (folder / CONFIG).exists()):
            raise UserError(f"{folder} holds a run already: --resume {folder}, or another --out")
        if trained:
            restore(trainer, bank, folder)
        if trainer.step_number > config.steps:
            raise UserError(
                f"{folder} is at step {trainer.step_number:,} already, beyond --steps "
                f"{config.steps:,}; give a larger number"
            )
        if options.resume is not None:
            log.info(f"{folder} goes on from step {trainer.step_number:,} of {config.steps:,}")
        with checkpoint.writing(folder, CONFIG):
            write_json(folder / CONFIG, {"bank": str(bank.path), "train": config})
        size = sum(p.numel() for p in trainer.model.parameters())
        log.info(f"{folder}: recipe {config.recipe}, {size:,} parameters, {device}")
        if isinstance(config, Sg2ImConfig) and masks_are_not_learned(config, bank):
            log.info(
                "true masks are laid out and their loss has weight 0, as published: no mask will "
                "be learned, and sampling predicts masks; sg2im's authors advise --losses.masks "
                "0.1 for COCO"
            )
        train(trainer, bank, folder)
    print(f"trained to step {trainer.step_number:,}: {folder}/")


def path_of_bank(options: TrainOptions) -> Path:
    """UserError where there is none to train on, or where more would change in a run that goes on
    than may."""
    if options.resume is None:
        if options.bank is None:
            raise UserError("give --bank BANK, e.g. --bank bank/coco, or --resume RUN")
        return options.bank
    if options.out is not None:
        raise UserError(f"--resume {options.resume} goes on in its folder; leave out --out")
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


def asked_mask_weight(options: TrainOptions) -> float:
    """Of sg2im's mask loss, where a new run is given another than its recipe's; else 0."""
    config, recipe = options.config, RECIPES.get(options.config.recipe)
    if options.resume is not None or not isinstance(config, Sg2ImConfig) or recipe is None:
        return 0.0
    weight = config.losses.masks
    return 0.0 if weight == flags_of(recipe())["--losses.masks"] else weight


if __name__ == "__main__":
    also = ", ".join(f"{alias} ({flag})" for alias, flag in ALIASES.items())
    run(main, TrainOptions, f"{__doc__}\nOther names: {also}.", prepare)
