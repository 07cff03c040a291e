"""A protocol card, a bank and opened runs in; all scores that the card asks for out."""

from collections.abc import Callable, Iterator, Mapping, Sequence
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
from model.scores.retriever import Retriever, draws_with_noise
from model.scores.scenes import Scenes, scene_batches
from model.scores.style import (
    StyleClassifier,
    style_accuracy,
    style_agreement,
    style_classifier,
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


def measure(
    protocol: Protocol,
    bank: Bank,
    runs: Sequence[OpenedRun],
    folders: Sequence[OpenedFolder],
    extractors: Sequence[Extractor],
    lpips: Sequence[Lpips],
    styles: NDArray[np.int64] | None,
    device: torch.device,
    costs: Costs,
) -> Measurement:
    """
    styles  of the photos of the bank's patches, in the order of `bank.patch_ids`; None: not known
    costs   is told how long each part takes
    """
    scenes = partial(_scenes, bank, protocol.candidates, device)
    batches = scenes(protocol.image_ids)
    retrievers = {}
    for run in runs:
        if isinstance(model := run.opened.model, RetrieveGAN):
            noise = bool(run.source.noise)
            with costs.of("embedding patches"):
                retrievers[run.name] = Retriever(
                    model, bank, batches, model.config.retrieval, noise=noise
                )
    measured = []
    choices = None
    if "retrieval" in protocol.scores and retrievers:
        choices = offered(batches)
        for name, retriever in retrievers.items():
            with costs.of("retrieval scores"):
                scores = scores_of_retriever(
                    retriever, batches, styles, draws=protocol.draws, seed=protocol.seed
                )
            measured += [Measured(name, score) for score in scores]
    judges = Panel(protocol, bank, extractors, lpips, styles, costs)
    rows = chain(
        run_rows(protocol, bank, runs, retrievers, batches),
        canvas_rows(protocol, bank, runs, retrievers, batches),
        folder_rows(protocol, folders, scenes),
        real_rows(protocol, bank, scenes),
    )
    for row in rows:
        found = score_pictures(row.pictures, judges.at(row.px), protocol.seed, costs)
        measured += [Measured(row.run, score) for score in found]
    measured += [Measured(None, score) for score in judges.own_scores(batches)]
    return Measurement(choices, measured)


def _scenes(bank: Bank, k: int, device: torch.device, image_ids: Sequence[int]) -> list[Scenes]:
    return scene_batches(bank, np.array(image_ids, np.int64), k, device)


class Panel:
    """What looks at pictures, for each side in px that they have."""

    def __init__(
        self,
        protocol: Protocol,
        bank: Bank,
        extractors: Sequence[Extractor],
        lpips: Sequence[Lpips],
        styles: NDArray[np.int64] | None,
        costs: Costs,
    ) -> None:
        self.reference, self.bank, self.costs = protocol.reference, bank, costs
        self.extractors, self.lpips, self.styles = extractors, lpips, styles
        self.by_side: dict[int, Judges] = {}
        self.classifiers: dict[int, StyleClassifier] = {}

    def at(self, px: int) -> Judges:
        if px not in self.by_side:
            self.by_side[px] = self._gathered(px)
        return self.by_side[px]

    def _gathered(self, px: int) -> Judges:
        reference, bank = self.reference, self.bank
        assert reference is not None
        digest = reference.pixels[str(px)]
        with self.costs.of("features of reference photos"):
            features: dict[str, PictureFeatures] = {
                each.name: photo_features(bank, reference.image_ids, px, digest, each)
                for each in self.extractors
            }
        style = None
        if self.styles is not None:
            with self.costs.of("style classifier"):
                self.classifiers[px] = style_classifier(bank, self.styles, px)
            style = partial(agreement, self.classifiers[px])
        return Judges(self.extractors, features, self.lpips, style)

    def own_scores(self, batches: Sequence[Scenes]) -> list[Score]:
        """Of the style classifier itself, on the photos of the scenes: how often it is right, and
        the agreement that it finds, which no generated picture can be expected to exceed."""
        scores = []
        for px, classifier in self.classifiers.items():
            assert self.styles is not None
            name = f"the scenes' own photos, {px} px"
            right, agree, pictures = [], [], 0
            for scenes in batches:
                block = photos(self.bank, scenes.image_ids, px)[:, None]
                own = torch.from_numpy(self.styles[self.bank.rows(scenes.patch_ids.numpy())])
                right.append(accuracy(classifier, block, scenes, own))
                agree.append(agreement(classifier, block, scenes, scenes.boxes))
                pictures += len(block)
            scores += [
                replace(score_of(metric, name, sums), pictures=pictures)
                for metric, sums in ((STYLE, agree), (STYLE_ACCURACY, right))
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
    bank: Bank,
    runs: Sequence[OpenedRun],
    retrievers: Mapping[str, Retriever],
    batches: Sequence[Scenes],
) -> Iterator[Row]:
    """What runs make of the scenes, block by block of the table."""
    for boxes_from in protocol.boxes if "images" in protocol.scores else ():
        for run in runs:
            chosen = None
            if run.name in retrievers:
                method = retrievers[run.name].method
                chosen = ChosenPatches(bank, batches, method, protocol.seeds)
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
    bank: Bank,
    runs: Sequence[OpenedRun],
    retrievers: Mapping[str, Retriever],
    batches: Sequence[Scenes],
) -> Iterator[Row]:
    """The patches that each run chooses, and those of predefined and random retrieval."""
    if "canvas" not in protocol.scores or not retrievers:
        return
    px = next(run.px for run in runs if run.name in retrievers)
    methods: dict[str, tuple[str | None, SelectionMethod]] = {
        name: (name, retriever.method) for name, retriever in retrievers.items()
    }
    for mode in ("predefined", "random"):
        rule = RetrievalConfig(mode=mode)
        noise = draws_with_noise(rule, protocol.per_graph)
        methods.setdefault(mode, (None, by_rule(rule, None, noise=noise)))
    for name, (run, method) in methods.items():
        chosen = ChosenPatches(bank, batches, method, protocol.seeds)
        pictures = canvas_pictures(f"canvas, {name}", chosen, px)
        yield Row(run, px, saved_as(pictures, protocol.image_format))


def folder_rows(
    protocol: Protocol,
    folders: Sequence[OpenedFolder],
    scenes: Callable[[Sequence[int]], list[Scenes]],
) -> Iterator[Row]:
    """Pictures that something else made, of the scenes of which it made enough."""
    for folder in folders if "images" in protocol.scores else ():
        own, draws = folder.pictures, folder.draws
        batches = scenes(own.scenes(draws).tolist())
        pictures = folder_pictures(folder.name, own, folder.boxes, batches, draws)
        yield Row(None, own.width, pictures)


def real_rows(
    protocol: Protocol, bank: Bank, scenes: Callable[[Sequence[int]], list[Scenes]]
) -> Iterator[Row]:
    """The photos of another split, at each side that pictures have."""
    if protocol.real is None or "images" not in protocol.scores:
        return
    batches = scenes(protocol.real.image_ids)
    sides = sorted(map(int, protocol.real.pixels))
    for px in sides:
        name = REAL if len(sides) == 1 else f"{REAL}, {px} px"
        yield Row(None, px, photo_pictures(name, bank, batches, px))
