"""Distances between patches in the feature space of E_p."""

import torch
from torch import Tensor


def distances(query: Tensor, features: Tensor) -> Tensor:
    """l2 distance of query (N, E) to features (N, ..., E) -> (N, ...); its gradient at 0 is 0."""
    shape = (query.shape[0],) + (1,) * (features.dim() - 2) + (query.shape[-1],)
    norms: Tensor = torch.linalg.vector_norm(query.reshape(shape) - features, dim=-1)
    return norms


def between(left: Tensor, right: Tensor) -> Tensor:
    """l2 distances of left (..., n, E) to right (..., m, E) -> (..., n, m). Not by matrix products,
    which put equal features apart."""
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")
