"""DINOv2's network: a transformer's encoder, with places from a finer grid."""

import pytest
import torch
from torch import nn

from model.scores.dinov2 import MEAN, STD, DinoV2, read

WIDTH, DEPTH, HEADS = 32, 2, 4


@pytest.fixture(scope="module")
def network():
    """A small one with random weights, for the grid of 224 px."""
    torch.manual_seed(0)
    network = DinoV2(WIDTH, DEPTH, HEADS, grid=16)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3)
    return network.eval()


def encoder_like(network):
    """torch's encoder of the same weights: the scales by channel are within its last layers."""
    layer = nn.TransformerEncoderLayer(
        WIDTH, HEADS, 4 * WIDTH, 0.0, "gelu", layer_norm_eps=1e-6, batch_first=True, norm_first=True
    )
    encoder = nn.TransformerEncoder(layer, DEPTH, enable_nested_tensor=False)
    for theirs, ours in zip(encoder.layers, network.blocks, strict=True):
        theirs.norm1, theirs.norm2 = ours.norm1, ours.norm2
        theirs.linear1 = ours.mlp["fc1"]
        theirs.self_attn.in_proj_weight = ours.attn.qkv.weight
        theirs.self_attn.in_proj_bias = ours.attn.qkv.bias
        for last, own, scale in (
            (theirs.self_attn.out_proj, ours.attn.proj, ours.ls1["gamma"]),
            (theirs.linear2, ours.mlp["fc2"], ours.ls2["gamma"]),
        ):
            last.weight = nn.Parameter(own.weight * scale[:, None])
            last.bias = nn.Parameter(own.bias * scale)
    return encoder


@torch.no_grad()
def test_vectors_are_the_class_token_of_a_transformer_s_encoder(network):
    pixels = torch.randint(256, (2, 224, 224, 3), dtype=torch.uint8)
    inputs = (pixels / 255 - torch.tensor(MEAN)) / torch.tensor(STD)
    patches = network.patch_embed["proj"](inputs.movedim(-1, 1)).flatten(2).mT
    tokens = torch.cat([network.cls_token.expand(2, -1, -1), patches], 1) + network.pos_embed
    expected = network.norm(encoder_like(network)(tokens))[:, 0]
    vectors, logits = network(pixels)
    torch.testing.assert_close(vectors, expected, rtol=1e-4, atol=1e-4)
    assert logits is None


def test_places_are_read_off_the_training_s_grid_with_the_publisher_s_offset():
    """Of a token whose place is its column, the place is where it stands on the finer grid."""
    network = DinoV2(4, 1, 1, grid=37)
    column = torch.arange(37.0).expand(37, 37).flatten()
    with torch.no_grad():
        network.pos_embed[0, 0], network.pos_embed[0, 1:] = -1, column[:, None]
    places = network._places(16)[0].detach()
    assert torch.equal(places[0], torch.full((4,), -1.0))
    expected = (torch.arange(16) + 0.5) * 37 / 16.1 - 0.5
    columns = places[1:].reshape(16, 16, 4)
    inner = slice(1, 15)  # at the edges, cubic weights reach beyond the grid; they are not linear
    torch.testing.assert_close(columns[3, inner, 0], expected[inner], rtol=0, atol=0.06)


def test_its_published_file_is_read_name_by_name(tmp_path, monkeypatch, network):
    torch.save({**network.state_dict(), "mask_token": torch.zeros(1, WIDTH)}, tmp_path / "a.pth")
    monkeypatch.setattr("model.scores.dinov2.DinoV2", lambda: DinoV2(WIDTH, DEPTH, HEADS, grid=16))
    again = read(tmp_path / "a.pth")
    pixels = torch.randint(256, (1, 60, 80, 3), dtype=torch.uint8)
    assert torch.equal(again(pixels)[0], network(pixels)[0])


def test_the_whole_network_has_the_tensors_of_the_published_file():
    """Which has 1,217,586,395 bytes: of the numbers and, beside each tensor, of its name."""
    with torch.device("meta"):
        state = DinoV2().state_dict()
    numbers = sum(t.numel() for t in state.values()) + 1024  # the mask token, for training alone
    assert len(state) == 342
    assert 0 < 1_217_586_395 - 4 * numbers < 343 * 400
