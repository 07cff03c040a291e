"""The options of `jobs.sample` and `jobs.evaluate`: a module that loads in no time."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from model.config import Device, RetrievalMode, Which
from pipeline.options import BankLocation, option

MOST_DRAWS = 1000
MOST_ROWS = 20  # draws of a graph in a comparison or a report


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    run: Annotated[Path, option("run folder, made by model.train; or sg2im's published .pt")]
    graph: Annotated[
        tuple[Path, ...], option("JSON files, each with one scene graph or a list of them")
    ] = ()
    split: Annotated[
        Literal["val", "test"] | None, option("instead: held-out scenes of the run's bank")
    ] = None
    scenes: Annotated[int, option("with --split: so many scenes, the first by image id")] = 8
    draws: Annotated[int, option("images per graph, each with its own choice of patches")] = 1
    seed: Annotated[int, option("of the first draw; the next has the next seed")] = 0
    beside: Annotated[
        tuple[str, ...],
        option(
            "methods to compare with, side by side in comparison.png: predefined, random, learned, "
            "another run folder, or sg2im's published .pt"
        ),
    ] = ()
    as_text: Annotated[
        bool,
        option("only print a line per graph: sentences joined by 'and', for a text-to-image model"),
    ] = False
    pin: Annotated[
        tuple[str, ...],
        option("object=patch_id: give an object (its place from 0, or name) this patch"),
    ] = ()
    ban: Annotated[tuple[int, ...], option("patch ids that no object may have")] = ()
    retrieval: Annotated[
        RetrievalMode | None, option("how patches are chosen; by default as the run was trained")
    ] = None
    noise: Annotated[
        bool | None,
        option(
            "on: patches are drawn by how well they go together, or among the three nearest; off: "
            "the most compatible from each draw's start, or the nearest; default: on for runs "
            "with start medoid, whose draws would all be alike, else off"
        ),
    ] = None
    candidates: Annotated[
        int | None, option("patches considered per object; by default as many as the bank stores")
    ] = None
    bank: Annotated[BankLocation | None, option("the run's bank, where it has moved")] = None
    data: Annotated[
        Path | None, option("the bank's photos; by default data/<dataset>, if they are there")
    ] = None
    out: Annotated[
        Path | None,
        option(
            "folder to write, of several graph files a folder in it for each; by default "
            "RUN/samples/<graph file's name or split>"
        ),
    ] = None
    checkpoint: Annotated[
        Which, option("of the run: its last, or the one that scored best while it was trained")
    ] = "last"
    device: Device = "auto"

    def __post_init__(self) -> None:
        if (not self.graph) == (self.split is None):
            raise ValueError("give --graph FILE, or --split val or test: one of the two")
        if not 1 <= self.draws <= MOST_DRAWS:
            raise ValueError(f"--draws must lie in 1 to {MOST_DRAWS}, not {self.draws}")
        if self.beside and self.draws > MOST_ROWS:
            raise ValueError(f"--beside shows at most {MOST_ROWS} draws, not {self.draws}")
        if self.as_text and (self.beside or self.pin or self.ban or self.out):
            raise ValueError("--as-text only prints: leave out --beside, --pin, --ban and --out")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, but is {self.seed}")
        for name, value in (("candidates", self.candidates), ("scenes", self.scenes)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")

    def folder(self, name: str) -> Path:
        """Where the images of a graph file or a split are written."""
        if self.out is not None:
            return self.out / name if len(self.graph) > 1 else self.out
        run = self.run if self.run.is_dir() else Path("runs") / self.run.stem
        return run / "samples" / name


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    run: Annotated[Path, option("run folder")]
    bank: Annotated[BankLocation | None, option("where the run's bank lies, if it has moved")] = (
        None
    )
    split: Annotated[Literal["val", "test"], option("scenes to score")] = "val"
    scenes: Annotated[int, option("at most so many scenes, drawn evenly")] = 600
    candidates: Annotated[
        int | None, option("candidates per object; default 20, or as many as the bank has")
    ] = None
    styles: Annotated[
        Path | None, option("each photo's hidden style, toy only; default the toy world's")
    ] = None
    seed: Annotated[int, option("decides scenes, starts, noise and intervals")] = 0
    checkpoint: Annotated[
        Which, option("of the run: its last, or the one that scored best while it was trained")
    ] = "last"
    device: Device = "auto"

    def __post_init__(self) -> None:
        for name, value in (("scenes", self.scenes), ("candidates", self.candidates)):
            if value is not None and value < 1:
                raise ValueError(f"--{name} must be at least 1, not {value}")
        if self.seed < 0:
            raise ValueError(f"--seed must be at least 0, not {self.seed}")
