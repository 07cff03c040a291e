"""Batches of images with fillers: few shapes, and the scenes as they were."""

import pytest
import torch

from model.batch import image_batch, tensors_of
from model.fixed_shapes import FixedShapes
from model.sources import BankSource, part_of

SHAPES = FixedShapes(objects=8, triples=16, longest=12)


def batch_of(bank, first, scenes=3):
    ids = bank.scene_ids("train")[first : first + scenes]
    return image_batch(bank, BankSource(bank), part_of(bank, ids))


@pytest.fixture
def batch(bank):
    return batch_of(bank, 0)


def test_few_shapes_are_left_of_many(bank):
    def shapes(batches):
        return {tuple(tensor.shape for tensor in tensors_of(batch)) for batch in batches}

    given = [batch_of(bank, first) for first in range(0, 30, 3)]
    filled = [SHAPES.images(batch) for batch in given]
    assert len(shapes(given)) > 2 * len(shapes(filled))
    for batch in filled:
        assert len(batch.graph.object_image) % 8 == 0
        assert len(batch.graph.triples) % 16 == 0
        assert batch.padding.present.shape == (3, 12)


def test_objects_and_image_nodes_keep_all_that_is_theirs(batch):
    filled = SHAPES.images(batch)
    assert filled.real[-3:].all()
    assert int(filled.real.sum()) == len(batch.graph.nodes) < len(filled.graph.nodes)
    for name in ("boxes", "masks"):
        assert torch.equal(getattr(filled, name)[filled.real], getattr(batch, name)), name
    for name in ("nodes", "node_image"):
        assert torch.equal(getattr(filled.graph, name)[filled.real], getattr(batch.graph, name))
    assert filled.images is batch.images
    assert (filled.positions, filled.counts) == (batch.positions, batch.counts)
    per_object = filled.boxes[: len(filled.graph.object_image)]
    assert torch.equal(
        filled.padding.pad(per_object)[:, : batch.padding.present.shape[1]],
        batch.padding.pad(batch.boxes[: len(batch.graph.object_image)]),
    )


def test_no_triple_joins_a_filler_to_a_scene(batch):
    filled = SHAPES.images(batch)
    number = filled.real.cumsum(0) - 1  # of each node, without the fillers
    ends = filled.graph.triples[:, [0, 2]]
    inside = filled.real[ends]
    assert torch.equal(inside[:, 0], inside[:, 1])
    triples = filled.graph.triples[inside[:, 0]].clone()
    triples[:, [0, 2]] = number[triples[:, [0, 2]]]
    assert torch.equal(triples, batch.graph.triples)


def test_a_bank_without_masks_has_none_for_fillers(batch):
    assert SHAPES.images(batch._replace(masks=None)).masks is None


def test_a_batch_without_fillers_says_so(batch):
    assert batch.real is None
