"""Train a generator with differentiable retrieval on a patch bank, or sg2im as a baseline.

python -m model.train --bank bank/coco                  a numbered folder under runs/
python -m model.train --bank bank/toy --recipe demo     minutes on a CPU
python -m model.train --bank bank/coco --recipe sg2im   sg2im, which retrieves nothing
python -m model.train --resume runs/00001-coco          goes on as if it had never stopped
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

from model.config import (
    RecipeName,
    Relaxation,
    RetrievalMode,
    RetrieveGANConfig,
    RunConfig,
    Sg2ImConfig,
    Start,
)
from model.recipes import RECIPES
from pipeline.errors import UserError
from pipeline.options import option, run, write_json

RETRIEVAL_FLAGS = ("retrieval", "relaxation", "start", "gt_in_candidates", "same_patch_allowed")
FIXED = ("recipe", "batch", "image_size", "seed", "out", *RETRIEVAL_FLAGS, "mask_loss")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    bank: Annotated[Path | None, option("built bank; with --resume, the run's own")] = None
    recipe: Annotated[RecipeName | None, option("sizes and rules of the run; by default paper")] = (
        None
    )
    steps: Annotated[int | None, option("steps in all; by default the recipe's")] = None
    batch: Annotated[int | None, option("scenes per step; by default the recipe's")] = None
    image_size: Annotated[
        int | None, option("side of a generated image, in pixels; by default the recipe's")
    ] = None
    seed: Annotated[int, option("decides weights, order of scenes and noise")] = 0
    out: Annotated[Path | None, option("folder to write; by default a new one in runs/")] = None
    resume: Annotated[Path | None, option("run folder to go on with")] = None
    retrieval: Annotated[RetrievalMode | None, option("how patches are chosen")] = None
    relaxation: Annotated[
        Relaxation | None, option("the selected patch, or a soft mixture of the candidates")
    ] = None
    start: Annotated[Start | None, option("where the generation pass starts")] = None
    gt_in_candidates: Annotated[bool, option("the true patch may be chosen in training")] = False
    same_patch_allowed: Annotated[
        bool | None,
        option("two objects of a scene may be given one patch, as by eq. 2; default: recipe's"),
    ] = None
    mask_loss: Annotated[
        float | None,
        option("sg2im: weight of the masks' cross-entropy; published: 0, advised for COCO: 0.1"),
    ] = None

    def __post_init__(self) -> None:
        if self.bank is None and self.resume is None:
            raise ValueError("give --bank BANK, e.g. --bank bank/coco, or --resume RUN")
        for name, least in (("steps", 1), ("batch", 1), ("seed", 0), ("mask_loss", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                flag = name.replace("_", "-")
                raise ValueError(f"--{flag} must be at least {least}, not {value}")
        if self.resume is None:
            configure(self)  # refuses what does not go together
            return
        for name in FIXED:
            if getattr(self, name) != getattr(type(self), name):
                raise ValueError(
                    f"--{name.replace('_', '-')} cannot change in a run that goes on; "
                    f"only --steps and --bank may stand beside --resume"
                )


def main(options: TrainOptions) -> None:
    import torch

    from bank.bank import Bank
    from model import checkpoint
    from model.loop import restore, train
    from model.sg2im.trainer import has_masks, masks_are_not_learned
    from model.trainers import trainer_for

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if options.resume is not None:
        folder = options.resume
        config, trained_on = checkpoint.read_run(folder)
        if options.steps is not None:
            config = replace(config, steps=options.steps)
        bank = Bank.open(options.bank or trained_on)
        trainer = trainer_for(config, bank, device)
        if (folder / checkpoint.NAME).exists():
            restore(trainer, bank, folder)
        if trainer.step_number > config.steps:
            raise UserError(
                f"{folder} is at step {trainer.step_number:,} already, beyond --steps "
                f"{config.steps:,}; give a larger number"
            )
        print(f"{folder} goes on from step {trainer.step_number:,} of {config.steps:,}")
    else:
        assert options.bank is not None
        config = configure(options)
        bank = Bank.open(options.bank)
        trainer = trainer_for(config, bank, device)
        if options.mask_loss and not has_masks(bank):
            raise UserError(
                f"--mask-loss {options.mask_loss}: {options.bank} has no masks that could teach "
                f"any; leave it out"
            )
        folder = options.out or new_run(Path("runs"), bank.path.name)
        if (folder / "config.json").exists():
            raise UserError(f"{folder} holds a run already: --resume {folder}, or another --out")
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--out {folder} is a file; name a folder")
    with checkpoint.writing(folder, "config.json"):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "config.json", {"bank": str(bank.path), "train": config})
    size = sum(p.numel() for p in trainer.model.parameters())
    print(f"{folder}: recipe {config.recipe}, {size:,} parameters, {device}", flush=True)
    if isinstance(config, Sg2ImConfig) and masks_are_not_learned(config, bank):
        print(
            "true masks are laid out and their loss has weight 0, as published: no mask will be "
            "learned, and sampling predicts masks; sg2im's authors advise --mask-loss 0.1 for COCO"
        )
    train(trainer, bank, folder)
    print(f"trained to step {trainer.step_number:,}: {folder}/")


def configure(options: TrainOptions) -> RunConfig:
    """The recipe with what the command line changes; ValueError where that makes no sense."""
    changes = {
        "seed": options.seed,
        "steps": options.steps,
        "batch": options.batch,
        "image_px": options.image_size,
    }
    config = replace(RECIPES[options.recipe or "paper"](), **_without_none(changes))
    if isinstance(config, RetrieveGANConfig):
        return _retrieving(config, options)
    assert isinstance(config, Sg2ImConfig)
    for name in RETRIEVAL_FLAGS:
        if getattr(options, name) != getattr(type(options), name):
            raise ValueError(
                f"--{name.replace('_', '-')} does not go with recipe {config.recipe}, which "
                f"retrieves no patches"
            )
    weights = _without_none({"masks": options.mask_loss})
    return replace(config, losses=replace(config.losses, **weights))


def _retrieving(config: RetrieveGANConfig, options: TrainOptions) -> RetrieveGANConfig:
    if options.mask_loss is not None:
        raise ValueError(
            f"--mask-loss does not go with recipe {config.recipe}, which predicts no masks"
        )
    rules = {
        "mode": options.retrieval,
        "relaxation": options.relaxation,
        "start": options.start,
        "gt_in_candidates": options.gt_in_candidates or None,
        "same_patch_allowed": options.same_patch_allowed,
    }
    return replace(config, retrieval=replace(config.retrieval, **_without_none(rules)))


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def new_run(runs: Path, name: str) -> Path:
    """runs/00001-coco, or the next free number."""
    runs.mkdir(parents=True, exist_ok=True)
    taken = [int(m[1]) for p in runs.iterdir() if (m := re.match(r"(\d{5})-", p.name))]
    return runs / f"{max(taken, default=0) + 1:05d}-{name}"


if __name__ == "__main__":
    run(main, TrainOptions, __doc__)
