"""What a run tells while it is trained: every step's losses, curves, a line on the console."""

import json
import math
import resource
import sys
import threading
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import fmean
from typing import IO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from model import checkpoint
from model.run_folder import LOG, RunError
from pipeline.files import PARTIAL, sync, write_bytes, written
from pipeline.output import log

CURVES = "tensorboard"
TICK_S = 10.0  # between two lines on the console
RECENT = 20  # steps whose means are shown there; log.jsonl has all losses of every step
SHOWN = ("total", "gt_selection", "reconstruction", "pixels", "discriminator_image")

DISCRIMINATORS = ("discriminator_image", "discriminator_object")  # the losses of eq. 4
CHANCE = 2 * math.log(2)  # of such a loss, where all answers are "as likely real as not"
WATCHED = 100  # steps over which a discriminator is judged
CERTAIN, UNDECIDED = 0.1, 0.01


class RunLog:
    """log.jsonl and the curves. What is added stays on the device until it is collected, so that a
    step on a GPU waits for nothing."""

    def __init__(self, run: Path, file: IO[bytes], curves: SummaryWriter) -> None:
        self.run, self.file, self.curves = run, file, curves
        self.recent: deque[dict[str, float]] = deque(maxlen=WATCHED)
        self._names: tuple[str, ...] = ()
        self._steps: list[int] = []
        self._values: list[Tensor] = []  # (names,) of each of the steps
        self._lines: list[dict[str, float]] = []
        self._warned: set[str] = set()

    def add(self, step: int, values: Mapping[str, Tensor]) -> None:
        """A step's losses, 0-dim tensors. Every step has the same names."""
        assert self._names in ((), tuple(values))
        self._names = tuple(values)
        self._steps.append(step)
        self._values.append(torch.stack([*values.values()]))

    def collect(self) -> None:
        """Bring what was added here. RunError where a value is not finite: then neither that step
        nor a later one is logged."""
        if not self._values:
            return
        rows = torch.stack(self._values).tolist()
        steps = self._steps
        self._steps, self._values = [], []
        for step, row in zip(steps, rows, strict=True):
            values = dict(zip(self._names, row, strict=True))
            for name, value in values.items():
                if not math.isfinite(value):
                    self.write()
                    raise RunError(_diverged(name, value, step, self.run))
            self._lines.append({"step": step, **values})
            self.recent.append(values)
        self._warn_of_collapse()

    def add_to_last(self, name: str, value: float) -> None:
        """One more value of the last step that was collected."""
        self._lines[-1][name] = value

    def write(self) -> None:
        """Write what was collected: a line a step."""
        lines, self._lines = self._lines, []
        with checkpoint.writing(self.run, LOG):
            whole = self.file.tell()
            data = "".join(f"{json.dumps(line)}\n" for line in lines).encode()
            try:
                while data:
                    data = data[self.file.write(data) :]
            except OSError:
                with suppress(OSError):  # why it could not be written says more
                    self.file.truncate(whole)
                raise
        with checkpoint.writing(self.run, CURVES):
            for line in lines:
                for name, value in line.items():
                    if name != "step":
                        tag = name if "/" in name else f"loss/{name}"
                        self.curves.add_scalar(tag, value, int(line["step"]))

    def flush(self) -> None:
        """Collect and write, to the disk itself."""
        self.collect()
        self.write()
        with checkpoint.writing(self.run, LOG):
            sync(self.run / LOG)
            sync(self.run)  # which names it

    def add_curves(self, step: int, values: Mapping[str, float]) -> None:
        """Values that are no function of the step: curves alone."""
        with checkpoint.writing(self.run, CURVES):
            for name, value in values.items():
                self.curves.add_scalar(name, value, step)

    def add_grid(self, done: int, grid: Image.Image) -> None:
        """What is made of some scenes after `done` steps, as a file and among the curves."""
        picture = f"samples-{done:06d}.png"
        with checkpoint.writing(self.run, picture), written(self.run / picture) as partial:
            grid.save(partial, "PNG")
        with checkpoint.writing(self.run, CURVES):
            self.curves.add_image("samples", np.asarray(grid), done, dataformats="HWC")

    def _warn_of_collapse(self) -> None:
        for name in DISCRIMINATORS:
            losses = [values[name] for values in self.recent if name in values]
            reason = collapsed(losses)
            if reason and name not in self._warned:
                self._warned.add(name)
                log.warning(
                    f"the loss {name} {reason} over the last {WATCHED} steps: the generator learns "
                    f"nothing from this discriminator; lower or raise --lr-discriminator in a new "
                    f"run"
                )


def collapsed(losses: Collection[float]) -> str:
    """Why a discriminator with these last losses teaches nothing; "" where it may.

    It has collapsed where the mean of its loss over 100 steps is below 0.1 (it is certain of every
    image), or where each of them lies within 0.01 of 2 log 2 (it tells no image from another).
    """
    if len(losses) < WATCHED:
        return ""
    if fmean(losses) < CERTAIN:
        return f"is {fmean(losses):.2g} on average"
    if all(abs(loss - CHANCE) < UNDECIDED for loss in losses):
        return f"is that of mere chance, {CHANCE:.3g},"
    return ""


def _diverged(name: str, value: float, step: int, run: Path) -> str:
    last = checkpoint.newest(run)
    kept = f"the last checkpoint, {last.name}, is kept" if last else "there was no checkpoint yet"
    return (
        f"{name!r} is {value} at step {step + 1:,}, and no weight was changed from there on; "
        f"{kept}: start a new run with a lower learning rate, or a lower weight of that loss"
    )


@contextmanager
def run_log(run: Path, first: int) -> Iterator[RunLog]:
    """The log of a run that begins, or goes on, with step `first`; what is there of later steps
    goes: they will be taken again."""
    with checkpoint.writing(run, LOG):
        _keep_log_until(run / LOG, first)
    _remove_grids_after(run, first)
    for left in run.glob(f"*{PARTIAL}"):  # by one that was killed
        left.unlink(missing_ok=True)
    with (
        _curves(run, first) as curves,
        (run / LOG).open("ab", 0) as file,  # without a buffer: closing it has nothing to write
    ):
        kept = RunLog(run, file, curves)
        try:
            yield kept
        except BaseException:
            with suppress(Exception):  # the steps up to an error, which says more
                kept.collect()
                kept.write()
            raise


@contextmanager
def _curves(run: Path, first: int) -> Iterator[SummaryWriter]:
    """TensorBoard's writer, from step `first` on.

    What its thread could not write our next call raises; that thread's traceback is not printed.
    """
    others = threading.excepthook

    def hook(failed: threading.ExceptHookArgs) -> None:
        if not isinstance(failed.exc_value, OSError):
            others(failed)

    before = {*threading.enumerate()}
    threading.excepthook = hook
    try:
        with checkpoint.writing(run, CURVES):
            writer = SummaryWriter(str(run / CURVES), purge_step=first)
        its_own = {*threading.enumerate()} - before
        try:
            yield writer
            with checkpoint.writing(run, CURVES):
                writer.close()
        finally:
            with suppress(OSError):  # the curves up to an error
                writer.close()
            for thread in its_own:  # one that has failed is still to call the hook
                thread.join(1)
    finally:
        threading.excepthook = others


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


class Pace:
    """When a line on the console is due, and what it says of speed and memory."""

    def __init__(
        self, first: int, steps: int, batch_size: int, device: torch.device, every: int = 0
    ) -> None:
        """every: steps between two lines; 0: about ten seconds"""
        self.first, self.steps, self.batch_size, self.device = first, steps, batch_size, device
        self.every = every
        self.start()

    def start(self) -> None:
        """Count the time from here."""
        self.started = self._last = time.monotonic()
        self._done = self.first
        self._waited = 0.0  # seconds since the last line

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, the training waits for its data."""
        since = time.monotonic()
        yield
        self._waited += time.monotonic() - since

    def is_due(self, step: int) -> bool:
        """After this step: the first, the last, and some between."""
        if step in (self.first, self.steps - 1):
            return True
        if self.every:
            return (step + 1) % self.every == 0
        return time.monotonic() - self._last >= TICK_S

    def tick(self, done: int) -> dict[str, float]:
        """images/s, and the share of the time that went into waiting for data, since the last."""
        now = time.monotonic()
        seconds = max(now - self._last, 1e-9)
        values = {
            "speed/images_per_s": (done - self._done) * self.batch_size / seconds,
            "speed/data_wait": self._waited / seconds,
        }
        self._last, self._done, self._waited = now, done, 0.0
        return values

    @property
    def seconds(self) -> float:
        """From the beginning to the last line."""
        return self._last - self.started

    def line(self, done: int, tick: Mapping[str, float], losses: str) -> str:
        """`step 120 of 500: 35 images/s, 2 % of it waiting for data, ...`"""
        seconds = self.seconds / (done - self.first) * (self.steps - done)
        parts = [
            f"{tick['speed/images_per_s']:.3g} images/s",
            f"{tick['speed/data_wait']:.0%} waiting for data",
            f"{memory(self.device) / 1e9:.2f} GB of memory",
            losses,
            f"{duration(seconds)} left" if done < self.steps else "",
        ]
        return f"step {done:,} of {self.steps:,}: {', '.join(filter(None, parts))}"


def memory(device: torch.device) -> int:
    """Most bytes used so far: of a GPU, or of this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def duration(seconds: float) -> str:
    """In hours, minutes or seconds, whichever is readable."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"


def main_losses(recent: Collection[Mapping[str, float]]) -> str:
    """`total 1.32, reconstruction 0.21`: means over the latest steps, for the one who watches."""
    latest = [*recent][-RECENT:]
    means = {name: fmean(each[name] for each in latest) for name in next(iter(latest), ())}
    return ", ".join(f"{name} {means[name]:.3g}" for name in SHOWN if name in means)
