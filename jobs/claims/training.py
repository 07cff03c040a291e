"""The trainings that claims need: each once, however many claims use it, and gone on with where it
was cut off."""

import re
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bank.bank import Bank
from bank.files import json_digest
from jobs.claims.claims import Training
from model import checkpoint
from model.device import choose_device
from model.run_folder import CONFIG
from pipeline.commands import run_command
from pipeline.output import log

# In a run's folder: a line, in s, for each time that it was trained or scored.
TRAINING, SCORING = "training_seconds.txt", "scoring_seconds.txt"


@dataclass(frozen=True)
class Trainer:
    """Trains into folders of `work`. The name of a folder stands for all that decides what is
    learned but the seed, so that an equal training is found and another one is never taken for it.
    """

    bank: Bank
    work: Path
    device: str

    def folder(self, training: Training, steps: int, seed: int) -> Path:
        device = choose_device(self.device).type  # decides the precision, unless that is asked for
        bank = [self.bank.content_digest, self.bank.manifest.derived_digest]
        about = [training.flags, steps, *bank, device]
        name = re.sub(r"\W+", "-", training.name)
        return self.work / f"{name}-{json_digest(about)[:8]}" / f"seed-{seed}"

    def flags(self, training: Training, steps: int, seed: int) -> tuple[str, ...]:
        """Of `model.train`, for a new run."""
        return (
            *("--bank", self._place, "--recipe", "demo", *training.flags),
            *("--steps", str(steps), "--seed", str(seed), "--eval-every", "0"),
            *(() if self.device == "auto" else ("--device", self.device)),
            *("--out", str(self.folder(training, steps, seed))),
        )

    @property
    def _place(self) -> str:
        """Of the bank, from here, so that pages name no folder of the machine that measured."""
        path = self.bank.path
        if isinstance(path, Path) and path.is_relative_to(Path.cwd()):
            path = path.relative_to(Path.cwd())
        return str(path)

    def command(self, training: Training, steps: int, seed: int) -> str:
        return f"python -m model.train {shlex.join(self.flags(training, steps, seed))}"

    def trained(self, training: Training, steps: int, seed: int) -> Path:
        """The folder of the run, trained to its last step."""
        run = self.folder(training, steps, seed)
        if steps_taken(run) == steps:
            log.info(f"{run}: trained already")
            return run
        with timed(run / TRAINING):
            if (run / CONFIG).is_file():
                run_command("model.train", "--resume", run, "--bank", self._place)
            else:
                run_command("model.train", *self.flags(training, steps, seed))
        return run


def steps_taken(run: Path) -> int:
    """By its last checkpoint; 0 before the first."""
    last = checkpoint.newest(run)
    return 0 if last is None else checkpoint.read_state(last).step


@contextmanager
def timed(path: Path) -> Iterator[None]:
    """Adds a line to a file of times in a run's folder, also where the work is stopped."""
    start = time.monotonic()
    try:
        yield
    finally:
        if (path.parent / CONFIG).is_file():
            with path.open("a") as file:
                file.write(f"{time.monotonic() - start:.1f}\n")


def seconds_of(path: Path) -> float:
    """The sum of a file of times; what a killed process took is not in it."""
    return sum(map(float, path.read_text().split())) if path.is_file() else 0.0
