"""Short runs of the demo recipe, for the tests of what a run leaves and how it goes on."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from bank.bank import Bank
from model.config import RetrieveGANConfig, RunConfig
from model.loop import Trainer
from model.recipes import demo
from model.trainers import trainer_for

CPU = torch.device("cpu")


def small(**parts: Any) -> RetrieveGANConfig:
    config = replace(demo(), batch=4, steps=4, grid_every=4, checkpoint_every=2, decay_from=1.0)
    return replace(config, **parts)


def trainer_of(bank: Bank, config: RunConfig) -> Trainer[Any, Any]:
    return trainer_for(config, bank, CPU)


def losses_of(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]
