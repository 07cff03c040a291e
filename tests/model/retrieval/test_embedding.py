import torch
from torch.nn import functional as F

from model.retrieval.embedding import PatchEmbedding


def test_the_feature_is_a_linear_map_of_mean_and_deviation_of_the_last_maps():
    torch.manual_seed(0)
    network = PatchEmbedding((4, 6), 5)
    patches = torch.rand(3, 3, 8, 8) * 2 - 1
    with torch.no_grad():
        features = network(patches)
        first = F.leaky_relu(F.conv2d(patches, network.trunk[0].weight, None, 2, 1), 0.1)
        maps = F.leaky_relu(F.conv2d(first, network.trunk[2].weight, None, 2, 1), 0.1)
        mean = maps.flatten(2).mean(2)
        std = (maps.flatten(2).std(2, correction=0) ** 2 + 1e-6).sqrt()
        expected = network.head(torch.cat([mean, std], 1))
    torch.testing.assert_close(features, expected)
    assert features.norm(dim=1).std() > 0  # not brought to one length


def test_the_convolutions_start_by_he_with_biases_of_zero():
    torch.manual_seed(0)
    network = PatchEmbedding((64, 64), 5)
    for layer, fan_in in ((network.trunk[0], 27), (network.trunk[2], 576)):
        assert not layer.bias.any()
        expected = (2 / (1 + 0.1**2) / fan_in) ** 0.5
        torch.testing.assert_close(layer.weight.std(), torch.tensor(expected), rtol=0.1, atol=0)


def test_a_patch_of_one_colour_gives_a_finite_gradient():
    network = PatchEmbedding((4, 6), 5)
    patches = torch.zeros(1, 3, 8, 8, requires_grad=True)
    network(patches).sum().backward()
    assert patches.grad.isfinite().all()
