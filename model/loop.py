"""What every training has in common: the bookkeeping of a step, the loop, what it writes down."""

import json
import math
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from bank.bank import Bank
from model import checkpoint
from model.config import RunConfig
from pipeline.progress import progress

GRID_SCENES = 6

Config = TypeVar("Config", bound=RunConfig)
Batch = TypeVar("Batch")


class Training(ABC, Generic[Config, Batch]):
    """Holds networks, optimisers and the step; everything random is a function of (seed, step)."""

    model: nn.Module  # what is trained for its own sake

    def __init__(
        self,
        config: Config,
        bank: Bank,
        device: torch.device,
        networks: Mapping[str, nn.Module],
        updates: Mapping[str, tuple[str, ...]],
    ) -> None:
        """updates: optimiser -> the networks that it moves; `generator` is one of them."""
        self.config, self.bank, self.device, self.step_number = config, bank, device, 0
        _check_side(config, bank)
        self.networks = dict(networks)
        self.updates = updates
        for network in self.networks.values():
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimisers = {name: self.new_optimiser(name) for name in updates}

    @abstractmethod
    def batches(self) -> Iterator[Batch]:
        """Training batches without end, that of the trainer's step first."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, float]:
        """One update of every network; every loss by its name."""

    @abstractmethod
    def grid(self) -> Image.Image:
        """Held-out scenes, and what is made of them."""

    def check(self, state: dict[str, Any], run: Path) -> None:
        """RunError where a run with this state cannot go on with the trainer's bank."""
        checkpoint.check_bank(state, self.bank, run)

    def noise(self, step: int, device: torch.device | str = "cpu") -> torch.Generator:
        """Draws for one step: the same after every interruption, and on the CPU everywhere."""
        words = np.random.SeedSequence((self.config.seed, step)).generate_state(2, np.uint32)
        return torch.Generator(device).manual_seed(int(words[0]) << 32 | int(words[1]))

    def new_optimiser(self, name: str) -> torch.optim.Optimizer:
        parameters = [p for key in self.updates[name] for p in self.networks[key].parameters()]
        return torch.optim.Adam(parameters, self._full_rate(name), self.config.betas)

    def _full_rate(self, name: str) -> float:
        config = self.config
        return config.lr_generator if name == "generator" else config.lr_discriminator

    def set_learning_rates(self) -> None:
        """A function of the step, so that there is no schedule to save."""
        config = self.config
        left = 1 - self.step_number / config.steps
        share = 1.0 if config.decay_from == 1 else min(left / (1 - config.decay_from), 1.0)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self._full_rate(name) * max(share, 0.0)

    def update(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def finite(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Losses as numbers; RunError where one of them is not one."""
        named = {name: float(term.detach()) for name, term in terms.items()}
        for name, value in named.items():
            if not math.isfinite(value):
                raise checkpoint.RunError(
                    f"the loss {name!r} is {value} at step {self.step_number}; the last checkpoint "
                    f"is kept: lower the learning rate or the weight of that loss"
                )
        return named

    def held_out(self) -> NDArray[np.int64]:
        """Image ids of the scenes of a grid."""
        ids = self.bank.scene_ids("val")[:GRID_SCENES]
        return ids if len(ids) else self.bank.scene_ids("train")[:GRID_SCENES]

    def save(self, run: Path) -> None:
        checkpoint.save(run, self.step_number, self.bank, self.networks, self.optimisers)

    def restore(self, run: Path) -> None:
        """Go on from run/checkpoint.pt."""
        state = checkpoint.load(run, self.device)
        self.check(state, run)
        checkpoint.fill(run, state, self.networks, self.optimisers)
        self.step_number = state["step"]


def train(trainer: Training[Any, Any], run: Path) -> None:
    """From the trainer's step to config.steps; log, curves, grids and checkpoints go to `run`."""
    config: RunConfig = trainer.config
    first = trainer.step_number
    batches = trainer.batches()
    _keep_log_until(run / "log.jsonl", first)
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first)
    started = time.monotonic()
    with (run / "log.jsonl").open("a", 1, "utf-8") as log:  # a line at a time
        for step in progress(range(first, config.steps), "training", config.steps - first, "step"):
            named = trainer.step(next(batches))
            log.write(json.dumps({"step": step, **named}) + "\n")
            for name, value in named.items():
                writer.add_scalar(f"loss/{name}", value, step)
            if step == first and trainer.device.type == "cpu":
                _say_how_long(config, config.steps - first, time.monotonic() - started)
            done = step + 1
            if done % config.grid_every == 0 or done == config.steps:
                trainer.grid().save(run / f"samples-{done:06d}.png")
            if done % config.checkpoint_every == 0 or done == config.steps:
                trainer.save(run)
    writer.close()


def _say_how_long(config: RunConfig, steps: int, one_step_s: float) -> None:
    hours = one_step_s * steps / 3600
    if hours > 1:
        small = config.small_recipe
        advice = "" if config.recipe == small else f"; --recipe {small} takes minutes"
        print(
            f"about {hours:,.0f} hours on this CPU for {steps:,} steps of recipe "
            f"{config.recipe}{advice}",
            flush=True,
        )


def _keep_log_until(path: Path, step: int) -> None:
    """Drop lines of steps that will be taken again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8").splitlines():
        try:
            if json.loads(line)["step"] < step:
                kept.append(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in kept), "utf-8")
    partial.replace(path)


def _check_side(config: RunConfig, bank: Bank) -> None:
    """A larger picture than the bank's would be learned from blown-up ones."""
    if config.image_px > bank.image_size:
        raise checkpoint.RunError(
            f"the run makes pictures of {config.image_px} px, but those of {bank.path} are of "
            f"{bank.image_size} px; give --image-size {bank.image_size} or less, or build the bank "
            f"with --image-size {config.image_px}"
        )
