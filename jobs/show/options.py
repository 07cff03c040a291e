"""The options of `jobs.sample` and `jobs.evaluate`: a module that loads in no time."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Literal, get_args

from model.config import (
    BoxesFrom,
    Deprocessing,
    Device,
    ImageFormat,
    JudgeName,
    MinQuality,
    RetrievalMode,
    ScoreKind,
    Start,
    Which,
)
from pipeline.options import BankLocation, option

MOST_DRAWS = 1000
STAND_IN = ("efficientnet-lite0",)  # an extractor that needs no download
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
    scenes: Annotated[
        int | None,
        option("with --split: so many scenes, the first by image id; default 8, with --out all"),
    ] = None
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
            "the most compatible from each draw's start, or the nearest; default: on for several "
            "draws that would all be alike without, else off"
        ),
    ] = None
    start: Annotated[
        Start | None,
        option(
            "where learned retrieval starts: from a candidate drawn at random, from the most "
            "central one, or from every one, of which the tightest set is kept; by default as the "
            "run was trained"
        ),
    ] = None
    candidates: Annotated[
        int | None, option("patches considered per object; by default as many as the bank stores")
    ] = None
    min_coverage: Annotated[
        float | None,
        option(
            "only patches whose mask covers at least this share of their box, or is unknown; by "
            "default as the run was trained"
        ),
    ] = None
    min_side: Annotated[
        int | None,
        option(
            "only patches whose box has a shorter side of at least so many px in its photo; by "
            "default as the run was trained"
        ),
    ] = None
    bank: Annotated[BankLocation | None, option("the run's bank, where it has moved")] = None
    data: Annotated[
        Path | None, option("the bank's photos; by default data/<dataset>, if they are there")
    ] = None
    out: Annotated[
        Path | None,
        option(
            "folder to write, of several graph files a folder in it for each; by default "
            "RUN/samples/<graph file's name or split>. With --split and without --beside: plain "
            "files <image id>[_<draw>].png of all its scenes, for jobs.evaluate --images, in place "
            "of those that an earlier call wrote there"
        ),
    ] = None
    boxes: Annotated[
        BoxesFrom, option("with --split and --out: the scenes' own boxes, or predicted ones")
    ] = "gt"
    deprocessing: Annotated[
        Deprocessing, option("with --split and --out, of sg2im: as jobs.evaluate's")
    ] = "clip"
    checkpoint: Annotated[
        Which, option("of the run: its last, or the one that scored best while it was trained")
    ] = "last"
    device: Device = "auto"

    @property
    def plain_files(self) -> bool:
        """Whether a split's pictures are written as plain files."""
        return self.split is not None and self.out is not None and not self.beside

    def __post_init__(self) -> None:
        if (not self.graph) == (self.split is None):
            raise ValueError("give --graph FILE, or --split val or test: one of the two")
        if not 1 <= self.draws <= MOST_DRAWS:
            raise ValueError(f"--draws must lie in 1 to {MOST_DRAWS}, not {self.draws}")
        if self.beside and self.draws > MOST_ROWS:
            raise ValueError(f"--beside shows at most {MOST_ROWS} draws, not {self.draws}")
        if self.as_text and (self.beside or self.pin or self.ban or self.out):
            raise ValueError("--as-text only prints: leave out --beside, --pin, --ban and --out")
        if self.plain_files and (self.pin or self.ban):
            raise ValueError("--split with --out: leave out --pin and --ban, or --out")
        for name in ("boxes", "deprocessing"):
            default = SampleOptions.__dataclass_fields__[name].default
            if getattr(self, name) != default and not self.plain_files:
                raise ValueError(f"--{name} is for --split with --out, without --beside")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, but is {self.seed}")
        _ = asked_quality(self, MinQuality())  # refuses what no patch can have
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
    run: Annotated[
        tuple[Path, ...],
        option("run folders, or sg2im's published .pt: several make one table"),
    ] = ()
    images: Annotated[
        tuple[Path, ...],
        option(
            "folders of pictures that something else made of the same graphs, boxes predicted or "
            "none: files <image id>[_<draw>].png"
        ),
    ] = ()
    images_gt: Annotated[
        tuple[Path, ...], option("the same, of pictures made with the true boxes")
    ] = ()
    real: Annotated[bool, option("a row of real photos: those of the other held-out split")] = False
    protocol: Annotated[
        Path | None,
        option(
            "a protocol card: measure exactly that again, and compare; with --out, write it too"
        ),
    ] = None
    bank: Annotated[
        BankLocation | None, option("where the runs' bank lies, if it has moved or there is no run")
    ] = None
    split: Annotated[Literal["val", "test"], option("scenes to score")] = "val"
    num: Annotated[int | None, option("at most so many scenes, drawn evenly; default: all")] = None
    leave_out_near_duplicates: Annotated[
        bool, option("leave out scenes that look like training photos")
    ] = False
    scores: Annotated[
        tuple[ScoreKind, ...],
        option(
            "retrieval: of the choice of patches; images: of pictures; canvas: of the chosen "
            "patches pasted without a generator; default: all, without extra scores retrieval"
        ),
    ] = ()
    boxes: Annotated[BoxesFrom | None, option("of pictures; default: both, a block each")] = None
    per_graph: Annotated[int, option("pictures of each scene's graph")] = 2
    extractor: Annotated[
        tuple[str, ...],
        option(
            "what pictures are looked at by, each with the path of its weights where it needs one: "
            "efficientnet-lite0, squeezenet PATH (stand-ins), inception (FID, KID, IS), dinov2 "
            "(FD-DINOv2), lpips (DS)"
        ),
    ] = STAND_IN
    image_format: Annotated[
        ImageFormat, option("in which a run's pictures are saved before they are scored")
    ] = "png"
    deprocessing: Annotated[
        Deprocessing,
        option(
            "of sg2im's pictures: cut off what is out of range; or stretch each to the full range, "
            "as its authors' sampling does"
        ),
    ] = "clip"
    candidates: Annotated[
        int | None, option("candidates per object; default 20, or as many as the bank has")
    ] = None
    min_coverage: Annotated[
        float | None,
        option(
            "only patches whose mask covers at least this share of their box, or is unknown; by "
            "default as the runs were trained"
        ),
    ] = None
    min_side: Annotated[
        int | None,
        option(
            "only patches whose box has a shorter side of at least so many px in its photo; by "
            "default as the runs were trained"
        ),
    ] = None
    start: Annotated[
        Start | None,
        option(
            "where learned retrieval starts: from a candidate drawn at random, from the most "
            "central one, or from every one, of which the tightest set is kept; by default as "
            "each run was trained"
        ),
    ] = None
    draws: Annotated[int, option("choices of patches per scene, for the scores of retrieval")] = 4
    styles: Annotated[
        Path | None, option("each photo's hidden style, toy only; default the toy world's")
    ] = None
    seed: Annotated[int, option("decides scenes, starts and noise")] = 0
    checkpoint: Annotated[
        Which,
        option(
            "of the run: its last, or the one that scored best while it was trained; sg2im's last"
        ),
    ] = "last"
    out: Annotated[
        Path | None,
        option(
            "folder for the table, its protocol card and its times; default: "
            "scores/<split>-<protocol> in the first run's folder, or here, and a line per score in "
            "metrics.jsonl of each run"
        ),
    ] = None
    device: Device = "auto"

    def __post_init__(self) -> None:
        if self.protocol is not None:
            if others := self._given(but=("protocol", "out", "bank")):
                raise ValueError(f"--protocol says all that is measured: leave out {others[0]}")
            return
        if not (self.run or self.images or self.images_gt or self.real):
            raise ValueError("nothing to score: give --run, --images, --real, or --protocol FILE")
        if not self.run and self.bank is None:
            raise ValueError("without --run, give --bank: the bank whose scenes were generated")
        for name in ("num", "candidates", "per_graph", "draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.seed < 0:
            raise ValueError(f"--seed must be at least 0, not {self.seed}")
        _ = asked_quality(self, MinQuality())  # refuses what no patch can have
        if not self.extractor:
            raise ValueError("--extractor: give at least one")
        _ = self.judges
        if self.scores == ("retrieval",):
            of_pictures = ("real", "images", "images_gt", "boxes", "extractor", "image_format")
            if others := self._given(only=(*of_pictures, "deprocessing", "per_graph")):
                raise ValueError(f"{others[0]} is of pictures, which --scores retrieval leaves out")

    @property
    def judges(self) -> tuple[tuple[JudgeName, Path | None], ...]:
        """Names, each with the path that follows it."""
        pairs: list[tuple[JudgeName, Path | None]] = []
        names = get_args(JudgeName)
        for word in self.extractor:
            if word in names:
                pairs.append((word, None))  # type: ignore[arg-type]
            elif pairs and pairs[-1][1] is None:
                pairs[-1] = (pairs[-1][0], Path(word))
            else:
                raise ValueError(
                    f"--extractor {word}: give {', '.join(names)}, each with at most one path"
                )
            if [name for name, _ in pairs].count(pairs[-1][0]) > 1:
                raise ValueError(f"--extractor {word}: give each once")
        return tuple(pairs)

    def _given(self, *, but: tuple[str, ...] = (), only: tuple[str, ...] = ()) -> list[str]:
        """Flags whose value is not the default, of some fields or of all but some."""
        return [
            "--" + field.name.replace("_", "-")
            for field in fields(self)
            if field.name not in but
            and (not only or field.name in only)
            and getattr(self, field.name) != field.default
        ]


def asked_quality(options: SampleOptions | Evaluate, trained: MinQuality) -> MinQuality:
    """What candidates must have: as asked for, else as a run was trained. ValueError for what no
    patch can have."""
    coverage, side = options.min_coverage, options.min_side
    return MinQuality(
        trained.coverage if coverage is None else coverage, trained.side if side is None else side
    )
