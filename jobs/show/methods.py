"""Methods of generating an image from a scene graph: patches retrieved and composed, or sg2im."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, get_args

import torch

from bank.bank import Bank
from model.config import MinQuality, RetrievalMode, Sg2ImConfig, Start, Which
from model.retrieval.choice import noise_by_default
from model.retrievegan.run import RetrievedPatches, RetrieveGANRun
from model.run_folder import pin_of, read_run
from model.sg2im.published import ignored_note, is_published
from model.sg2im.run import Sg2ImRun
from pipeline.address import Location
from pipeline.crop import Pixels
from pipeline.errors import UserError
from pipeline.output import log
from pipeline.scene import SceneGraph, Vocabulary


class Sample(NamedTuple):
    """A generated image, and the patches it is composed of; None where there are none."""

    image: Pixels  # (H, W, 3)
    retrieval: RetrievedPatches | None


@dataclass(frozen=True)
class RetrievalOptions:
    """How patches are chosen: the arguments of `RetrieveGANRun.retrieve`."""

    mode: RetrievalMode | None = None
    start: Start | None = None
    noise: bool | None = None  # None: where several draws would all be alike without it
    candidates: int | None = None
    minimum: MinQuality | None = None
    pin: Mapping[int, int] = field(default_factory=dict)
    ban: Sequence[int] = ()


@dataclass(frozen=True)
class RetrieveAndCompose:
    """Retrieves patches from the run's bank and composes them."""

    name: str
    run: RetrieveGANRun
    draws: int  # of each graph
    options: RetrievalOptions = RetrievalOptions()

    @property
    def noise(self) -> bool:
        """Whether patches are drawn with noise."""
        options = self.options
        if options.noise is not None:
            return options.noise
        return noise_by_default(self.run.rule(options.mode, options.start), self.draws)

    @property
    def vocabulary(self) -> Vocabulary:
        return self.run.bank.vocabulary

    def draws_differ(self, graph: SceneGraph) -> bool:
        """Whether images of the graph depend on their seed."""
        options = self.options
        free = len(graph.objects) > len(options.pin)
        return free and self.run.draws_differ(
            options.mode, options.start, noise=self.noise, k=options.candidates
        )

    def generate(self, graph: SceneGraph, seed: int) -> Sample:
        options = self.options
        retrieval = self.run.retrieve(
            graph,
            seed=seed,
            noise=self.noise,
            mode=options.mode,
            start=options.start,
            k=options.candidates,
            minimum=options.minimum,
            pin=options.pin,
            ban=options.ban,
        )
        return Sample(self.run.generate(graph, retrieval.patches), retrieval)


@dataclass(frozen=True)
class GenerateBySg2Im:
    """Generates without patches, by sg2im; the seed is that of its layout noise."""

    name: str
    run: Sg2ImRun

    @property
    def vocabulary(self) -> Vocabulary:
        return self.run.vocabulary

    def draws_differ(self, _: SceneGraph) -> bool:
        """Whether images depend on their seed."""
        return self.run.model.noise > 0

    def generate(self, graph: SceneGraph, seed: int) -> Sample:
        return Sample(self.run.generate(graph, seed=seed), None)


Method = RetrieveAndCompose | GenerateBySg2Im


def noise_note(names: Sequence[str]) -> str:
    """Which pictures are not of the patches that would be chosen without noise."""
    return (
        f"Patches of the pictures drawn with noise (predefined: one of the three nearest), since "
        f"all of a graph would be alike without: {', '.join(names)}"
    )


def share_options(method: Method, own: Method) -> Method:
    """`method` with the pins, bans and limits of the run's own method, if both use that run."""
    if (
        isinstance(method, RetrieveAndCompose)
        and isinstance(own, RetrieveAndCompose)
        and method.run is own.run
    ):
        mode = method.options.mode
        start = own.options.start if mode == "learned" else None
        return replace(method, options=replace(own.options, mode=mode, start=start))
    return method


def open_run(
    source: Path, bank: Location | None, device: torch.device, which: Which | int = "last"
) -> RetrieveGANRun | Sg2ImRun:
    """Open a run folder of either kind, or sg2im's published checkpoint. `bank`: the new place of
    the bank, where the run is one that retrieves and its bank has moved."""
    if is_published(source) or isinstance(read_run(source)[0], Sg2ImConfig):
        if which == "best":
            raise UserError(f"--checkpoint best: {source} is of sg2im, which is not scored")
        opened = Sg2ImRun.open(source, device, which)
        if opened.ignored:
            log.warning(ignored_note(source, opened.ignored))
        return opened
    run = RetrieveGANRun.open(source, bank, device, which)
    if not run.model.config.losses.of_images:
        log.warning(f"{source} was trained with no loss of images: the images it makes are noise")
    return run


def open_bank(opened: RetrieveGANRun | Sg2ImRun, source: Path, bank: Location | None) -> Bank:
    """The bank that a run was trained on; UserError where none is known."""
    if isinstance(opened, RetrieveGANRun):
        return opened.bank
    if is_published(source):
        if bank is None:
            raise UserError(
                f"{source} comes without a bank, whose scenes are asked for: give --bank"
            )
        return Bank.open(bank)
    place = bank or read_run(source)[1]
    return Bank.open(place, pin_of(source, place))


def method_of(opened: RetrieveGANRun | Sg2ImRun, name: str, draws: int) -> Method:
    """The method that the run was trained with; its title is `name` and the kind of method."""
    if isinstance(opened, Sg2ImRun):
        return GenerateBySg2Im(f"{name}, sg2im", opened)
    return RetrieveAndCompose(f"{name}, {opened.model.config.retrieval.mode}", opened, draws)


def method_to_compare(
    value: str, own: RetrieveGANRun | Sg2ImRun, draws: int, device: torch.device
) -> Method:
    """The method that a value of --beside names.

    `predefined`, `random` and `learned` are the run's own generator with patches chosen in that
    mode; anything else is a run folder, or sg2im's published checkpoint.
    """
    if value in get_args(RetrievalMode):
        if isinstance(own, Sg2ImRun):
            raise UserError(
                f"--beside {value}: this run is one of sg2im, which retrieves nothing; give the "
                f"run that retrieves as --run and this one as --beside"
            )
        options = RetrievalOptions(mode=value)  # type: ignore[arg-type]
        return RetrieveAndCompose(value, own, draws, options)
    if not Path(value).exists():
        modes = ", ".join(get_args(RetrievalMode))
        raise UserError(
            f"--beside {value}: it is neither {modes} nor a run folder or checkpoint that is there"
        )
    opened = open_run(Path(value), None, device)
    return method_of(opened, Path(value).resolve().name, draws)
