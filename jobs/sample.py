"""Scene graphs in, images out, with the patches they are made of and whose photos those are.

python -m jobs.sample --run runs/00001-coco --graph examples/toy_meadow.json
python -m jobs.sample --run runs/demo --graph examples/toy_meadow.json --draws 6 --pin tree=1234

The graph file is {"objects": ["tree", "grass"], "relationships": [[0, "above", 1]]}; it may carry
"boxes": [[x0, y0, x1, y1], ...] as shares of the picture. Without them the run predicts boxes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import torch
from PIL import Image

from bank.bank import Bank
from jobs.sheets import Source, patch_sheet, sheet, sources_of
from model.config import RetrievalMode
from model.sampler import Sampler
from pipeline.errors import UserError, nearest
from pipeline.options import option, run
from pipeline.scene import SceneGraph
from pipeline.scene_graph import read_scene_graphs

MOST_DRAWS = 1000


@dataclass(frozen=True, kw_only=True)
class SampleOptions:
    run: Annotated[Path, option("run folder, made by model.train")]
    graph: Annotated[Path, option("JSON file with one scene graph or a list of them")]
    draws: Annotated[int, option("images per graph, each with its own choice of patches")] = 1
    seed: Annotated[int, option("of the first draw; the next has the next seed")] = 0
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
            "off: the most compatible patches from each draw's start; default: on only where "
            "draws would otherwise be alike, but off for runs with start best"
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
        Path | None, option("folder to write; by default RUN/samples/<name of the graph file>")
    ] = None

    def __post_init__(self) -> None:
        if not 1 <= self.draws <= MOST_DRAWS:
            raise ValueError(f"--draws must lie in 1 to {MOST_DRAWS}, not {self.draws}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, but is {self.seed}")
        if self.candidates is not None and self.candidates < 1:
            raise ValueError(f"--candidates must be at least 1, not {self.candidates}")

    @property
    def folder(self) -> Path:
        return self.out or self.run / "samples" / self.graph.stem


def main(options: SampleOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = Sampler.open(options.run, options.bank, device)
    graphs = read_scene_graphs(options.graph, sampler.bank.vocabulary)
    photos = photos_folder(sampler.bank, options.data)
    for n, graph in enumerate(graphs):
        out = options.folder if len(graphs) == 1 else options.folder / f"{n:03d}"
        print(sample_graph(sampler, graph, options, out, photos))
        print(f"{options.draws} image(s) of {describe(graph)}: {out}/")


def sample_graph(
    sampler: Sampler, graph: SceneGraph, options: SampleOptions, out: Path, photos: Path | None
) -> str:
    """Write all draws of one graph into `out`; returns the credits, which credits.txt holds too."""
    out.mkdir(parents=True, exist_ok=True)
    draws = range(options.draws)
    texts = [draw(sampler, graph, options, number, out, photos) for number in draws]
    (out / "credits.txt").write_text("\n".join(texts), "utf-8")
    return "\n".join(texts)


def draw(
    sampler: Sampler,
    graph: SceneGraph,
    options: SampleOptions,
    number: int,
    out: Path,
    photos: Path | None,
) -> str:
    """Write image, patches and sources of one draw; returns the credits."""
    chosen = sampler.retrieve(
        graph,
        seed=options.seed + number,
        noise=options.noise,
        mode=options.retrieval,
        k=options.candidates,
        pin=parse_pins(options.pin, graph),
        ban=options.ban,
    )
    Image.fromarray(sampler.generate(graph, chosen.patches)).save(out / f"image-{number}.png")
    sources = sources_of(sampler.bank, chosen.patch_ids.tolist(), photos)
    labels = [
        name if source.category == name else f"{name} (here: {source.category})"
        for name, source in zip(graph.objects, sources, strict=True)
    ]
    patch_sheet(
        chosen.patches,
        [f"{label}\n{source.patch_id}" for label, source in zip(labels, sources, strict=True)],
    ).save(out / f"patches-{number}.png")
    sheet(
        [source.view for source in sources],
        [f"{label}\n{source.file}" for label, source in zip(labels, sources, strict=True)],
    ).save(out / f"sources-{number}.png")
    return credits_text(number, options.seed + number, graph, sources)


def credits_text(number: int, seed: int, graph: SceneGraph, sources: Sequence[Source]) -> str:
    """Which photos a draw is made of and whose terms apply."""
    lines = [f"image-{number}.png (seed {seed})"]
    for o, (name, source) in enumerate(zip(graph.objects, sources, strict=True)):
        lines.append(
            f"  {o} {name}: patch {source.patch_id} ({source.category}) from {source.file}; "
            f"licence: {source.licence or 'not stated'}; {source.source_url or 'no source given'}"
        )
    return "\n".join(lines) + "\n"


def photos_folder(bank: Bank, given: Path | None) -> Path | None:
    """Where the bank's photos are; None where they are not on this disk."""
    if given is not None and not given.is_dir():
        raise UserError(f"--data {given}: there is no such folder; leave it out, or name another")
    folder = given or Path("data") / bank.manifest.dataset
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
            f"--pin {pin}: the graph has no {name!r}; {nearest(name, [*graph.objects])}"
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
