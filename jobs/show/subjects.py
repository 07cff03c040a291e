"""What a measurement is of, opened: runs, folders of pictures, what looks at them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from bank.bank import Bank
from bank.files import file_digest, json_digest
from jobs.show.methods import open_bank, open_run
from jobs.show.styles import read_styles
from model import checkpoint
from model.config import ExecutionConfig, Start, Which
from model.retrieval.choice import noise_by_default, started
from model.retrievegan.run import RetrieveGANRun
from model.run_folder import read_run
from model.scores.costs import Costs
from model.scores.distributions import NEIGHBOURS
from model.scores.extractors import Extractor, open_extractor
from model.scores.measure import OpenedFolder, OpenedRun, Subjects, sides_of
from model.scores.perceptual import Lpips, open_lpips
from model.scores.picture_folder import CREDITS, PictureFolder, open_pictures
from model.scores.protocol import Judge, Protocol, ScoredFolder, ScoredRun
from model.scores.style import StyleClassifier, style_classifier
from model.sg2im.published import is_published
from model.sg2im.run import Sg2ImRun
from pipeline.address import Location
from pipeline.errors import UserError
from pipeline.options import to_json
from pipeline.output import log
from pipeline.wording import counted


def open_runs(
    paths: Sequence[tuple[Path, Which | int]],
    place: Location | None,
    device: torch.device,
    per_graph: int,
    start: Start | None,
) -> tuple[Bank, list[OpenedRun]]:
    """The runs, each at one of its checkpoints, and the one bank whose scenes they are scored on.

    paths  each with which checkpoint, or its step
    place  of the bank; None: where the first run says
    start  of learned retrieval; None: as each run was trained. UserError where a run that
           retrieves cannot start so
    """
    if not paths:
        assert place is not None
        check_start(start, [])
        return Bank.open(place), []
    names = names_of([path for path, _ in paths])
    runs: list[OpenedRun] = []
    bank = None
    for (path, which), name in zip(paths, names, strict=True):
        opened = open_run(path, place, device, which)
        bank = bank or open_bank(opened, path, place)
        place = bank.path
        source = source_of(path, opened, bank, which, per_graph, start)
        runs.append(OpenedRun(name, opened, source))
    check_start(start, runs)
    assert bank is not None
    return bank, runs


def check_start(start: Start | None, runs: Sequence[OpenedRun]) -> None:
    """UserError for a start where nothing retrieves."""
    if start is not None and not any(run.retrieving for run in runs):
        raise UserError(f"--start {start}: no run here retrieves patches; leave it out")


def names_of(paths: Sequence[Path]) -> list[str]:
    """By which rows are told apart: the last part of each path, or all of it where another has that
    too. UserError where one is given twice."""
    resolved = [path.resolve() for path in paths]
    for path in paths:
        if resolved.count(path.resolve()) > 1:
            raise UserError(f"{path} is given twice")
    short = [path.name for path in resolved]
    return [
        name if short.count(name) == 1 else str(path)
        for name, path in zip(short, paths, strict=True)
    ]


def source_of(
    path: Path,
    opened: RetrieveGANRun | Sg2ImRun,
    bank: Bank,
    which: Which | int,
    per_graph: int,
    start: Start | None,
) -> ScoredRun:
    """What the card says of a run; UserError where it was trained on another bank, or cannot start
    as it is asked to."""
    if is_published(path):
        weights = file_digest(path).sha256
        return ScoredRun(path=str(path), sha256=weights, config_sha256=None, step=None, noise=None)
    folder = checkpoint.chosen(path, which)
    state = checkpoint.read_state(folder)
    checkpoint.check_bank(state, bank, path)
    # How it was executed changes no network; nor does where its bank lies.
    learned_from = replace(read_run(path)[0], execution=ExecutionConfig())
    noise = None
    if isinstance(opened, RetrieveGANRun):
        try:
            rule = started(opened.model.config.retrieval, start)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        noise = noise_by_default(rule, per_graph)
    return ScoredRun(
        path=str(path),
        sha256=file_digest(folder / checkpoint.MODEL).sha256,
        config_sha256=json_digest(to_json(learned_from)),
        step=state.step,
        noise=noise,
    )


def open_subjects(
    asked: Protocol, bank: Bank, runs: Sequence[OpenedRun], device: torch.device, costs: Costs
) -> Subjects:
    """All else that the card names."""
    styles = None if asked.styles is None else read_styles(Path(asked.styles), bank)
    image_ids = np.array(asked.image_ids, np.int64)
    places = [run.source.path for run in runs] + [folder.path for folder in asked.folders]
    names = names_of([Path(place) for place in places])[len(runs) :]
    folders = [
        open_folder(name, source, image_ids, asked.per_graph, bank)
        for name, source in zip(names, asked.folders, strict=True)
    ]
    check_enough(asked)
    extractors, lpips = open_judges(asked.judges, device)
    classifiers: Mapping[int, StyleClassifier] = {}
    if styles is not None and asked.reference is not None:
        with costs.of("style classifier"):
            classifiers = {
                px: style_classifier(bank, styles, px) for px in sides_of(bank, runs, folders)
            }
    return Subjects(bank, device, runs, folders, extractors, lpips, styles, classifiers)


def check_enough(asked: Protocol) -> None:
    """UserError where sets of pictures would be too small to be compared."""
    if asked.reference is None:
        return
    for photos in filter(None, (asked.reference, asked.real)):
        if len(photos.image_ids) <= NEIGHBOURS:
            raise UserError(
                f"{counted(len(photos.image_ids), f'{photos.split} scene')}: scores of pictures "
                f"need at least {NEIGHBOURS + 1}; use a bank with more, or give --scores retrieval"
            )
    if len(asked.image_ids) <= NEIGHBOURS:
        raise UserError(
            f"{counted(len(asked.image_ids), 'scene')}: scores of pictures need at least "
            f"{NEIGHBOURS + 1}; give a larger --num, or --scores retrieval"
        )


def open_folder(
    name: str, source: ScoredFolder, image_ids: NDArray[np.int64], per_graph: int, bank: Bank
) -> OpenedFolder:
    """Says what is missing and what is extra; UserError where the pictures cannot be compared with
    the bank's photos."""
    path = Path(source.path)
    pictures = open_pictures(path, image_ids)
    if pictures.width != pictures.height:
        raise UserError(
            f"{path}: its pictures have {pictures.width} x {pictures.height} px; photos are "
            f"compared as squares, so make the pictures square"
        )
    if pictures.width > bank.image_size:
        raise UserError(
            f"{path}: its pictures have {pictures.width} px a side, the bank's photos "
            f"{bank.image_size} px: reduce the pictures, or build a bank with a larger --image-size"
        )
    check_boxes(pictures, source)
    for note in pictures.notes():
        log.warning(note)
    counts = sorted(map(len, pictures.files.values()))
    draws = min(per_graph, counts[len(counts) // 2])  # what half of the scenes have
    enough = len(pictures.scenes(draws))
    if enough <= NEIGHBOURS:
        raise UserError(
            f"{path} has pictures of {counted(enough, 'scene')}; scores of sets need at least "
            f"{NEIGHBOURS + 1}"
        )
    if few := len(pictures.files) - enough:
        log.warning(
            f"left out: {counted(few, 'scene')} with fewer than {counted(draws, 'picture')}"
        )
    return OpenedFolder(name, source.boxes, draws, pictures)


def check_boxes(pictures: PictureFolder, source: ScoredFolder) -> None:
    """UserError where jobs.sample wrote the pictures with other boxes than they are given for."""
    try:
        with (pictures.path / CREDITS).open(encoding="utf-8") as file:
            boxes = json.loads(file.readline())["boxes"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if boxes != source.boxes:
        flag = {"gt": "--images-gt", "predicted": "--images"}.get(boxes, "another flag")
        raise UserError(f"{pictures.path}: its pictures were made with {boxes} boxes; give {flag}")


def open_judges(
    judges: Sequence[Judge], device: torch.device
) -> tuple[list[Extractor], list[Lpips]]:
    """The extractors, and LPIPS if it is asked for."""
    extractors: list[Extractor] = []
    lpips: list[Lpips] = []
    for judge in judges:
        weights = None if judge.weights is None else Path(judge.weights)
        if judge.name == "lpips":
            lpips.append(open_lpips(weights, device))
        else:
            extractors.append(open_extractor(judge.name, weights, device))
    return extractors, lpips
