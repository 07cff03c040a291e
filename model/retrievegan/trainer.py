"""Trains a RetrieveGAN on a bank: what a step minimises, and how it is shown."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor, nn

from bank.bank import Bank
from model import checkpoint, losses
from model.batch import (
    CandidateBatch,
    SceneBatch,
    mean_box,
    pixels,
    scene_batch,
    to_uint8,
    training_batches,
)
from model.config import TrainConfig
from model.graph.frozen_encoder import start_at_mean_box
from model.graph.network import GraphBatch
from model.image_grid import sample_grid
from model.loop import Training
from model.retrieval.greedy import Retrieved
from model.retrievegan.discriminators import ImageDiscriminator, ObjectDiscriminator, crop_objects
from model.retrievegan.network import RetrieveGAN, grid_of_batch


class Fakes(NamedTuple):
    """What one forward pass makes of a batch, true boxes throughout."""

    terms: dict[str, Tensor]  # loss terms that need no discriminator
    composed: Tensor  # (N, 3, H, W) from retrieved patches
    rebuilt: Tensor  # (N, 3, H, W) from true patches
    chosen: Retrieved
    offered: CandidateBatch  # what `chosen` points into


def doubled(graph: GraphBatch) -> GraphBatch:
    """The same scenes twice in one batch: objects, objects again, pictures, pictures again."""
    objects = len(graph.object_image)
    images = len(graph.nodes) - objects
    node = torch.arange(len(graph.nodes), device=graph.nodes.device)
    first = torch.where(node < objects, node, node + objects)
    second = torch.where(node < objects, node + objects, node + objects + images)
    subject, predicate, other = graph.triples.unbind(1)
    triples = torch.cat(
        [torch.stack([at[subject], predicate, at[other]], 1) for at in (first, second)]
    )
    things, pictures = graph.nodes[:objects], graph.nodes[objects:]
    nodes = torch.cat([things, things, pictures, pictures])
    image = torch.cat([graph.object_image, graph.object_image + images])
    return GraphBatch(nodes, triples, image)


class Trainer(Training[TrainConfig, SceneBatch]):
    """Generator with retrieval on one side, both discriminators on the other."""

    model: RetrieveGAN

    def __init__(self, config: TrainConfig, bank: Bank, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        sizes = config.discriminator
        _check_candidates(config, bank)
        self.model = RetrieveGAN(config, bank.vocabulary)
        start_at_mean_box(self.model.graph, mean_box(bank))
        self.judge_image = ImageDiscriminator(sizes.image_channels)
        self.judge_object = ObjectDiscriminator(
            sizes.object_channels, sizes.object_hidden, len(bank.vocabulary.objects)
        )
        networks = {
            "model": self.model,
            "judge_image": self.judge_image,
            "judge_object": self.judge_object,
        }
        judges = ("judge_image", "judge_object")
        updates = {"generator": ("model",), "discriminator": judges}
        super().__init__(config, bank, device, networks, updates)

    def batches(self) -> Iterator[SceneBatch]:
        config = self.config
        return training_batches(
            self.bank,
            partial(scene_batch, k=config.retrieval.candidates),
            batch=config.batch,
            seed=config.seed,
            first_step=self.step_number,
            workers=config.workers,
        )

    def check(self, state: dict[str, Any], run: Path) -> None:
        super().check(state, run)
        checkpoint.check_derived(state, self.bank, run)

    def forward(
        self, batch: SceneBatch, generator: torch.Generator, *, noise: bool = True
    ) -> Fakes:
        """Both passes: candidates only, and the true patches; `noise` is the choice's."""
        model, graph, candidates = self.model, batch.graph, batch.candidates
        grid = grid_of_batch(graph)
        encoding = model.encode(graph)
        objects = len(batch.boxes)
        things, pictures = encoding.objects[:objects], encoding.objects[objects:]
        terms = {"boxes": losses.box_regression(model.box_sides(things), batch.boxes)}
        features = None
        if self.config.retrieval.mode == "learned":
            everything = torch.cat([candidates.patches, batch.truth[:, None]], 1)
            embedded = model.embed(everything)
            features, truth = embedded[:, :-1], embedded[:, -1]
            picked = model.ground_truth_pass(features, candidates.valid, truth, grid, generator)
            terms["gt_selection"] = losses.gt_selection(picked.losses, picked.counted)
            if self.config.retrieval.gt_in_candidates:
                candidates = _with_truth(batch, self.bank)
                features = embedded
        chosen = model.choose(candidates, features, grid, generator, noise=noise)
        if features is not None:
            vectors = torch.einsum("ok,okf->of", chosen.weights, candidates.occurrence)
            terms["co_occurrence"] = losses.co_occurrence(grid.spread(vectors), grid.present)
        selected = model.selected_pixels(candidates, chosen.weights)
        patches = torch.cat([selected, pixels(batch.truth, self.config.generator.crop_px)])
        both = model.generate(
            torch.cat([things, things, pictures, pictures]),
            doubled(graph),
            patches,
            torch.cat([batch.boxes, batch.boxes]),
        )
        composed, rebuilt = both.chunk(2)
        real = pixels(batch.images, self.config.image_px)
        terms["reconstruction"] = losses.reconstruction(rebuilt, real)
        return Fakes(terms, composed, rebuilt, chosen, candidates)

    def judge_terms(self, batch: SceneBatch, fakes: Fakes) -> dict[str, Tensor]:
        """The discriminators' losses on one batch."""
        fake = torch.cat([fakes.composed, fakes.rebuilt]).detach()
        real = pixels(batch.images, self.config.image_px)
        verdict = self.judge_image(torch.cat([real, fake]))
        seen = self.judge_object(self._crops(torch.cat([real, fake]), batch, 3))
        objects = len(batch.boxes)
        categories = batch.graph.nodes[:objects]
        n = len(real)
        terms = {
            "judge_image": losses.tells_apart(verdict[:n], verdict[n:]),
            "judge_object": losses.tells_apart(seen.real[:objects], seen.real[objects:]),
        }
        if self.config.losses.object_class:
            on_real = nn.functional.cross_entropy(seen.category[:objects], categories)
            terms["judge_class"] = on_real
        return terms

    def adversarial_terms(self, batch: SceneBatch, fakes: Fakes) -> dict[str, Tensor]:
        """What the discriminators tell the generator."""
        fake = torch.cat([fakes.composed, fakes.rebuilt])
        seen = self.judge_object(self._crops(fake, batch, 2))
        categories = batch.graph.nodes[: len(batch.boxes)].repeat(2)
        terms = {
            "adversarial_image": losses.looks_real(self.judge_image(fake)),
            "adversarial_object": losses.looks_real(seen.real),
        }
        if self.config.losses.object_class:
            terms["object_class"] = nn.functional.cross_entropy(seen.category, categories)
        return terms

    def step(self, batch: SceneBatch) -> dict[str, float]:
        """One update of the discriminators and one of the generator; every loss by its name."""
        batch = batch.to(self.device)
        self.set_learning_rates()
        fakes = self.forward(batch, self.noise(self.step_number))
        judged = self.judge_terms(batch, fakes)
        self.update("discriminator", sum(judged.values(), torch.zeros((), device=self.device)))
        terms = fakes.terms | self.adversarial_terms(batch, fakes)
        total = losses.weighted(self.config.losses, terms)
        named = self.finite(terms | judged | {"total": total})
        self.update("generator", total)
        self.step_number += 1
        return named

    def _crops(self, images: Tensor, batch: SceneBatch, times: int) -> Tensor:
        """Every object's crop from `times` stacked versions of the batch's images."""
        image = batch.graph.object_image
        n = len(batch.images)
        which = torch.cat([image + i * n for i in range(times)])
        return crop_objects(
            images, batch.boxes.repeat(times, 1), which, self.config.discriminator.object_px
        )

    def grid(self) -> Image.Image:
        """Held-out scenes: retrieved patches (noise off), composed, rebuilt and real image."""
        k = self.config.retrieval.candidates
        batch = scene_batch(self.bank, self.held_out(), k).to(self.device)
        self.model.eval()
        with torch.no_grad():
            fakes = self.forward(batch, self.noise(0), noise=False)
        self.model.train()
        rows = torch.arange(len(fakes.chosen.chosen), device=self.device)
        patches = fakes.offered.patches[rows, fakes.chosen.chosen]
        return sample_grid(
            batch.graph.object_image.tolist(),
            patches.cpu().numpy(),
            [to_uint8(i).numpy() for i in (fakes.composed, fakes.rebuilt)]
            + [to_uint8(pixels(batch.images, self.config.image_px)).numpy()],
        )


def _check_candidates(config: TrainConfig, bank: Bank) -> None:
    wanted, stored = config.retrieval.candidates, bank.manifest.recipe["candidates"]
    if wanted > stored:
        raise checkpoint.RunError(
            f"the run offers {wanted} candidates per object, but {bank.path} stores {stored}; "
            f"build the bank with --candidates {wanted} or more"
        )


def _with_truth(batch: SceneBatch, bank: Bank) -> CandidateBatch:
    """The candidates with each object's true patch as the last one."""
    given = batch.candidates
    own = torch.from_numpy(bank.cooccurrence(batch.patch_ids.cpu().numpy()))
    return CandidateBatch(
        torch.cat([given.ids, batch.patch_ids[:, None]], 1),
        torch.cat([given.patches, batch.truth[:, None]], 1),
        torch.cat([given.valid, torch.ones_like(given.valid[:, :1])], 1),
        torch.cat([given.occurrence, own[:, None].to(given.occurrence.device)], 1),
    )
