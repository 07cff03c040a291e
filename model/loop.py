"""What every training has in common: the optimisers of a step, the loop, the files it writes."""

import signal
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from bank.bank import Bank
from model import checkpoint
from model.batch import moved
from model.capture import CapturedSteps, captures
from model.config import RetrieveGANConfig, RunConfig
from model.fixed_shapes import FixedShapes, longest_scene
from model.loader import Collate, training_batches
from model.monitor import Pace, RunLog, duration, main_losses, memory, run_log
from model.parallel import ALONE, Phases, Ranks, run_phases
from model.precision import Arithmetic
from model.run_folder import RunError
from pipeline.errors import Stopped, UserError
from pipeline.output import log
from pipeline.stopping import stop_requests
from pipeline.wording import counted

GRID_SCENES = 6
DRY_RUNS = 3  # steps whose time says how long all of them will take

Config = TypeVar("Config", bound=RunConfig)
Batch = TypeVar("Batch")
Losses = tuple[Tensor, dict[str, Tensor]]  # what is minimised, and its terms with what is measured


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
        self.best: checkpoint.Best | None = None  # of the scores so far
        self.ranks = ALONE
        # 1 from the first loss or gradient on that is not finite
        self.diverged = torch.zeros((), device=device)
        self.arithmetic = Arithmetic.of(config.execution.precision, device, config.gpu_precision)
        self.arithmetic.apply()
        self.networks = dict(networks)
        self.updates = updates
        self.captured: CapturedSteps[Batch] | None = None
        self._longest: int | None = None  # scene of the bank
        if captures(config.execution.capture, device, self.reason_against_capture):
            self.captured = CapturedSteps(self.phases, self.without_effect)
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
    def phases(self, parts: Sequence[Batch]) -> Phases:
        """One update of every network, from all parts of a batch together. Every loss by its name,
        and what else is measured, by names with a `/`."""

    def step(self, *parts: Batch) -> dict[str, Tensor]:
        """What `phases` gives of a batch, or of the parts of one that would be too large."""
        self.prepare()
        values = self._run([self.placed(part) for part in parts])
        self.step_number += 1
        return values

    def prepare(self) -> None:
        """What changes with the number of steps, before one is taken."""
        self.set_learning_rates()

    def placed(self, batch: Batch) -> Batch:
        """A batch on the device."""
        return moved(batch, self.device)

    def _run(self, parts: Sequence[Batch]) -> dict[str, Tensor]:
        if self.captured is None:
            return run_phases(self.phases(parts), self.ranks)
        return self.captured.run(parts, self.ranks, self.mode())

    @property
    def reason_against_capture(self) -> str | None:
        """Why the configuration's steps cannot be captured."""
        return None

    def mode(self) -> Hashable:
        """All else that a captured step depends on, beside the shapes of its batch."""
        return None

    @contextmanager
    def without_effect(self) -> Iterator[None]:
        """Inside, a step computes all that it does, but changes no weight, moment or buffer."""
        buffers = [b for network in self.networks.values() for b in network.buffers()]
        kept = [tensor.clone() for tensor in (self.diverged, *buffers)]
        self.diverged.fill_(1)  # so no optimiser updates anything
        try:
            yield
        finally:
            for tensor, before in zip((self.diverged, *buffers), kept, strict=True):
                tensor.copy_(before)

    def dry_run(self, *parts: Batch) -> float:
        """Take the step of a batch some times without effect; seconds of one."""
        self.prepare()
        there = [self.placed(part) for part in parts]
        with self.without_effect():
            self._run(there)
            torch.cuda.synchronize(self.device)
            started = time.perf_counter()
            for _ in range(DRY_RUNS):
                self._run(there)
            torch.cuda.synchronize(self.device)
        return (time.perf_counter() - started) / DRY_RUNS

    @abstractmethod
    def image_grid(self, batch: Batch) -> Image.Image:
        """What is made of the scenes of a batch, beside the real images."""

    def settings(self) -> dict[str, float]:
        """What to show beside the losses of a step, by names with a `/`."""
        return {}

    def fix_shapes(self, bank: Bank) -> None:
        """Batches of a few shapes from now on, where steps are captured."""
        if self.captured is not None:
            self._longest = longest_scene(bank)

    @property
    def shapes(self) -> FixedShapes | None:
        """Of batches, where steps are captured."""
        if self._longest is None:
            return None
        parts = self.ranks.size * self.config.execution.accumulate
        return FixedShapes.of(self.config.batch_size // parts, self._longest)

    def join(self, ranks: Ranks) -> None:
        """Train with other processes, from the first one's weights on."""
        self.ranks = ranks
        for network in self.networks.values():
            ranks.share([*network.parameters(), *network.buffers()])

    def new_optimiser(self, name: str) -> torch.optim.Optimizer:
        named = [p for key in self.updates[name] for p in self.networks[key].named_parameters(key)]
        rate: float | Tensor = self._initial_rate(name)
        on_gpu = self.device.type == "cuda"
        if on_gpu:  # a captured step reads it where it lies, and one that is not computes the same
            rate = torch.tensor(rate, device=self.device)
        optimiser = torch.optim.Adam(named, rate, self.config.betas, fused=True, capturable=on_gpu)
        # The kernel then changes neither weights nor moments; no step waits to know.
        optimiser.found_inf = self.diverged  # type: ignore[attr-defined]
        return optimiser

    def _initial_rate(self, name: str) -> float:
        config = self.config
        return config.lr_generator if name == "generator" else config.lr_discriminator

    def set_learning_rates(self) -> None:
        """A function of the step, so that there is no schedule to save."""
        config = self.config
        left = 1 - self.step_number / config.steps
        factor = 1.0 if config.decay_from == 1 else min(left / (1 - config.decay_from), 1.0)
        for name, optimiser in self.optimisers.items():
            rate = self._initial_rate(name) * max(factor, 0.0)
            for group in optimiser.param_groups:
                if isinstance(group["lr"], Tensor):
                    group["lr"].fill_(rate)
                else:
                    group["lr"] = rate

    def update(
        self, name: str, parts: Sequence[Batch], losses_of: Callable[[Batch], Losses]
    ) -> Phases:
        """One step of an optimiser along the gradient of the sum of all parts' losses; none from
        the first step on at which a term or the gradient is not finite.

        Returns the terms, summed over the parts, and the gradient's l2 norm. No gradient is taken
        of other networks' weights.
        """
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        parameters = [p for group in optimiser.param_groups for p in group["params"]]
        of_parts = []
        for part in parts:
            with self.arithmetic.autocast():
                loss, terms = losses_of(part)
            loss.backward(inputs=parameters)  # type: ignore[no-untyped-call]
            of_parts.append(torch.stack([term.detach() for term in terms.values()]))
        values = of_parts[0] if len(of_parts) == 1 else torch.stack(of_parts).sum(0)
        gradients = [laid_out(p) for p in parameters if p.grad is not None]
        yield [*gradients, values]
        norm = nn.utils.get_total_norm(gradients)
        self.diverged.logical_or_(~(values.isfinite().all() & norm.isfinite()))
        optimiser.step()
        return {**dict(zip(terms, values.unbind(), strict=True)), f"gradient_norm/{name}": norm}


def laid_out(parameter: Tensor) -> Tensor:
    """The parameter's gradient, with its very strides: on a GPU the fused Adam refuses others, also
    where a side of 1 leaves them open (pytorch/pytorch#106951)."""
    assert parameter.grad is not None
    if parameter.grad.stride() != parameter.stride():
        parameter.grad = torch.empty_like(parameter).copy_(parameter.grad)
    return parameter.grad


def save(trainer: Trainer[Any, Any], bank: Bank, run: Path) -> None:
    """Write the trainer's state to the run's checkpoint."""
    checkpoint.save(
        run,
        trainer.step_number,
        bank,
        trainer.networks,
        trainer.optimisers,
        best=trainer.best,
        keep=trainer.config.execution.keep_checkpoints,
    )


def restore(trainer: Trainer[Any, Any], bank: Bank, run: Path) -> None:
    """Go on from the run's checkpoint; RunError where it is of another bank, or of a version that
    drew other random numbers."""
    folder = checkpoint.last(run)
    state = checkpoint.read_state(folder)
    checkpoint.check_draws(state, run)
    checkpoint.check_bank(state, bank, run)
    checkpoint.check_scenes(state, bank, run)
    if trainer.needs_derived:
        checkpoint.check_derived(state, bank, run)
    checkpoint.fill(folder, trainer.networks, trainer.optimisers)
    trainer.step_number, trainer.best = state.step, state.best


def train(
    trainer: Trainer[Any, Any], bank: Bank, run: Path, score: Callable[[], float] | None = None
) -> None:
    """From the trainer's step to config.steps; log, curves, images and checkpoints go to `run`.

    `score` says how good the network is, every `eval_every` steps: higher is better, and the best
    checkpoint is kept. Stopped where a signal asks for it first; the last finished step is saved
    then. RunError where a loss is not finite.
    """
    goes_on = f"python -m model.train --resume {run} goes on"
    try:
        with stop_requests() as stopping:
            stopped_by = _take_steps(trainer, bank, run, score, stopping)
    except KeyboardInterrupt as error:
        raise Stopped(
            signal.SIGINT, f"stopped at once: {goes_on} from the last checkpoint"
        ) from error
    if stopped_by is not None:
        raise Stopped(stopped_by, f"stopped at step {trainer.step_number:,}; saved: {goes_on}")


def _take_steps(
    trainer: Trainer[Any, Any],
    bank: Bank,
    run: Path,
    score: Callable[[], float] | None,
    stopping: Sequence[signal.Signals],
) -> signal.Signals | None:
    """All that are left, or until there is a signal in `stopping` of any process; returns it."""
    config: RunConfig = trainer.config
    ranks, first = trainer.ranks, trainer.step_number
    with _enough_memory(trainer):
        batches = training_batches(
            bank,
            trainer.collate,
            block_shards=config.block_shards,
            batch_size=config.batch_size,
            seed=config.seed,
            first_step=first,
            rank=ranks.rank,
            ranks=ranks.size,
            kind=config.execution.loader,
            workers=config.execution.loader_workers,
            device=trainer.device,
            parts=config.execution.accumulate,
        )
    pace = Pace(first, config.steps, config.batch_size, trainer.device, config.execution.log_every)
    with closing(batches), run_log(run, first) if ranks.leads else nullcontext() as kept:
        writer = _Writer(trainer, bank, run, score, pace, kept)
        for step in range(first, config.steps):
            with pace.waiting(), _enough_memory(trainer):
                parts = _next(batches, config.execution.accumulate, stopping)
            stop, tells = ranks.agree(
                stopping[0] if stopping else 0, ranks.leads and pace.is_due(step)
            )
            if stop:
                ranks.lead(writer.save)
                return signal.Signals(stop)
            assert parts, "they are missing only where a signal has come"
            with _enough_memory(trainer):
                if step == first and trainer.device.type == "cuda":
                    _tell_needs(trainer, parts)
                    pace.start()
                values = trainer.step(*parts)
            if kept is not None:
                kept.add(step, values)
            if tells or writer.is_due():
                ranks.lead(partial(writer.write, tells=bool(tells)))
    return None


def _next(batches: Iterator[Batch], parts: int, stopping: Sequence[signal.Signals]) -> list[Batch]:
    """The parts of the next batch; none where there are none because the loader's processes were
    stopped too."""
    try:
        return [next(batches) for _ in range(parts)]
    except Exception:
        if not stopping:
            raise
        return []


def _tell_needs(trainer: Trainer[Any, Batch], parts: Sequence[Batch]) -> None:
    """One line before the first step: the time and memory that it takes."""
    if trainer.ranks.leads:
        log.info("preparing the first step; kernels that were not made here before are compiled")
    seconds = trainer.dry_run(*parts)
    config, device = trainer.config, trainer.device
    if not trainer.ranks.leads:
        return
    card = torch.cuda.get_device_properties(device)
    left = config.steps - trainer.step_number
    scenes = counted(config.batch_size // trainer.ranks.size, "scene")
    log.info(
        f"a step of {scenes} takes {1e3 * seconds:.0f} ms and {memory(device) / 1e9:.1f} of the "
        f"{card.total_memory / 1e9:.0f} GB of {card.name}: about {duration(seconds * left)} for "
        f"{counted(left, 'step')}"
    )


@contextmanager
def _enough_memory(trainer: Trainer[Any, Any]) -> Iterator[None]:
    """RunError, with what to change, where the GPU has too little memory for a step."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        config, card = trainer.config, torch.cuda.get_device_properties(trainer.device)
        k = (
            f" or fewer --retrieval.candidates than {config.retrieval.candidates}"
            if isinstance(config, RetrieveGANConfig)
            else ""
        )
        scenes, parts = config.batch_size // trainer.ranks.size, config.execution.accumulate
        more = next((n for n in range(parts + 1, scenes + 1) if scenes % n == 0), None)
        in_parts = f"--accumulate {more} computes it in {more} parts; else " if more else ""
        raise RunError(
            f"{card.name} ({card.total_memory / 1e9:.0f} GB) has too little free memory for a step "
            f"of --batch-size {config.batch_size}: {in_parts}give a smaller --batch-size{k}"
        ) from error


@dataclass(frozen=True)
class _Writer:
    """What the first process writes of a run as it goes."""

    trainer: Trainer[Any, Any]
    bank: Bank
    run: Path
    score: Callable[[], float] | None
    pace: Pace
    kept: RunLog | None  # None in other processes

    @property
    def log(self) -> RunLog:
        assert self.kept is not None, "only the first process writes"
        return self.kept

    def is_due(self) -> bool:
        """Whether there is more to write after this step than its losses. A function of the step,
        the same in all processes."""
        execution = self.trainer.config.execution
        every = (execution.grid_every, execution.checkpoint_every, execution.eval_every)
        return any(map(self._is_step_of, every))

    def write(self, *, tells: bool) -> None:
        """All that is due; `tells`: a line on the console too. RunError, and nothing is written,
        where a loss was not finite."""
        trainer, execution = self.trainer, self.trainer.config.execution
        self.log.collect()
        if tells:
            self._tell()
        try:
            is_best = self._is_step_of(execution.eval_every) and self._has_best_score()
            if self._is_step_of(execution.grid_every):
                grid = trainer.image_grid(trainer.grid_batch(self.bank, grid_scenes(self.bank)))
                self.log.add_grid(trainer.step_number, grid)
        except UserError:  # of a bank whose files cannot be had: no step is lost
            self.save()
            raise
        if is_best or self._is_step_of(execution.checkpoint_every):
            self.save()
        self.log.write()

    def save(self) -> None:
        """The losses of all steps so far, and then the checkpoint: it is never ahead of them."""
        self.log.flush()
        save(self.trainer, self.bank, self.run)

    def _is_step_of(self, every: int) -> bool:
        done, steps = self.trainer.step_number, self.trainer.config.steps
        return every > 0 and (done % every == 0 or done == steps)

    def _tell(self) -> None:
        trainer, done = self.trainer, self.trainer.step_number
        tick = self.pace.tick(done)
        log.info(self.pace.line(done, tick, main_losses(self.log.recent)))
        self.log.add_curves(done - 1, tick | trainer.settings())
        if done == self.pace.first + 1 and trainer.device.type == "cpu":
            left = trainer.config.steps - self.pace.first
            _log_estimate(trainer.config, left, self.pace.seconds)

    def _has_best_score(self) -> bool:
        """Score the network, where there is something to score."""
        if self.score is None:
            return False
        value, done, best = self.score(), self.trainer.step_number, self.trainer.best
        is_best = best is None or value > best.score
        if is_best:
            self.trainer.best = checkpoint.Best(done, value)
        self.log.add_to_last("score/val", value)
        place = "the best so far" if best is None or is_best else f"at best {best.score:.3f}"
        log.info(f"step {done:,}: retrieval scores {value:.3f} on val scenes (1 is best), {place}")
        return is_best


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


def _log_estimate(config: RunConfig, steps: int, one_step_s: float) -> None:
    hours = one_step_s * steps / 3600
    if hours > 1:
        small = config.small_recipe
        advice = "" if config.recipe == small else f"; --recipe {small} takes minutes"
        log.info(
            f"about {counted(round(hours), 'hour')} on this CPU for {counted(steps, 'step')} of "
            f"recipe {config.recipe}{advice}"
        )
