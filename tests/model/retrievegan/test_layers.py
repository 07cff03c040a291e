"""The normalisation, whatever the number of channels."""

import pytest
import torch

from model.retrievegan.layers import norm


@pytest.mark.parametrize(
    ("channels", "groups"),
    [(1, 1), (15, 1), (16, 1), (31, 1), (32, 2), (33, 1), (47, 1), (48, 3), (56, 2), (256, 16)],
)
def test_groups_are_as_many_as_divide_the_channels_into_16_or_more(channels, groups):
    layer = norm(channels)
    assert layer.num_groups == groups
    maps = layer(torch.randn(2, channels, 5, 5) * 3 + 7)
    torch.testing.assert_close(maps.mean((1, 2, 3)), torch.zeros(2), atol=1e-5, rtol=0)
