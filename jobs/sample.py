"""Generate images from scene graphs; show their patches, and credit the photos of these.

python -m jobs.sample --run runs/00001-coco --graph examples/toy_meadow.json
python -m jobs.sample --run runs/demo --graph examples/toy_meadow.json --draws 6 --pin tree=1234
python -m jobs.sample --run runs/demo --split val --beside predefined runs/sg2im

The graph file is {"objects": ["tree", "grass"], "relationships": [[0, "above", 1]]}; it may carry
"boxes": [[x0, y0, x1, y1], ...] as fractions of the image. Without them the run predicts boxes. In
place of a file, --split takes graphs and boxes of the bank's own held-out scenes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import torch

from jobs.show.methods import (
    Method,
    RetrievalOptions,
    RetrieveAndCompose,
    method_of,
    method_to_compare,
    open_bank,
    open_run,
    share_options,
)
from jobs.show.samples import NamedGraph, describe_graph, graph_of_scene, sample_graph
from model.config import RetrievalMode
from model.graph.vocabularies import check_names
from model.retrievegan.run import RetrieveGANRun
from model.sg2im.run import Sg2ImRun
from pipeline.errors import UserError, suggestion
from pipeline.options import option, run
from pipeline.scene import SceneGraph, Vocabulary
from pipeline.scene_graph import read_scene_graphs
from pipeline.sentences import sentences

MOST_DRAWS = 1000
MOST_ROWS = 20  # draws of a graph in a comparison


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
    bank: Annotated[Path | None, option("the run's bank, where it has moved")] = None
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


def main(options: SampleOptions) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_run(options.run, options.bank, device)
    targets = read_graphs(options, opened)
    graphs = [named for named, _ in targets]
    if options.as_text:
        for name, graph, photo in graphs:
            print(sentences(graph) if photo is None else f"{name}\t{sentences(graph)}")
        return
    others = [method_to_compare(value, opened, device) for value in options.beside]
    methods = [methods_for(named.graph, opened, others, options) for named in graphs]
    for named, compared in zip(graphs, methods, strict=True):  # before anything is written
        for method in compared:
            check_names(named.graph, method.vocabulary, method.name)
    seeds = range(options.seed, options.seed + options.draws)
    for (named, out), compared in zip(targets, methods, strict=True):
        print(sample_graph(named, compared, seeds, out, options.data))
        print(f"{options.draws} image(s) of {describe_graph(named.graph)}: {out}/")


def read_graphs(
    options: SampleOptions, opened: RetrieveGANRun | Sg2ImRun
) -> list[tuple[NamedGraph, Path]]:
    """The graphs of the files, or of the first scenes of the split, each with its folder."""
    targets = []
    for file in options.graph:
        graphs = read_scene_graphs(file, vocabulary_of(opened))
        named = [NamedGraph(f"{n:03d}", graph) for n, graph in enumerate(graphs)]
        targets += with_folders(named, options.folder(file.stem))
    if options.split is not None:
        targets += with_folders(scenes_of_split(options, opened), options.folder(options.split))
    return targets


def with_folders(graphs: Sequence[NamedGraph], folder: Path) -> list[tuple[NamedGraph, Path]]:
    """A single graph is written into the folder itself, of several each into one of its name."""
    if len(graphs) == 1:
        return [(graphs[0], folder)]
    return [(named, folder / named.name) for named in graphs]


def scenes_of_split(options: SampleOptions, opened: RetrieveGANRun | Sg2ImRun) -> list[NamedGraph]:
    assert options.split is not None
    bank = open_bank(opened, options.run, options.bank)
    image_ids = bank.scene_ids(options.split)[: options.scenes]
    if not len(image_ids):
        raise UserError(f"{bank.path} has no {options.split} scenes; give --graph FILE")
    return [graph_of_scene(bank, int(image_id)) for image_id in image_ids]


def vocabulary_of(opened: RetrieveGANRun | Sg2ImRun) -> Vocabulary:
    return opened.bank.vocabulary if isinstance(opened, RetrieveGANRun) else opened.vocabulary


def methods_for(
    graph: SceneGraph,
    opened: RetrieveGANRun | Sg2ImRun,
    others: Sequence[Method],
    options: SampleOptions,
) -> list[Method]:
    """The run's own method first, then those it is compared with."""
    own = own_method(opened, graph, options)
    return [own, *(share_options(method, own) for method in others)]


def own_method(
    opened: RetrieveGANRun | Sg2ImRun, graph: SceneGraph, options: SampleOptions
) -> Method:
    """As the run was trained, but for what the command line says."""
    name = options.run.name
    if isinstance(opened, RetrieveGANRun):
        retrieval = RetrievalOptions(
            options.retrieval,
            options.noise,
            options.candidates,
            parse_pins(options.pin, graph),
            options.ban,
        )
        mode = options.retrieval or opened.model.config.retrieval.mode
        return RetrieveAndCompose(f"{name}, {mode}", opened, retrieval)
    for flag in ("retrieval", "noise", "candidates", "pin", "ban"):
        if getattr(options, flag) not in (None, ()):
            raise UserError(f"--{flag}: {options.run} is of sg2im, which retrieves no patches")
    return method_of(opened, name)


def parse_pins(pins: Sequence[str], graph: SceneGraph) -> dict[int, int]:
    """`2=123` or `tree=123` -> object -> patch id."""
    patch_by_object: dict[int, int] = {}
    for pin in pins:
        name, equals, value = pin.rpartition("=")
        if not equals or not value.isascii() or not value.isdigit():
            raise UserError(f"--pin {pin}: write object=patch_id, e.g. --pin 0=123 or tree=123")
        patch_by_object[_object_index(name, graph, pin)] = int(value)
    return patch_by_object


def _object_index(name: str, graph: SceneGraph, pin: str) -> int:
    if name.isascii() and name.isdigit():
        return int(name)
    indices = [o for o, category in enumerate(graph.objects) if category == name]
    if not indices:
        raise UserError(
            f"--pin {pin}: the graph has no {name!r}; {suggestion(name, [*graph.objects])}"
        )
    if len(indices) > 1:
        several = ", ".join(str(o) for o in indices)
        raise UserError(f"--pin {pin}: the graph has {name!r} at {several}; give one of these")
    return indices[0]


if __name__ == "__main__":
    run(main, SampleOptions, __doc__)
