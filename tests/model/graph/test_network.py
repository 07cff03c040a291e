import pytest
import torch

from model.frozen import write_network
from model.graph.network import KIND, GraphEncoder, graph_tensors
from pipeline.errors import UserError
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, MASK_SIZE, Relation, Vocabulary

VOCABULARY = Vocabulary((IMAGE, "boat", "river", "tree"), (IN_IMAGE, *GEOMETRIC))
GRAPHS = [
    (("boat", "river", "tree"), (Relation(0, "inside", 1), Relation(2, "above", 1))),
    (("tree", "boat"), (Relation(1, "left of", 0),)),
]


@pytest.fixture
def encoder():
    torch.manual_seed(0)
    return GraphEncoder(VOCABULARY, embedding=6, hidden=10, layers=3).eval()


def vectors(encoder, graphs):
    batch = graph_tensors(graphs, VOCABULARY)
    return encoder.encode(batch.nodes, batch.triples)[: len(batch.object_image)]


def test_objects_come_first_and_image_nodes_last():
    batch = graph_tensors(GRAPHS, VOCABULARY)
    assert batch.nodes.tolist() == [1, 2, 3, 3, 1, 0, 0]
    assert batch.object_image.tolist() == [0, 0, 0, 1, 1]
    inside, above, left = (VOCABULARY.predicate_index(p) for p in ("inside", "above", "left of"))
    assert batch.triples.tolist() == [
        [0, inside, 1], [2, above, 1], [0, 0, 5], [1, 0, 5], [2, 0, 5],
        [4, left, 3], [3, 0, 6], [4, 0, 6],
    ]  # fmt: skip


def test_no_graph_at_all_gives_empty_tensors():
    batch = graph_tensors([], VOCABULARY)
    assert [tuple(t.shape) for t in batch] == [(0,), (0, 3), (0,), (0,)]


def test_an_unknown_name_is_refused_with_a_hint():
    with pytest.raises(UserError, match=r"'boot' is not in .* did you mean 'boat'"):
        graph_tensors([(("boot",), ())], VOCABULARY)
    with pytest.raises(UserError, match=r"'abve' is not in .* did you mean 'above'"):
        graph_tensors([(("boat", "tree"), (Relation(0, "abve", 1),))], VOCABULARY)


@pytest.mark.parametrize("place", [-1, 2])
def test_a_relation_to_an_object_that_is_not_there_is_refused(place):
    with pytest.raises(UserError, match="outside 0 to 1"):
        graph_tensors([(("boat", "tree"), (Relation(0, "above", place),))], VOCABULARY)


def test_every_node_has_a_vector_a_box_and_a_mask(encoder):
    batch = graph_tensors(GRAPHS, VOCABULARY)
    objects, boxes, masks = encoder(batch.nodes, batch.triples)
    assert objects.shape == (7, 6)
    assert boxes.shape == (7, 4)
    assert boxes.min() >= 0
    assert masks.shape == (7, MASK_SIZE, MASK_SIZE)
    assert 0 < masks.min() < masks.max() < 1


def test_a_graph_is_encoded_alike_alone_and_in_a_batch(encoder):
    together = vectors(encoder, GRAPHS)
    alone = torch.cat([vectors(encoder, [graph]) for graph in GRAPHS])
    torch.testing.assert_close(together, alone)


def test_the_direction_and_the_name_of_a_relation_matter(encoder):
    names = ("boat", "boat")
    there = vectors(encoder, [(names, (Relation(0, "above", 1),))])
    back = vectors(encoder, [(names, (Relation(1, "above", 0),))])
    below = vectors(encoder, [(names, (Relation(0, "below", 1),))])
    torch.testing.assert_close(there, back.flip(0))
    assert not torch.allclose(there, back)
    assert not torch.allclose(there, below)


def test_both_ends_of_a_relation_hear_of_it(encoder):
    names = ("boat", "tree")
    above = vectors(encoder, [(names, (Relation(0, "above", 1),))])
    below = vectors(encoder, [(names, (Relation(0, "below", 1),))])
    assert ((above - below).abs().amax(1) > 0).all()


def test_messages_are_averaged_not_summed(encoder):
    names = ("boat", "tree")
    once = vectors(encoder, [(names, (Relation(0, "above", 1),) * 1)])
    often = vectors(encoder, [(names, (Relation(0, "above", 1),) * 40)])
    assert often.abs().max() < 10 * once.abs().max()


def test_a_saved_encoder_comes_back_whole_and_always_as_the_same_bytes(encoder, tmp_path):
    encoder.save(tmp_path / "one.safetensors")
    encoder.save(tmp_path / "two.safetensors")
    assert (tmp_path / "one.safetensors").read_bytes() == (
        tmp_path / "two.safetensors"
    ).read_bytes()
    loaded = GraphEncoder.load(tmp_path / "one.safetensors")
    assert loaded.vocabulary == VOCABULARY
    assert not loaded.training
    torch.testing.assert_close(vectors(loaded, GRAPHS), vectors(encoder, GRAPHS), rtol=0, atol=0)


def test_an_encoder_without_masks_says_so(tmp_path):
    encoder = GraphEncoder(VOCABULARY, embedding=6, hidden=10, layers=1, masks=False).eval()
    encoder.save(tmp_path / "encoder.safetensors")
    loaded = GraphEncoder.load(tmp_path / "encoder.safetensors")
    batch = graph_tensors(GRAPHS, VOCABULARY)
    assert loaded(batch.nodes, batch.triples).masks is None


def test_a_file_that_holds_no_encoder_is_refused(tmp_path):
    path = tmp_path / "encoder.safetensors"
    with pytest.raises(UserError, match="no file at"):
        GraphEncoder.load(path)
    path.write_bytes(b"nothing")
    with pytest.raises(UserError, match="not a safetensors file"):
        GraphEncoder.load(path)


def test_an_encoder_that_is_not_what_its_header_says_is_one_clear_line(encoder, tmp_path):
    path = tmp_path / "encoder.safetensors"
    for about in (
        {},
        {"vocabulary": 3, "sizes": encoder.sizes},
        {"vocabulary": VOCABULARY.to_json(), "sizes": {**encoder.sizes, "embedding": 7}},
    ):
        write_network(path, encoder, KIND, about)
        with pytest.raises(UserError, match="does not hold the network its header promises") as e:
            GraphEncoder.load(path)
        assert "\n" not in str(e.value)
