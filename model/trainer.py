"""Trains a RetrieveGAN on a bank: one step, the loop around it, what it writes down."""

import json
import math
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

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
from model.discriminators import ImageDiscriminator, ObjectDiscriminator, crop_objects
from model.encoder import start_at_mean_box
from model.graph import GraphBatch
from model.grids import sample_grid
from model.retrieval import Retrieved
from model.retrievegan import RetrieveGAN, grid_of_batch
from pipeline.progress import progress

GRID_SCENES = 6


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


class Trainer:
    """Holds networks, optimisers and the step; everything random is a function of (seed, step)."""

    def __init__(self, config: TrainConfig, bank: Bank, device: torch.device) -> None:
        self.config, self.bank, self.device, self.step_number = config, bank, device, 0
        torch.manual_seed(config.seed)
        sizes = config.discriminator
        _check_candidates(config, bank)
        self.model = RetrieveGAN(config, bank.vocabulary)
        start_at_mean_box(self.model.graph, mean_box(bank))
        self.judge_image = ImageDiscriminator(sizes.image_channels)
        self.judge_object = ObjectDiscriminator(
            sizes.object_channels, sizes.object_hidden, len(bank.vocabulary.objects)
        )
        for network in self.networks.values():
            network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        judges = [*self.judge_image.parameters(), *self.judge_object.parameters()]
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "generator": torch.optim.Adam(
                self.model.parameters(), config.lr_generator, config.betas
            ),
            "discriminator": torch.optim.Adam(judges, config.lr_discriminator, config.betas),
        }

    @property
    def networks(self) -> dict[str, nn.Module]:
        return {
            "model": self.model,
            "judge_image": self.judge_image,
            "judge_object": self.judge_object,
        }

    def noise(self, step: int) -> torch.Generator:
        """Draws for one step: the same on every device and after every interruption."""
        words = np.random.SeedSequence((self.config.seed, step)).generate_state(2, np.uint32)
        return torch.Generator().manual_seed(int(words[0]) << 32 | int(words[1]))

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
        self._set_learning_rates()
        fakes = self.forward(batch, self.noise(self.step_number))
        judged = self.judge_terms(batch, fakes)
        self._update("discriminator", sum(judged.values(), torch.zeros((), device=self.device)))
        terms = fakes.terms | self.adversarial_terms(batch, fakes)
        total = self.weighted(terms)
        named = {k: float(v.detach()) for k, v in (terms | judged | {"total": total}).items()}
        self._stop_if_not_finite(named)
        self._update("generator", total)
        self.step_number += 1
        return named

    def weighted(self, terms: dict[str, Tensor]) -> Tensor:
        """Eq. 5."""
        weights = self.config.losses
        parts = [getattr(weights, name) * term for name, term in terms.items()]
        return torch.stack([part.float() for part in parts]).sum()

    def _crops(self, images: Tensor, batch: SceneBatch, times: int) -> Tensor:
        """Every object's crop from `times` stacked versions of the batch's images."""
        image = batch.graph.object_image
        n = len(batch.images)
        which = torch.cat([image + i * n for i in range(times)])
        return crop_objects(
            images, batch.boxes.repeat(times, 1), which, self.config.discriminator.object_px
        )

    def _set_learning_rates(self) -> None:
        """A function of the step, so that there is no schedule to save."""
        config = self.config
        left = 1 - self.step_number / config.steps
        share = 1.0 if config.decay_from == 1 else min(left / (1 - config.decay_from), 1.0)
        for name, rate in (
            ("generator", config.lr_generator),
            ("discriminator", config.lr_discriminator),
        ):
            for group in self.optimisers[name].param_groups:
                group["lr"] = rate * max(share, 0.0)

    def _update(self, name: str, loss: Tensor) -> None:
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()

    def _stop_if_not_finite(self, named: dict[str, float]) -> None:
        for name, value in named.items():
            if not math.isfinite(value):
                raise checkpoint.RunError(
                    f"the loss {name!r} is {value} at step {self.step_number}; the last checkpoint "
                    f"is kept: lower the learning rate or the weight of that loss"
                )

    def save(self, run: Path) -> None:
        checkpoint.save(run, self.step_number, self.bank, self.networks, self.optimisers)

    def restore(self, run: Path) -> None:
        """Go on from run/checkpoint.pt."""
        state = checkpoint.load(run, self.device)
        checkpoint.check_bank(state, self.bank, run)
        checkpoint.check_derived(state, self.bank, run)
        checkpoint.fill(run, state, self.networks, self.optimisers)
        self.step_number = state["step"]

    def grid(self) -> Image.Image:
        """Held-out scenes: retrieved patches (noise off), composed, rebuilt and real image."""
        ids = self.bank.scene_ids("val")[:GRID_SCENES]
        if not len(ids):
            ids = self.bank.scene_ids("train")[:GRID_SCENES]
        batch = scene_batch(self.bank, ids, self.config.retrieval.candidates).to(self.device)
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


def train(trainer: Trainer, run: Path) -> None:
    """From the trainer's step to config.steps; log, curves, grids and checkpoints go to `run`."""
    config = trainer.config
    first = trainer.step_number
    batches = training_batches(
        trainer.bank,
        batch=config.batch,
        k=config.retrieval.candidates,
        seed=config.seed,
        first_step=first,
        workers=config.workers,
    )
    _keep_log_until(run / "log.jsonl", first)
    writer = SummaryWriter(str(run / "tensorboard"), purge_step=first)
    started = time.monotonic()
    with (run / "log.jsonl").open("a", 1, "utf-8") as log:  # a line at a time
        for step in progress(range(first, config.steps), "training", config.steps - first, "step"):
            named = trainer.step(next(batches))
            log.write(json.dumps({"step": step, **named}) + "\n")
            for name, value in named.items():
                writer.add_scalar(f"loss/{name}", value, step)
            if step == first and trainer.device.type == "cpu":
                _say_how_long(config, config.steps - first, time.monotonic() - started)
            done = step + 1
            if done % config.grid_every == 0 or done == config.steps:
                trainer.grid().save(run / f"samples-{done:06d}.png")
            if done % config.checkpoint_every == 0 or done == config.steps:
                trainer.save(run)
    writer.close()


def _say_how_long(config: TrainConfig, steps: int, one_step_s: float) -> None:
    hours = one_step_s * steps / 3600
    if hours > 1:
        advice = "" if config.recipe == "demo" else "; --recipe demo takes minutes"
        print(
            f"about {hours:,.0f} hours on this CPU for {steps:,} steps of recipe "
            f"{config.recipe}{advice}",
            flush=True,
        )


def _keep_log_until(path: Path, step: int) -> None:
    """Drop lines of steps that will be taken again."""
    if not path.exists():
        return
    kept = []
    for line in path.read_text("utf-8").splitlines():
        try:
            if json.loads(line)["step"] < step:
                kept.append(line)
        except json.JSONDecodeError:  # the last line of a run that was killed
            continue
    partial = path.with_name(path.name + ".partial")
    partial.write_text("".join(line + "\n" for line in kept), "utf-8")
    partial.replace(path)


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
    own = torch.from_numpy(bank.co_occurrence(batch.patch_ids.cpu().numpy()))
    return CandidateBatch(
        torch.cat([given.ids, batch.patch_ids[:, None]], 1),
        torch.cat([given.patches, batch.truth[:, None]], 1),
        torch.cat([given.valid, torch.ones_like(given.valid[:, :1])], 1),
        torch.cat([given.occurrence, own[:, None].to(given.occurrence.device)], 1),
    )
