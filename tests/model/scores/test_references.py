"""Features of reference photos, kept by the hash of what they follow from."""

from pathlib import Path

import numpy as np
import pytest
import torch

from model.scores import references
from model.scores.extractors import Extractor
from model.scores.references import photo_features, pixels_digest
from model.scores.weights import Weights


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "cache_folder", lambda: tmp_path)


@pytest.fixture
def extractor():
    """Mean colours; counts how often it is asked."""
    calls = []

    def network(pictures):
        calls.append(len(pictures))
        return pictures.float().mean((1, 2)), None

    extractor = Extractor(
        name="squeezenet", published=False, weights=Weights(Path("none"), "0" * 64), width=3,
        side=8, resizer="none", network=network, device=torch.device("cpu"),
    )  # fmt: skip
    return extractor, calls


def test_they_are_computed_once_for_the_same_photos(bank, extractor, tmp_path):
    own, calls = extractor
    ids = bank.scene_ids("val")[:5].tolist()
    first = photo_features(bank, ids, 16, pixels_digest(bank, ids, 16), own)
    means = [bank.scene(i).image.mean((0, 1)) for i in ids]
    assert np.abs(first.vectors.numpy() - means).max() < 2
    again = photo_features(bank, ids, 16, pixels_digest(bank, ids, 16), own)
    assert torch.equal(first.vectors, again.vectors)
    assert again.logits is None
    assert calls == [5]
    photo_features(bank, ids[1:], 16, pixels_digest(bank, ids[1:], 16), own)
    photo_features(bank, ids, 32, pixels_digest(bank, ids, 32), own)
    assert calls == [5, 4, 5]
    for file in tmp_path.rglob("*.safetensors"):
        file.write_bytes(file.read_bytes()[:20])  # cut short
    cut = photo_features(bank, ids, 16, pixels_digest(bank, ids, 16), own)
    assert torch.equal(first.vectors, cut.vectors)
    assert calls == [5, 4, 5, 5]


def test_the_digest_is_of_the_pixels_their_order_and_their_side(bank):
    ids = bank.scene_ids("val")[:3].tolist()
    digests = {pixels_digest(bank, some, px) for some in (ids, ids[::-1]) for px in (16, 32)}
    assert len(digests) == 4
    assert pixels_digest(bank, ids, 16) in digests
