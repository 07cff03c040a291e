"""A training step of the published sg2im modules, as sg2im's scripts/train.py takes it.

The modules are those of https://github.com/google/sg2im (its folder `sg2im`), which is not part of
this project. The step is written anew: one update of the generator, then of D_obj and of D_img, by
plain Adam; every loss is brought to the CPU, as there.
"""

import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MASK_PX = 16


def published_step(trainer: Any, config: Any, folder: Path) -> Callable[[Any], None]:
    """A step that takes the batches of our own sg2im trainer, of the same sizes.

    trainer  our trainer: its vocabulary and device
    folder   that holds the package `sg2im`
    """
    sys.path.append(str(folder))
    warnings.filterwarnings("ignore", module=r"sg2im|torch\.nn\.functional")
    from sg2im.discriminators import AcCropDiscriminator, PatchDiscriminator
    from sg2im.losses import get_gan_losses
    from sg2im.model import Sg2ImModel

    from model.sg2im.imagenet import normalised

    torch.backends.cudnn.benchmark = True  # as scripts/train.py
    device, vocabulary = trainer.device, trainer.model.vocabulary
    named = {
        "object_idx_to_name": vocabulary.objects,
        "pred_idx_to_name": vocabulary.predicates,
    }
    graph, generator, weights = config.graph, config.generator, config.losses
    model = Sg2ImModel(
        vocab=named,
        image_size=(config.image_px, config.image_px),
        embedding_dim=graph.width,
        gconv_dim=graph.width,
        gconv_hidden_dim=graph.hidden,
        gconv_num_layers=graph.layers,
        refinement_dims=generator.decoder,
        mask_size=MASK_PX,
        layout_noise_dim=generator.noise,
    ).to(device)
    sizes = config.discriminator
    d_obj = AcCropDiscriminator(
        named, _arch(sizes.object_channels), "batch", "leakyrelu-0.2", sizes.object_px, "valid"
    ).to(device)
    d_img = PatchDiscriminator(
        _arch(sizes.image_channels), "batch", "leakyrelu-0.2", padding="valid"
    ).to(device)
    adam = {
        network: torch.optim.Adam(network.parameters(), lr=config.lr_generator)
        for network in (model, d_obj, d_img)
    }
    gan_g_loss, gan_d_loss = get_gan_losses("gan")

    def update(network: torch.nn.Module, terms: Mapping[str, Tensor]) -> None:
        {name: term.item() for name, term in terms.items()}
        adam[network].zero_grad()
        sum(terms.values(), torch.zeros((), device=device)).backward()
        adam[network].step()

    def step(batch: Any) -> None:
        real = normalised(batch.images, config.image_px).contiguous()  # as its reader's
        objs, triples, boxes, masks, images = _in_order_of_images(batch)
        fake, boxes_pred, _, _ = model(objs, triples, images, boxes_gt=boxes, masks_gt=masks)
        scores, categories = d_obj(fake, objs, boxes, images)
        update(
            model,
            {
                "pixels": weights.pixels * F.l1_loss(fake, real),
                "boxes": weights.boxes * F.mse_loss(boxes_pred, boxes),
                "object_class": weights.object_class * categories,
                "object": weights.adversarial_object * gan_g_loss(scores),
                "image": weights.adversarial_image * gan_g_loss(d_img(fake)),
            },
        )
        fake = fake.detach()
        on_fake, fake_categories = d_obj(fake, objs, boxes, images)
        on_real, real_categories = d_obj(real, objs, boxes, images)
        update(
            d_obj,
            {
                "gan": gan_d_loss(on_real, on_fake),
                "class_real": real_categories,
                "class_fake": fake_categories,
            },
        )
        update(d_img, {"gan": gan_d_loss(d_img(real), d_img(fake))})

    return step


def _arch(channels: tuple[int, ...]) -> str:
    return ",".join(f"C4-{width}-2" for width in channels)


def _in_order_of_images(batch: Any) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Nodes image by image, as sg2im's own reader lays them out: its cropping is then faster.
    Ours have all images' objects first."""
    graph = batch.graph
    order = graph.node_image.argsort(stable=True)
    place = order.argsort()
    triples = graph.triples.clone()
    triples[:, 0], triples[:, 2] = place[triples[:, 0]], place[triples[:, 2]]
    return (
        graph.nodes[order],
        triples,
        batch.boxes[order],
        batch.masks[order],
        graph.node_image[order],
    )
