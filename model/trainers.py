"""The trainer for a run's configuration."""

from typing import Any

import torch

from bank.bank import Bank
from model.config import RetrieveGANConfig, RunConfig, Sg2ImConfig
from model.loop import Trainer
from model.retrievegan.trainer import RetrieveGANTrainer
from model.sg2im.trainer import Sg2ImTrainer


def trainer_for(config: RunConfig, bank: Bank, device: torch.device) -> Trainer[Any, Any]:
    """A trainer of the config's kind, at step 0; RunError where the bank does not fit it."""
    if isinstance(config, Sg2ImConfig):
        return Sg2ImTrainer.for_bank(config, bank, device)
    assert isinstance(config, RetrieveGANConfig)
    return RetrieveGANTrainer.for_bank(config, bank, device)
