"""The bank's graph network: what training teaches it, and what its vectors are."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.graph.frozen_encoder import LEARNING_RATE, embed_scenes, train_graph_encoder
from model.graph.network import graph_tensors
from pipeline.errors import UserError
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Relation, Vocabulary

VOCABULARY = Vocabulary((IMAGE, "grass", "sky", "sun"), (IN_IMAGE, *GEOMETRIC))
SMALL = {"embedding": 16, "hidden": 32, "layers": 3}


def a_scene(random, masks=True):
    """Sky above, grass below, and a sun that is left or right of another sun."""
    horizon, left = random.uniform(0.4, 0.6), random.uniform(0, 0.3)
    boxes = [
        [0, 0, 1, horizon],
        [0, horizon, 1, 1],
        [left, 0, left + 0.2, 0.2],
        [left + 0.5, 0, left + 0.7, 0.2],
    ]
    relations = (Relation(0, "above", 1), Relation(2, "left of", 3), Relation(2, "inside", 0))
    return SimpleNamespace(
        objects=("sky", "grass", "sun", "sun"),
        triples=relations,
        boxes=np.array(boxes, dtype=np.float32),
        masks=np.tril(np.ones((4, 16, 16), dtype=np.uint8)) if masks else None,
    )


def scenes(num=40, masks=True):
    random = np.random.default_rng(0)
    return [a_scene(random, masks) for _ in range(num)]


def train(steps=4, seed=0, masks=True):
    given = scenes(masks=masks)
    return train_graph_encoder(
        given,
        VOCABULARY,
        mean_box=np.concatenate([s.boxes for s in given]).mean(0),
        masks=masks,
        steps=steps,
        seed=seed,
        sizes=SMALL,
    )


def test_training_learns_where_things_lie_and_what_shape_they_have():
    encoder = train(steps=150)
    given = scenes()
    batch = graph_tensors([(s.objects, s.triples) for s in given], VOCABULARY)
    _, boxes, masks = encoder(batch.nodes, batch.triples)
    true = torch.from_numpy(np.concatenate([s.boxes for s in given]))
    assert (boxes[: len(true)] - true).abs().mean() < 0.05
    shape = torch.from_numpy(given[0].masks[0]) > 0
    assert masks[0][shape].mean() > masks[0][~shape].mean() + 0.3


def test_training_is_the_same_every_time_and_leaves_no_trace():
    torch.manual_seed(5)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    one = train(steps=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    two, other = train(steps=2), train(steps=2, seed=1)
    for name, value in one.state_dict().items():
        assert torch.equal(value, two.state_dict()[name]), name
    assert not torch.equal(one.box_net[0].weight, other.box_net[0].weight)


def test_a_trained_encoder_is_frozen():
    encoder = train(steps=1)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())


def test_without_masks_there_is_no_mask_head():
    assert train(masks=False).mask_net is None


def test_no_scene_to_learn_from_is_refused():
    with pytest.raises(UserError, match="no training scene"):
        train_graph_encoder(
            [], VOCABULARY, mean_box=np.zeros(4, np.float32), masks=False, steps=1, seed=0
        )


def test_features_lie_on_the_grid_and_do_not_depend_on_the_batch(monkeypatch):
    encoder, given = train(), scenes(10)
    together = embed_scenes(encoder, given)
    assert together.shape == (40, 16)
    assert together.dtype == np.float32
    assert np.array_equal(together * 4096, np.rint(together * 4096))
    monkeypatch.setattr("model.graph.frozen_encoder.GRAPHS_AT_ONCE", 3)
    np.testing.assert_array_equal(embed_scenes(encoder, given), together)
    alone = np.concatenate([embed_scenes(encoder, [s]) for s in given])
    np.testing.assert_array_equal(alone, together)
    assert encoder.box_net[0].weight.dtype == torch.float32  # the caller's stays as it was


def test_no_scene_gives_no_feature():
    assert embed_scenes(train(steps=1), []).shape == (0, 16)


def test_the_learning_rate_rises_over_the_first_tenth_and_falls_to_almost_none(monkeypatch):
    rates, step = [], torch.optim.Adam.step

    def watched(optimiser):
        rates.append(optimiser.param_groups[0]["lr"])
        step(optimiser)

    monkeypatch.setattr(torch.optim.Adam, "step", watched)
    train(steps=20)
    assert rates[:2] == pytest.approx([LEARNING_RATE / 2, LEARNING_RATE])
    assert max(rates) == LEARNING_RATE
    falling = [1.1 * LEARNING_RATE * (20 - i) / 20 for i in range(2, 20)]
    assert rates[2:] == pytest.approx([min(rate, LEARNING_RATE) for rate in falling])
