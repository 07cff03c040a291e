"""What a batch holds moves with it."""

import torch

from model.batch import CandidateBatch, ImageBatch, SceneBatch
from model.graph.network import GraphBatch
from model.padding import Padding
from model.retrieval.choice import ChoiceDraws, Draws
from model.retrieval.crops import Crops
from model.sources import Counts


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
