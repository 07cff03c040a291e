"""The report of a run and its bank: one page that needs no other file."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from bank.bank import Bank
from jobs.show.curves import loss_curves
from jobs.show.page import EmbeddedImage, environment, jpeg, png
from jobs.show.sheets import Source, sources_of
from model.config import RetrievalMode, Start
from model.retrieval.choice import noise_by_default
from model.retrievegan.run import RetrievedPatches, RetrieveGANRun
from model.scores.intervals import Score
from pipeline.errors import UserError
from pipeline.progress import progress
from pipeline.scene import Box, SceneGraph
from pipeline.scene_graph import read_scene_graphs

PER_CATEGORY = 10  # patches of a category in the contact sheet
MOST_CATEGORIES = 40
# Fields of a line in metrics.jsonl that are its score; all others are the protocol.
SCORE = tuple(field.name for field in fields(Score))
PHOTO_ROWS = 5  # photos shown with all their patches
LEARNED: Mapping[Start, str] = {
    "random": "from a start drawn at random each patch is chosen to go with those before it",
    "medoid": "from the most central candidate each patch is chosen to go with those before it",
    "best": "the patches that go best with one another, of the sets that grow from every start",
}


class Draw(NamedTuple):
    """The patches retrieved with one seed, and the image composed of them."""

    patches: tuple[EmbeddedImage, ...]
    below: tuple[bool, ...]  # of each patch, whether it is of less quality than the run asks for
    image: EmbeddedImage
    distance: float  # mean, between the patches' F_occur vectors; small: as if of one photo


class Mode(NamedTuple):
    """A retrieval mode, as it is shown."""

    name: RetrievalMode
    noise: bool
    meaning: str


class ModeDraws(NamedTuple):
    """All draws of one retrieval mode."""

    name: str
    meaning: str
    draws: tuple[Draw, ...]


class SourceImage(NamedTuple):
    source: Source
    view: EmbeddedImage


class GraphCard(NamedTuple):
    """A hand-written graph and what the run makes of it."""

    name: str
    graph: SceneGraph
    lines: tuple[str, ...]
    boxes: tuple[Box, ...]  # as predicted
    modes: tuple[ModeDraws, ...]
    sources: tuple[SourceImage, ...]  # of the first learned draw


class CategoryRow(NamedTuple):
    name: str
    num_patches: int  # in the bank
    patches: tuple[EmbeddedImage, ...]  # a few of them


class PhotoRow(NamedTuple):
    """A photo with all its patches."""

    image_id: int
    photo: EmbeddedImage
    patches: tuple[tuple[str, EmbeddedImage], ...]  # category, patch


class Scores(NamedTuple):
    """The scores of the last evaluation."""

    rows: tuple[tuple[str, str, str, str], ...]  # metric, choice, value, interval
    protocol: str  # how they were measured, e.g. `split val; seed 0`


def render_run(
    run: Path,
    opened: RetrieveGANRun,
    graphs: Mapping[str, SceneGraph],
    seeds: Sequence[int],
    photos: Path | None,
) -> str:
    """The page as HTML, with a draw per seed of every graph; `photos` is the folder of the bank's
    photos, if there is one."""
    bank, config = opened.bank, opened.model.config
    rule = config.retrieval
    steps = read_json_lines(run / "log.jsonl")
    cards = [
        graph_card(opened, name, graph, seeds, photos)
        for name, graph in progress(graphs.items(), "graphs", len(graphs), "graph")
    ]
    facts = {
        "recipe": config.recipe,
        "steps": f"{len(steps):,}",
        "image": f"{config.image_px} x {config.image_px} px",
        "parameters": f"{sum(p.numel() for p in opened.model.parameters()):,}",
        "retrieval": f"{rule.mode}, {rule.candidates} candidates an object",
        **({"of which only": rule.min_quality.flags} if rule.min_quality.asks else {}),
        "patches": f"{len(bank):,}",
        "photos": f"{sum(len(bank.scene_ids(s)) for s in ('train', 'val', 'test')):,}",
        "bank": bank.content_digest[:16],
    }
    return (
        environment()
        .get_template("report.html")
        .render(
            run=run.resolve().name,
            dataset=bank.manifest.dataset,
            facts=facts,
            min_quality=rule.min_quality.flags,
            graphs=cards,
            scores=last_scores(read_json_lines(run / "metrics.jsonl")),
            curves=loss_curves(steps) if steps else "",
            training=last_samples(run),
            categories=category_rows(bank),
            photos=photo_rows(bank),
        )
    )


def named_graphs(files: Sequence[Path], bank: Bank) -> dict[str, SceneGraph]:
    """Every graph of the files, by its title."""
    by_title: dict[str, SceneGraph] = {}
    for path in files:
        graphs = read_scene_graphs(path, bank.vocabulary)
        for n, graph in enumerate(graphs):
            name = path.stem.replace("_", " ")
            by_title[name if len(graphs) == 1 else f"{name} {n + 1}"] = graph
    return by_title


def modes_of(opened: RetrieveGANRun, draws: int) -> list[Mode]:
    """Those that the run can be sampled with, and how so many draws of a graph are made."""
    rule = opened.model.config.retrieval
    nearest = "one of the three nearest by graph features, each object by itself"
    random = "any candidate, each object by itself"
    modes = [Mode("predefined", True, nearest), Mode("random", False, random)]
    if rule.mode != "learned":
        return modes
    noise = noise_by_default(rule, draws)
    note = "; drawn with noise, without which all draws would be alike" * noise
    return [Mode("learned", noise, LEARNED[rule.start] + note), *modes]


def graph_card(
    opened: RetrieveGANRun, name: str, graph: SceneGraph, seeds: Sequence[int], photos: Path | None
) -> GraphCard:
    """All modes and draws of one graph, composed with predicted boxes even if it has boxes."""
    boxes = opened.predict_boxes(graph)
    modes, first = [], None
    for mode in modes_of(opened, len(seeds)):
        draws = []
        for seed in seeds:
            retrieval = opened.retrieve(graph, seed=seed, mode=mode.name, noise=mode.noise)
            first = retrieval if first is None else first
            draws.append(_draw(opened, graph, boxes, retrieval))
        modes.append(ModeDraws(mode.name, mode.meaning, tuple(draws)))
    assert first is not None
    sources = sources_of(opened.bank, first.patch_ids.tolist(), photos)
    lines = [f"{graph.objects[s]} {p} {graph.objects[o]}" for s, p, o in graph.relations]
    return GraphCard(
        name,
        graph,
        tuple(lines),
        boxes,
        tuple(modes),
        tuple(SourceImage(source, jpeg(source.view)) for source in sources),
    )


def _draw(
    opened: RetrieveGANRun, graph: SceneGraph, boxes: Sequence[Box], retrieval: RetrievedPatches
) -> Draw:
    image = opened.generate(graph, retrieval.patches, boxes)
    return Draw(
        tuple(jpeg(Image.fromarray(patch)) for patch in retrieval.patches),
        tuple(retrieval.below.tolist()),
        png(image),
        mean_distance(opened.bank.cooccurrence(retrieval.patch_ids)),
    )


def mean_distance(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Over the pairs of (n, F) vectors; 0 for a single one."""
    if len(vectors) < 2:
        return 0.0
    return float(torch.pdist(torch.from_numpy(vectors)).mean())


def category_rows(bank: Bank) -> tuple[CategoryRow, ...]:
    """The most frequent categories, each with patches from evenly spaced photos."""
    names = np.array(bank.table.column("category").to_pylist())
    categories, counts = np.unique(names, return_counts=True)  # in alphabetical order
    rows = []
    for at in np.sort(np.argsort(-counts, kind="stable")[:MOST_CATEGORIES]):
        ids = bank.patch_ids[names == categories[at]]
        some = ids[np.linspace(0, len(ids) - 1, min(PER_CATEGORY, len(ids))).astype(int)]
        patches = tuple(jpeg(Image.fromarray(patch)) for patch in bank.patches(some))
        rows.append(CategoryRow(str(categories[at]), int(counts[at]), patches))
    return tuple(rows)


def photo_rows(bank: Bank) -> tuple[PhotoRow, ...]:
    """A few photos, each with the patches cut from it."""
    ids = bank.scene_ids("train")
    rows = []
    for at in np.linspace(0, len(ids) - 1, min(PHOTO_ROWS, len(ids))).astype(int):
        scene = bank.scene(int(ids[at]))
        patches = [jpeg(Image.fromarray(patch)) for patch in bank.patches(scene.patch_ids)]
        named = tuple(zip(scene.objects, patches, strict=True))
        rows.append(PhotoRow(scene.image_id, png(scene.image), named))
    return tuple(rows)


def last_samples(folder: Path) -> EmbeddedImage | None:
    """The newest image grid that training has written."""
    files = sorted(folder.glob("samples-*.png"))
    if not files:
        return None
    with Image.open(files[-1]) as image:
        return png(np.asarray(image.convert("RGB")))


def read_json_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a .jsonl file; none if there is no file. A last line cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not valid JSON; remove that line") from error
    return objects


def last_scores(lines: Sequence[Mapping[str, Any]]) -> Scores | None:
    """The scores in metrics.jsonl that were measured by the same protocol as the last line."""
    if not lines:
        return None
    protocol = _protocol(lines[-1])
    rows = []
    for line in lines:
        if _protocol(line) == protocol:
            low, high = line.get("low"), line.get("high")
            interval = f"{_text(low)} to {_text(high)}" if low is not None else ""
            if spread := line.get("spread"):
                interval = f"± {_text(spread)}"
            if note := line.get("note"):
                interval = f"unreliable: {_text(note)}"
            choice = _text(line.get("choice"))
            if boxes := line.get("boxes"):
                choice += f", {_text(boxes)} boxes"
            name, value = _text(line.get("metric")), _text(line.get("value"))
            rows.append((name, choice, value, interval))
    latest = {row[:2]: row for row in rows}  # of two for one row, the later
    text = "; ".join(f"{key} {_text(value)}" for key, value in protocol.items())
    return Scores(tuple(latest.values()), text)


def _protocol(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in SCORE}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)
