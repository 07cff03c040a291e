"""Methods of generating an image from a scene graph: patches retrieved and composed, or sg2im."""

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


class Sample(NamedTuple):
    """A generated image, and the patches it is composed of; None where there are none."""

    image: Pixels  # (H, W, 3)
    retrieval: Retrieval | None


@dataclass(frozen=True)
class RetrievalOptions:
    """How patches are chosen: the arguments of `Sampler.retrieve`."""

    mode: RetrievalMode | None = None
    noise: bool | None = None
    candidates: int | None = None
    pin: Mapping[int, int] = field(default_factory=dict)
    ban: Sequence[int] = ()


@dataclass(frozen=True)
class RetrieveAndCompose:
    """Retrieves patches from the run's bank and composes them."""

    name: str
    sampler: Sampler
    options: RetrievalOptions = RetrievalOptions()

    @property
    def vocabulary(self) -> Vocabulary:
        return self.sampler.bank.vocabulary

    def generate(self, graph: SceneGraph, seed: int) -> Sample:
        options = self.options
        retrieval = self.sampler.retrieve(
            graph,
            seed=seed,
            noise=options.noise,
            mode=options.mode,
            k=options.candidates,
            pin=options.pin,
            ban=options.ban,
        )
        return Sample(self.sampler.generate(graph, retrieval.patches), retrieval)


@dataclass(frozen=True)
class GenerateBySg2Im:
    """Generates without patches, by sg2im; the seed is that of its layout noise."""

    name: str
    sampler: Sg2ImSampler

    @property
    def vocabulary(self) -> Vocabulary:
        return self.sampler.vocabulary

    def generate(self, graph: SceneGraph, seed: int) -> Sample:
        return Sample(self.sampler.generate(graph, seed=seed), None)


Method = RetrieveAndCompose | GenerateBySg2Im


def share_options(method: Method, own: Method) -> Method:
    """`method` with the pins, bans and limits of the run's own method, if both use that run."""
    if (
        isinstance(method, RetrieveAndCompose)
        and isinstance(own, RetrieveAndCompose)
        and method.sampler is own.sampler
    ):
        return replace(method, options=replace(own.options, mode=method.options.mode))
    return method


def open_sampler(source: Path, bank: Path | None, device: torch.device) -> Sampler | Sg2ImSampler:
    """Open a run folder of either kind, or sg2im's published checkpoint. `bank`: the new place of
    the bank, where the run is one that retrieves and its bank has moved."""
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


def method_of(sampler: Sampler | Sg2ImSampler, name: str) -> Method:
    """The method that the run was trained with; its title is `name` and the kind of method."""
    if isinstance(sampler, Sg2ImSampler):
        return GenerateBySg2Im(f"{name}, sg2im", sampler)
    return RetrieveAndCompose(f"{name}, {sampler.model.config.retrieval.mode}", sampler)


def method_to_compare(value: str, own: Sampler | Sg2ImSampler, device: torch.device) -> Method:
    """The method that a value of --beside names.

    `predefined`, `random` and `learned` are the run's own generator with patches chosen in that
    mode; anything else is a run folder, or sg2im's published checkpoint.
    """
    if value in get_args(RetrievalMode):
        if isinstance(own, Sg2ImSampler):
            raise UserError(
                f"--beside {value}: this run is one of sg2im, which retrieves nothing; give the "
                f"run that retrieves as --run and this one as --beside"
            )
        options = RetrievalOptions(mode=value)  # type: ignore[arg-type]
        return RetrieveAndCompose(value, own, options)
    if not Path(value).exists():
        modes = ", ".join(get_args(RetrievalMode))
        raise UserError(
            f"--beside {value}: it is neither {modes} nor a run folder or checkpoint that is there"
        )
    sampler = open_sampler(Path(value), None, device)
    return method_of(sampler, value.rstrip("/"))
