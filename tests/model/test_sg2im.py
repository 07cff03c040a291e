import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from model.graph import GraphEncoder, graph_tensors
from model.sg2im import embed_scenes, load_graph_encoder, load_published, train_graph_encoder
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
    return train_graph_encoder(scenes(masks=masks), VOCABULARY, steps=steps, seed=seed, sizes=SMALL)


def test_training_learns_where_things_lie_and_what_shape_they_have():
    encoder = train(steps=100)
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
        train_graph_encoder([], VOCABULARY, steps=1, seed=0)


def test_features_lie_on_the_grid_and_do_not_depend_on_the_batch(monkeypatch):
    encoder, given = train(), scenes(10)
    together = embed_scenes(encoder, given)
    assert together.shape == (40, 16)
    assert together.dtype == np.float32
    assert np.array_equal(together * 4096, np.rint(together * 4096))
    monkeypatch.setattr("model.sg2im.GRAPHS_AT_ONCE", 3)
    np.testing.assert_array_equal(embed_scenes(encoder, given), together)
    alone = np.concatenate([embed_scenes(encoder, [s]) for s in given])
    np.testing.assert_array_equal(alone, together)
    assert encoder.box_net[0].weight.dtype == torch.float32  # the caller's stays as it was


def test_no_scene_gives_no_feature():
    assert embed_scenes(train(steps=1), []).shape == (0, 16)


@pytest.fixture
def published(tmp_path):
    """A checkpoint in the published layout whose rows are not in our order, with gaps."""

    def write(prefix="", **changes):
        torch.manual_seed(0)
        width, hidden = 8, 16
        source = GraphEncoder(
            Vocabulary((IMAGE, *"abcde"), (IN_IMAGE, "p", "q")), width, hidden, 3, masks=True
        )
        weights = {prefix + k: v for k, v in source.state_dict().items() if "num_batches" not in k}
        about = {
            "vocab": {
                "object_name_to_idx": {"sky": 5, "boat": 1, IMAGE: 2},
                "object_idx_to_name": [IMAGE, "boat", "NONE", "NONE", "NONE", "sky"],
                "pred_name_to_idx": {"above": 0, IN_IMAGE: 1, "below": 2},
                "pred_idx_to_name": ["above", IN_IMAGE, "below"],
            },
            "embedding_dim": width,
            "gconv_dim": width,
            "gconv_hidden_dim": hidden,
            "gconv_num_layers": 3,
            "mlp_normalization": "none",
        }
        weights[prefix + "refinement_net.output_conv.0.weight"] = torch.zeros(2)
        path = tmp_path / "published.pt"
        torch.save({"model_kwargs": about | changes, "model_state": weights}, path)
        return path, source.eval()

    return write


@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_checkpoint_is_read_by_name(published, prefix):
    path, source = published(prefix)
    encoder = load_graph_encoder(path)
    assert encoder.vocabulary.objects == (IMAGE, "boat", "sky")
    assert encoder.vocabulary.predicates == (IN_IMAGE, "above", "below")
    graph = (("boat", "sky", "boat"), (Relation(0, "below", 1), Relation(1, "above", 2)))
    batch = graph_tensors([graph], encoder.vocabulary)
    places = torch.tensor([2, 1, 5])[batch.nodes]
    triples = batch.triples.clone()
    triples[:, 1] = torch.tensor([1, 0, 2])[triples[:, 1]]
    for ours, theirs in zip(
        encoder(batch.nodes, batch.triples), source(places, triples), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=0)


def test_an_encoder_from_a_checkpoint_can_be_saved_with_the_bank(published, tmp_path):
    encoder = load_published(published()[0])
    encoder.save(tmp_path / "graph_encoder.safetensors")
    again = load_graph_encoder(tmp_path / "graph_encoder.safetensors")
    assert again.vocabulary == encoder.vocabulary
    assert torch.equal(again.obj_embeddings.weight, encoder.obj_embeddings.weight)


def test_a_checkpoint_of_another_layout_is_refused(published, tmp_path):
    with pytest.raises(UserError, match="normalisation"):
        load_published(published(mlp_normalization="batch")[0])
    with pytest.raises(UserError, match="not laid out"):
        load_published(published(gconv_num_layers=5)[0])
    with pytest.raises(UserError, match="not laid out"):
        load_published(published(vocab=None)[0])
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(UserError, match="holds a list"):
        load_published(tmp_path / "list.pt")
    with pytest.raises(UserError, match="no graph encoder at"):
        load_published(tmp_path / "none.pt")


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    torch.save({"model_state": Trap(tmp_path / "executed")}, tmp_path / "bad.pt")
    with pytest.raises(UserError, match="cannot be read as a checkpoint"):
        load_published(tmp_path / "bad.pt")
    assert not (tmp_path / "executed").exists()


def test_the_published_implementation_and_ours_agree():
    data = os.environ.get("RETRIEVEGAN_DATA")
    if data is None:
        pytest.skip("RETRIEVEGAN_DATA is not set: no golden data")
    encoder = load_published(Path(data) / "golden" / "sg2im_small.pt")
    assert encoder.vocabulary.objects[:3] == (IMAGE, "person", "dog")
    with np.load(Path(data) / "golden" / "sg2im_small_io.npz", allow_pickle=False) as golden:
        found = encoder(torch.from_numpy(golden["objs"]), torch.from_numpy(golden["triples"]))
        for name, ours in zip(("obj_vecs", "boxes", "masks"), found, strict=True):
            np.testing.assert_allclose(ours.numpy(), golden[name], atol=1e-5, err_msg=name)
