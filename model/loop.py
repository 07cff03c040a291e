"""What every training has in common: the optimisers of a step, the loop, the files it writes."""

import json
import math
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from statistics import fmean
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from bank.bank import Bank
from model import checkpoint
from model.config import RunConfig
from model.loader import Collate, training_batches
from model.run_folder import RunError
from pipeline.errors import Stopped
from pipeline.files import write_bytes
from pipeline.output import log
from pipeline.progress import progress
from pipeline.stopping import stop_requests
from pipeline.wording import counted

GRID_SCENES = 6
# Losses shown while a run is trained, as means over so many steps; log.jsonl has all of every step.
SHOWN = ("total", "gt_selection", "reconstruction", "pixels", "discriminator_image")
RECENT = 20
LOG, CURVES = "log.jsonl", "tensorboard"

Config = TypeVar("Config", bound=RunConfig)
Batch = TypeVar("Batch")


class Trainer(ABC, Generic[Config, Batch]):
    """Networks, their optimisers and the step."""

    model: nn.Module  # the network that sampling needs
    needs_derived: ClassVar[bool] = False  # resuming needs the bank's derived parts unchanged

    def __init__(
        self,
        config: Config,
        device: torch.device,
        networks: Mapping[str, nn.Module],
        updates: Mapping[str, tuple[str, ...]],
    ) -> None:
        """updates: optimiser -> the networks whose weights it updates. The rate of `generator` is
        lr_generator, that of all others lr_discriminator."""
        self.config, self.device, self.step_number = config, device, 0
        self.networks = dict(networks)
        self.updates = updates
        for network in self.networks.values():
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimisers = {name: self.new_optimiser(name) for name in updates}

    @property
    @abstractmethod
    def collate(self) -> Collate[Batch]:
        """Bank, source and part -> the batch that a step takes."""

    @abstractmethod
    def grid_batch(self, bank: Bank, image_ids: NDArray[np.int64]) -> Batch:
        """What `image_grid` takes of some scenes of any split."""

    @abstractmethod
    def step(self, batch: Batch) -> dict[str, float]:
        """One update of every network; every loss by its name."""

    @abstractmethod
    def image_grid(self, batch: Batch) -> Image.Image:
        """What is made of the scenes of a batch, beside the real images."""

    def new_optimiser(self, name: str) -> torch.optim.Optimizer:
        named = [p for key in self.updates[name] for p in self.networks[key].named_parameters(key)]
        return torch.optim.Adam(named, self._initial_rate(name), self.config.betas)

    def _initial_rate(self, name: str) -> float:
        config = self.config
        return config.lr_generator if name == "generator" else config.lr_discriminator

    def set_learning_rates(self) -> None:
        """A function of the step, so that there is no schedule to save."""
        config = self.config
        left = 1 - self.step_number / config.steps
        factor = 1.0 if config.decay_from == 1 else min(left / (1 - config.decay_from), 1.0)
        for name, optimiser in self.optimisers.items():
            for group in optimiser.param_groups:
                group["lr"] = self._initial_rate(name) * max(factor, 0.0)

    def update(self, name: str, loss: Tensor) -> None:
        """One step of an optimiser along the loss's gradient."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def finite(self, terms: Mapping[str, Tensor]) -> dict[str, float]:
        """Losses as numbers; RunError where one of them is not finite."""
        values = {name: float(term.detach()) for name, term in terms.items()}
        for name, value in values.items():
            if not math.isfinite(value):
                raise RunError(
                    f"the loss {name!r} is {value} at step {self.step_number}; the last checkpoint "
                    f"is kept: lower the learning rate or the weight of that loss"
                )
        return values


def save(trainer: Trainer[Any, Any], bank: Bank, run: Path) -> None:
    """Write the trainer's state to the run's checkpoint."""
    checkpoint.save(run, trainer.step_number, bank, trainer.networks, trainer.optimisers)


def restore(trainer: Trainer[Any, Any], bank: Bank, run: Path) -> None:
    """Go on from the run's checkpoint; RunError where it is of another bank."""
    folder = checkpoint.last(run)
    state = checkpoint.read_state(folder)
    checkpoint.check_bank(state, bank, run)
    checkpoint.check_scenes(state, bank, run)
    if trainer.needs_derived:
        checkpoint.check_derived(state, bank, run)
    checkpoint.fill(folder, trainer.networks, trainer.optimisers)
    trainer.step_number = state.step


def train(trainer: Trainer[Any, Any], bank: Bank, run: Path) -> None:
    """From the trainer's step to config.steps; log, curves, images and checkpoints go to `run`.

    Stopped where a signal asks for it first; the last finished step is saved then.
    """
    goes_on = f"python -m model.train --resume {run} goes on"
    try:
        with stop_requests() as stopping:
            _take_steps(trainer, bank, run, stopping)
    except KeyboardInterrupt as error:
        raise Stopped(
            signal.SIGINT, f"stopped at once: {goes_on} from the last checkpoint"
        ) from error
    if trainer.step_number < trainer.config.steps:
        raise Stopped(stopping[0], f"stopped at step {trainer.step_number:,}; saved: {goes_on}")


def _take_steps(
    trainer: Trainer[Any, Any], bank: Bank, run: Path, stopping: Sequence[signal.Signals]
) -> None:
    """All that are left, or until there is a signal in `stopping`."""
    config: RunConfig = trainer.config
    execution = config.execution
    first = trainer.step_number
    batches = training_batches(
        bank,
        trainer.collate,
        block_shards=config.block_shards,
        batch_size=config.batch_size,
        seed=config.seed,
        first_step=first,
        kind=execution.loader,
        workers=execution.loader_workers,
        device=trainer.device,
    )
    with checkpoint.writing(run, LOG):
        _keep_log_until(run / LOG, first)
    _remove_grids_after(run, first)
    started = time.monotonic()
    recent: deque[dict[str, float]] = deque(maxlen=RECENT)
    steps = progress(
        range(first, config.steps),
        "training",
        config.steps,
        "step",
        done=first,
        note=lambda: main_losses(recent),
    )
    with (
        closing(batches),
        closing(steps),
        _curves(run, first) as curves,
        (run / LOG).open("ab", 0) as file,  # without a buffer: closing it has nothing to write
    ):
        for step in steps:
            values = trainer.step(next(batches))
            recent.append(values)
            with checkpoint.writing(run, LOG):
                file.write(f"{json.dumps({'step': step, **values})}\n".encode())
            with checkpoint.writing(run, CURVES):
                for name, value in values.items():
                    curves.add_scalar(f"loss/{name}", value, step)
            if step == first and trainer.device.type == "cpu":
                _log_estimate(config, config.steps - first, time.monotonic() - started)
            done = step + 1
            if done % execution.grid_every == 0 or done == config.steps:
                grid = trainer.image_grid(trainer.grid_batch(bank, grid_scenes(bank)))
                with checkpoint.writing(run, picture := f"samples-{done:06d}.png"):
                    grid.save(run / picture)
            stop = bool(stopping)
            if stop or done % execution.checkpoint_every == 0 or done == config.steps:
                save(trainer, bank, run)
            if stop:
                break


@contextmanager
def _curves(run: Path, first: int) -> Iterator[SummaryWriter]:
    """TensorBoard's writer, from step `first` on.

    What its thread could not write our next call raises; that thread's traceback is not printed.
    """
    others = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            others(failed)

    threading.excepthook = hook
    try:
        with checkpoint.writing(run, CURVES):
            writer = SummaryWriter(str(run / CURVES), purge_step=first)
        yield writer
        with checkpoint.writing(run, CURVES):
            writer.close()
    finally:
        threading.excepthook = others


def grid_scenes(bank: Bank) -> NDArray[np.int64]:
    """Image ids of the scenes of an image grid: held-out ones where the bank has some."""
    ids = bank.scene_ids("val")[:GRID_SCENES]
    return ids if len(ids) else bank.scene_ids("train")[:GRID_SCENES]


def check_image_size(config: RunConfig, bank: Bank) -> None:
    """RunError where the run's images are larger than the bank's."""
    if config.image_px > bank.image_size:
        raise RunError(
            f"the run makes images of {config.image_px} px, but those of {bank.path} are of "
            f"{bank.image_size} px; give --image-px {bank.image_size} or less, or build the bank "
            f"with --image-size {config.image_px}"
        )


def main_losses(recent: Collection[Mapping[str, float]]) -> str:
    """`total 1.32, reconstruction 0.21`: means over the latest steps, for the one who watches."""
    means = {name: fmean(each[name] for each in recent) for name in next(iter(recent), ())}
    return ", ".join(f"{name} {means[name]:.3g}" for name in SHOWN if name in means)


def _log_estimate(config: RunConfig, steps: int, one_step_s: float) -> None:
    hours = one_step_s * steps / 3600
    if hours > 1:
        small = config.small_recipe
        advice = "" if config.recipe == small else f"; --recipe {small} takes minutes"
        log.info(
            f"about {counted(round(hours), 'hour')} on this CPU for {counted(steps, 'step')} of "
            f"recipe {config.recipe}{advice}"
        )


def _remove_grids_after(run: Path, step: int) -> None:
    """Those of steps that will be taken again."""
    for path in run.glob("samples-*.png"):
        if path.stem[8:].isdecimal() and int(path.stem[8:]) > step:
            with checkpoint.writing(run, path.name):
                path.unlink()


def _keep_log_until(path: Path, step: int) -> None:
    """Drop lines of steps that will be taken again."""
    if not path.exists():
        return
    lines = path.read_text("utf-8").splitlines()
    kept = "".join(f"{line}\n" for line in lines if _is_before(line, step))
    write_bytes(path, kept.encode())


def _is_before(line: str, step: int) -> bool:
    try:
        return bool(json.loads(line)["step"] < step)
    except json.JSONDecodeError:  # the last line of a run that was killed
        return False
