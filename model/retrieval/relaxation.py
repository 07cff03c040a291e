"""Gumbel noise and relaxed subset sampling as pure functions (Xie & Ermon 2019)."""

import torch
from torch import Tensor

TINY = torch.finfo(torch.float32).tiny  # keeps log(1 - s) finite, as the published operator does


def gumbel(uniform: Tensor) -> Tensor:
    """Standard Gumbel noise, -log(-log u) of uniform numbers u in [0, 1), eq. 1."""
    exponential = -torch.log(uniform.clamp_min(TINY))
    return -torch.log(exponential.clamp_min(TINY))


def log_exclusion(probabilities: Tensor) -> Tensor:
    """log max(1 - s, tiny): what eq. 2 adds to the logit of a candidate selected with s."""
    return torch.log((1 - probabilities).clamp_min(TINY))


def straight_through(soft: Tensor, hard: Tensor) -> Tensor:
    """`hard` going forward, the gradient of `soft` going backward."""
    return hard.detach() + (soft - soft.detach())  # the bracket is exactly 0


def one_hot_of_largest(logits: Tensor) -> Tensor:
    """One-hot of the arg max over the last axis; the first of equals wins."""
    return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits.dtype)


def relaxed_subset(keys: Tensor, k: int, temperature: float, hard: bool = False) -> Tensor:
    """The relaxed k-hot vector of Xie & Ermon (algorithm 1), on which `retrieve` builds.

    Noise is in the keys already.

    keys (..., K) logits plus Gumbel noise -> (..., K), each row summing to k. An entry may exceed
    1: that is a property of the published operator. `hard` puts ones at the k largest going
    forward.
    """
    probabilities = torch.zeros_like(keys)
    total = torch.zeros_like(keys)
    for _ in range(k):
        keys = keys + log_exclusion(probabilities)
        probabilities = torch.softmax(keys / temperature, dim=-1)
        total = total + probabilities
    if not hard:
        return total
    top = total.topk(k, dim=-1).indices
    return straight_through(total, torch.zeros_like(total).scatter(-1, top, 1.0))
