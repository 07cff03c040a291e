import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from model.frozen import write_network
from model.retrieval.cooccurrence import (
    CooccurrenceNetwork,
    embed_patches,
    train_cooccurrence,
    triplet_loss,
)
from pipeline.errors import UserError

P = 16


def a_world(num_photos=60, per_photo=3, seed=0):
    """Photos with a tint each; their patches have that tint and a pattern that tells nothing."""
    random = np.random.default_rng(seed)
    tints = random.integers(60, 196, size=(num_photos, 1, 1, 1, 3))
    noise = random.integers(-50, 50, size=(num_photos, per_photo, P, P, 1))
    patches = (tints + noise).astype(np.uint8).reshape(-1, P, P, 3)
    ids = [np.arange(per_photo) + per_photo * i for i in range(num_photos)]
    return patches, ids


def train(steps=5, seed=0):
    patches, ids = a_world()
    return train_cooccurrence(lambda wanted: patches[wanted], ids, steps=steps, seed=seed)


def ranked_first(features, per_photo=3):
    """How often the nearest other patch is of the same photo."""
    distances = np.linalg.norm(features[:, None] - features[None], axis=-1)
    np.fill_diagonal(distances, np.inf)
    photo = np.arange(len(features)) // per_photo
    return (photo[distances.argmin(1)] == photo).mean()


def test_patches_of_one_photo_come_to_lie_near_each_other():
    patches, _ = a_world(seed=1)  # photos that training has not seen
    assert ranked_first(embed_patches(train(steps=30), patches)) > 0.7


def test_features_have_unit_length_and_lie_on_the_grid(monkeypatch):
    patches, _ = a_world(num_photos=5)
    network = train(steps=1)
    features = embed_patches(network, patches)
    assert features.shape == (15, 64)
    assert features.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, atol=1e-3)
    assert np.array_equal(features * 4096, np.rint(features * 4096))
    monkeypatch.setattr("model.retrieval.cooccurrence.PATCHES_AT_ONCE", 4)
    np.testing.assert_array_equal(embed_patches(network, patches), features)


def test_no_patch_gives_no_feature():
    empty = np.zeros((0, P, P, 3), dtype=np.uint8)
    assert embed_patches(CooccurrenceNetwork(), empty).shape == (0, 64)


def test_a_map_without_any_spread_has_a_finite_gradient():
    network = CooccurrenceNetwork()
    network.trunk[4].weight.data[0] = 0.0
    network.trunk[4].bias.data[0] = 1.0
    patches = torch.full((4, P, P, 3), 7, dtype=torch.uint8)
    triplet_loss(network(patches), torch.tensor([0, 0, 1, 1])).backward()
    assert all(p.grad.isfinite().all() for p in network.parameters())


def test_the_loss_is_zero_exactly_when_every_other_photo_is_a_margin_farther():
    near, far = [1.0, 0.0], [-1.0, 0.0]
    photo = torch.tensor([0, 0, 1, 1])
    assert triplet_loss(torch.tensor([near, near, far, far]), photo) == 0
    confused = triplet_loss(torch.tensor([near, far, near, far]), photo, margin=0.5)
    # Of each anchor's two negatives, one lies on it and one as far as its positive.
    assert confused == pytest.approx((2.5 + 0.5) / 2)


def test_training_is_the_same_every_time_and_leaves_no_trace():
    torch.manual_seed(5)
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    one = train(steps=2)
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    two, other = train(steps=2), train(steps=2, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)
    assert not any(p.requires_grad for p in one.parameters())


def test_photos_with_one_patch_are_passed_over_and_too_few_are_refused():
    patches, ids = a_world(num_photos=3)
    single = [photo[:1] for photo in ids]
    asked = []

    def patches_of(wanted):
        asked.extend(wanted.tolist())
        return patches[wanted]

    train_cooccurrence(patches_of, [*single[:1], *ids[1:]], steps=2, seed=0)
    assert set(asked) <= set(range(3, 9))
    with pytest.raises(UserError, match="there are 1"):
        train_cooccurrence(patches_of, [*single[:2], ids[2]], steps=2, seed=0)


def test_a_saved_network_comes_back_whole(tmp_path):
    network = train(steps=2)
    network.save(tmp_path / "cooccurrence.safetensors")
    loaded = CooccurrenceNetwork.load(tmp_path / "cooccurrence.safetensors")
    patches, _ = a_world(num_photos=4)
    np.testing.assert_array_equal(embed_patches(loaded, patches), embed_patches(network, patches))


def test_a_graph_encoder_is_not_taken_for_a_cooccurrence_network(tmp_path):
    from model.graph.network import GraphEncoder
    from pipeline.scene import IMAGE, IN_IMAGE, Vocabulary

    encoder = GraphEncoder(Vocabulary((IMAGE, "a"), (IN_IMAGE,)), 4, 4, 1)
    encoder.save(tmp_path / "graph_encoder.safetensors")
    with pytest.raises(UserError, match="'graph encoder, format 1' where 'co-occurrence"):
        CooccurrenceNetwork.load(tmp_path / "graph_encoder.safetensors")


def test_a_file_that_is_not_what_its_header_says_is_one_clear_line(tmp_path):
    path = tmp_path / "cooccurrence.safetensors"
    network = CooccurrenceNetwork(width=4, features=8)
    for about in ({}, {"sizes": 3}, {"sizes": {"width": 5}}, {"sizes": {"depth": 5}}):
        write_network(path, network, CooccurrenceNetwork.KIND, about)
        with pytest.raises(UserError, match="does not hold the network its header promises") as e:
            CooccurrenceNetwork.load(path)
        assert "\n" not in str(e.value)
    for header in ("{", "[]"):
        save_file(network.state_dict(), path, metadata={"network": header})
        with pytest.raises(UserError, match="header that cannot be read"):
            CooccurrenceNetwork.load(path)
