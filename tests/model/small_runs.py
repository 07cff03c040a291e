"""Short runs of the demo recipe, for the tests of what a run leaves and how it goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bank.bank import Bank
from model import checkpoint
from model.config import ExecutionConfig, RetrieveGANConfig, RunConfig
from model.loop import Trainer
from model.recipes import demo
from model.train import TrainOptions, prepare
from model.trainers import trainer_for
from pipeline.options import parse

CPU = torch.device("cpu")


def small(**parts: Any) -> RetrieveGANConfig:
    execution = ExecutionConfig(loader_workers=0, grid_every=4, checkpoint_every=2)
    config = replace(demo(), batch_size=4, steps=4, decay_from=1.0, execution=execution)
    return replace(config, **parts)


def options_of(*arguments: object) -> TrainOptions:
    """As `python -m model.train` reads its command line."""
    return parse(TrainOptions, [str(each) for each in arguments], prepare=prepare)


def trainer_of(bank: Bank, config: RunConfig) -> Trainer[Any, Any]:
    return trainer_for(config, bank, CPU)


def edit_state(run: Path, **changes: Any) -> None:
    """Change what the run's last checkpoint says of itself."""
    path = checkpoint.last(run) / checkpoint.STATE
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changes), "utf-8")


def losses_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
