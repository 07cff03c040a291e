"""Scene graphs in, folders of images out: a run's own, and those of the methods beside it."""

from collections.abc import Sequence
from pathlib import Path

from jobs.show.methods import (
    Method,
    RetrievalOptions,
    RetrieveAndCompose,
    method_of,
    method_to_compare,
    noise_note,
    open_bank,
    open_run,
    share_options,
)
from jobs.show.options import SampleOptions, asked_quality
from jobs.show.samples import NamedGraph, describe_graph, graph_of_scene, sample_graph
from jobs.show.scene_pictures import write_scene_pictures
from model.device import choose_device
from model.graph.vocabularies import check_names
from model.retrievegan.run import RetrieveGANRun
from model.sg2im.run import Sg2ImRun
from pipeline.errors import UserError, suggestion
from pipeline.output import log
from pipeline.scene import SceneGraph, Vocabulary
from pipeline.scene_graph import read_scene_graphs
from pipeline.sentences import sentences
from pipeline.wording import counted

FEW_SCENES = 8


def sample(options: SampleOptions) -> None:
    device = choose_device(options.device)
    opened = open_run(options.run, options.bank, device, options.checkpoint)
    if isinstance(opened, Sg2ImRun):
        check_sg2im(options)
    if options.plain_files:
        bank = open_bank(opened, options.run, options.bank)
        write_scene_pictures(options, opened, bank, device)
        return
    targets = read_graphs(options, opened)
    graphs = [named for named, _ in targets]
    if options.as_text:
        for name, graph, photo in graphs:
            print(sentences(graph) if photo is None else f"{name}\t{sentences(graph)}")
        return
    if isinstance(opened, RetrieveGANRun):
        opened.check_bans(options.ban)
    others = [method_to_compare(v, opened, options.draws, device) for v in options.beside]
    methods = []
    for named, out in targets:  # all of them before anything is written
        try:
            methods.append(methods_for(named.graph, opened, others, options))
            for method in methods[-1]:
                check_names(named.graph, method.vocabulary, method.name)
        except UserError as error:
            which = f" (the graph of {out})" if len(targets) > 1 else ""
            raise UserError(f"{error}{which}") from error
    random = [
        any(method.draws_differ(graph) for method in compared)
        for (_, graph, _), compared in zip(graphs, methods, strict=True)
    ]
    if options.draws > 1 and not all(random):
        log.warning(
            f"nothing is random in the draws of {counted(random.count(False), 'graph')}: 1 image "
            f"in place of {options.draws} that are alike"
        )
    noisy = [m.name for m in methods[0] if isinstance(m, RetrieveAndCompose) and m.noise]
    if noisy and options.noise is None and any(random):
        log.info(noise_note(noisy))
    for (named, out), compared, differ in zip(targets, methods, random, strict=True):
        draws = options.draws if differ else 1
        seeds = range(options.seed, options.seed + draws)
        print(sample_graph(named, compared, seeds, out, options.data))
        print(f"{counted(draws, 'image')} of {describe_graph(named.graph)}: {out}/")


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
    image_ids = bank.scene_ids(options.split)[: options.scenes or FEW_SCENES]
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
    name = options.run.resolve().name
    if isinstance(opened, RetrieveGANRun):
        retrieval = RetrievalOptions(
            options.retrieval,
            options.start,
            options.noise,
            options.candidates,
            asked_quality(options, opened.model.config.retrieval.min_quality),
            pins_for(graph, opened, options),
            options.ban,
        )
        mode = options.retrieval or opened.model.config.retrieval.mode
        return RetrieveAndCompose(f"{name}, {mode}", opened, options.draws, retrieval)
    return method_of(opened, name, options.draws)


def check_sg2im(options: SampleOptions) -> None:
    """UserError for an option of retrieval."""
    of_retrieval = ("retrieval", "start", "noise", "candidates", "min_coverage", "min_side")
    for name in (*of_retrieval, "pin", "ban"):
        if getattr(options, name) not in (None, ()):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag}: {options.run} is of sg2im, which retrieves no patches")


def pins_for(graph: SceneGraph, opened: RetrieveGANRun, options: SampleOptions) -> dict[int, int]:
    """Object -> patch id; UserError, with the pin as typed, where one does not fit."""
    patch_by_object: dict[int, int] = {}
    for pin in options.pin:
        o, patch = parse_pin(pin, graph)
        if reason := opened.reason_against(graph, o, patch, options.ban):
            raise UserError(f"--pin {pin}: {reason}")
        if o in patch_by_object:
            raise UserError(f"--pin {pin}: object {o} is pinned to patch {patch_by_object[o]} too")
        patch_by_object[o] = patch
    return patch_by_object


def parse_pin(pin: str, graph: SceneGraph) -> tuple[int, int]:
    """`2=123` or `tree=123` -> object, patch id."""
    name, equals, value = pin.rpartition("=")
    if not equals or not value.isascii() or not value.isdigit():
        raise UserError(f"--pin {pin}: write object=patch_id, e.g. --pin 0=123 or tree=123")
    return _object_index(name, graph, pin), int(value)


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
