"""Trains a RetrieveGAN: the losses of a step and who is updated by which."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bank.bank import Bank
from model import losses
from model.batch import SceneBatch, mean_box, scene_batch
from model.boxes import crop
from model.config import RetrieveGANConfig
from model.fixed_shapes import filled_batch
from model.graph.frozen_encoder import start_at_mean_box
from model.image_grid import patches_and_images
from model.loader import Collate
from model.loop import Losses, Trainer, check_image_size
from model.parallel import Phases
from model.pixels import to_float, to_uint8
from model.precision import in_float32
from model.retrievegan.discriminators import ImageDiscriminator, ObjectDiscriminator
from model.retrievegan.layers import fuse_norms
from model.retrievegan.network import Images, Output, RetrieveGAN
from model.run_folder import RunError
from model.sources import BankSource, part_of
from pipeline.scene import Vocabulary


class RetrieveGANTrainer(Trainer[RetrieveGANConfig, SceneBatch]):
    """RetrieveGAN, D_img and D_obj: an optimiser for the generator, one for both discriminators."""

    model: RetrieveGAN
    needs_derived: ClassVar[bool] = True

    def __init__(
        self, config: RetrieveGANConfig, vocabulary: Vocabulary, device: torch.device | str = "cpu"
    ) -> None:
        torch.manual_seed(config.seed)
        sizes = config.discriminator
        self.model = RetrieveGAN(config, vocabulary)
        self.image_discriminator = ImageDiscriminator(sizes.image_channels)
        self.object_discriminator = ObjectDiscriminator(
            sizes.object_channels, sizes.object_hidden, len(vocabulary.objects)
        )
        discriminators = {
            "image_discriminator": self.image_discriminator,
            "object_discriminator": self.object_discriminator,
        }
        super().__init__(
            config,
            torch.device(device),
            networks={"model": self.model, **discriminators},
            updates={"generator": ("model",), "discriminator": tuple(discriminators)},
        )
        if self.device.type == "cuda":
            # Not those of patches: they are small, and of another shape in every batch.
            fuse_norms(self.model.residual)
            fuse_norms(self.model.decoder)

    @classmethod
    def for_bank(cls, config: RetrieveGANConfig, bank: Bank, device: torch.device) -> Self:
        """RunError where the bank stores too few candidates or too small images."""
        check_candidates(config, bank)
        check_image_size(config, bank)
        trainer = cls(config, bank.vocabulary, device)
        trainer.fix_shapes(bank)
        start_at_mean_box(trainer.model.graph, mean_box(bank).to(device))
        return trainer

    @property
    def reason_against_capture(self) -> str | None:
        if self.config.retrieval.start == "best" and self.config.retrieval.mode == "learned":
            return "--start best has not been tried on a GPU with captured steps"
        return None

    @property
    def collate(self) -> Collate[SceneBatch]:
        config = self.config
        made = partial(scene_batch, rule=config.retrieval, seed=config.seed)
        if self.shapes is None:
            return made
        return partial(filled_batch, collate=made, fill=self.shapes.scenes)

    def phases(self, parts: Sequence[SceneBatch]) -> Phases:
        """The discriminators' update, then the generator's; every loss by its name."""
        if not self.config.losses.of_images:
            return (yield from self.update("generator", parts, self.of_retrieval))
        whole = len(parts) == 1
        outputs: list[Output] = []  # of the whole batch, for both updates

        def of_discriminators(part: SceneBatch) -> Losses:
            with torch.set_grad_enabled(whole):
                output: Output = self.model(part)
            if whole:
                outputs.append(output)
            with self._weights_once(part is parts[0]):
                terms = self.discriminator_terms(part, images_of(output))
            return torch.stack([*terms.values()]).sum(), terms

        def of_generator(part: SceneBatch) -> Losses:
            output = outputs.pop() if whole else self.model(part)
            with self._weights_once(part is parts[0]):
                of_images = self.image_terms(part, images_of(output))
            return self.weighted(part, output, self.retrieval_terms(part, output) | of_images)

        of_both = yield from self.update("discriminator", parts, of_discriminators)
        values = yield from self.update("generator", parts, of_generator)
        return values | of_both

    def of_retrieval(self, part: SceneBatch) -> Losses:
        """The losses of a step that makes no images."""
        output: Output = self.model(part)
        return self.weighted(part, output, self.retrieval_terms(part, output))

    def weighted(self, part: SceneBatch, output: Output, terms: dict[str, Tensor]) -> Losses:
        """The generator's loss, and all that is logged of it."""
        total = losses.weighted(self.config.losses, terms)
        return total, terms | {"total": total, **self.measured(part, output)}

    @contextmanager
    def _weights_once(self, first: bool) -> Iterator[None]:
        """Spectral normalisation takes an iteration at each call while training: of the parts of
        a batch, the first's alone takes one, so that all see the same weights."""
        for discriminator in (self.image_discriminator, self.object_discriminator):
            discriminator.train(first)
        try:
            yield
        finally:
            for discriminator in (self.image_discriminator, self.object_discriminator):
                discriminator.train()

    def measured(self, batch: SceneBatch, output: Output) -> dict[str, Tensor]:
        """What is logged beside the losses: how undecided the choice of patches is."""
        if self.config.retrieval.mode != "learned":
            return {}
        return {"selection/entropy": losses.mean(output.selection.entropy, batch.counts.objects)}

    def settings(self) -> dict[str, float]:
        """The temperature of the choice."""
        return {"selection/temperature": self.config.retrieval.temperature}

    def retrieval_terms(self, batch: SceneBatch, output: Output) -> dict[str, Tensor]:
        """The terms of eq. 5 that look at no image."""
        counts, real = batch.counts, batch.padding.real
        terms = {"boxes": losses.box_l1(output.box_sides, batch.boxes, counts.objects, real)}
        if output.gt_selection is not None:
            terms["gt_selection"] = losses.gt_selection(output.gt_selection, *counts)
        if output.cooccurrence is not None:
            padding = batch.padding
            terms["cooccurrence"] = losses.cooccurrence(
                padding.pad(output.cooccurrence), padding.present, counts.images
            )
        return terms

    def image_terms(self, batch: SceneBatch, made: Images) -> dict[str, Tensor]:
        """Reconstruction, and the generator's side of eq. 4 on both its images."""
        fake = torch.cat([made.composed, made.rebuilt])
        images, objects = (2 * count for count in batch.counts)
        real = batch.padding.twice().real
        logits = self.object_discriminator(self._crops(fake, batch))
        terms = {
            "reconstruction": losses.reconstruction(
                made.rebuilt, self._real(batch), batch.counts.images
            ),
            "adversarial_image": losses.generator_loss(self.image_discriminator(fake), images),
            "adversarial_object": losses.generator_loss(logits.real, objects, real),
        }
        if self.config.losses.object_class:
            categories = batch.graph.nodes[: len(batch.boxes)].repeat(2)
            terms["object_class"] = losses.classification(
                logits.category, categories, objects, real
            )
        return terms

    def discriminator_terms(self, batch: SceneBatch, made: Images) -> dict[str, Tensor]:
        """The discriminators' side of eq. 4: the real image against both of the generator's."""
        images = torch.cat([self._real(batch), made.composed.detach(), made.rebuilt.detach()])
        n, objects, counts = len(batch.images), len(batch.boxes), batch.counts
        real = batch.padding.real
        image_logits = self.image_discriminator(images)
        object_logits = self.object_discriminator(self._crops(images, batch))
        terms = {
            "discriminator_image": losses.discriminator_loss(
                image_logits[:n], image_logits[n:], counts.images
            ),
            "discriminator_object": losses.discriminator_loss(
                object_logits.real[:objects], object_logits.real[objects:], counts.objects, real
            ),
        }
        if self.config.losses.object_class:
            categories = batch.graph.nodes[:objects]
            terms["discriminator_class"] = losses.classification(
                object_logits.category[:objects], categories, counts.objects, real
            )
        return terms

    def grid_batch(self, bank: Bank, image_ids: NDArray[np.int64]) -> SceneBatch:
        """With all candidates that the bank stores, as patches are chosen once trained."""
        part = part_of(bank, image_ids)
        rule = replace(self.config.retrieval, candidates=bank.num_candidates)
        return scene_batch(bank, BankSource(bank), part, rule, self.config.seed, noise=False)

    def image_grid(self, batch: SceneBatch) -> Image.Image:
        """A row per scene: selected patches (noise off), composed, rebuilt and real image."""
        batch = batch.to(self.device)
        self.model.eval()
        with torch.no_grad():
            output: Output = self.model(batch)
        self.model.train()
        rows = torch.arange(len(batch.boxes), device=self.device)
        patches = output.candidates.patches[rows, output.selection.selected]
        images = (*images_of(output), self._real(batch))
        return patches_and_images(
            batch.graph.object_image.tolist(),
            patches.cpu().numpy(),
            [to_uint8(each).numpy() for each in images],
        )

    def _real(self, batch: SceneBatch) -> Tensor:
        """(N, 3, H, W) the true images at the generator's size, in [-1, 1]."""
        return to_float(batch.images, self.config.image_px)

    def _crops(self, images: Tensor, batch: SceneBatch) -> Tensor:
        """Every object's crop from each of several stacked sets of the batch's images.

        images (sets * N, 3, H, W) -> (sets * O, 3, h, w), set by set.
        """
        n = len(batch.images)
        sets = len(images) // n
        image = torch.cat([batch.graph.object_image + i * n for i in range(sets)])
        side, boxes = self.config.discriminator.object_px, batch.boxes.repeat(sets, 1)
        with in_float32(self.device):
            return crop(images, boxes, image, side, align_corners=False)


def images_of(output: Output) -> Images:
    """Those of a pass that made some."""
    assert output.images is not None
    return output.images


def check_candidates(config: RetrieveGANConfig, bank: Bank) -> None:
    """RunError where the bank stores fewer candidates than the run uses."""
    wanted, stored = config.retrieval.candidates, bank.manifest.recipe["candidates"]
    if wanted > stored:
        raise RunError(
            f"the run uses {wanted} candidates per object, but {bank.path} stores {stored}; "
            f"build the bank with --candidates {wanted} or more"
        )
