"""How well a simple classifier guesses a toy photo's hidden style: the measure of fairness."""

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.toy.styles import STYLES

CHANCE = 1 / len(STYLES)


def accuracy(
    train: NDArray[np.float32], train_y: list[int], val: NDArray[np.float32], val_y: list[int]
) -> float:
    """Share of held-out rows that a ridge-regularised softmax regression gets right."""
    centre, spread = train.mean(0), train.std(0) + 1e-6
    x, held_out = (torch.from_numpy((a - centre) / spread).float() for a in (train, val))
    weights = torch.zeros(x.shape[1], len(STYLES), requires_grad=True)
    bias = torch.zeros(len(STYLES), requires_grad=True)
    optimiser = torch.optim.Adam([weights, bias], lr=0.05)
    labels = torch.tensor(train_y)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(x @ weights + bias, labels)
        loss = loss + 0.01 * (weights**2).sum()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    guess = (held_out @ weights + bias).argmax(1)
    return float((guess == torch.tensor(val_y)).float().mean())


def is_chance(found: float, num_rows: int) -> bool:
    spread = (CHANCE * (1 - CHANCE) / num_rows) ** 0.5
    return abs(found - CHANCE) < 3.5 * spread
