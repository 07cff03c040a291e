"""What a batch holds: which candidates may be selected."""

from types import SimpleNamespace

import numpy as np

from bank.candidates import Candidates
from model.batch import selectable


def found() -> Candidates:
    valid = np.array([[True, True, True], [True, True, False]])
    fallback = np.array([[False, True, True], [True, True, False]])
    return Candidates(np.zeros((2, 3), np.int64), np.zeros((2, 3), np.float32), valid, fallback)


def bank(scope):
    return SimpleNamespace(manifest=SimpleNamespace(recipe={"candidate_scope": scope}))


def test_another_category_is_offered_only_where_the_own_has_none():
    assert selectable(bank("category"), found()).tolist() == [
        [True, False, False],
        [True, True, False],
    ]


def test_a_bank_built_over_all_categories_offers_all():
    assert selectable(bank("all"), found()).tolist() == found().valid.tolist()
