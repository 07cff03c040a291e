"""What a batch holds: which candidates may be selected."""

from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch

from bank.candidates import Candidates
from model.batch import CandidateBatch, ImageBatch, SceneBatch, selectable, sent
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
    graph, padding = GraphBatch(part, part, part), Padding(part, part, part)
    draws, counts = Draws(None, ChoiceDraws(noise=part)), Counts(part, part)
    meta = torch.device("meta")
    for batch in (
        candidates,
        SceneBatch(
            part, part, graph, part, part, part, part, crops, candidates, padding, draws, counts
        ),
        ImageBatch(part, graph, part, None, (3, 4), counts),
    ):
        there = batch.to(meta)
        assert type(there) is type(batch)
        assert {t.device.type for t in flat(there) if torch.is_tensor(t)} == {"meta"}
    there = batch.to(meta)
    assert there.masks is None
    assert there.positions == (3, 4)


def test_a_batch_is_sent_in_one_copy_with_every_type_and_shape():
    class Mixed(NamedTuple):
        numbers: torch.Tensor
        inner: Crops
        flags: torch.Tensor
        none: None
        count: torch.Tensor
        empty: torch.Tensor
        places: tuple[int, ...]

    random = torch.Generator().manual_seed(0)
    batch = Mixed(
        torch.randint(0, 2**40, (3,), generator=random),
        Crops(torch.arange(5), torch.rand(5, 4, generator=random)[:, ::2]),
        torch.tensor([True, False, True]),
        None,
        torch.tensor(7.0),
        torch.zeros(0, 3, dtype=torch.uint8),
        (3, 4),
    )
    there = sent(batch, torch.device("cpu"))
    assert type(there) is Mixed
    assert type(there.inner) is Crops
    for ours, theirs in zip(flat(there), flat(batch), strict=True):
        if torch.is_tensor(theirs):
            assert ours.dtype == theirs.dtype
            assert torch.equal(ours, theirs)
        else:
            assert ours == theirs
    storages = {
        t.untyped_storage().data_ptr() for t in flat(there) if torch.is_tensor(t) and t.nbytes
    }
    assert len(storages) == 1


def flat(part):
    return [t for p in part for t in flat(p)] if isinstance(part, tuple) else [part]
