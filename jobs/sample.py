"""Scene graphs in, images out, with the patches they are made of and whose photos those are.

python -m jobs.sample --run runs/00001-coco --graph examples/toy_meadow.json
python -m jobs.sample --run runs/demo --graph examples/toy_meadow.json --draws 6 --pin tree=1234
python -m jobs.sample --run runs/demo --split val --beside predefined runs/sg2im

The graph file is {"objects": ["tree", "grass"], "relationships": [[0, "above", 1]]}; it may carry
"boxes": [[x0, y0, x1, y1], ...] as shares of the picture. Without them the run predicts boxes. In
place of a file, --split takes graphs and boxes of the bank's own held-out scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import torch
from PIL import Image

from bank.bank import Bank
from jobs.sheets import Pixels, Source, patch_sheet, sheet, sources_of
from jobs.ways import (
    Choice,
    Composed,
    Made,
    Way,
    by_own_choice,
    open_bank,
    open_sampler,
    way_beside,
    way_of,
)
from model.config import RetrievalMode
from model.graph.vocabularies import check_names
from model.retrievegan.run import Sampler
from model.sg2im.run import Sg2ImSampler
from pipeline.datasets import default_folder
from pipeline.errors import UserError, suggestion
from pipeline.options import option, run
from pipeline.scene import Box, SceneGraph, Vocabulary
from pipeline.scene_graph import read_scene_graphs
from pipeline.sentences import sentences

MOST_DRAWS = 1000
MOST_ROWS = 20  # draws of a graph in a comparison
CELL = 160  # px, side of an image in a comparison


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    run: Annotated[Path, option("run folder, made by model.train; or sg2im's published .pt")]
    graph: Annotated[Path | None, option("JSON file with one scene graph or a list of them")] = None
    split: Annotated[
        Literal["val", "test"] | None, option("instead: held-out scenes of the run's bank")
    ] = None
    scenes: Annotated[int, option("with --split: so many scenes, the first by image id")] = 8
    draws: Annotated[int, option("images per graph, each with its own choice of patches")] = 1
    seed: Annotated[int, option("of the first draw; the next has the next seed")] = 0
    beside: Annotated[
        tuple[str, ...],
        option(
            "what else to make of the same graphs, shown beside in comparison.png: predefined, "
            "random, learned, another run folder, or sg2im's published .pt"
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
    ban: Annotated[tuple[int, ...], option("patch ids that no object may be given")] = ()
    retrieval: Annotated[
        RetrievalMode | None, option("how patches are chosen; by default as the run was trained")
    ] = None
    noise: Annotated[
        bool | None,
        option(
            "on: patches are drawn by how well they go together, or among the three nearest; off: "
            "the most compatible from each draw's start, or the nearest; default: on where only "
            "the start medoid would make all draws alike"
        ),
    ] = None
    candidates: Annotated[
        int | None, option("patches considered per object; by default as many as the bank stores")
    ] = None
    bank: Annotated[Path | None, option("the run's bank, where it has moved")] = None
    data: Annotated[
        Path | None, option("the bank's photos; by default data/<dataset>, if they are there")
    ] = None
    out: Annotated[
        Path | None, option("folder to write; by default RUN/samples/<graph file's name or split>")
    ] = None

    def __post_init__(self) -> None:
        if (self.graph is None) == (self.split is None):
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

    @property
    def folder(self) -> Path:
        name = self.split if self.graph is None else self.graph.stem
        beside = self.run if self.run.is_dir() else Path("runs") / self.run.stem
        return self.out or beside / "samples" / str(name)


class PhotoShown(NamedTuple):
    """The photo that a graph was taken from."""

    pixels: Pixels
    credit: str


class Asked(NamedTuple):
    """A graph to make images of."""

    name: str  # of its folder, where there are several
    graph: SceneGraph
    photo: PhotoShown | None = None


def main(options: SampleOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = open_sampler(options.run, options.bank, device)
    asked = asked_graphs(options, sampler)
    if options.as_text:
        for name, graph, photo in asked:
            print(sentences(graph) if photo is None else f"{name}\t{sentences(graph)}")
        return
    beside = [way_beside(given, sampler, device) for given in options.beside]
    for one in asked:  # what cannot be made is told before anything is written
        for way in (own_way(sampler, one.graph, options), *beside):
            check_names(one.graph, way.vocabulary, way.name)
    for one in asked:
        out = options.folder if len(asked) == 1 else options.folder / one.name
        print(sample_graph(sampler, one, options, out, beside))
        print(f"{options.draws} image(s) of {describe(one.graph)}: {out}/")


def asked_graphs(options: SampleOptions, sampler: Sampler | Sg2ImSampler) -> list[Asked]:
    """The graphs of the file, or of the first scenes of the split."""
    if options.graph is not None:
        graphs = read_scene_graphs(options.graph, vocabulary_of(sampler))
        return [Asked(f"{n:03d}", graph) for n, graph in enumerate(graphs)]
    assert options.split is not None
    bank = open_bank(sampler, options.run, options.bank)
    image_ids = bank.scene_ids(options.split)[: options.scenes]
    if not len(image_ids):
        raise UserError(f"{bank.path} has no {options.split} scenes; give --graph FILE")
    return [_of_scene(bank, int(image_id)) for image_id in image_ids]


def vocabulary_of(sampler: Sampler | Sg2ImSampler) -> Vocabulary:
    return sampler.bank.vocabulary if isinstance(sampler, Sampler) else sampler.vocabulary


def _of_scene(bank: Bank, image_id: int) -> Asked:
    scene = bank.scene(image_id)
    boxes = tuple(Box(*corners) for corners in scene.boxes.tolist())
    (credit,) = bank.credits([int(scene.patch_ids[0])])
    photo = PhotoShown(scene.image, f"{credit['file']}; {_terms(**credit)}")
    return Asked(str(image_id), SceneGraph(scene.objects, scene.triples, boxes), photo)


def own_way(sampler: Sampler | Sg2ImSampler, graph: SceneGraph, options: SampleOptions) -> Way:
    """As the run was trained, but for what the command line says."""
    name = options.run.name
    if isinstance(sampler, Sampler):
        choice = Choice(
            options.retrieval,
            options.noise,
            options.candidates,
            parse_pins(options.pin, graph),
            options.ban,
        )
        mode = options.retrieval or sampler.model.config.retrieval.mode
        return Composed(f"{name}, {mode}", sampler, choice)
    for flag in ("retrieval", "noise", "candidates", "pin", "ban"):
        if getattr(options, flag) not in (None, ()):
            raise UserError(f"--{flag}: {options.run} is of sg2im, which retrieves no patches")
    return way_of(sampler, name)


def sample_graph(
    sampler: Sampler | Sg2ImSampler,
    asked: Asked,
    options: SampleOptions,
    out: Path,
    beside: Sequence[Way] = (),
) -> str:
    """Write all draws of one graph into `out`; returns the credits, which credits.txt holds too."""
    out.mkdir(parents=True, exist_ok=True)
    own = own_way(sampler, asked.graph, options)
    beside = [by_own_choice(way, own) for way in beside]
    texts, rows = [], []
    for number in range(options.draws):
        seed = options.seed + number
        made = own.make(asked.graph, seed)
        Image.fromarray(made.image).save(out / f"image-{number}.png")
        title = f"image-{number}.png (seed {seed})"
        sources = show_sources(own, made, asked.graph, options.data)
        if made.chosen is not None:
            save_patches(out, number, asked.graph, made.chosen.patches, sources)
        texts.append(credits_text(title, asked.graph, sources))
        if beside:
            others = [way.make(asked.graph, seed) for way in beside]
            rows.append([made, *others])
            for way, other in zip(beside, others, strict=True):
                sources = show_sources(way, other, asked.graph, options.data)
                title = f"comparison.png, row {number}: {way.name}"
                texts.append(credits_text(title, asked.graph, sources))
    if beside:
        texts += save_comparison(out, asked, [own, *beside], rows)
    (out / "credits.txt").write_text("\n".join(texts), "utf-8")
    return "\n".join(texts)


def show_sources(way: Way, made: Made, graph: SceneGraph, data: Path | None) -> list[Source]:
    """Where the patches come from; none where the image is made of none."""
    if made.chosen is None or not isinstance(way, Composed):
        return []
    bank = way.sampler.bank
    return sources_of(bank, made.chosen.patch_ids.tolist(), photos_folder(bank, data))


def save_patches(
    out: Path, number: int, graph: SceneGraph, patches: Pixels, sources: Sequence[Source]
) -> None:
    """patches-N.png and sources-N.png."""
    labels = [
        name if source.category == name else f"{name} (here: {source.category})"
        for name, source in zip(graph.objects, sources, strict=True)
    ]
    patch_sheet(
        patches,
        [f"{label}\n{source.patch_id}" for label, source in zip(labels, sources, strict=True)],
    ).save(out / f"patches-{number}.png")
    sheet(
        [source.view for source in sources],
        [f"{label}\n{source.file}" for label, source in zip(labels, sources, strict=True)],
    ).save(out / f"sources-{number}.png")


def save_comparison(
    out: Path, asked: Asked, ways: Sequence[Way], rows: Sequence[Sequence[Made]]
) -> list[str]:
    """comparison.png: a column per way, a row per draw, the photo first where there is one.

    Returns the photo's credits.
    """
    names, images = [way.name for way in ways], [[made.image for made in row] for row in rows]
    credit = []
    if asked.photo is not None:
        names = ["photo", *names]
        images = [[asked.photo.pixels, *row] for row in images]
        credit = [f"comparison.png, photo: {asked.photo.credit}\n"]
    cells = [
        Image.fromarray(image).resize((CELL, CELL), Image.Resampling.BICUBIC)
        for row in images
        for image in row
    ]
    labels = [*names, *[""] * (len(cells) - len(names))]
    sheet(cells, labels, across=len(names)).save(out / "comparison.png")
    return credit


def credits_text(title: str, graph: SceneGraph, sources: Sequence[Source]) -> str:
    """Which photos an image is made of and whose terms apply."""
    lines = [title]
    for o, (name, source) in enumerate(zip(graph.objects, sources, strict=bool(sources))):
        lines.append(
            f"  {o} {name}: patch {source.patch_id} ({source.category}) from {source.file}; "
            f"{_terms(source.licence, source.source_url)}"
        )
    if not sources:
        lines.append("  made of no patch")
    return "\n".join(lines) + "\n"


def _terms(licence: str, source_url: str, **_: object) -> str:
    return f"licence: {licence or 'not stated'}; {source_url or 'no source given'}"


def photos_folder(bank: Bank, given: Path | None) -> Path | None:
    """Where the bank's photos are; None where they are not on this disk."""
    if given is not None and not given.is_dir():
        raise UserError(f"--data {given}: there is no such folder; leave it out, or name another")
    toy_format = bank.manifest.recipe.get("toy_format", "coco")
    folder = given or default_folder(bank.manifest.dataset, toy_format)
    return folder if folder.is_dir() else None


def parse_pins(pins: Sequence[str], graph: SceneGraph) -> dict[int, int]:
    """`2=123` or `tree=123` -> object -> patch id."""
    found: dict[int, int] = {}
    for pin in pins:
        name, equals, value = pin.rpartition("=")
        if not equals or not value.isascii() or not value.isdigit():
            raise UserError(f"--pin {pin}: write object=patch_id, e.g. --pin 0=123 or tree=123")
        found[_object_place(name, graph, pin)] = int(value)
    return found


def _object_place(name: str, graph: SceneGraph, pin: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    places = [o for o, category in enumerate(graph.objects) if category == name]
    if not places:
        raise UserError(
            f"--pin {pin}: the graph has no {name!r}; {suggestion(name, [*graph.objects])}"
        )
    if len(places) > 1:
        several = ", ".join(str(o) for o in places)
        raise UserError(f"--pin {pin}: the graph has {name!r} at {several}; give one of these")
    return places[0]


def describe(graph: SceneGraph) -> str:
    """`tree, grass; tree above grass`"""
    relations = [f"{graph.objects[s]} {p} {graph.objects[o]}" for s, p, o in graph.relations]
    return "; ".join(filter(None, [", ".join(graph.objects), ", ".join(relations)]))


if __name__ == "__main__":
    run(main, SampleOptions, __doc__)
