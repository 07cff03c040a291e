"""A protocol card, a bank and opened runs in; all scores that the card asks for out."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from model.config import BoxesFrom, RetrievalConfig
from model.retrieval.choice import NEAREST, noise_by_default, started
from model.retrievegan.network import RetrieveGAN
from model.retrievegan.run import RetrieveGANRun
from model.scores.choices import (
    SelectionMethod,
    by_rule,
    choose_all,
    oracle_methods,
    selection_methods,
)
from model.scores.costs import Costs
from model.scores.extractors import Extractor, PictureFeatures
from model.scores.intervals import SceneSums, Score, score_of
from model.scores.perceptual import Lpips
from model.scores.picture_folder import PictureFolder
from model.scores.picture_scores import STYLE, Judges, score_pictures
from model.scores.pictures import (
    Block,
    ChosenPatches,
    PictureSet,
    canvas_pictures,
    folder_pictures,
    photo_pictures,
    photos,
    run_pictures,
    saved_as,
)
from model.scores.protocol import Protocol, ScoredRun
from model.scores.references import photo_features
from model.scores.retrieval import Offered, offered, retrieval_scores
from model.scores.retriever import Retriever
from model.scores.scenes import Scenes, scene_batches
from model.scores.style import (
    StyleClassifier,
    style_accuracy,
    style_agreement,
)
from model.sg2im.run import Sg2ImRun

REAL = "real photos"
STYLE_ACCURACY = "accuracy of the style classifier"


@dataclass(frozen=True)
class OpenedRun:
    name: str
    opened: RetrieveGANRun | Sg2ImRun
    source: ScoredRun

    @property
    def retrieving(self) -> RetrieveGAN | None:
        """Its network, if it chooses patches."""
        model = self.opened.model
        return model if isinstance(model, RetrieveGAN) else None

    @property
    def px(self) -> int:
        """Side of its pictures."""
        model = self.opened.model
        return model.config.image_px if isinstance(model, RetrieveGAN) else model.image_px


@dataclass(frozen=True)
class Measured:
    """A score, and the run that it is of; None of real photos and of other pictures."""

    run: str | None
    score: Score

    def to_json(self) -> dict[str, Any]:
        return {"run": self.run, **asdict(self.score)}


@dataclass(frozen=True)
class OpenedFolder:
    """Pictures that something else made of the scenes' graphs."""

    name: str
    boxes: BoxesFrom
    draws: int  # pictures of each scene that are scored
    pictures: PictureFolder


@dataclass(frozen=True)
class Subjects:
    """All that is opened for a measurement."""

    bank: Bank
    device: torch.device
    runs: Sequence[OpenedRun]
    folders: Sequence[OpenedFolder]
    extractors: Sequence[Extractor]
    lpips: Sequence[Lpips]  # none, or one
    # Of the photos of the bank's patches, in the order of `bank.patch_ids`; None: not known.
    styles: NDArray[np.int64] | None
    classifiers: Mapping[int, StyleClassifier]  # by the side of pictures, px

    def scenes(self, image_ids: Sequence[int], card: Protocol) -> list[Scenes]:
        """With the candidates that the card says for each object."""
        ids = np.array(image_ids, np.int64)
        return scene_batches(self.bank, ids, card.candidates, self.device, card.min_quality)


def sides_of(
    bank: Bank, runs: Sequence[OpenedRun], folders: Sequence[OpenedFolder]
) -> tuple[int, ...]:
    """The sides of all pictures, px, rising; of photos alone the bank's."""
    sides = {run.px for run in runs} | {folder.pictures.width for folder in folders}
    return tuple(sorted(sides or {bank.image_size}))


class Measurement(NamedTuple):
    offered: Offered | None  # None where no score of retrieval is asked for
    scores: list[Measured]


class Row(NamedTuple):
    """Pictures to score, and the run that they are of."""

    run: str | None
    px: int
    pictures: PictureSet


def scores_of_retriever(
    retriever: Retriever,
    batches: Sequence[Scenes],
    styles: NDArray[np.int64] | None,
    *,
    draws: int,
    seed: int,
) -> list[Score]:
    """Of the run's embedding, and of its way of choosing beside others."""
    bank, rule, embeddings = retriever.bank, retriever.rule, retriever.embeddings()
    methods = selection_methods(rule, embeddings)
    if styles is not None:
        own = retriever.trained or embeddings["untrained"]
        methods |= oracle_methods(rule, bank, styles, own)
    choices = choose_all(batches, methods, draws, seed)
    return retrieval_scores(bank, batches, embeddings, choices, styles, seed)


def measure(protocol: Protocol, subjects: Subjects, costs: Costs) -> Measurement:
    """`costs` is told how long each part takes."""
    batches = subjects.scenes(protocol.image_ids, protocol)
    retrievers = {}
    for run in subjects.runs:
        if (model := run.retrieving) is None:
            continue
        rule = started(model.config.retrieval, protocol.start)
        with costs.of("embedding patches"):
            retrievers[run.name] = Retriever(
                model, subjects.bank, batches, rule, noise=bool(run.source.noise)
            )
    measured = []
    choices = None
    if "retrieval" in protocol.scores and retrievers:
        choices = offered(batches)
        for name, retriever in retrievers.items():
            with costs.of("retrieval scores"):
                scores = scores_of_retriever(
                    retriever, batches, subjects.styles, draws=protocol.draws, seed=protocol.seed
                )
            measured += [Measured(name, score) for score in scores]
    judges: dict[int, Judges] = {}
    rows = chain(
        run_rows(protocol, subjects, retrievers, batches),
        canvas_rows(protocol, subjects, retrievers, batches),
        folder_rows(protocol, subjects),
        real_rows(protocol, subjects),
    )
    for row in rows:
        if row.px not in judges:
            judges[row.px] = judges_of(protocol, subjects, row.px, costs)
        found = score_pictures(row.pictures, judges[row.px], protocol.seed, costs)
        measured += [Measured(row.run, score) for score in found]
    if judges:
        measured += [Measured(None, score) for score in classifier_scores(subjects, batches)]
    return Measurement(choices, measured)


def judges_of(protocol: Protocol, subjects: Subjects, px: int, costs: Costs) -> Judges:
    """What looks at pictures of that side."""
    reference = protocol.reference
    assert reference is not None
    digest = reference.pixels[str(px)]
    with costs.of("features of reference photos"):
        features: dict[str, PictureFeatures] = {
            each.name: photo_features(subjects.bank, reference.image_ids, px, digest, each)
            for each in subjects.extractors
        }
    classifier = subjects.classifiers.get(px)
    style = None if classifier is None else partial(agreement, classifier)
    return Judges(subjects.extractors, features, subjects.lpips, style)


def classifier_scores(subjects: Subjects, batches: Sequence[Scenes]) -> list[Score]:
    """Of the style classifiers, on the photos of the scenes: how often each is right, and the
    agreement that it finds, which no generated picture can be expected to exceed."""
    bank, scores = subjects.bank, []
    for px, classifier in subjects.classifiers.items():
        assert subjects.styles is not None
        name = f"the scenes' own photos, {px} px"
        right, agree, pictures = [], [], 0
        for scenes in batches:
            block = photos(bank, scenes.image_ids, px)[:, None]
            own = torch.from_numpy(subjects.styles[bank.rows(scenes.patch_ids.numpy())])
            right.append(accuracy(classifier, block, scenes, own))
            agree.append(agreement(classifier, block, scenes, scenes.boxes))
            pictures += len(block)
        scores += [
            replace(score_of(metric, name, sums), pictures=pictures)
            for metric, sums in ((STYLE, agree), (STYLE_ACCURACY, right))
            if any(part.weights.any() for part in sums)
        ]
    return scores


def agreement(
    classifier: StyleClassifier, block: Block, scenes: Scenes, boxes: Tensor
) -> SceneSums:
    """How many pairs of a scene's objects show one style."""
    return style_agreement(classifier, block, boxes.cpu(), scenes.padding.image.cpu())


def accuracy(
    classifier: StyleClassifier, block: Block, scenes: Scenes, styles: Tensor
) -> SceneSums:
    """How many of the objects of real photos the classifier tells rightly."""
    image = scenes.padding.image.cpu()
    return style_accuracy(classifier, block, scenes.boxes.cpu(), image, styles)


def run_rows(
    protocol: Protocol,
    subjects: Subjects,
    retrievers: Mapping[str, Retriever],
    batches: Sequence[Scenes],
) -> Iterator[Row]:
    """What runs make of the scenes, block by block of the table."""
    for boxes_from in protocol.boxes if "images" in protocol.scores else ():
        for run in subjects.runs:
            chosen = None
            if run.name in retrievers:
                method = retrievers[run.name].method
                chosen = ChosenPatches(subjects.bank, batches, method, protocol.seeds)
            pictures = run_pictures(
                run.name,
                run.opened.model,
                batches,
                protocol.seeds,
                boxes_from,
                protocol.deprocessing,
                chosen,
            )
            yield Row(run.name, run.px, saved_as(pictures, protocol.image_format))


def canvas_rows(
    protocol: Protocol,
    subjects: Subjects,
    retrievers: Mapping[str, Retriever],
    batches: Sequence[Scenes],
) -> Iterator[Row]:
    """The patches that each run chooses; and, for comparison, the nearest and random ones."""
    if "canvas" not in protocol.scores or not retrievers:
        return
    runs = [run for run in subjects.runs if run.name in retrievers]
    methods: list[tuple[str | None, str, int, SelectionMethod]] = [
        (run.name, f"canvas, {run.name}", run.px, retrievers[run.name].method) for run in runs
    ]
    for mode in ("predefined", "random"):
        rule = RetrievalConfig(mode=mode)
        noise = noise_by_default(rule, protocol.per_graph)
        nearest = f"one of the {NEAREST} nearest" if noise else "the nearest"
        patches = nearest if mode == "predefined" else "random"
        methods.append((None, f"canvas: {patches}", runs[0].px, by_rule(rule, None, noise=noise)))
    for run, name, px, method in methods:
        chosen = ChosenPatches(subjects.bank, batches, method, protocol.seeds)
        pictures = canvas_pictures(name, chosen, px)
        yield Row(run, px, saved_as(pictures, protocol.image_format))


def folder_rows(protocol: Protocol, subjects: Subjects) -> Iterator[Row]:
    """Pictures that something else made, of the scenes of which it made enough."""
    for folder in subjects.folders if "images" in protocol.scores else ():
        own, draws = folder.pictures, folder.draws
        batches = subjects.scenes(own.scenes(draws).tolist(), protocol)
        pictures = folder_pictures(folder.name, own, folder.boxes, batches, draws)
        yield Row(None, own.width, pictures)


def real_rows(protocol: Protocol, subjects: Subjects) -> Iterator[Row]:
    """The photos of another split, at each side that pictures have."""
    if protocol.real is None or "images" not in protocol.scores:
        return
    batches = subjects.scenes(protocol.real.image_ids, protocol)
    sides = sorted(map(int, protocol.real.pixels))
    for px in sides:
        name = REAL if len(sides) == 1 else f"{REAL}, {px} px"
        yield Row(None, px, photo_pictures(name, subjects.bank, batches, px))
