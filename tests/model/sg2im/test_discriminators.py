"""What sg2im's discriminators look at, and that they learn to tell."""

import pytest
import torch
from torch.nn import functional as F

from model import losses
from model.config import side_after
from model.sg2im.discriminators import Sg2ImImageDiscriminator, Sg2ImObjectDiscriminator


def shapes(network):
    return {
        name: tuple(value.shape)
        for name, value in network.state_dict().items()
        if "num_batches" not in name
    }


def trunk(prefix):
    found = {}
    for place, out, into in ((0, 64, 3), (3, 128, 64), (6, 256, 128)):
        found |= {f"{prefix}{place}.weight": (out, into, 4, 4), f"{prefix}{place}.bias": (out,)}
    for place, width in ((1, 64), (4, 128)):
        for part in ("weight", "bias", "running_mean", "running_var"):
            found[f"{prefix}{place}.{part}"] = (width,)
    return found


def test_names_and_shapes_are_those_of_the_published_states():
    assert shapes(Sg2ImImageDiscriminator()) == trunk("cnn.") | {
        "classifier.weight": (1, 256, 1, 1),
        "classifier.bias": (1,),
    }
    assert shapes(Sg2ImObjectDiscriminator(184)) == trunk("discriminator.cnn.0.") | {
        "discriminator.cnn.2.weight": (1024, 256),
        "discriminator.cnn.2.bias": (1024,),
        "discriminator.real_classifier.weight": (1, 1024),
        "discriminator.real_classifier.bias": (1,),
        "discriminator.obj_classifier.weight": (184, 1024),
        "discriminator.obj_classifier.bias": (184,),
    }


@pytest.mark.parametrize(("side", "left"), [(32, 2), (64, 6), (128, 14), (21, 0), (22, 1)])
def test_every_value_of_the_last_map_is_a_logit(side, left):
    assert side_after(side, 3) == left
    if left:
        logits = Sg2ImImageDiscriminator((4, 5, 6))(torch.rand(2, 3, side, side))
        assert logits.shape == (2, 6, left, left)


def test_an_object_gets_one_logit_and_one_per_category():
    discriminator = Sg2ImObjectDiscriminator(7, (4, 5, 6), 8)
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.2, 0.3, 0.6, 0.5], [0.5, 0.5, 1.0, 1.0]])
    logits = discriminator(torch.rand(2, 3, 16, 16), boxes, torch.tensor([1, 0, 1]))
    assert logits.real.shape == (3,)
    assert logits.category.shape == (3, 7)


def test_training_tells_red_from_blue_and_learns_what_is_where():
    torch.manual_seed(0)
    on_images = Sg2ImImageDiscriminator((4, 4, 4))
    on_objects = Sg2ImObjectDiscriminator(2, (4, 4, 4), 8)
    red, blue = torch.zeros(2, 4, 3, 32, 32)
    red[:, 0], blue[:, 2] = 1.0, 1.0
    red += 0.1 * torch.randn_like(red)
    blue += 0.1 * torch.randn_like(blue)
    red[:, 1, :16] = 2.0  # category 1 is what has green: the upper half
    blue[:, 1, :16] = 2.0
    boxes = torch.tensor([[0.0, 0.0, 1.0, 0.4], [0.0, 0.6, 1.0, 1.0]]).repeat(4, 1)
    image, category = torch.arange(4).repeat_interleave(2), torch.tensor([1, 0]).repeat(4)
    optimiser = torch.optim.Adam([*on_images.parameters(), *on_objects.parameters()], 0.02)
    for _ in range(60):
        on_red, on_blue = on_objects(red, boxes, image), on_objects(blue, boxes, image)
        loss = losses.discriminator_loss(on_images(red), on_images(blue), torch.tensor(4.0))
        loss = loss + losses.discriminator_loss(on_red.real, on_blue.real, torch.tensor(8.0))
        loss = loss + F.cross_entropy(on_red.category, category)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert on_images(red).mean() > 1 > -1 > on_images(blue).mean()
    assert on_red.real.min() > 0 > on_blue.real.max()
    assert torch.equal(on_red.category.argmax(1), category)
    assert on_images.classifier.weight.grad is None  # built, never applied
