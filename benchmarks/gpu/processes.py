"""Starts the processes that are measured, within a budget of time, and tells how it goes."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any, TypedDict, Unpack

from pipeline.output import log

ROOT = Path(__file__).parents[2]  # of this checkout
USUAL_S = 12.0  # of a process; with less left none is begun

Figures = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a recipe's steps are taken, and by which checkout."""

    side: str  # landed, ours or published
    recipe: str
    batch_size: int
    precision: str = "tf32"
    capture: str = "off"
    deterministic: bool = False
    candidates: int | None = None  # K; None: the recipe's

    @property
    def title(self) -> str:
        how = [] if self.side == "published" else [f"{self.precision}/{self.capture}"]
        if self.side == "landed":
            how = []
        if self.deterministic:
            how.append("deterministic")
        what = f"{self.recipe} batch {self.batch_size}"
        if self.candidates is not None:
            what += f" K {self.candidates}"
        return f"{what}: {' '.join([self.side, *how])}"


class More(TypedDict, total=False):
    """What a task needs beside a setting."""

    seed: int
    steps: int
    batches: int  # that are given in turn
    filled: bool  # batches as a captured step takes them
    round_weights: bool
    gradients: str  # file to write


@dataclass
class Processes:
    """Where they run and what they have left of the time."""

    device: str
    bank: Path
    beside: Path | None  # checkout to compare with
    sg2im: Path | None  # folder of the published package
    scratch: Path
    errors: Path  # file for what failed processes have said
    budget_s: float  # on a CPU, where this is only tried out, there is none
    tiny: bool
    started: float = field(default_factory=time.monotonic)
    skipped: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    _numbers: Any = field(default_factory=count)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def left_s(self) -> float:
        return self.budget_s - (time.monotonic() - self.started)

    def say(self, text: str) -> None:
        log.info(f"[{time.monotonic() - self.started:4.0f} s] {text}")

    def room_for(self, title: str, seconds: float = USUAL_S) -> bool:
        """Whether so long a process may begin; what may not is kept as skipped."""
        if self.left_s >= seconds or self.device == "cpu":
            return True
        self.skipped.append(title)
        self.say(f"{title}: skipped, {self.left_s:.0f} s are left")
        return False

    def figures(self, task: str, setting: Setting, **more: Unpack[More]) -> Figures | None:
        """What a process of its own finds; None where it was skipped or failed."""
        title = f"{setting.title} ({task})"
        if not self.room_for(title):
            return None
        todo = {
            "task": task,
            "checkout": str(self.checkout(setting)),
            "bank": str(self.bank.resolve()),
            "device": self.device,
            "sg2im": str(self.sg2im and self.sg2im.resolve()),
            "recipe": setting.recipe,
            "changes": {"batch_size": setting.batch_size, "seed": more.get("seed", 0)},
            "candidates": setting.candidates,
            "execution": {
                "precision": setting.precision,
                "capture": self._capture(setting),
                "deterministic": setting.deterministic,
            },
            "filled": False,
            "round_weights": False,
            **more,
        }
        with self._lock:
            name = f"{next(self._numbers):03d}"
        asked, found = self.scratch / f"{name}.todo.json", self.scratch / f"{name}.json"
        asked.write_text(json.dumps(todo))
        done = self.run(title, ["-m", "benchmarks.gpu.child", str(asked), str(found)], ROOT)
        return None if done is None else json.loads(found.read_text())

    def checkout(self, setting: Setting) -> Path:
        landed = self.beside if setting.side == "landed" else None
        return landed or ROOT

    def _capture(self, setting: Setting) -> str:
        return setting.capture if self.device != "cpu" else "off"

    def flags(self, setting: Setting) -> list[str]:
        """Of model.train, for a new run."""
        flags = ["--bank", str(self.bank.resolve()), "--recipe", setting.recipe]
        flags += ["--batch-size", str(setting.batch_size), "--eval-every", "0"]
        if setting.side == "ours":
            flags += ["--precision", setting.precision, "--capture", self._capture(setting)]
        return flags

    def run(self, title: str, arguments: list[str], checkout: Path) -> str | None:
        """What Python prints, called with the arguments in a checkout; None where it failed."""
        timeout = None if self.device == "cpu" else max(self.left_s, 1)
        began = time.monotonic()
        try:
            done = subprocess.run(
                [sys.executable, *arguments],
                cwd=checkout,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=timeout,
            )
        except subprocess.TimeoutExpired:
            self.skipped.append(title)
            self.say(f"{title}: stopped, the time is up")
            return None
        if done.returncode:
            last = done.stdout.strip().splitlines()[-1:] or ["no output"]
            with self._lock, self.errors.open("a") as file:
                file.write(f"== {title}: exit {done.returncode}\n{done.stdout[-8000:]}\n")
            self.failed.append(f"{title}: {last[0][:300]}")
            self.say(f"{title}: FAILED, {last[0][:300]}")
            return None
        self.say(f"{title}: took {time.monotonic() - began:.0f} s")
        return done.stdout
