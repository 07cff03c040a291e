"""Ways to make an image of a scene graph: a run's own retrieval, another, or sg2im."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from bank.bank import Bank
from jobs.show.sheets import Pixels
from model.checkpoint import read_run
from model.config import RetrievalMode, Sg2ImConfig
from model.retrievegan.run import Retrieval, Sampler
from model.sg2im.published import ignored_note, is_published
from model.sg2im.run import Sg2ImSampler
from pipeline.errors import UserError
from pipeline.scene import SceneGraph, Vocabulary


class Made(NamedTuple):
    """An image, and the patches it is made of where it is made of some."""

    image: Pixels  # (H, W, 3)
    chosen: Retrieval | None


@dataclass(frozen=True)
class Choice:
    """How patches are chosen: the arguments of `Sampler.retrieve`."""

    mode: RetrievalMode | None = None
    noise: bool | None = None
    candidates: int | None = None
    pin: Mapping[int, int] = field(default_factory=dict)
    ban: Sequence[int] = ()


@dataclass(frozen=True)
class Composed:
    """Patches are retrieved and composed."""

    name: str
    sampler: Sampler
    choice: Choice = Choice()

    @property
    def vocabulary(self) -> Vocabulary:
        return self.sampler.bank.vocabulary

    def make(self, graph: SceneGraph, seed: int) -> Made:
        choice = self.choice
        chosen = self.sampler.retrieve(
            graph,
            seed=seed,
            noise=choice.noise,
            mode=choice.mode,
            k=choice.candidates,
            pin=choice.pin,
            ban=choice.ban,
        )
        return Made(self.sampler.generate(graph, chosen.patches), chosen)


@dataclass(frozen=True)
class Drawn:
    """sg2im draws it, from no patch; the seed is its layout noise's."""

    name: str
    sampler: Sg2ImSampler

    @property
    def vocabulary(self) -> Vocabulary:
        return self.sampler.vocabulary

    def make(self, graph: SceneGraph, seed: int) -> Made:
        return Made(self.sampler.generate(graph, seed=seed), None)


Way = Composed | Drawn


def by_own_choice(way: Way, own: Way) -> Way:
    """What is pinned, banned or limited holds for the run's other ways of choosing as well."""
    if isinstance(way, Composed) and isinstance(own, Composed) and way.sampler is own.sampler:
        return replace(way, choice=replace(own.choice, mode=way.choice.mode))
    return way


def open_sampler(source: Path, bank: Path | None, device: torch.device) -> Sampler | Sg2ImSampler:
    """A run folder of either kind, or a checkpoint of sg2im as published. `bank`: where the bank
    of a run that retrieves has moved."""
    if is_published(source) or isinstance(read_run(source)[0], Sg2ImConfig):
        sampler = Sg2ImSampler.open(source, device)
        if sampler.ignored:
            print(ignored_note(source, sampler.ignored), file=sys.stderr)
        return sampler
    return Sampler.open(source, bank, device)


def open_bank(sampler: Sampler | Sg2ImSampler, source: Path, bank: Path | None) -> Bank:
    """The bank that a run was trained on; UserError where none is known."""
    if isinstance(sampler, Sampler):
        return sampler.bank
    if bank is None and is_published(source):
        raise UserError(f"{source} comes without a bank, whose scenes are asked for: give --bank")
    return Bank.open(bank or read_run(source)[1])


def way_of(sampler: Sampler | Sg2ImSampler, name: str) -> Way:
    """As the run was trained; what it is stands behind its name."""
    if isinstance(sampler, Sg2ImSampler):
        return Drawn(f"{name}, sg2im", sampler)
    return Composed(f"{name}, {sampler.model.config.retrieval.mode}", sampler)


def way_beside(given: str, own: Sampler | Sg2ImSampler, device: torch.device) -> Composed | Drawn:
    """`predefined`, `random` or `learned`: the run's own generator with patches chosen so; else a
    run folder, or a checkpoint of sg2im as published."""
    if given in get_args(RetrievalMode):
        if isinstance(own, Sg2ImSampler):
            raise UserError(
                f"--beside {given}: this run is one of sg2im, which retrieves nothing; give the "
                f"run that retrieves as --run and this one as --beside"
            )
        return Composed(given, own, Choice(mode=given))  # type: ignore[arg-type]
    if not Path(given).exists():
        modes = ", ".join(get_args(RetrievalMode))
        raise UserError(
            f"--beside {given}: it is neither {modes} nor a run folder or checkpoint that is there"
        )
    sampler = open_sampler(Path(given), None, device)
    return way_of(sampler, given.rstrip("/"))
