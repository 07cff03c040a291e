import torch
from torch import nn
from torch.nn import functional as F

from model.retrievegan.discriminators import ImageDiscriminator, ObjectDiscriminator
from tests.model.retrievegan.small import layers_of


def test_every_convolution_of_both_trunks_has_spectral_norm_one():
    torch.manual_seed(0)
    for network in (ImageDiscriminator((4, 6, 8)), ObjectDiscriminator((4, 6, 8), 5, 3)):
        for _ in range(40):  # power iterations
            network(torch.randn(1, 3, 16, 16))
        convolutions = [m for m in network.trunk if isinstance(m, nn.Conv2d)]
        assert len(convolutions) == 3
        for convolution in convolutions:
            norm = torch.linalg.matrix_norm(convolution.weight.flatten(1), 2)
            torch.testing.assert_close(norm, torch.ones(()), atol=0.02, rtol=0)


def test_the_layers_are_pastegans_with_one_logit():
    image = ImageDiscriminator((4, 6))
    trunk = ["conv 4x4/2 3>4", "leaky 0.1", "conv 4x4/2 4>6", "leaky 0.1"]
    assert layers_of(image.trunk) == trunk
    assert layers_of([image.logits]) == ["conv 1x1 6>1"]
    crops = ObjectDiscriminator((4, 6), 5, 3)
    assert layers_of(crops.trunk) == trunk
    heads = [crops.hidden, crops.real, crops.category]
    assert layers_of(heads) == ["linear 6>5", "linear 5>1", "linear 5>3"]


def test_the_image_discriminator_gives_a_logit_per_part_of_the_image():
    torch.manual_seed(0)
    network = ImageDiscriminator((4, 6)).eval()
    images = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        logits = network(images)
        first = F.leaky_relu(
            F.conv2d(images, network.trunk[0].weight, network.trunk[0].bias, 2, 1), 0.1
        )
        second = F.leaky_relu(
            F.conv2d(first, network.trunk[2].weight, network.trunk[2].bias, 2, 1), 0.1
        )
        expected = F.conv2d(second, network.logits.weight, network.logits.bias)[:, 0]
    assert logits.shape == (2, 4, 4)
    torch.testing.assert_close(logits, expected)


def test_the_object_discriminator_gives_a_logit_and_a_category_per_crop():
    torch.manual_seed(0)
    network = ObjectDiscriminator((4, 6), 5, 3).eval()
    crops = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        logits = network(crops)
        hidden = F.leaky_relu(network.hidden(network.trunk(crops).mean((2, 3))), 0.1)
        assert torch.equal(logits.real, network.real(hidden)[:, 0])
        assert torch.equal(logits.category, network.category(hidden))
    assert logits.real.shape == (2,)
    assert logits.category.shape == (2, 3)
