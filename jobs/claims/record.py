"""What was measured of a claim: results/<claim>.json, from which all pages are written."""

import os
import platform
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
import torch

from jobs.claims.claims import CLAIMS, Claim, Comparison
from jobs.claims.scoring import HeldOut, Scores, scores_of
from jobs.claims.statistics import Mean, paired_difference
from jobs.claims.training import SCORING, TRAINING, Trainer, seconds_of
from pipeline.errors import UserError
from pipeline.wording import counted


@dataclass(frozen=True, kw_only=True)
class TrainingRecord:
    name: str
    command: str  # of the first seed
    seconds: tuple[float, ...]  # of each seed


@dataclass(frozen=True, kw_only=True)
class MethodRecord:
    name: str
    training: str
    scores: tuple[Scores, ...]  # of each seed

    @property
    def compatibility(self) -> list[float]:
        return [scores.compatibility for scores in self.scores]


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of one measurement; as text, what the numbers are of, in short."""

    seeds: int  # from 0
    steps: int
    scenes: int
    candidates: int
    draws: int
    content_digest: str  # of the bank

    def __str__(self) -> str:
        return (
            f"{counted(self.seeds, 'seed')}, {counted(self.steps, 'step')}, "
            f"{counted(self.scenes, 'scene')}, {counted(self.candidates, 'candidate')}, "
            f"{counted(self.draws, 'draw')}, bank {self.content_digest[:12]}"
        )


@dataclass(frozen=True, kw_only=True)
class Record:
    """All that a claim's page says."""

    claim: str
    command: str
    settings: Settings
    photos: int | None  # of the toy world
    derived_digest: str  # of the bank
    chance: float  # of compatibility
    scoring_seconds: float
    machine: str
    trainings: tuple[TrainingRecord, ...]
    methods: tuple[MethodRecord, ...]

    def method(self, name: str) -> MethodRecord:
        found = next((method for method in self.methods if method.name == name), None)
        if found is None:
            raise UserError(
                f"{self.claim}.json has no scores of {name!r}, which the claim now compares: "
                f"python -m jobs.reproduce --claim {self.claim}"
            )
        return found

    def difference(self, compared: Comparison) -> Mean:
        """In compatibility, paired by seed."""
        better, worse = (self.method(name).compatibility for name in compared)
        return paired_difference(better, worse)


def check_records(records: Mapping[str, Record]) -> None:
    """UserError for one that lacks a method which its claim compares."""
    for name, record in records.items():
        for compared in (*CLAIMS[name].primary, *CLAIMS[name].further):
            record.difference(compared)


def check_settings(folder: Path, records: Iterable[Record], settings: Settings) -> None:
    """UserError for one of other settings, which is not to be replaced by these."""
    for record in records:
        if record.settings != settings:
            raise UserError(
                f"{record_path(folder, record.claim)} is of {record.settings}, not of {settings}: "
                f"name another --out, or remove it"
            )


def measure(
    claim: Claim, trainer: Trainer, held_out: HeldOut, settings: Settings, command: str
) -> Record:
    """Train and score whatever is missing; each seed on its own part of the scenes."""
    seeds, steps = settings.seeds, settings.steps
    parts = held_out.parts(seeds)
    runs = {
        training: [trainer.trained(training, steps, seed) for seed in range(seeds)]
        for training in claim.trainings
    }
    scores: dict[str, list[Scores]] = {method.name: [] for method in claim.methods}
    for training, of_training in runs.items():
        for seed, run in enumerate(of_training):
            for name, found in scores_of(run, seed, claim.of(training), parts[seed]).items():
                scores[name].append(found)
    bank = held_out.bank
    return Record(
        claim=claim.name,
        command=command,
        settings=settings,
        photos=bank.manifest.recipe.get("toy_photos"),
        derived_digest=bank.manifest.derived_digest,
        chance=held_out.chance,
        scoring_seconds=sum(seconds_of(run / SCORING) for some in runs.values() for run in some),
        machine=machine(held_out.device),
        trainings=tuple(
            TrainingRecord(
                name=training.name,
                command=trainer.command(training, steps, 0),
                seconds=tuple(seconds_of(run / TRAINING) for run in of_training),
            )
            for training, of_training in runs.items()
        ),
        methods=tuple(
            MethodRecord(
                name=method.name,
                training=method.training.name,
                scores=tuple(scores[method.name]),
            )
            for method in claim.methods
        ),
    )


def machine(device: torch.device) -> str:
    on = "CPU" if device.type == "cpu" else torch.cuda.get_device_name(device)
    return (
        f"{on}, {counted(os.cpu_count() or 1, 'core')}, "
        f"{counted(torch.get_num_threads(), 'thread')}, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )


def read_records(folder: Path) -> dict[str, Record]:
    """Of all claims that were measured, in the order of CLAIMS."""
    return {
        name: read_record(path) for name in CLAIMS if (path := record_path(folder, name)).is_file()
    }


def record_path(folder: Path, claim: str) -> Path:
    return folder / f"{claim}.json"


def read_record(path: Path) -> Record:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Record)
    except msgspec.MsgspecError as error:
        raise UserError(
            f"{path} cannot be read by this version ({error}): remove it, and measure the claim "
            f"again by python -m jobs.reproduce --claim {path.stem}"
        ) from error
