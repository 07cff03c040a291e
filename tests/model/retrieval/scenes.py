"""Three images' candidates, and random numbers, for tests of the choice."""

import torch

from model.draws import OneStream
from model.padding import padding_of

N, O, K, E = 3, 9, 4, 6
OBJECT_IMAGE = torch.tensor([0, 0, 1, 1, 1, 1, 2, 2, 2])


def seeded(seed):
    return OneStream(torch.Generator().manual_seed(seed))


def three_images():
    """Features (O, K, E), valid (O, K), padding."""
    torch.manual_seed(1)
    features = torch.randn(O, K, E)
    valid = torch.rand(O, K) > 0.3
    valid[:, 1] = True
    return features, valid, padding_of(OBJECT_IMAGE, N)
