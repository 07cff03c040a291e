"""Random numbers for tests of the choice."""

import torch

from model.draws import OneStream


def seeded(seed):
    return OneStream(torch.Generator().manual_seed(seed))
