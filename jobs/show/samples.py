"""A scene graph and ways to make it in; images, patches, photos and credits out, as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from bank.bank import Bank
from jobs.show.methods import Composed, Made, Way
from jobs.show.sheets import Pixels, Source, patch_sheet, photos_folder, sheet, sources_of
from pipeline.scene import Box, SceneGraph

CELL = 160  # px, side of an image in a comparison


class PhotoShown(NamedTuple):
    """The photo that a graph was taken from."""

    pixels: Pixels
    credit: str


class Asked(NamedTuple):
    """A graph to make images of."""

    name: str  # of its folder, where there are several
    graph: SceneGraph
    photo: PhotoShown | None = None


def graph_of_scene(bank: Bank, image_id: int) -> Asked:
    scene = bank.scene(image_id)
    boxes = tuple(Box(*corners) for corners in scene.boxes.tolist())
    (credit,) = bank.credits([int(scene.patch_ids[0])])
    photo = PhotoShown(scene.image, f"{credit['file']}; {_terms(**credit)}")
    return Asked(str(image_id), SceneGraph(scene.objects, scene.triples, boxes), photo)


def sample_graph(
    asked: Asked, ways: Sequence[Way], seeds: Sequence[int], out: Path, data: Path | None
) -> str:
    """Write all draws of one graph into `out`: the first way's images, the others beside them.

    Returns the credits, which credits.txt holds too. `data`: where the banks' photos are.
    """
    out.mkdir(parents=True, exist_ok=True)
    own, *beside = ways
    texts, rows = [], []
    for number, seed in enumerate(seeds):
        made = own.make(asked.graph, seed)
        Image.fromarray(made.image).save(out / f"image-{number}.png")
        title = f"image-{number}.png (seed {seed})"
        sources = show_sources(own, made, asked.graph, data)
        if made.chosen is not None:
            save_patches(out, number, asked.graph, made.chosen.patches, sources)
        texts.append(credits_text(title, asked.graph, sources))
        if beside:
            others = [way.make(asked.graph, seed) for way in beside]
            rows.append([made, *others])
            for way, other in zip(beside, others, strict=True):
                sources = show_sources(way, other, asked.graph, data)
                title = f"comparison.png, row {number}: {way.name}"
                texts.append(credits_text(title, asked.graph, sources))
    if beside:
        texts += save_comparison(out, asked, ways, rows)
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


def describe(graph: SceneGraph) -> str:
    """`tree, grass; tree above grass`"""
    relations = [f"{graph.objects[s]} {p} {graph.objects[o]}" for s, p, o in graph.relations]
    return "; ".join(filter(None, [", ".join(graph.objects), ", ".join(relations)]))
