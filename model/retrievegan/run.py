"""A trained run, opened for use: scene graph in, retrieved patches and an image out."""

import copy
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from bank.candidates import Candidates
from bank.exact_search import PADDING
from model.batch import CandidateBatch, candidate_batch, pixels, to_uint8
from model.checkpoint import load_model, read_config
from model.config import RetrievalMode
from model.graph.frozen_encoder import embed_graphs
from model.graph.network import GraphBatch, GraphEncoder, graph_tensors
from model.retrieval.greedy import Retrieved
from model.retrievegan.network import RetrieveGAN, grid_of_batch
from pipeline.errors import UserError
from pipeline.scene import Box, SceneGraph

SMALLEST_SIDE = 0.04  # share of the picture; a predicted box is never thinner


class Retrieval(NamedTuple):
    """One patch of the bank for each of a graph's n objects."""

    patch_ids: NDArray[np.int64]  # (n,)
    patches: NDArray[np.uint8]  # (n, P, P, 3)
    step: NDArray[np.int64]  # (n,) when each object was given its patch; all 0 unless learned
    fallback: NDArray[np.bool_]  # (n,) the patch is of another category than the object


class Sampler:
    """A run and its bank. Everything drawn is a function of the seed that is given."""

    def __init__(self, model: RetrieveGAN, bank: Bank, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.bank = bank
        self.device = device
        self.encoder = GraphEncoder.load(bank.path / "graph_encoder.safetensors")
        self._features: dict[SceneGraph, NDArray[np.float32]] = {}  # of graphs asked for before

    @classmethod
    def open(
        cls, run: Path | str, bank: Path | str | None = None, device: torch.device | str = "cpu"
    ) -> Self:
        """A run folder; `bank` where the bank it was trained on has moved."""
        place = torch.device(device)
        _, trained_on = read_config(Path(run))
        opened = Bank.open(bank or trained_on)
        model, _ = load_model(Path(run), opened, place)
        return cls(model, opened, place)

    def retrieve(
        self,
        graph: SceneGraph,
        *,
        seed: int = 0,
        noise: bool | None = None,
        mode: RetrievalMode | None = None,
        k: int | None = None,
        pin: Mapping[int, int] | None = None,
        ban: Collection[int] = (),
    ) -> Retrieval:
        """One patch per object.

        noise   off: learned retrieval takes the most compatible from its start, predefined the
                nearest; on: Gumbel noise, and one of the three nearest. By default on only for
                learned retrieval from a fixed start, where seeds would make no difference
        mode    how to choose; by default as the run was trained
        k       candidates per object; by default as many as the bank stores
        pin     object -> patch id that it must be given
        ban     patch ids that nothing may be given
        """
        model = self._in_mode(mode)
        found = self._candidates(graph, k or self.bank.num_candidates, pin or {}, frozenset(ban))
        batch = self._batch(graph)
        rule = model.config.retrieval
        learned = rule.mode == "learned"
        if noise is None:
            noise = learned and rule.start == "medoid"
        generator = torch.Generator().manual_seed(seed)
        offered = _to(candidate_batch(self.bank, found), self.device)
        with torch.no_grad():
            features = model.embed(offered.patches) if learned else None
            chosen: Retrieved = model.choose(
                offered, features, grid_of_batch(batch), generator, noise=noise
            )
        rows, slots = np.arange(len(graph.objects)), chosen.chosen.cpu().numpy()
        patch_ids = found.ids[rows, slots]
        return Retrieval(
            patch_ids,
            self.bank.patches(patch_ids),
            chosen.step.cpu().numpy(),
            found.fallback[rows, slots],
        )

    def generate(
        self,
        graph: SceneGraph,
        patches: NDArray[np.uint8],
        boxes: Sequence[Box] | None = None,
    ) -> NDArray[np.uint8]:
        """The picture (H, W, 3) composed of one patch (n, P, P, 3) per object.

        `boxes` say where; by default the graph's own where it has some, else predicted ones.
        """
        if len(patches) != len(graph.objects):
            raise UserError(
                f"the graph has {len(graph.objects)} objects, but {len(patches)} patches were given"
            )
        places = boxes or graph.boxes or self.predict_boxes(graph)
        if len(places) != len(graph.objects):
            raise UserError(
                f"the graph has {len(graph.objects)} objects, but {len(places)} boxes were given"
            )
        batch = self._batch(graph)
        with torch.no_grad():
            crops = pixels(torch.from_numpy(patches), self.model.config.generator.crop_px)
            where = torch.tensor(places, dtype=torch.float32)
            image = self.model.generate(
                self.model.encode(batch).objects,
                batch,
                crops.to(self.device),
                where.to(self.device),
            )
        picture: NDArray[np.uint8] = to_uint8(image)[0].numpy()
        return picture

    def predict_boxes(self, graph: SceneGraph) -> tuple[Box, ...]:
        """Where the generator's own graph network would put each object."""
        batch = self._batch(graph)
        with torch.no_grad():
            boxes = self.model.encode(batch).boxes[: len(graph.objects)]
        return tuple(Box(*corners) for corners in tidy_boxes(boxes).tolist())

    def _batch(self, graph: SceneGraph) -> GraphBatch:
        if not graph.objects:
            raise UserError("the graph has no objects: give at least one")
        pair = (graph.objects, graph.relations)
        return graph_tensors([pair], self.bank.vocabulary).to(self.device)

    def _in_mode(self, mode: RetrievalMode | None) -> RetrieveGAN:
        """The model, or one that shares its weights and chooses by another rule."""
        rule = self.model.config.retrieval
        if mode is None or mode == rule.mode:
            return self.model
        if mode == "learned":
            raise UserError(
                f"this run was trained with {rule.mode} retrieval, so its patch embedding has "
                f"learned nothing; sample it with mode {rule.mode!r}, or train with "
                f"--retrieval learned"
            )
        other = copy.copy(self.model)
        other.config = replace(self.model.config, retrieval=replace(rule, mode=mode))
        return other

    def _candidates(
        self, graph: SceneGraph, k: int, pin: Mapping[int, int], ban: frozenset[int]
    ) -> Candidates:
        """K candidates per object, without what is banned; a pinned object has one."""
        self._check_pins(graph, pin, ban)
        unknown = np.setdiff1d(np.array(sorted(ban), np.int64), self.bank.patch_ids)
        if len(unknown):
            raise UserError(f"ban {unknown[0]}: {self.bank.path} has no patch {unknown[0]}")
        if graph not in self._features:
            pair = (graph.objects, graph.relations)
            self._features[graph] = embed_graphs(self.encoder, [pair])
        found = self.bank.search(self._features[graph], graph.objects, k + len(ban))
        found = _without(found, ban, k)
        for o, patch in pin.items():
            found.ids[o], found.ids[o, 0] = PADDING, patch
            found.distances[o], found.distances[o, 0] = np.inf, 0
            found.valid[o], found.valid[o, 0] = False, True
            category = self.bank.credits([patch])[0]["category"]
            found.fallback[o] = category != graph.objects[o]
        empty = np.flatnonzero(~found.valid.any(1))
        if len(empty):
            o = int(empty[0])
            raise UserError(
                f"no patch is left for object {o} ({graph.objects[o]}): {len(ban)} are banned; "
                f"ban fewer"
            )
        return found

    def _check_pins(self, graph: SceneGraph, pin: Mapping[int, int], ban: frozenset[int]) -> None:
        known = self.bank.patch_ids
        for o, patch in pin.items():
            if not 0 <= o < len(graph.objects):
                raise UserError(
                    f"pin {o}={patch}: the graph has no object {o}, its objects are 0 to "
                    f"{len(graph.objects) - 1}"
                )
            at = int(np.searchsorted(known, patch))
            if at == len(known) or known[at] != patch:
                raise UserError(f"pin {o}={patch}: {self.bank.path} has no patch {patch}")
            if patch in ban:
                raise UserError(f"pin {o}={patch}: that patch is banned as well; choose one")


def tidy_boxes(boxes: Tensor) -> Tensor:
    """Predicted boxes (n, 4) -> corners in order, inside the picture, no side too thin to paste."""
    first = torch.minimum(boxes[:, :2], boxes[:, 2:]).clamp(0, 1)
    last = torch.maximum(boxes[:, :2], boxes[:, 2:]).clamp(0, 1)
    missing = (SMALLEST_SIDE - (last - first)).clamp(min=0)
    first = (first - missing / 2).clamp(0, 1 - SMALLEST_SIDE)
    last = torch.maximum(last, first + SMALLEST_SIDE).clamp(max=1)
    return torch.cat([first, last], 1)


def _without(found: Candidates, ban: frozenset[int], k: int) -> Candidates:
    """The first k of each row that are not banned, in their order."""
    keep = found.valid & ~np.isin(found.ids, np.array(sorted(ban), np.int64))
    order = np.argsort(~keep, axis=1, kind="stable")[:, :k]  # what is kept first, in its order
    rows = np.arange(len(keep))[:, None]
    valid = keep[rows, order]
    return Candidates(
        np.where(valid, found.ids[rows, order], PADDING),
        np.where(valid, found.distances[rows, order], np.float32(np.inf)),
        valid,
        found.fallback[rows, order] & valid,
    )


def _to(candidates: CandidateBatch, device: torch.device) -> CandidateBatch:
    return CandidateBatch(*(part.to(device) for part in candidates))
