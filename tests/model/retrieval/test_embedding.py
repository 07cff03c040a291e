"""E_p: which maps make its feature, how its first layer sees a patch, where it starts."""

import pytest
import torch
from torch.nn import functional as F

from model.retrieval.embedding import PatchEmbedding

POOLINGS = ("last", "all")


def moments(maps):
    """(B, C, h, w) -> (B, 2 C)."""
    flat = maps.flatten(2)
    return torch.cat([flat.mean(2), (flat.std(2, correction=0) ** 2 + 1e-6).sqrt()], 1)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_the_feature_is_a_linear_map_of_mean_and_deviation_of_maps(pooling):
    """Of the last; or of all, layer by layer, brought to one scale."""
    torch.manual_seed(0)
    network = PatchEmbedding((4, 6), 5, pooling=pooling)
    patches = torch.rand(3, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        features = network(patches)
        first = F.leaky_relu(F.conv2d(patches, network.trunk[0].weight, None, 2, 1), 0.1)
        last = F.leaky_relu(F.conv2d(first, network.trunk[2].weight, None, 2, 1), 0.1)
        if pooling == "last":
            pooled = moments(last)
        else:
            pooled = torch.cat([moments(first), moments(last)], 1)
            pooled = F.layer_norm(pooled, (20,))
        expected = network.head(pooled)
    torch.testing.assert_close(features, expected)
    assert features.norm(dim=1).std() > 0  # not brought to one length


def test_each_moment_has_a_scale_of_its_own_to_learn_where_all_layers_count():
    network = PatchEmbedding((4, 6), 5, pooling="all")
    assert network.norm.weight.shape == network.norm.bias.shape == (20,)
    network(torch.rand(3, 3, 8, 8)).square().sum().backward()
    assert network.norm.weight.grad.all()
    assert not [*PatchEmbedding((4, 6), 5, pooling="last").norm.parameters()]


@pytest.mark.parametrize("stride", [1, 2, 3, 4, 5])
def test_the_first_layer_steps_by_its_stride_with_a_kernel_half_as_wide_again(stride):
    """Later layers halve maps; none has a border that no kernel reaches."""
    network = PatchEmbedding((4, 6, 7), 5, stem_stride=stride, pooling="last")
    stem, *later = (layer for layer in network.trunk if isinstance(layer, torch.nn.Conv2d))
    assert stem.kernel_size == (stride + stride // 2,) * 2
    assert [layer.stride for layer in (stem, *later)] == [(stride,) * 2, (2, 2), (2, 2)]
    side = 4 * stride
    patches = torch.rand(2, 3, side, side, requires_grad=True)
    with torch.no_grad():
        assert network.trunk[:2](patches).shape == (2, 4, 4, 4)
        assert network.trunk(patches).shape == (2, 7, 1, 1)
    network(patches).square().sum().backward()
    assert patches.grad.abs().sum(1).all()


def test_the_convolutions_start_by_he_with_biases_of_zero():
    torch.manual_seed(0)
    network = PatchEmbedding((64, 64), 5, pooling="last")
    for layer, fan_in in ((network.trunk[0], 27), (network.trunk[2], 576)):
        assert not layer.bias.any()
        expected = (2 / (1 + 0.1**2) / fan_in) ** 0.5
        torch.testing.assert_close(layer.weight.std(), torch.tensor(expected), rtol=0.1, atol=0)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_patch_of_one_colour_gives_a_finite_gradient(pooling):
    network = PatchEmbedding((4, 6), 5, pooling=pooling)
    patches = torch.zeros(1, 3, 8, 8, requires_grad=True)
    network(patches).sum().backward()
    assert patches.grad.isfinite().all()
