"""Trains sg2im on a bank's scenes: the losses and updates of its scripts/train.py."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bank.bank import Bank
from model import losses
from model.batch import ImageBatch, image_batch
from model.config import Sg2ImConfig
from model.draws import normal_maps
from model.fixed_shapes import filled_batch
from model.image_grid import images_side_by_side
from model.loader import Collate
from model.loop import Losses, Trainer, check_image_size
from model.parallel import Phases, Ranks
from model.pixels import to_float, to_uint8
from model.precision import in_float32
from model.sg2im.discriminators import Sg2ImImageDiscriminator, Sg2ImObjectDiscriminator
from model.sg2im.imagenet import denormalised, normalised
from model.sg2im.network import Sg2Im
from model.sources import BankSource, part_of
from pipeline.output import log
from pipeline.scene import Vocabulary

TermsOf = Callable[[ImageBatch, Tensor], dict[str, Tensor]]


class Sg2ImTrainer(Trainer[Sg2ImConfig, ImageBatch]):
    """Generator, D_img and D_obj, each with an optimiser of its own."""

    model: Sg2Im

    def __init__(
        self, config: Sg2ImConfig, vocabulary: Vocabulary, device: torch.device | str = "cpu"
    ) -> None:
        torch.manual_seed(config.seed)
        self._renewed = False  # the optimiser at `eval_after`
        sizes = config.discriminator
        self.model = Sg2Im(vocabulary, **config.sizes)
        self.image_discriminator = Sg2ImImageDiscriminator(sizes.image_channels)
        self.object_discriminator = Sg2ImObjectDiscriminator(
            len(vocabulary.objects),
            sizes.object_channels,
            sizes.object_hidden,
            sizes.object_px,
        )
        super().__init__(
            config,
            torch.device(device),
            networks={
                "model": self.model,
                "image_discriminator": self.image_discriminator,
                "object_discriminator": self.object_discriminator,
            },
            updates={
                "generator": ("model",),
                "image_discriminator": ("image_discriminator",),
                "object_discriminator": ("object_discriminator",),
            },
        )

    @classmethod
    def for_bank(cls, config: Sg2ImConfig, bank: Bank, device: torch.device) -> Self:
        """RunError where the bank's images are smaller than the run's; says where no mask will be
        learned."""
        check_image_size(config, bank)
        if config.generator.masks and config.losses.masks and not bank.has_masks:
            log.warning(f"{bank.path} has no masks, so --losses.masks has no effect")
        elif config.generator.masks and not config.losses.masks and bank.has_masks:
            log.info(
                "true masks are laid out and their loss has weight 0, as published: no mask will "
                "be learned, and sampling predicts masks; sg2im's authors advise --losses.masks "
                "0.1 for COCO"
            )
        trainer = cls(config, bank.vocabulary, device)
        trainer.fix_shapes(bank)
        return trainer

    def join(self, ranks: Ranks) -> None:
        super().join(ranks)
        parts = ranks.size * self.config.execution.accumulate
        if parts > 1:
            log.info(
                f"sg2im's batch normalisation sees each part's own scenes "
                f"({self.config.batch_size // parts} of {self.config.batch_size}), so the run is "
                f"another for another number of processes or another --accumulate"
            )

    @property
    def collate(self) -> Collate[ImageBatch]:
        if self.shapes is None:
            return image_batch
        return partial(filled_batch, collate=image_batch, fill=self.shapes.images)

    def mode(self) -> bool:
        """Whether batch normalisation still is that of training."""
        return self.model.training

    def forward(self, batch: ImageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (N, 3, H, W) of true boxes and masks, and the losses that need no discriminator.

        Where the bank has no masks, the layout is made of predicted ones, which then learn from
        the image alone.
        """
        model, graph, counts = self.model, batch.graph, batch.counts
        with in_float32(self.device):
            vectors = model.encode(graph.nodes, graph.triples)
            sides = model.box_sides(vectors)
        terms = {"boxes": losses.box_mse(sides, batch.boxes, counts.nodes, batch.real)}
        masks = None
        if model.mask_net is not None:
            masks, of_masks = self._masks(vectors, batch)
            terms |= of_masks
        layout = model.lay_out(vectors, batch.boxes, masks, batch.padding)
        assert batch.noise is not None
        images = model.decode(layout, batch.noise)
        terms["pixels"] = losses.reconstruction(images, self._real(batch), counts.images)
        return images, terms

    def _masks(self, vectors: Tensor, batch: ImageBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The masks (V, 16, 16) that are laid out, and the loss of predicted ones where there is
        one. vectors (V, D)"""
        model, real = self.model, batch.real
        if batch.masks is None:
            return model.mask_logits(vectors, real).sigmoid(), {}
        if self.config.losses.masks:
            logits = model.mask_logits(vectors, real)
            return batch.masks, {
                "masks": losses.mask_bce(logits, batch.masks, batch.counts.nodes, real)
            }
        if model.training:  # nothing is learned, but sampling needs the running statistics
            with torch.no_grad():
                model.mask_logits(vectors, real)
        return batch.masks, {}

    def prepare(self) -> None:
        if self.step_number == self.config.eval_after and not self._renewed:
            self._renewed = True
            self.optimisers["generator"] = self.new_optimiser("generator")
            if self.captured is not None:
                self.captured.forget()
            self.ranks.share(self.model.buffers())
        self._set_mode()
        super().prepare()

    def placed(self, batch: ImageBatch) -> ImageBatch:
        """With the noise beside the layout, by the positions of the scenes."""
        model = self.model
        shape = (model.noise, model.image_px, model.image_px)
        noise = normal_maps(self.config.seed, batch.positions, shape, self.device)
        return super().placed(batch)._replace(noise=noise)

    def phases(self, parts: Sequence[ImageBatch]) -> Phases:
        """The generator first, then the discriminators on the images it made before that."""
        fakes: list[Tensor] = []

        def of_generator(part: ImageBatch) -> Losses:
            images, terms = self.forward(part)
            fakes.append(images.detach())
            terms |= self.adversarial_terms(part, images)
            total = losses.weighted(self.config.losses, terms)
            return total, terms | {"total": total}

        values = yield from self.update("generator", parts, of_generator)
        for name, terms_of in (
            ("object_discriminator", self.object_terms),
            ("image_discriminator", self.image_terms),
        ):
            left = iter(fakes)

            def of_discriminator(
                part: ImageBatch, terms_of: TermsOf = terms_of, left: Iterator[Tensor] = left
            ) -> Losses:
                terms = terms_of(part, next(left))
                return torch.stack([*terms.values()]).sum(), terms

            values |= yield from self.update(name, parts, of_discriminator)
        return values

    def adversarial_terms(self, batch: ImageBatch, images: Tensor) -> dict[str, Tensor]:
        """The generator's side of the adversarial losses."""
        categories, counts, real = batch.graph.nodes, batch.counts, batch.real
        on_images = self.image_discriminator(images)
        logits = self._on_objects(images, batch)
        return {
            "adversarial_image": losses.generator_loss(on_images, counts.images),
            "adversarial_object": losses.generator_loss(logits.real, counts.nodes, real),
            "object_class": losses.classification(logits.category, categories, counts.nodes, real),
        }

    # Fake and real images are given to a discriminator in separate calls: batch normalisation must
    # not see the two mixed.

    def object_terms(self, batch: ImageBatch, fake: Tensor) -> dict[str, Tensor]:
        """The losses of D_obj; fake (N, 3, H, W) is detached."""
        categories, nodes, real = batch.graph.nodes, batch.counts.nodes, batch.real
        on_fake, on_real = (self._on_objects(images, batch) for images in (fake, self._real(batch)))
        return {
            "discriminator_object": losses.discriminator_loss(
                on_real.real, on_fake.real, nodes, real
            ),
            "discriminator_class_real": losses.classification(
                on_real.category, categories, nodes, real
            ),
            "discriminator_class_fake": losses.classification(
                on_fake.category, categories, nodes, real
            ),
        }

    def image_terms(self, batch: ImageBatch, fake: Tensor) -> dict[str, Tensor]:
        """The loss of D_img; fake (N, 3, H, W) is detached."""
        on_fake, on_real = (
            self.image_discriminator(images) for images in (fake, self._real(batch))
        )
        return {
            "discriminator_image": losses.discriminator_loss(on_real, on_fake, batch.counts.images)
        }

    def image_grid(self, batch: ImageBatch) -> Image.Image:
        """A row per scene: from predicted boxes and masks, from true boxes, and the real image."""
        batch = self.placed(batch)
        assert batch.noise is not None
        self.model.eval()
        with torch.no_grad():
            generated = [
                self.model.generate(batch.graph, batch.noise, boxes).images
                for boxes in (None, batch.boxes)
            ]
        self._set_mode()
        real = to_uint8(to_float(batch.images, self.config.image_px))
        columns = [*(denormalised(images).numpy() for images in generated), real.numpy()]
        return images_side_by_side(columns)

    def grid_batch(self, bank: Bank, image_ids: NDArray[np.int64]) -> ImageBatch:
        return image_batch(bank, BankSource(bank), part_of(bank, image_ids))

    def _on_objects(self, images: Tensor, batch: ImageBatch) -> losses.ObjectLogits:
        """What D_obj gives for the batch's nodes in images (N, 3, H, W)."""
        logits: losses.ObjectLogits = self.object_discriminator(
            images, batch.boxes, batch.graph.node_image, batch.real
        )
        return logits

    def _real(self, batch: ImageBatch) -> Tensor:
        return normalised(batch.images, self.config.image_px)

    def _set_mode(self) -> None:
        """A function of the step: from `eval_after` on, batch normalisation is fixed."""
        self.model.train(self.step_number < self.config.eval_after)
