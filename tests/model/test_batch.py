"""What a batch holds: which candidates may be selected."""

from types import SimpleNamespace

import numpy as np
import torch

from bank.candidates import Candidates
from model.batch import CandidateBatch, ImageBatch, SceneBatch, selectable
from model.graph.network import GraphBatch
from model.padding import Padding
from model.retrieval.choice import ChoiceDraws, Draws
from model.retrieval.crops import Crops
from model.sources import Counts


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


def test_every_batch_moves_with_all_its_tensors_and_keeps_its_type():
    part = torch.zeros(2)
    crops = Crops(part, part)
    candidates = CandidateBatch(part, part, part, part, crops)
    graph, padding = GraphBatch(*[part] * 4), Padding(*[part] * 5)
    draws, counts = Draws(None, ChoiceDraws(noise=part)), Counts(part, part)
    meta = torch.device("meta")
    for batch in (
        candidates,
        SceneBatch(
            part, part, graph, part, part, part, part, crops, candidates, padding, draws, counts
        ),
        ImageBatch(part, graph, part, None, padding, (3, 4), counts),
    ):
        there = batch.to(meta)
        assert type(there) is type(batch)
        assert {t.device.type for t in flat(there) if torch.is_tensor(t)} == {"meta"}
    there = batch.to(meta)
    assert there.masks is None
    assert there.positions == (3, 4)


def flat(part):
    return [t for p in part for t in flat(p)] if isinstance(part, tuple) else [part]
