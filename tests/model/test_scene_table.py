"""Scenes as arrays: any of them, in any order, make what their samples make one by one."""

import numpy as np
import pytest
import torch

from model.batch import image_batch, scene_batch
from model.graph.network import graph_tensors
from model.padding import padding_of
from model.recipes import demo
from model.scene_table import SceneTable
from model.sources import BankSource, part_of
from pipeline.errors import UserError
from pipeline.pack import SceneSample
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Relation, Vocabulary

VOCABULARY = Vocabulary((IMAGE, "sky", "sea", "boat", "pier"), (IN_IMAGE, *GEOMETRIC))


def sample(image_id, objects, relations=(), masks=None):
    n = len(objects)
    random = np.random.default_rng(image_id)
    return SceneSample(
        image=np.zeros((2, 2, 3), np.uint8),
        image_id=image_id,
        objects=objects,
        boxes=random.random((n, 4), np.float32),
        triples=tuple(Relation(*relation) for relation in relations),
        patch_ids=(image_id << 16) + np.arange(n),
        masks=masks,
    )


AROUND = [(3, "left of", 2), (1, "above", 0), (3, "inside", 0)]
SAMPLES = [
    sample(9, ("sky", "boat", "sea"), [(1, "inside", 2), (0, "above", 2)]),
    sample(4, ("pier",)),
    sample(7, ("pier", "boat"), [(1, "left of", 0)]),
    sample(2, ("sea", "sky", "pier", "boat"), AROUND),
]


@pytest.fixture
def table():
    return SceneTable.of_samples(SAMPLES, VOCABULARY, masks=False)


def expected(samples):
    return graph_tensors([(s.objects, s.triples) for s in samples], VOCABULARY)


def same(table, samples):
    assert all(map(torch.equal, table.graph(VOCABULARY), expected(samples)))
    assert table.image_ids.tolist() == [s.image_id for s in samples]
    assert table.num_objects.tolist() == [len(s.objects) for s in samples]
    assert np.array_equal(table.boxes, np.concatenate([s.boxes for s in samples]))
    assert np.array_equal(table.patch_ids, np.concatenate([s.patch_ids for s in samples]))


@pytest.mark.parametrize("rows", [[0, 1, 2, 3], [3, 1], [2, 2, 0], [1]])
def test_any_rows_in_any_order_are_the_graphs_of_their_scenes(table, rows):
    same(table.take(np.array(rows)), [SAMPLES[row] for row in rows])


def test_joined_tables_are_the_scenes_of_the_one_and_then_of_the_other(table):
    parts = [table.take(np.array([2, 0])), table.take(np.array([3])), table.take(np.array([1, 3]))]
    order = [2, 0, 3, 1, 3]
    joined = SceneTable.joined(parts)
    same(joined, [SAMPLES[row] for row in order])
    same(joined.take(np.array([4, 1])), [SAMPLES[3], SAMPLES[0]])


def test_what_was_saved_is_what_is_opened(table, tmp_path):
    table.save(tmp_path)
    same(SceneTable.open(tmp_path).take(np.array([3, 0])), [SAMPLES[3], SAMPLES[0]])


def test_masks_are_those_of_their_objects():
    masks = [np.full((len(s.objects), 16, 16), i, np.uint8) for i, s in enumerate(SAMPLES)]
    samples = [s._replace(masks=m) for s, m in zip(SAMPLES, masks, strict=True)]
    taken = SceneTable.of_samples(samples, VOCABULARY, masks=True).take(np.array([3, 1]))
    assert np.array_equal(taken.masks, np.concatenate([masks[3], masks[1]]))
    assert SceneTable.of_samples(SAMPLES, VOCABULARY, masks=False).masks.shape == (10, 0, 0)


def test_a_name_that_the_vocabulary_lacks_is_one_line():
    with pytest.raises(UserError, match="'boot' is not in the graph network's vocabulary"):
        SceneTable.of_samples([sample(1, ("boot",))], VOCABULARY, masks=False)


def test_a_batch_is_what_the_bank_says_of_its_scenes_one_by_one(bank):
    """By the bank's own calls: every field of a RetrieveGAN's batch and of sg2im's."""
    ids = bank.scene_ids("train")[[5, 1, 8]]
    samples = [bank.scene(int(i)) for i in ids]
    part, source = part_of(bank, ids, first=20), BankSource(bank)
    batch = scene_batch(bank, source, part, demo().retrieval, seed=0)
    k = demo().retrieval.candidates
    patch_ids = np.concatenate([s.patch_ids for s in samples])
    assert batch.image_ids.tolist() == ids.tolist()
    assert np.array_equal(batch.images, np.stack([s.image for s in samples]))
    graph = graph_tensors([(s.objects, s.triples) for s in samples], bank.vocabulary)
    assert all(map(torch.equal, batch.graph, graph))
    assert np.array_equal(batch.boxes, np.concatenate([s.boxes for s in samples]))
    assert np.array_equal(batch.patch_ids, patch_ids)
    assert np.array_equal(batch.true_patches, bank.patches(patch_ids))
    assert np.array_equal(batch.true_cooccurrence, bank.cooccurrence(patch_ids))
    candidates = bank.candidates(patch_ids, k)
    assert np.array_equal(batch.candidates.ids, candidates.ids)
    assert np.array_equal(batch.candidates.patches, bank.patches(candidates.ids))
    assert np.array_equal(batch.candidates.cooccurrence, bank.cooccurrence(candidates.ids))
    for ours, theirs in (
        (batch.true_crops, bank.crops(patch_ids)),
        (batch.candidates.crops, bank.crops(candidates.ids)),
    ):
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    padding = padding_of(graph.object_image, 3)
    assert all(map(torch.equal, batch.padding[:-1], padding[:-1]))
    assert batch.padding.real is None
    assert [count.item() for count in batch.counts] == [3, len(patch_ids)]
    images = image_batch(bank, source, part)
    assert images.positions == (20, 21, 22)
    assert all(map(torch.equal, images.graph, graph))
    objects = len(patch_ids)
    assert np.array_equal(images.masks[:objects], np.concatenate([s.masks for s in samples]))
    assert images.boxes[objects:].tolist() == [[0, 0, 1, 1]] * 3
