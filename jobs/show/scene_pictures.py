"""A run's pictures of a split's scenes as plain files, which jobs.evaluate --images scores."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bank.bank import Bank
from jobs.show.methods import noise_note
from jobs.show.options import SampleOptions, asked_quality
from model.config import MinQuality
from model.retrieval.choice import noise_by_default
from model.retrievegan.run import RetrieveGANRun
from model.scores.picture_folder import CREDITS, NAME, picture_name, write_picture
from model.scores.pictures import ChosenPatches, PictureSet, run_pictures
from model.scores.retriever import Retriever
from model.scores.scenes import CANDIDATES, Scenes, scene_batches
from model.sg2im.run import Sg2ImRun
from pipeline.errors import UserError
from pipeline.output import log
from pipeline.progress import progress
from pipeline.wording import counted


def write_scene_pictures(
    options: SampleOptions, opened: RetrieveGANRun | Sg2ImRun, bank: Bank, device: torch.device
) -> None:
    """<image id>[_<draw>].png for every scene, and what each picture's patches are."""
    assert options.out is not None
    assert options.split is not None
    image_ids = bank.scene_ids(options.split)[: options.scenes]
    if not len(image_ids):
        raise UserError(f"{bank.path} has no {options.split} scenes; give --graph FILE")
    k = options.candidates or min(CANDIDATES, bank.num_candidates)
    trained = MinQuality()
    if isinstance(opened, RetrieveGANRun):
        trained = opened.model.config.retrieval.min_quality
    minimum = asked_quality(options, trained)
    batches = scene_batches(bank, image_ids, k, device, minimum)
    pictures, chosen = pictures_of(options, opened, bank, batches)
    empty(options.out)
    places = progress(
        range(len(batches)),
        "pictures",
        len(image_ids),
        "scene",
        size=lambda place: batches[place].num_images,
    )
    with (options.out / CREDITS).open("w", encoding="utf-8") as credits:  # marks the folder as ours
        for place in places:
            scenes, block = batches[place], pictures.block(place)
            for image_id, draws in zip(scenes.image_ids, block, strict=True):
                for draw, pixels in enumerate(draws):
                    write_picture(options.out, image_id, draw, options.draws, pixels)
            ids = None if chosen is None else chosen.of_batch(place)
            for line in credits_of(bank, scenes, ids, options):
                credits.write(json.dumps(line, ensure_ascii=False) + "\n")
    if minimum.asks:
        below = torch.cat([scenes.below for scenes in batches])
        log.info(
            f"{minimum.flags}: {int(below.sum()):,} of {counted(len(below), 'object')} are given a "
            f"patch that falls short of it, since no better one is stored"
        )
    log.info(
        f"{counted(len(image_ids) * options.draws, 'picture')} of "
        f"{counted(len(image_ids), 'scene')}: {options.out}/"
    )


def empty(folder: Path) -> None:
    """Make the folder, or take an earlier run's pictures out of it: their names may differ.
    UserError where it holds pictures that something else made."""
    folder.mkdir(parents=True, exist_ok=True)
    earlier = [path for path in folder.iterdir() if NAME.fullmatch(path.name)]
    if earlier and not (folder / CREDITS).is_file():
        raise UserError(f"--out {folder} holds pictures already, {earlier[0].name}: name another")
    for path in earlier:
        path.unlink()


def pictures_of(
    options: SampleOptions,
    opened: RetrieveGANRun | Sg2ImRun,
    bank: Bank,
    batches: Sequence[Scenes],
) -> tuple[PictureSet, ChosenPatches | None]:
    """The pictures, and the patches that they are of."""
    seeds = [options.seed + draw for draw in range(options.draws)]
    chosen = None
    if isinstance(opened, RetrieveGANRun):
        rule = opened.rule(options.retrieval, options.start)
        noise = options.noise
        if noise is None:
            noise = noise_by_default(rule, options.draws)
            if noise:
                log.info(noise_note([options.run.resolve().name]))
        retriever = Retriever(opened.model, bank, batches, rule, noise=noise)
        chosen = ChosenPatches(bank, batches, retriever.method, seeds)
    name = options.run.resolve().name
    pictures = run_pictures(
        name, opened.model, batches, seeds, options.boxes, options.deprocessing, chosen
    )
    return pictures, chosen


def credits_of(
    bank: Bank, scenes: Scenes, ids: NDArray[np.int64] | None, options: SampleOptions
) -> Iterator[dict[str, Any]]:
    """Of each picture its boxes, and its patches with their photos' licences, one of each object,
    marked where it is of less quality than was asked for.

    ids  (M, O) of the patches; None: it is made of none
    """
    ends = np.cumsum([len(objects) for objects, _ in scenes.graphs])[:-1]
    of_scenes = [None] * scenes.num_images if ids is None else np.split(ids, ends, axis=1)
    marks = np.split(scenes.below.numpy(), ends)
    for image_id, patches, below in zip(scenes.image_ids, of_scenes, marks, strict=True):
        for draw in range(options.draws):
            yield {
                "picture": picture_name(image_id, draw, options.draws),
                "boxes": options.boxes,
                "patches": [] if patches is None else _marked(bank, patches[draw], below),
            }


def _marked(bank: Bank, ids: NDArray[np.int64], below: NDArray[np.bool_]) -> list[dict[str, Any]]:
    credits = bank.credits(ids.tolist())
    return [
        {**credit, "below_quality": True} if mark else credit
        for credit, mark in zip(credits, below, strict=True)
    ]
