"""What a step is given: which candidates may be chosen, and pixels at the right size."""

from types import SimpleNamespace

import numpy as np
import torch

from bank.candidates import Candidates
from model.batch import offered, pixels, to_uint8


def found() -> Candidates:
    valid = np.array([[True, True, True], [True, True, False]])
    fallback = np.array([[False, True, True], [True, True, False]])
    return Candidates(np.zeros((2, 3), np.int64), np.zeros((2, 3), np.float32), valid, fallback)


def bank(scope):
    return SimpleNamespace(manifest=SimpleNamespace(recipe={"candidate_scope": scope}))


def test_another_category_is_offered_only_where_the_own_has_none():
    assert offered(bank("category"), found()).tolist() == [
        [True, False, False],
        [True, True, False],
    ]


def test_a_bank_built_over_all_categories_offers_all():
    assert offered(bank("all"), found()).tolist() == found().valid.tolist()


def test_pixels_at_their_own_size_come_back_unchanged():
    image = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(to_uint8(pixels(image, 8)), image)


def test_shrinking_keeps_the_mean_and_the_channels_apart():
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    image[..., 0] = 255
    small = pixels(image, 4)
    assert small.shape == (1, 3, 4, 4)
    torch.testing.assert_close(small[0].mean((1, 2)), torch.tensor([1.0, -1.0, -1.0]))
