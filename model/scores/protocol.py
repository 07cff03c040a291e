"""The protocol card of a table of scores: all that its numbers depend on, so that they can be
measured again, equal to the last bit on one machine."""

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import msgspec

from bank.files import json_digest
from model.config import (
    BoxesFrom,
    Deprocessing,
    ImageFormat,
    JudgeName,
    MinQuality,
    ScoreKind,
    Start,
)
from pipeline.errors import UserError
from pipeline.options import to_json
from pipeline.scene import Split

FORMAT = 1
CARD = "protocol.json"
PLACES = ("path", "bank", "styles", "weights")  # fields that say where something lies


@dataclass(frozen=True, kw_only=True)
class ScoredRun:
    """A run at one of its checkpoints, or a published checkpoint."""

    path: str
    sha256: str  # of the file with its weights
    config_sha256: str | None  # of what it learned from; None of a published checkpoint
    step: int | None  # of its checkpoint; None of a published one
    noise: bool | None  # whether its patches were drawn with noise; None: it draws none


@dataclass(frozen=True, kw_only=True)
class ScoredFolder:
    """Pictures that something else made."""

    path: str
    boxes: BoxesFrom
    sha256: str = ""  # of the pictures' image ids, draws and bytes


@dataclass(frozen=True, kw_only=True)
class Judge:
    """An extractor, or LPIPS."""

    name: JudgeName
    weights: str | None  # path that was given
    described: dict[str, Any] = field(default_factory=dict)  # hash, input and versions


@dataclass(frozen=True, kw_only=True)
class Photos:
    """Real photos: of the reference set, or of the row of real data."""

    split: Split
    image_ids: tuple[int, ...]
    pixels: dict[str, str] = field(
        default_factory=dict
    )  # side in px -> SHA-256 of the pixels at that side


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """All that the numbers of a table depend on."""

    format: int = FORMAT
    scores: tuple[ScoreKind, ...]
    bank: str
    content_digest: str
    derived_digest: str
    split: Split
    image_ids: tuple[int, ...]  # of the scenes, rising
    near_duplicates_left_out: int | None  # None: it was not asked for
    runs: tuple[ScoredRun, ...]
    folders: tuple[ScoredFolder, ...]
    real: Photos | None
    reference: Photos | None  # None where no picture is scored
    boxes: tuple[BoxesFrom, ...]
    per_graph: int
    image_format: ImageFormat
    deprocessing: Deprocessing
    judges: tuple[Judge, ...]
    candidates: int
    min_coverage: float = 0.0  # that candidates have; 0 on cards of earlier versions
    min_side: int = 0  # px, likewise
    start: Start | None = None  # of learned retrieval; None, as on earlier cards: each run's own
    draws: int
    styles: str | None  # path of the file of hidden styles
    styles_sha256: str | None = None
    style_classifiers: dict[str, str] = field(default_factory=dict)  # side in px -> its weights
    settings: dict[str, int] = field(default_factory=dict)  # of the scores, which have no flags
    seed: int
    device: str = ""
    threads: int = 0
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def seeds(self) -> tuple[int, ...]:
        """Of each picture of a scene."""
        return tuple(self.seed + draw for draw in range(self.per_graph))

    @property
    def min_quality(self) -> MinQuality:
        """Of candidates."""
        return MinQuality(self.min_coverage, self.min_side)

    @property
    def digest(self) -> str:
        """64 hex digits that stand for the card, wherever what it names lies."""
        return json_digest(_without_places(to_json(self)))


# Parts of a card that may be others on another machine: then numbers may differ.
OF_THE_MACHINE = ("versions", "threads")


def differences(card: Protocol, now: Protocol) -> list[str]:
    """The names of the parts that are not the same."""
    return [
        part.name for part in fields(Protocol)
        if getattr(card, part.name) != getattr(now, part.name)
    ]  # fmt: skip


def _without_places(value: Any) -> Any:
    """Of a card as JSON, all but paths."""
    if isinstance(value, dict):
        return {k: _without_places(v) for k, v in value.items() if k not in PLACES}
    return [_without_places(v) for v in value] if isinstance(value, list) else value


def read_protocol(path: Path) -> Protocol:
    """UserError where the file is no card that this version can read."""
    try:
        card = msgspec.json.decode(path.read_bytes(), type=Protocol)
    except OSError as error:
        raise UserError(f"--protocol {path} cannot be read: {error.strerror}") from error
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(
            f"--protocol {path}: {error}; give a {CARD} that jobs.evaluate has written"
        ) from error
    if card.format != FORMAT:
        raise UserError(
            f"--protocol {path} is of format {card.format}, this version reads {FORMAT}: measure "
            f"anew from the options"
        )
    return card
