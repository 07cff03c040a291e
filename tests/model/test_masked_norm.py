"""Batch normalisation with fillers gives what it gives of the other rows alone."""

import pytest
import torch
from torch import nn

from model.masked_norm import MaskedBatchNorm2d, MaskedSequential

ROWS = torch.tensor([True, False, True, True, False])


def maps(scale=1.0):
    values = torch.randn(5, 3, 4, 6)
    values[~ROWS] *= 100
    return scale * values + 2


def layer_pair():
    ours, plain = MaskedBatchNorm2d(3), nn.BatchNorm2d(3)
    with torch.no_grad():
        ours.weight.uniform_(0.5, 2)
        ours.bias.uniform_(-1, 1)
    plain.load_state_dict(ours.state_dict())
    return ours, plain


@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_output_gradients_and_running_statistics_are_those_of_the_other_rows(memory):
    ours, plain = layer_pair()
    for _ in range(3):
        given = maps().to(memory_format=memory).requires_grad_()
        alone = given.detach()[ROWS].requires_grad_()
        out, expected = ours(given, ROWS), plain(alone)
        assert out.is_contiguous(memory_format=memory)
        torch.testing.assert_close(out[ROWS], expected)
        upstream = torch.randn_like(out) * ROWS[:, None, None, None]
        gradients = torch.autograd.grad((out * upstream).sum(), [given, *ours.parameters()])
        own = torch.autograd.grad((expected * upstream[ROWS]).sum(), [alone, *plain.parameters()])
        assert gradients[0][~ROWS].abs().max() == 0
        torch.testing.assert_close(
            [gradients[0][ROWS], *gradients[1:]], [*own], rtol=1e-4, atol=1e-5
        )
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
    assert ours.num_batches_tracked == 3
    assert not any(buffer.requires_grad for buffer in ours.buffers())


def test_without_fillers_and_in_evaluation_it_is_batch_normalisation_itself():
    ours, plain = layer_pair()
    given = maps()
    assert torch.equal(ours(given), plain(given))
    ours.eval()
    plain.eval()
    assert torch.equal(ours(given, ROWS), plain(given))
    for name, value in plain.state_dict().items():
        assert torch.equal(ours.state_dict()[name], value), name


def test_rounded_maps_have_statistics_in_float32():
    """Of values far from 0: their mean square, rounded, would not tell how far they lie apart."""
    ours, plain = layer_pair()
    given = (maps() + 50).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        out = ours(given, ROWS)
    assert out.dtype == torch.bfloat16
    expected = plain(given.float()[ROWS])
    torch.testing.assert_close(out[ROWS].float(), expected, rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())


def test_the_rows_reach_every_normalisation_in_sequences_of_sequences():
    torch.manual_seed(0)
    ours = MaskedSequential(
        nn.Conv2d(3, 3, 3),
        MaskedBatchNorm2d(3),
        MaskedSequential(nn.ReLU(), nn.Conv2d(3, 2, 1), MaskedBatchNorm2d(2)),
    )
    plain = nn.Sequential(
        nn.Conv2d(3, 3, 3),
        nn.BatchNorm2d(3),
        nn.Sequential(nn.ReLU(), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2)),
    )
    plain.load_state_dict(ours.state_dict())
    given = maps()
    torch.testing.assert_close(ours(given, ROWS)[ROWS], plain(given[ROWS]))
    torch.testing.assert_close(ours.state_dict(), plain.state_dict())
