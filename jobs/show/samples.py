"""Samples of one scene graph, written as files: images, their patches, photos and credits."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bank.bank import Bank
from jobs.show.methods import Method, RetrieveAndCompose, Sample
from jobs.show.sheets import Source, patch_sheet, photos_folder, sheet, sources_of
from model.retrievegan.run import RetrievedPatches
from pipeline.crop import Pixels
from pipeline.scene import Box, SceneGraph

CELL = 160  # px, side of an image in a comparison
BELOW = "of less quality than asked for"


class ScenePhoto(NamedTuple):
    """The photo of a held-out scene, shown beside the images generated from the scene's graph."""

    pixels: Pixels
    credit: str


class NamedGraph(NamedTuple):
    """A graph to generate images from."""

    name: str  # of its folder, where there are several graphs
    graph: SceneGraph
    photo: ScenePhoto | None = None


def graph_of_scene(bank: Bank, image_id: int) -> NamedGraph:
    """The graph, boxes and photo of a scene of the bank."""
    scene = bank.scene(image_id)
    boxes = tuple(Box(*corners) for corners in scene.boxes.tolist())
    (credit,) = bank.credits([int(scene.patch_ids[0])])
    photo = ScenePhoto(scene.image, f"{credit['file']}; {_terms(**credit)}")
    return NamedGraph(str(image_id), SceneGraph(scene.objects, scene.triples, boxes), photo)


def sample_graph(
    named: NamedGraph, methods: Sequence[Method], seeds: Sequence[int], out: Path, data: Path | None
) -> str:
    """Write a sample per seed into `out`; returns the credits, which credits.txt holds too.

    methods   the first one's images are files of their own; with more than one method,
              comparison.png shows the images of all
    data      folder of the banks' photos; None: where the dataset lies by default
    """
    out.mkdir(parents=True, exist_ok=True)
    _remove_earlier(out)
    own, *others = methods
    graph = named.graph
    credits, rows = [], []
    for number, seed in enumerate(seeds):
        sample = own.generate(graph, seed)
        Image.fromarray(sample.image).save(out / f"image-{number}.png")
        sources = patch_sources(own, sample, data)
        if sample.retrieval is not None:
            save_patches(out, number, graph, sample.retrieval, sources)
        credits.append(credits_text(f"image-{number}.png (seed {seed})", graph, sample, sources))
        if not others:
            continue
        compared = [method.generate(graph, seed) for method in others]
        rows.append([sample, *compared])
        for method, other in zip(others, compared, strict=True):
            title = f"comparison.png, {method.name} (seed {seed})"
            credits.append(credits_text(title, graph, other, patch_sources(method, other, data)))
    if others:
        save_comparison(out, named, methods, rows)
        if named.photo is not None:
            credits.append(f"comparison.png, photo: {named.photo.credit}\n")
    (out / "credits.txt").write_text("\n".join(credits), "utf-8")
    return "\n".join(credits)


def _remove_earlier(out: Path) -> None:
    """Pictures of earlier draws: the new credits would not speak of them."""
    for path in out.iterdir():
        if re.fullmatch(r"(image|patches|sources)-\d+\.png|comparison\.png", path.name):
            path.unlink()


def patch_sources(method: Method, sample: Sample, data: Path | None) -> list[Source]:
    """The photos that a sample's patches come from; none where it has no patches."""
    if sample.retrieval is None or not isinstance(method, RetrieveAndCompose):
        return []
    bank = method.run.bank
    return sources_of(bank, sample.retrieval.patch_ids.tolist(), photos_folder(bank, data))


def save_patches(
    out: Path,
    number: int,
    graph: SceneGraph,
    retrieval: RetrievedPatches,
    sources: Sequence[Source],
) -> None:
    """Write patches-N.png and sources-N.png, N being `number`."""
    labels = [
        (name if source.category == name else f"{name} (here: {source.category})")
        + (f" ({BELOW})" if below else "")
        for name, source, below in zip(graph.objects, sources, retrieval.below, strict=True)
    ]
    patch_sheet(
        retrieval.patches,
        [f"{label}\n{source.patch_id}" for label, source in zip(labels, sources, strict=True)],
    ).save(out / f"patches-{number}.png")
    sheet(
        [source.view for source in sources],
        [f"{label}\n{source.file}" for label, source in zip(labels, sources, strict=True)],
    ).save(out / f"sources-{number}.png")


def save_comparison(
    out: Path, named: NamedGraph, methods: Sequence[Method], rows: Sequence[Sequence[Sample]]
) -> None:
    """Write comparison.png: a row per seed, a column per method, and the photo as first column."""
    names = [method.name for method in methods]
    images = [[sample.image for sample in row] for row in rows]
    if named.photo is not None:
        names = ["photo", *names]
        images = [[named.photo.pixels, *row] for row in images]
    cells = [
        Image.fromarray(image).resize((CELL, CELL), Image.Resampling.BICUBIC)
        for row in images
        for image in row
    ]
    labels = [*names, *[""] * (len(cells) - len(names))]
    sheet(cells, labels, across=len(names)).save(out / "comparison.png")


def credits_text(title: str, graph: SceneGraph, sample: Sample, sources: Sequence[Source]) -> str:
    """A line per object of an image: its patch, the patch's photo, the photo's licence."""
    if sample.retrieval is None:
        return f"{title}\n  made of no patch\n"
    lines = [title]
    for o, (name, source, below) in enumerate(
        zip(graph.objects, sources, sample.retrieval.below, strict=True)
    ):
        lines.append(
            f"  {o} {name}: patch {source.patch_id} ({source.category}) from {source.file}; "
            f"{_terms(source.licence, source.source_url)}"
            + (f"; {BELOW}: no better one is there" if below else "")
        )
    return "\n".join(lines) + "\n"


def _terms(licence: str, source_url: str, **_: object) -> str:
    return f"licence: {licence or 'not stated'}; {source_url or 'no source given'}"


def describe_graph(graph: SceneGraph) -> str:
    """`tree, grass; tree above grass`"""
    relations = [f"{graph.objects[s]} {p} {graph.objects[o]}" for s, p, o in graph.relations]
    return "; ".join(filter(None, [", ".join(graph.objects), ", ".join(relations)]))
