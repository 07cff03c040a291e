"""A run and its bank in one page that needs no other file: RUN/report.html.

python -m jobs.report --run runs/00001-coco                       pictures, curves, scores
python -m jobs.report --run runs/demo --graphs examples/toy_*.json  ... and graphs of your own

Shows the bank's patches, the loss curves, the scores in RUN/metrics.jsonl, the last training
samples, and what the run makes of hand-written graphs: learned retrieval beside predefined and
random, several draws of each.
"""

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import jinja2
import numpy as np
import torch
from PIL import Image

from bank.bank import Bank
from jobs.curves import loss_curves
from jobs.sample import photos_folder
from jobs.sheets import Pixels, Source, sources_of
from model.config import RetrievalMode
from model.retrievegan.run import Retrieval, Sampler
from pipeline.errors import UserError
from pipeline.options import option, run
from pipeline.progress import progress
from pipeline.scene import Box, SceneGraph
from pipeline.scene_graph import read_scene_graphs

TEMPLATES = Path(__file__).parent / "templates"
PER_CATEGORY = 10  # patches of a category in the contact sheet
MOST_CATEGORIES = 40
SCORE = ("metric", "choice", "value", "low", "high", "scenes", "pairs")  # one row's own
PHOTO_ROWS = 5  # photos shown with all their patches
MODES: tuple[tuple[RetrievalMode, str], ...] = (
    ("learned", "each patch is chosen to go with those chosen before it; a draw has its own start"),
    ("predefined", "one of the three nearest by graph features, each object by itself"),
    ("random", "any candidate, each object by itself"),
)


@dataclass(frozen=True, kw_only=True)
class ReportOptions:
    run: Annotated[Path, option("run folder, made by model.train")]
    graphs: Annotated[tuple[Path, ...], option("JSON files with scene graphs to try")] = ()
    draws: Annotated[int, option("sets of patches per graph and way of retrieving")] = 4
    seed: Annotated[int, option("of the first draw")] = 0
    bank: Annotated[Path | None, option("the run's bank, where it has moved")] = None
    data: Annotated[
        Path | None, option("the bank's photos; by default data/<dataset>, if they are there")
    ] = None
    out: Annotated[Path | None, option("file to write; by default RUN/report.html")] = None

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= 20:
            raise ValueError(f"--draws must lie in 1 to 20, not {self.draws}")


class Picture(NamedTuple):
    """An image as it stands in the page."""

    url: str  # data:image/png;base64,...
    width: int  # px
    height: int  # px


class Drawn(NamedTuple):
    """One draw: the patches and the image composed of them."""

    patches: tuple[Picture, ...]
    image: Picture
    apart: float  # mean distance of the patches' F_occur vectors: small = as if of one photo


class ModeShown(NamedTuple):
    name: str
    meaning: str
    draws: tuple[Drawn, ...]


class SourceShown(NamedTuple):
    source: Source
    view: Picture


class GraphShown(NamedTuple):
    """A hand-written graph and what the run makes of it."""

    name: str
    graph: SceneGraph
    lines: tuple[str, ...]
    boxes: tuple[Box, ...]  # as predicted
    modes: tuple[ModeShown, ...]
    sources: tuple[SourceShown, ...]  # of the first learned draw


class CategoryShown(NamedTuple):
    name: str
    held: int  # patches of it in the bank
    patches: tuple[Picture, ...]


class PhotoShown(NamedTuple):
    image_id: int
    photo: Picture
    patches: tuple[tuple[str, Picture], ...]


class Scores(NamedTuple):
    """The last evaluation: one row per score, and how it was made."""

    rows: tuple[tuple[str, str, str, str], ...]  # metric, choice, value, interval
    protocol: str


def main(options: ReportOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = Sampler.open(options.run, options.bank, device)
    out = options.out or options.run / "report.html"
    write_report(options, sampler, out)
    print(f"{out} ({out.stat().st_size / 1e6:.1f} MB)")


def write_report(options: ReportOptions, sampler: Sampler, out: Path) -> None:
    """Gather what the page shows and write it, whole or not at all."""
    bank, config = sampler.bank, sampler.model.config
    graphs = named_graphs(options.graphs, bank)
    photos = photos_folder(bank, options.data)
    log = read_lines(options.run / "log.jsonl")
    shown = [
        show_graph(sampler, name, graph, options, photos)
        for name, graph in progress(graphs.items(), "graphs", len(graphs), "graph")
    ]
    facts = {
        "recipe": config.recipe,
        "steps": f"{len(log):,}",
        "picture": f"{config.image_px} x {config.image_px} px",
        "parameters": f"{sum(p.numel() for p in sampler.model.parameters()):,}",
        "retrieval": f"{config.retrieval.mode}, {config.retrieval.candidates} candidates an object",
        "patches": f"{len(bank):,}",
        "photos": f"{sum(len(bank.scene_ids(s)) for s in ('train', 'val', 'test')):,}",
        "bank": bank.content_digest[:16],
    }
    page = (
        environment()
        .get_template("report.html")
        .render(
            run=options.run.name,
            dataset=bank.manifest.dataset,
            facts=facts,
            graphs=shown,
            scores=last_scores(read_lines(options.run / "metrics.jsonl")),
            curves=loss_curves(log) if log else "",
            training=last_samples(options.run),
            categories=show_categories(bank),
            photos=show_photos(bank),
        )
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    partial = out.with_name(out.name + ".partial")
    partial.write_text(page, "utf-8")
    partial.replace(out)


def environment() -> jinja2.Environment:
    """Everything that comes from a dataset or a graph file is escaped."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def named_graphs(files: Sequence[Path], bank: Bank) -> dict[str, SceneGraph]:
    """Every graph of the files, by a name to show."""
    found: dict[str, SceneGraph] = {}
    for path in files:
        graphs = read_scene_graphs(path, bank.vocabulary)
        for n, graph in enumerate(graphs):
            name = path.stem.replace("_", " ")
            found[name if len(graphs) == 1 else f"{name} {n + 1}"] = graph
    return found


def show_graph(
    sampler: Sampler, name: str, graph: SceneGraph, options: ReportOptions, photos: Path | None
) -> GraphShown:
    """All modes and draws of one graph, composed with predicted boxes whatever boxes it carries."""
    boxes = sampler.predict_boxes(graph)
    learned = sampler.model.config.retrieval.mode == "learned"
    modes, first = [], None
    for mode, meaning in MODES[0 if learned else 1 :]:
        drawn = []
        for number in range(options.draws):
            # By default predefined takes the nearest: every draw would be the same.
            noise = True if mode == "predefined" else None
            chosen = sampler.retrieve(graph, seed=options.seed + number, mode=mode, noise=noise)
            first = chosen if first is None else first
            drawn.append(_drawn(sampler, graph, boxes, chosen))
        modes.append(ModeShown(mode, meaning, tuple(drawn)))
    assert first is not None
    sources = sources_of(sampler.bank, first.patch_ids.tolist(), photos)
    lines = [f"{graph.objects[s]} {p} {graph.objects[o]}" for s, p, o in graph.relations]
    return GraphShown(
        name,
        graph,
        tuple(lines),
        boxes,
        tuple(modes),
        tuple(SourceShown(source, jpeg(source.view)) for source in sources),
    )


def _drawn(sampler: Sampler, graph: SceneGraph, boxes: Sequence[Box], chosen: Retrieval) -> Drawn:
    image = sampler.generate(graph, chosen.patches, boxes)
    return Drawn(
        tuple(jpeg(Image.fromarray(patch)) for patch in chosen.patches),
        png(image),
        mean_distance(sampler.bank.cooccurrence(chosen.patch_ids)),
    )


def mean_distance(vectors: np.ndarray[Any, np.dtype[np.float32]]) -> float:
    """Over the pairs of (n, F) vectors; 0 for a single one."""
    if len(vectors) < 2:
        return 0.0
    return float(torch.pdist(torch.from_numpy(vectors)).mean())


def show_categories(bank: Bank) -> tuple[CategoryShown, ...]:
    """The most frequent categories, each with patches from evenly spaced photos."""
    names = np.array(bank.table.column("category").to_pylist())
    found, counts = np.unique(names, return_counts=True)
    shown = []
    for at in sorted(np.argsort(-counts, kind="stable")[:MOST_CATEGORIES], key=lambda i: found[i]):
        ids = bank.patch_ids[names == found[at]]
        some = ids[np.linspace(0, len(ids) - 1, min(PER_CATEGORY, len(ids))).astype(int)]
        patches = tuple(jpeg(Image.fromarray(patch)) for patch in bank.patches(some))
        shown.append(CategoryShown(str(found[at]), int(counts[at]), patches))
    return tuple(shown)


def show_photos(bank: Bank) -> tuple[PhotoShown, ...]:
    """A few photos with the patches cut from each: what goes together."""
    ids = bank.scene_ids("train")
    shown = []
    for at in np.linspace(0, len(ids) - 1, min(PHOTO_ROWS, len(ids))).astype(int):
        sample = bank.scene(int(ids[at]))
        patches = [jpeg(Image.fromarray(patch)) for patch in bank.patches(sample.patch_ids)]
        named = tuple(zip(sample.objects, patches, strict=True))
        shown.append(PhotoShown(sample.image_id, png(sample.image), named))
    return tuple(shown)


def last_samples(folder: Path) -> Picture | None:
    """The last grid that training left."""
    grids = sorted(folder.glob("samples-*.png"))
    if not grids:
        return None
    with Image.open(grids[-1]) as grid:
        return png(np.asarray(grid.convert("RGB")))


def read_lines(path: Path) -> list[dict[str, Any]]:
    """A .jsonl file's objects; none where there is no file. A last line cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_text("utf-8").splitlines()
    found = []
    for number, line in enumerate(lines, 1):
        try:
            found.append(json.loads(line))
        except json.JSONDecodeError as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not valid JSON; remove that line") from error
    return found


def last_scores(lines: Sequence[Mapping[str, Any]]) -> Scores | None:
    """The rows of metrics.jsonl that were made as its last one was."""
    if not lines:
        return None
    protocol = _protocol(lines[-1])
    rows = []
    for line in lines:
        if _protocol(line) == protocol:
            low, high = line.get("low"), line.get("high")
            interval = f"{_text(low)} to {_text(high)}" if low is not None else ""
            name, choice = _text(line.get("metric")), _text(line.get("choice"))
            rows.append((name, choice, _text(line.get("value")), interval))
    latest = {row[:2]: row for row in rows}  # scored twice the same way: the later stands
    made = "; ".join(f"{key} {_text(value)}" for key, value in protocol.items())
    return Scores(tuple(latest.values()), made)


def _protocol(line: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in SCORE}


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return "" if value is None else str(value)


def png(pixels: Pixels) -> Picture:
    """(H, W, 3) uint8, kept exactly."""
    return _picture(Image.fromarray(pixels), "png", optimize=True)


def jpeg(image: Image.Image, quality: int = 88) -> Picture:
    return _picture(image, "jpeg", quality=quality)


def _picture(image: Image.Image, form: str, **settings: Any) -> Picture:
    file = io.BytesIO()
    image.save(file, form, **settings)
    text = base64.b64encode(file.getvalue()).decode()
    return Picture(f"data:image/{form};base64,{text}", image.width, image.height)


if __name__ == "__main__":
    run(main, ReportOptions, __doc__)
