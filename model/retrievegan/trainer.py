"""Trains a RetrieveGAN: the losses of a step and who is updated by which."""

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
from model.graph.frozen_encoder import start_at_mean_box
from model.image_grid import patches_and_images
from model.loader import Collate
from model.loop import Trainer, check_image_size
from model.pixels import to_float, to_uint8
from model.retrievegan.discriminators import ImageDiscriminator, ObjectDiscriminator
from model.retrievegan.network import Output, RetrieveGAN
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

    @classmethod
    def for_bank(cls, config: RetrieveGANConfig, bank: Bank, device: torch.device) -> Self:
        """RunError where the bank stores too few candidates or too small images."""
        check_candidates(config, bank)
        check_image_size(config, bank)
        trainer = cls(config, bank.vocabulary, device)
        start_at_mean_box(trainer.model.graph, mean_box(bank).to(device))
        return trainer

    @property
    def collate(self) -> Collate[SceneBatch]:
        return partial(scene_batch, rule=self.config.retrieval, seed=self.config.seed)

    def step(self, batch: SceneBatch) -> dict[str, Tensor]:
        """One update of the discriminators, then one of the generator; every loss by its name."""
        batch = batch.to(self.device)
        self.set_learning_rates()
        output: Output = self.model(batch)
        discriminator_terms = self.discriminator_terms(batch, output)
        loss = torch.stack([*discriminator_terms.values()]).sum()
        of_discriminators = self.update("discriminator", loss, discriminator_terms)
        terms = self.generator_terms(batch, output) | self.adversarial_terms(batch, output)
        total = losses.weighted(self.config.losses, terms)
        measured = {"total": total, **self.measured(batch, output)}
        values = self.update("generator", total, terms | measured)
        self.step_number += 1
        return values | of_discriminators

    def measured(self, batch: SceneBatch, output: Output) -> dict[str, Tensor]:
        """What is logged beside the losses: how undecided the choice of patches is."""
        if self.config.retrieval.mode != "learned":
            return {}
        return {"selection/entropy": losses.mean(output.selection.entropy, batch.counts.objects)}

    def settings(self) -> dict[str, float]:
        """The temperature of the choice."""
        return {"selection/temperature": self.config.retrieval.temperature}

    def generator_terms(self, batch: SceneBatch, output: Output) -> dict[str, Tensor]:
        """The terms of eq. 5 that need no discriminator."""
        counts = batch.counts
        terms = {"boxes": losses.box_l1(output.box_sides, batch.boxes, counts.objects)}
        if output.gt_selection is not None:
            terms["gt_selection"] = losses.gt_selection(output.gt_selection, *counts)
        if output.cooccurrence is not None:
            padding = batch.padding
            terms["cooccurrence"] = losses.cooccurrence(
                padding.pad(output.cooccurrence), padding.present, counts.images
            )
        terms["reconstruction"] = losses.reconstruction(
            output.rebuilt, self._real(batch), counts.images
        )
        return terms

    def adversarial_terms(self, batch: SceneBatch, output: Output) -> dict[str, Tensor]:
        """The generator's side of eq. 4, on both its images."""
        fake = torch.cat([output.composed, output.rebuilt])
        images, objects = (2 * count for count in batch.counts)
        logits = self.object_discriminator(self._crops(fake, batch))
        terms = {
            "adversarial_image": losses.generator_loss(self.image_discriminator(fake), images),
            "adversarial_object": losses.generator_loss(logits.real, objects),
        }
        if self.config.losses.object_class:
            categories = batch.graph.nodes[: len(batch.boxes)].repeat(2)
            terms["object_class"] = losses.classification(logits.category, categories, objects)
        return terms

    def discriminator_terms(self, batch: SceneBatch, output: Output) -> dict[str, Tensor]:
        """The discriminators' side of eq. 4: the real image against both of the generator's."""
        images = torch.cat([self._real(batch), output.composed.detach(), output.rebuilt.detach()])
        n, objects, counts = len(batch.images), len(batch.boxes), batch.counts
        image_logits = self.image_discriminator(images)
        object_logits = self.object_discriminator(self._crops(images, batch))
        terms = {
            "discriminator_image": losses.discriminator_loss(
                image_logits[:n], image_logits[n:], counts.images
            ),
            "discriminator_object": losses.discriminator_loss(
                object_logits.real[:objects], object_logits.real[objects:], counts.objects
            ),
        }
        if self.config.losses.object_class:
            categories = batch.graph.nodes[:objects]
            terms["discriminator_class"] = losses.classification(
                object_logits.category[:objects], categories, counts.objects
            )
        return terms

    def grid_batch(self, bank: Bank, image_ids: NDArray[np.int64]) -> SceneBatch:
        config, part = self.config, part_of(bank, image_ids)
        return scene_batch(bank, BankSource(bank), part, config.retrieval, config.seed, noise=False)

    def image_grid(self, batch: SceneBatch) -> Image.Image:
        """A row per scene: selected patches (noise off), composed, rebuilt and real image."""
        batch = batch.to(self.device)
        self.model.eval()
        with torch.no_grad():
            output: Output = self.model(batch)
        self.model.train()
        rows = torch.arange(len(batch.boxes), device=self.device)
        patches = output.candidates.patches[rows, output.selection.selected]
        images = (output.composed, output.rebuilt, self._real(batch))
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
        side = self.config.discriminator.object_px
        return crop(images, batch.boxes.repeat(sets, 1), image, side, align_corners=False)


def check_candidates(config: RetrieveGANConfig, bank: Bank) -> None:
    """RunError where the bank stores fewer candidates than the run uses."""
    wanted, stored = config.retrieval.candidates, bank.manifest.recipe["candidates"]
    if wanted > stored:
        raise RunError(
            f"the run uses {wanted} candidates per object, but {bank.path} stores {stored}; "
            f"build the bank with --candidates {wanted} or more"
        )
