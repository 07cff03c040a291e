"""Train a generator with differentiable retrieval on a patch bank, or sg2im as a baseline.

python -m model.train --bank bank/coco                  a numbered folder under runs/
python -m model.train --bank bank/toy --recipe demo     minutes on a CPU
python -m model.train --bank bank/coco --recipe sg2im   sg2im, which retrieves nothing
python -m model.train --resume runs/00001-coco          goes on as if it had never stopped
python -m model.train --recipe demo --help              with the defaults of that recipe

torchrun --nproc-per-node 2 -m model.train --bank bank/coco --out runs/coco    two processes

In a run that goes on, only how it is executed may change (--device, --precision, --capture,
--accumulate, --deterministic, --loader, --loader-workers, --log-every, --grid-every,
--checkpoint-every, --keep-checkpoints, --eval-every), and --steps.
"""

import argparse
import math
import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from model.config import RetrieveGANConfig, RunConfig, flags_of
from model.recipes import RECIPES
from model.run_folder import (
    CONFIG,
    LOCK,
    LOG,
    RunError,
    check_begun_on,
    new_run,
    pin_of,
    read_run,
    writing_alone,
)
from pipeline.address import Location
from pipeline.errors import UserError
from pipeline.files import PARTIAL
from pipeline.memory import keep_freed_memory
from pipeline.options import DIGEST_HELP, REQUIRED, BankLocation, option, run, write_json
from pipeline.output import log

if TYPE_CHECKING:
    import torch

    from bank.bank import Bank
    from model.parallel import Ranks


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    bank: Annotated[
        BankLocation | None,
        option(
            "built bank, e.g. bank/coco or https://HOST/PATH; beside --resume only where the run's "
            "own has moved"
        ),
    ] = None
    digest: Annotated[str | None, option(DIGEST_HELP)] = None
    cache_gb: Annotated[
        float, option("GB on this machine that the scenes of a bank at an address may take")
    ] = 50.0
    out: Annotated[Path | None, option("folder to write; by default a new one in runs/")] = None
    resume: Annotated[Path | None, option("run folder to go on with")] = None
    config: Annotated[RunConfig, option("", name="")] = field(default_factory=RECIPES["paper"])

    def __post_init__(self) -> None:
        if self.resume is not None and self.out is not None:
            raise ValueError(f"--resume {self.resume} goes on in its folder; leave out --out")
        if not 0 < self.cache_gb < math.inf:
            raise ValueError(f"--cache-gb must be above 0, not {self.cache_gb}")


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
    from model.device import choose_device, compute_deterministically
    from model.parallel import processes

    keep_freed_memory()
    execution = options.config.execution
    if execution.deterministic:
        compute_deterministically()
    device = choose_device(execution.device)
    with processes(device) as ranks:
        step, folder = train_run(options, device, ranks)
    if ranks.leads:
        print(f"trained to step {step:,}: {folder}/")


def train_run(options: TrainOptions, device: "torch.device", ranks: "Ranks") -> tuple[int, Path]:
    """Train, or go on; returns the step that was reached and the run's folder."""
    from bank.bank import Bank
    from model import checkpoint
    from model.loop import restore, train
    from model.offer import left_out
    from model.scores.validation import validation_score
    from model.trainers import trainer_for

    check_parts(options, ranks)
    options = after_restart(options)
    config = options.config
    place = place_of_bank(options)
    digest = options.digest
    if options.resume is not None and digest is None:
        digest = pin_of(options.resume, place)
    bank = Bank.open(place, digest, options.cache_gb)
    trainer = trainer_for(config, bank, device)
    if isinstance(config, RetrieveGANConfig):
        bank.fetch_patches("train")
        bank.fetch_patches("val")  # of grids and scores
        if config.retrieval.min_quality.asks:
            log.info(left_out(bank, config.retrieval))
    with ExitStack() as until_done:
        folder = ranks.lead(lambda: begin(options, bank, until_done))
        if checkpoint.newest(folder):
            restore(trainer, bank, folder)
        elif options.resume is not None:
            check_begun_on(bank.content_digest, bank.path, folder)
        step = trainer.step_number
        if ranks.agree(step, -step) != (step, -step):
            raise RunError(
                f"not all processes see the same checkpoints in {folder}: name a folder on a disk "
                f"that all machines share"
            )
        trainer.join(ranks)
        if step > config.steps:
            raise UserError(
                f"{folder} is at step {step:,} already, beyond --steps {config.steps:,}; give a "
                f"larger number"
            )
        if options.resume is not None:
            log.info(f"{folder} goes on from step {step:,} of {config.steps:,}")
        value = {"bank": str(bank.path), "bank_digest": bank.content_digest, "train": config}
        ranks.lead(lambda: write_config(folder, value))
        size = sum(p.numel() for p in trainer.model.parameters())
        how = [f"{device}", trainer.arithmetic.precision]
        how += ["steps captured as CUDA graphs"] * (trainer.captured is not None)
        how += [f"{ranks.size} processes"] * (ranks.size > 1)
        log.info(f"{folder}: recipe {config.recipe}, {size:,} parameters, {', '.join(how)}")
        scores = ranks.leads and config.execution.eval_every
        score = validation_score(trainer.model, bank) if scores else None
        train(trainer, bank, folder, score)
    return trainer.step_number, folder


def check_parts(options: TrainOptions, ranks: "Ranks") -> None:
    """UserError where a batch cannot be shared out as asked, or torchrun cannot restart."""
    batch_size, parts = options.config.batch_size, options.config.execution.accumulate
    if batch_size % ranks.size:
        raise UserError(
            f"--batch-size {batch_size} is that of all processes together: give a multiple of "
            f"{ranks.size}, as many as torchrun starts"
        )
    scenes = batch_size // ranks.size
    if scenes % parts:
        divisors = [str(n) for n in range(1, scenes + 1) if scenes % n == 0]
        raise UserError(
            f"--accumulate {parts} does not divide the {scenes} scenes that a process takes of a "
            f"batch: give {', '.join(divisors)}"
        )
    if int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) and not (
        options.out or options.resume
    ):
        raise UserError("torchrun --max-restarts needs --out DIR, where a restart finds the run")


def after_restart(options: TrainOptions) -> TrainOptions:
    """Started again by torchrun, the same command goes on with the run that it has begun."""
    from model.parallel import restarts

    if restarts() and options.out is not None and (options.out / CONFIG).is_file():
        return replace(options, resume=options.out, out=None)
    return options


def begin(options: TrainOptions, bank: "Bank", until_done: ExitStack) -> Path:
    """The folder of a run, new or to go on with, which no other training writes until done."""
    from model import checkpoint

    folder = options.resume or options.out or new_run(Path("runs"), bank.path.name)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder} is a file; name a folder")
    names = {path.name for path in folder.iterdir()} if folder.exists() else set()
    there = {name for name in names if not name.endswith(PARTIAL)}  # those a killed one has left
    if there - {LOCK} and not there & {CONFIG, checkpoint.FOLDER}:
        raise UserError(f"--out {folder} holds other files; name a folder that is new or empty")
    with checkpoint.writing(folder, CONFIG):
        folder.mkdir(parents=True, exist_ok=True)
    until_done.enter_context(writing_alone(folder))
    if options.resume is None and (checkpoint.newest(folder) or _has_steps(folder)):
        raise UserError(f"{folder} holds a run already: --resume {folder}, or another --out")
    return folder


def _has_steps(folder: Path) -> bool:
    """Whether a run in the folder has taken steps: one that was refused before may begin anew."""
    log = folder / LOG
    return log.is_file() and log.stat().st_size > 0


def write_config(folder: Path, value: Mapping[str, Any]) -> None:
    from model import checkpoint

    with checkpoint.writing(folder, CONFIG):
        write_json(folder / CONFIG, value)


def place_of_bank(options: TrainOptions) -> Location:
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
