import os
from pathlib import Path

import numpy as np
import pytest
import torch

from model.retrieval.relaxation import (
    gumbel,
    log_exclusion,
    one_hot_of_largest,
    relaxed_subset,
    straight_through,
)


def golden() -> Path:
    root = os.environ.get("RETRIEVEGAN_DATA")
    if not root:
        pytest.skip("RETRIEVEGAN_DATA is not set: the published answers are not on this machine")
    return Path(root) / "golden" / "subset_sampling.npz"


def test_a_relaxed_subset_sums_to_k_and_its_hard_form_has_k_ones():
    keys = torch.randn(4, 9)
    assert torch.allclose(relaxed_subset(keys, 3, 0.5).sum(-1), torch.full((4,), 3.0))
    hard = relaxed_subset(keys, 3, 0.5, hard=True)
    assert hard.round().sum(-1).tolist() == [3, 3, 3, 3]
    assert torch.allclose(hard, hard.round(), atol=1e-6)


def test_a_relaxed_subset_is_what_the_recurrence_gives_by_hand():
    keys, tau = [1.0, 0.3, -0.7, 0.9], 0.5
    total, probabilities = np.zeros(4), np.zeros(4)
    at = np.array(keys)
    for _ in range(3):
        at = at + np.log(np.maximum(1 - probabilities, 1.2e-38))
        probabilities = np.exp(at / tau) / np.exp(at / tau).sum()
        total += probabilities
    ours = relaxed_subset(torch.tensor(keys), 3, tau)
    torch.testing.assert_close(ours, torch.from_numpy(total).float())


def test_subset_sampling_gives_the_published_answers():
    path = golden()
    with np.load(path, allow_pickle=False) as data:
        for i in range(4):
            k, temperature, hard = data[f"k_tau_hard_{i}"]
            keys = torch.from_numpy(data[f"scores_{i}"] + data[f"gumbel_{i}"])
            ours = relaxed_subset(keys, int(k), float(temperature), bool(hard))
            theirs = torch.from_numpy(data[f"khot_{i}"])
            torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)


def test_gumbel_noise_has_the_mean_and_variance_of_its_distribution():
    drawn = gumbel(torch.rand(200_000, generator=torch.Generator().manual_seed(0)))
    assert abs(drawn.mean().item() - 0.5772) < 0.02
    assert abs(drawn.var().item() - np.pi**2 / 6) < 0.03


def test_the_ends_of_the_uniform_draw_give_finite_noise():
    assert gumbel(torch.tensor([0.0, 1.0 - 2**-24])).isfinite().all()
    assert gumbel(torch.ones(2)).isfinite().all()


def test_what_was_selected_with_certainty_is_excluded_by_a_finite_amount():
    penalties = log_exclusion(torch.tensor([0.0, 0.5, 1.0]))
    assert penalties.tolist() == pytest.approx([0, np.log(0.5), np.log(1.1754944e-38)])


def test_no_gradient_passes_the_hard_value():
    hard, soft = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    straight_through(soft, hard).sum().backward()
    assert hard.grad is None
    assert soft.grad.tolist() == [1, 1, 1]


def test_straight_through_shows_the_hard_value_and_passes_the_soft_gradient():
    logits = torch.tensor([[0.3, 1.0, -0.5]], requires_grad=True)
    soft = torch.softmax(logits, -1)
    out = straight_through(soft, one_hot_of_largest(logits))
    assert out.tolist() == [[0, 1, 0]]
    (out * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
    expected = torch.autograd.functional.jacobian(
        lambda x: (torch.softmax(x, -1) * torch.tensor([1.0, 2.0, 3.0])).sum(), logits.detach()
    )
    torch.testing.assert_close(logits.grad, expected)
