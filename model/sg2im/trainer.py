"""Trains sg2im on a bank's scenes: what a step minimises, and how it is shown (facts.md 3.2)."""

from collections.abc import Iterator

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from bank.bank import Bank
from model import losses
from model.batch import PictureBatch, picture_batch, pixels, to_uint8, training_batches
from model.config import Sg2ImConfig
from model.image_grid import picture_grid
from model.loop import Training
from model.sg2im.discriminators import Sg2ImImageDiscriminator, Sg2ImObjectDiscriminator
from model.sg2im.imagenet import normalised, pictures
from model.sg2im.network import Sg2Im


class Sg2ImTrainer(Training[Sg2ImConfig, PictureBatch]):
    """Generator, D_img and D_obj, each with an optimiser of its own."""

    model: Sg2Im

    def __init__(self, config: Sg2ImConfig, bank: Bank, device: torch.device) -> None:
        torch.manual_seed(config.seed)
        sizes = config.discriminator
        self.model = Sg2Im(bank.vocabulary, **config.sizes)
        self.judge_image = Sg2ImImageDiscriminator(sizes.image_channels)
        self.judge_object = Sg2ImObjectDiscriminator(
            len(bank.vocabulary.objects),
            sizes.object_channels,
            sizes.object_hidden,
            sizes.object_px,
        )
        networks = {
            "model": self.model,
            "judge_image": self.judge_image,
            "judge_object": self.judge_object,
        }
        updates = {
            "generator": ("model",),
            "judge_image": ("judge_image",),
            "judge_object": ("judge_object",),
        }
        super().__init__(config, bank, device, networks, updates)

    def batches(self) -> Iterator[PictureBatch]:
        config = self.config
        return training_batches(
            self.bank,
            picture_batch,
            batch=config.batch,
            seed=config.seed,
            first_step=self.step_number,
            workers=config.workers,
        )

    def forward(self, batch: PictureBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Images (N, 3, H, W) of true boxes and masks, and the losses that need no discriminator.

        Where the bank has no masks, those that the network predicts are laid out, and the picture
        alone teaches them.
        """
        model, graph = self.model, batch.graph
        vectors = model.encode(graph.nodes, graph.triples)
        terms = {"boxes": losses.box_squares(model.box_sides(vectors), batch.boxes)}
        masks = None
        if model.mask_net is not None:
            logits = model.mask_logits(vectors)
            masks = logits.sigmoid() if batch.masks is None else batch.masks
            if batch.masks is not None and self.config.losses.masks:
                terms["masks"] = losses.masks_by_cell(logits, batch.masks)
        layout = model.lay_out(vectors, batch.boxes, masks, graph)
        generator = self.noise(self.step_number, self.device)
        images = model.draw(layout, model.draw_noise(graph.num_images, generator))
        terms["pixels"] = losses.reconstruction(images, self._real(batch))
        return images, terms

    def step(self, batch: PictureBatch) -> dict[str, float]:
        """The generator first, then the discriminators on the images it made before that."""
        batch = batch.to(self.device)
        self._set_mode()
        if self.step_number == self.config.eval_after:
            self.optimisers["generator"] = self.new_optimiser("generator")
        self.set_learning_rates()
        images, terms = self.forward(batch)
        terms |= self.adversarial_terms(batch, images)
        total = losses.weighted(self.config.losses, terms)
        named = self.finite(terms | {"total": total})
        self.update("generator", total)
        for name, judged in self.judge_terms(batch, images.detach()).items():
            named |= self.finite(judged)
            self.update(name, torch.stack(list(judged.values())).sum())
        self.step_number += 1
        return named

    def adversarial_terms(self, batch: PictureBatch, images: Tensor) -> dict[str, Tensor]:
        """What the discriminators tell the generator."""
        graph = batch.graph
        seen = self.judge_object(images, batch.boxes, graph.node_image)
        return {
            "adversarial_image": losses.looks_real(self.judge_image(images)),
            "adversarial_object": losses.looks_real(seen.real),
            "object_class": F.cross_entropy(seen.category, graph.nodes),
        }

    def judge_terms(self, batch: PictureBatch, fake: Tensor) -> dict[str, dict[str, Tensor]]:
        """The losses of each discriminator; images (N, 3, H, W) without their history.

        Fakes and real ones are judged in calls of their own: batch normalisation must not see the
        two mixed.
        """
        graph, real = batch.graph, self._real(batch)
        on_fake, on_real = (
            self.judge_object(images, batch.boxes, graph.node_image) for images in (fake, real)
        )
        picture_fake, picture_real = (self.judge_image(images) for images in (fake, real))
        return {
            "judge_object": {
                "judge_object": losses.tells_apart(on_real.real, on_fake.real),
                "judge_class_real": F.cross_entropy(on_real.category, graph.nodes),
                "judge_class_fake": F.cross_entropy(on_fake.category, graph.nodes),
            },
            "judge_image": {"judge_image": losses.tells_apart(picture_real, picture_fake)},
        }

    @property
    def masks_are_known(self) -> bool:
        """The bank has masks that could teach the network to predict some."""
        ids = self.bank.scene_ids("train")[:1]
        return any(self.bank.scene(int(i)).masks is not None for i in ids)

    @property
    def masks_are_left_out(self) -> bool:
        """The bank has masks, but nothing teaches the network to predict them."""
        left_out = self.config.drawing.masks and not self.config.losses.masks
        return left_out and self.masks_are_known

    def grid(self) -> Image.Image:
        """Held-out scenes: predicted boxes and masks, true boxes, and the real picture."""
        batch = picture_batch(self.bank, self.held_out()).to(self.device)
        self.model.eval()
        with torch.no_grad():
            noise = self.model.draw_noise(batch.graph.num_images, self.noise(0, self.device))
            made = [
                self.model.generate(batch.graph, noise, boxes).images
                for boxes in (None, batch.boxes)
            ]
        self._set_mode()
        real = to_uint8(pixels(batch.images, self.config.image_px))
        return picture_grid([*(pictures(images).numpy() for images in made), real.numpy()])

    def _real(self, batch: PictureBatch) -> Tensor:
        return normalised(batch.images, self.config.image_px)

    def _set_mode(self) -> None:
        """A function of the step: from `eval_after` on, batch normalisation is what it is."""
        self.model.train(self.step_number < self.config.eval_after)
