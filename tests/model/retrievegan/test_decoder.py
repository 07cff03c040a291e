import operator

import torch
from torch import nn
from torch.nn import functional as F

from model.retrievegan.decoder import CascadedDecoder, ResidualBlock, Stage
from tests.model.retrievegan.small import layers_of


def test_a_residual_block_adds_to_its_input():
    torch.manual_seed(0)
    block = ResidualBlock(4)
    x = torch.randn(2, 4, 6, 6)
    with torch.no_grad():
        assert torch.equal(block(x), x + block.body(x))
        for parameter in block.body[-1].parameters():
            parameter.zero_()
        assert torch.equal(block(x), x)


def test_every_stage_doubles_the_size_and_is_given_the_canvas_at_its_size():
    torch.manual_seed(0)
    decoder = CascadedDecoder(3, (6, 5, 4, 4))
    canvas = torch.randn(2, 3, 16, 16)
    calls = []
    for stage in decoder.stages:
        stage.register_forward_hook(lambda _, given, result: calls.append((*given, result)))
    with torch.no_grad():
        image = decoder(canvas, 32)
    canvases, features, results = zip(*calls, strict=True)
    larger = F.interpolate(canvas, scale_factor=2.0, mode="bilinear")
    expected = (F.avg_pool2d(canvas, 4), F.avg_pool2d(canvas, 2), canvas, larger)
    torch.testing.assert_close(canvases, expected)
    assert features[0] is None
    assert all(map(operator.is_, features[1:], results[:-1]))
    assert torch.equal(image, decoder.to_rgb(results[-1]))
    assert image.shape == (2, 3, 32, 32)


def test_a_stage_convolves_the_canvas_and_the_doubled_features_joined():
    torch.manual_seed(0)
    canvas, features = torch.randn(2, 3, 8, 8), torch.randn(2, 6, 4, 4)
    doubled = F.interpolate(features, scale_factor=2.0, mode="nearest")
    for stage, given in ((Stage(3, 6, 5), features), (Stage(3, 0, 5), None)):
        joined = canvas if given is None else torch.cat([canvas, doubled], 1)
        with torch.no_grad():
            torch.testing.assert_close(stage(canvas, given), nn.Sequential(*stage)(joined))


def test_the_layers_are_those_of_the_two_papers_with_group_normalisation():
    assert layers_of(ResidualBlock(32).body) == [
        "norm 2x32", "relu", "conv 3x3 32>32", "norm 2x32", "relu", "conv 3x3 32>32",
    ]  # fmt: skip
    decoder = CascadedDecoder(3, (32, 16))
    assert layers_of(decoder.stages[0]) == [
        "conv 3x3 3>32", "norm 2x32", "leaky 0.1", "conv 3x3 32>32", "norm 2x32", "leaky 0.1",
    ]  # fmt: skip
    assert layers_of(decoder.stages[1]) == [
        "conv 3x3 35>16", "norm 1x16", "leaky 0.1", "conv 3x3 16>16", "norm 1x16", "leaky 0.1",
    ]  # fmt: skip
    assert layers_of(decoder.to_rgb) == ["conv 3x3 16>16", "leaky 0.1", "conv 1x1 16>3"]


def test_the_image_is_not_clamped():
    torch.manual_seed(0)
    decoder = CascadedDecoder(3, (6, 5))
    with torch.no_grad():
        decoder.to_rgb[-1].bias.fill_(5.0)
        assert decoder(torch.randn(1, 3, 4, 4), 8).mean() > 2
