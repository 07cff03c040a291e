"""A trained RetrieveGAN, opened for use: scene graph in, retrieved patches and an image out."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bank.bank import Bank
from bank.candidates import Candidates
from bank.exact_search import PADDING
from bank.files import json_digest
from model import checkpoint
from model.batch import candidate_batch, crops_of, moved
from model.config import (
    MinQuality,
    RetrievalConfig,
    RetrievalMode,
    RetrieveGANConfig,
    Start,
    Which,
)
from model.draws import ByPosition
from model.graph.frozen_encoder import embed_graphs
from model.graph.network import GraphBatch, GraphEncoder, graph_tensors
from model.offer import Offer, offer
from model.padding import padding_of
from model.pixels import to_float, to_uint8
from model.retrieval.choice import (
    choose,
    draw_choice,
    draws_differ,
    numbers_per_object,
    started,
)
from model.retrieval.crops import Crops, open_slots, same_crop
from model.retrievegan.network import RetrieveGAN
from model.run_folder import pin_of, read_config
from model.sources import BankSource
from pipeline.address import Location, location
from pipeline.errors import UserError
from pipeline.scene import Box, SceneGraph, image_of
from pipeline.wording import counted

GRAPHS_KEPT = 128  # whose object vectors are kept, for further draws: some kB each
SMALLEST_SIDE = 0.04  # of a predicted box, as a fraction of the image's side


class RetrievedPatches(NamedTuple):
    """One patch of the bank for each of a graph's n objects."""

    patch_ids: NDArray[np.int64]  # (n,)
    patches: NDArray[np.uint8]  # (n, P, P, 3)
    step: NDArray[np.int64]  # (n,) when each object was assigned its patch; all 0 unless learned
    fallback: NDArray[np.bool_]  # (n,) the patch is of another category than the object
    below: NDArray[np.bool_]  # (n,) the patch falls short of the quality: no better one was there


def load_network(
    run: Path, bank: Bank, device: torch.device, which: Which | int = "last"
) -> tuple[RetrieveGAN, checkpoint.State]:
    """A run's network in evaluation mode, and the state of its last checkpoint or its best.

    RunError where the bank's content is not what the run was trained on.
    """
    config, _ = read_config(run, RetrieveGANConfig)
    folder = checkpoint.chosen(run, which)
    state = checkpoint.read_state(folder)
    checkpoint.check_bank(state, bank, run)
    model = RetrieveGAN(config, bank.vocabulary)
    checkpoint.fill_model(folder, model)
    return model.to(device).eval(), state


def bank_of(run: Path, bank: Location | None = None) -> Bank:
    """The bank that a run was trained on, opened; `bank` where it has moved."""
    _, trained_on = read_config(run, RetrieveGANConfig)
    place = bank or trained_on
    return Bank.open(place, pin_of(run, place))


class RetrieveGANRun:
    """A run and its bank. All that is random is a function of the given seed."""

    def __init__(self, model: RetrieveGAN, bank: Bank, device: torch.device) -> None:
        self.model = model.to(device).eval()
        self.bank = bank
        self.device = device
        self.encoder = GraphEncoder.load(bank.file("graph_encoder.safetensors"))
        self._object_vectors = lru_cache(GRAPHS_KEPT)(self._embed)

    @classmethod
    def open(
        cls,
        run: Path | str,
        bank: Location | str | None = None,
        device: torch.device | str = "cpu",
        which: Which | int = "last",
    ) -> Self:
        """A run folder, at its last checkpoint, its best, or that of a step; `bank` where the bank
        it was trained on has moved."""
        opened = bank_of(Path(run), None if bank is None else location(bank))
        model, _ = load_network(Path(run), opened, torch.device(device), which)
        return cls(model, opened, torch.device(device))

    def retrieve(
        self,
        graph: SceneGraph,
        *,
        seed: int = 0,
        noise: bool = False,
        mode: RetrievalMode | None = None,
        start: Start | None = None,
        k: int | None = None,
        minimum: MinQuality | None = None,
        pin: Mapping[int, int] | None = None,
        ban: Collection[int] = (),
        exclude_images: Collection[int] = (),
    ) -> RetrievedPatches:
        """One patch per object.

        noise   off: learned retrieval takes the most compatible from its start, predefined the
                nearest; on: Gumbel noise, and one of the three nearest. Without it only a random
                start makes seeds of learned retrieval differ
        mode    how to choose; by default as the run was trained
        start   where learned retrieval starts; by default as the run was trained
        k       candidates per object; by default as many as the bank stores
        minimum  the quality that candidates must have; by default as the run was trained
        pin     object -> patch id that it must be given
        ban     patch ids that no object may be given
        exclude_images  image ids whose patches no object may be given. For the graph of a training
                scene give its image id: the bank's stored candidates leave it out too
        """
        rule = self.rule(mode, start)
        learned = rule.mode == "learned"
        candidates, below = self._candidates(
            graph,
            k or self.bank.num_candidates,
            rule.min_quality if minimum is None else minimum,
            pin or {},
            frozenset(ban),
            frozenset(exclude_images),
        )
        batch = candidate_batch(self.bank, candidates, BankSource(self.bank).patches)
        padding = padding_of(self._graph_batch(graph).object_image, 1)
        uniforms = ByPosition(
            seed,
            [_position_of(graph)],
            np.array([len(graph.objects)]),
            numbers_per_object(batch.valid.shape[1]),
        )
        draws = draw_choice(rule, batch.valid, padding, uniforms, noise=noise)
        batch, padding = batch.to(self.device), moved(padding, self.device)
        with torch.no_grad():
            features = self.model.embed(batch.patches) if learned else None
            draws = moved(draws, self.device)
            selection = choose(rule, features, batch.valid, padding, draws, batch.crops)
        rows, slots = np.arange(len(graph.objects)), selection.selected.cpu().numpy()
        patch_ids = candidates.ids[rows, slots]
        return RetrievedPatches(
            patch_ids,
            self.bank.patches(patch_ids),
            selection.step.cpu().numpy(),
            candidates.fallback[rows, slots],
            below,
        )

    def generate(
        self,
        graph: SceneGraph,
        patches: NDArray[np.uint8],
        boxes: Sequence[Box] | None = None,
    ) -> NDArray[np.uint8]:
        """The image (H, W, 3) uint8 composed of one patch (n, P, P, 3) uint8 per object.

        `boxes` say where; by default the graph's own where it has some, else predicted ones.
        """
        objects = counted(len(graph.objects), "object")
        if len(patches) != len(graph.objects):
            raise UserError(f"{counted(len(patches), 'patch')} given for a graph of {objects}")
        boxes = boxes or graph.boxes or self.predict_boxes(graph)
        if len(boxes) != len(graph.objects):
            raise UserError(f"{counted(len(boxes), 'box')} given for a graph of {objects}")
        batch = self._graph_batch(graph)
        padding = moved(padding_of(batch.object_image, 1), self.device)
        batch = batch.to(self.device)
        with torch.no_grad():
            image = self.model.generate(
                self.model.encode(batch),
                batch,
                padding,
                to_float(
                    torch.from_numpy(patches).to(self.device), self.model.config.generator.patch_px
                ),
                torch.tensor(boxes, dtype=torch.float32, device=self.device),
            )
        pixels: NDArray[np.uint8] = to_uint8(image)[0].numpy()
        return pixels

    def predict_boxes(self, graph: SceneGraph) -> tuple[Box, ...]:
        """Where the generator's own graph network would put each object."""
        batch = self._graph_batch(graph).to(self.device)
        with torch.no_grad():
            boxes = self.model.graph(batch.nodes, batch.triples).boxes[: len(graph.objects)]
        return tuple(Box(*corners) for corners in tidy_boxes(boxes).tolist())

    def draws_differ(
        self,
        mode: RetrievalMode | None = None,
        start: Start | None = None,
        *,
        noise: bool = False,
        k: int | None = None,
    ) -> bool:
        """Whether `retrieve`, asked so, depends on its seed, where an object is not pinned."""
        rule = self.rule(mode, start)
        return (k or self.bank.num_candidates) > 1 and draws_differ(rule, noise)

    def _graph_batch(self, graph: SceneGraph) -> GraphBatch:
        if not graph.objects:
            raise UserError("the graph has no objects: give at least one")
        pair = (graph.objects, graph.relations)
        return graph_tensors([pair], self.bank.vocabulary)

    def rule(self, mode: RetrievalMode | None, start: Start | None = None) -> RetrievalConfig:
        """The run's rule of choosing, or another mode or start of it; no crop is chosen twice in a
        scene. UserError for what this run cannot do."""
        rule = replace(self.model.config.retrieval, same_patch_allowed=False)
        if mode is None or mode == rule.mode:
            return started(rule, start)
        if mode == "learned":
            raise UserError(
                f"this run was trained with {rule.mode} retrieval, so its patch embedding has "
                f"learned nothing; sample it with mode {rule.mode!r}, or train with "
                f"--retrieval learned"
            )
        return started(replace(rule, mode=mode), start)

    def _candidates(
        self,
        graph: SceneGraph,
        k: int,
        minimum: MinQuality,
        pin: Mapping[int, int],
        ban: frozenset[int],
        exclude_images: frozenset[int],
    ) -> Offer:
        """K candidates per object, without banned patches and those of excluded photos, taken from
        as many as the bank stores where a quality is asked for; a pinned object has its patch
        alone."""
        for o, patch in pin.items():
            if reason := self.reason_against(graph, o, patch, ban, exclude_images):
                raise UserError(f"pin {o}={patch}: {reason}")
        self.check_bans(ban)
        found = self.bank.search(
            self._object_vectors(graph),
            graph.objects,
            len(ban) + (max(k, self.bank.num_candidates) if minimum.asks else k),
            exclude_images=sorted(exclude_images),
        )
        allowed = found.valid & ~np.isin(found.ids, np.array(sorted(ban), np.int64))
        candidates, below = offer(self.bank, found._replace(valid=allowed), k, minimum)
        for o, patch in pin.items():
            candidates.ids[o], candidates.ids[o, 0] = PADDING, patch
            candidates.distances[o], candidates.distances[o, 0] = np.inf, 0
            candidates.valid[o], candidates.valid[o, 0] = False, True
            category = self.bank.credits([patch])[0]["category"]
            candidates.fallback[o] = category != graph.objects[o]
            below[o] = False
        self._close_pinned(candidates, pin)
        empty = np.flatnonzero(~candidates.valid.any(1))
        if len(empty):
            o = int(empty[0])
            raise UserError(
                f"no patch is left for object {o} ({graph.objects[o]}): "
                f"{counted(len(ban), 'patch')} banned, {counted(len(exclude_images), 'photo')} "
                f"excluded; ban or exclude fewer"
            )
        return Offer(candidates, below)

    def _embed(self, graph: SceneGraph) -> NDArray[np.float32]:
        """(n, D) by the bank's encoder."""
        return embed_graphs(self.encoder, [(graph.objects, graph.relations)])

    def _close_pinned(self, candidates: Candidates, pin: Mapping[int, int]) -> None:
        """The crop of a pinned patch is for its object alone, unless another has nothing else."""
        crops = crops_of(self.bank, self.bank.padded_rows(candidates.ids))
        for o in pin:
            pinned = Crops(*(part[o, :1] for part in crops))
            for other in set(range(len(candidates.ids))) - set(pin):
                taken = same_crop(pinned, Crops(*(part[other] for part in crops)))
                valid = torch.from_numpy(candidates.valid[other])
                candidates.valid[other] = open_slots(valid, taken).numpy()

    def check_bans(self, ban: Collection[int]) -> None:
        """UserError for a patch that the bank lacks."""
        for patch in ban:
            if patch not in self.bank:
                raise UserError(f"ban {patch}: {self.bank.path} has no patch {patch}")

    def reason_against(
        self,
        graph: SceneGraph,
        o: int,
        patch: int,
        ban: Collection[int] = (),
        exclude_images: Collection[int] = (),
    ) -> str | None:
        """Why object `o` of the graph cannot be given the patch; None where it can."""
        if not 0 <= o < len(graph.objects):
            return f"the graph has no object {o}, its objects are 0 to {len(graph.objects) - 1}"
        if patch not in self.bank:
            return f"{self.bank.path} has no patch {patch}"
        if patch in ban:
            return "that patch is banned as well; choose one"
        if image_of(patch) in exclude_images:
            return f"that patch is of photo {image_of(patch)}, which is excluded"
        return None


def _position_of(graph: SceneGraph) -> int:
    """A number for the graph, so that two seeds whose numbers are close are so for one graph."""
    return int(json_digest([graph.objects, graph.relations])[:15], 16)


def tidy_boxes(boxes: Tensor) -> Tensor:
    """Predicted boxes (n, 4) -> corners in order, inside the image, no side too thin to paste."""
    first = torch.minimum(boxes[:, :2], boxes[:, 2:]).clamp(0, 1)
    last = torch.maximum(boxes[:, :2], boxes[:, 2:]).clamp(0, 1)
    missing = (SMALLEST_SIDE - (last - first)).clamp(min=0)
    first = (first - missing / 2).clamp(0, 1 - SMALLEST_SIDE)
    last = torch.maximum(last, first + SMALLEST_SIDE).clamp(max=1)
    return torch.cat([first, last], 1)
