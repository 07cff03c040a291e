"""Checkpoints in sg2im's published layout: read by name, executed never, refused in one line."""

import os
import pickle
import zipfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest
import torch

from model.graph.network import graph_tensors
from model.sg2im.network import Sg2Im
from model.sg2im.published import (
    _unpickled,
    ignored_note,
    load_published_graph,
    load_published_sg2im,
    save_published_sg2im,
)
from model.sg2im.run import load_graph_encoder
from pipeline.errors import UserError
from pipeline.scene import IMAGE, IN_IMAGE, Relation, Vocabulary

SIZES = {"embedding": 4, "hidden": 6, "layers": 3, "image_px": 8, "noise": 2, "decoder": (5, 3)}
FORMATS = pytest.mark.parametrize("zipped", [True, False])
LOADERS = pytest.mark.parametrize("load", [load_published_graph, load_published_sg2im])


@pytest.fixture
def source():
    """sg2im as its authors have it: six rows of objects, three of predicates, in their order."""
    torch.manual_seed(0)
    network = Sg2Im(Vocabulary((IMAGE, *"abcde"), (IN_IMAGE, "p", "q")), **SIZES)
    with torch.no_grad():  # as if trained
        for name, value in network.state_dict().items():
            if "running" in name:
                value.uniform_(0.5, 1.5)
    return network.eval()


@pytest.fixture
def write(source, tmp_path):
    """A checkpoint whose rows are not in our order, with gaps; parts of it changed."""

    def written(prefix="", zipped=True, weights=None, beside=None, **kwargs):
        about = {
            "vocab": {
                "object_name_to_idx": {"boat": 5, "sky": 1, IMAGE: 2},
                "object_idx_to_name": ["NONE", "sky", IMAGE, "NONE", "NONE", "boat"],
                "pred_name_to_idx": {"above": 0, IN_IMAGE: 1, "below": 2},
                "pred_idx_to_name": ["above", IN_IMAGE, "below"],
            },
            "image_size": (8, 8),
            "embedding_dim": 4,
            "gconv_dim": 4,
            "gconv_hidden_dim": 6,
            "gconv_num_layers": 3,
            "mlp_normalization": "none",
            "refinement_dims": (5, 3),
            "normalization": "batch",
            "activation": "leakyrelu-0.2",
            "mask_size": 16,
            "layout_noise_dim": 2,
        } | kwargs
        state = {k: v for k, v in source.state_dict().items() if "num_batches" not in k}
        state |= weights or {}
        path = tmp_path / "published.pt"
        torch.save(
            {
                "model_kwargs": {k: v for k, v in about.items() if v != "left out"},
                "model_state": {prefix + k: v for k, v in state.items() if v is not None},
                **(beside or {}),
            },
            path,
            _use_new_zipfile_serialization=zipped,
        )
        return path

    return written


def refused(load, path, message):
    with pytest.raises(UserError, match=message) as raised:
        load(path)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 400


def in_their_rows(graph):
    """The same graph by the rows of the source's tables."""
    triples = graph.triples.clone()
    triples[:, 1] = torch.tensor([1, 0, 2])[triples[:, 1]]
    return graph._replace(nodes=torch.tensor([2, 1, 5])[graph.nodes], triples=triples)


@FORMATS
@pytest.mark.parametrize("prefix", ["", "module."])
def test_a_published_checkpoint_is_read_by_name(write, source, prefix, zipped):
    path = write(prefix, zipped)
    network, ignored = load_published_sg2im(path)
    assert ignored == ()
    assert not network.training
    assert network.vocabulary.objects == (IMAGE, "sky", "boat")
    assert network.vocabulary.predicates == (IN_IMAGE, "above", "below")
    pair = (("boat", "sky", "boat"), (Relation(0, "below", 1), Relation(1, "above", 2)))
    graph = graph_tensors([pair], network.vocabulary)
    noise = torch.rand(1, 2, 8, 8)
    with torch.no_grad():
        ours, theirs = network.generate(graph, noise), source.generate(in_their_rows(graph), noise)
    assert torch.equal(ours.images, theirs.images)
    assert torch.equal(ours.encoding.boxes, theirs.encoding.boxes)
    assert torch.equal(network.rel_aux_net[2].weight, source.rel_aux_net[2].weight[[1, 0, 2]])
    part = load_graph_encoder(path)
    assert torch.equal(part.encode(graph.nodes, graph.triples), ours.encoding.vectors)
    assert not any(p.requires_grad for p in part.parameters())


def test_the_graph_part_needs_nothing_of_what_draws(write, source):
    drawing = {
        name: None for name in source.state_dict() if name.startswith(("refinement", "rel_aux"))
    }
    path = write(weights=drawing, normalization="instance", refinement_dims="left out")
    assert load_published_graph(path).ignored == ()
    refused(load_published_sg2im, path, "normalization is 'instance'; only 'batch'")


def test_what_is_not_known_is_ignored_and_listed_once(write):
    old = {"vec_noise_dim": 0, "gconv_mode": "feedforward", "box_anchor": None}
    path = write(weights={"colour_net.0.bias": torch.zeros(2)}, **old)
    expected = (
        "model_kwargs.box_anchor",
        "model_kwargs.gconv_mode",
        "model_kwargs.vec_noise_dim",
        "model_state.colour_net.0.bias",
    )
    assert load_published_sg2im(path).ignored == expected
    assert load_published_graph(path).ignored == expected
    note = ignored_note(path, expected)
    assert "'model_kwargs.vec_noise_dim'" in note
    assert "\n" not in note


def test_sizes_that_are_not_stated_are_sg2ims_defaults(write):
    path = write(activation="left out", mlp_normalization="left out", mask_size="left out")
    assert load_published_sg2im(path).network.sizes["slope"] == 0.2
    refused(load_published_sg2im, write(gconv_dim="left out"), "embedding_dim 4 and gconv_dim 128")


@pytest.mark.parametrize(
    ("activation", "slope"), [("leakyrelu-0.3", 0.3), ("leakyrelu", 0.01), ("relu", 0.01)]
)
def test_the_slope_of_the_activation_is_read(write, activation, slope):
    network = load_published_sg2im(write(activation=activation)).network
    assert network.refinement_net.output_conv[1].negative_slope == slope


@FORMATS
def test_what_sg2ims_training_script_leaves_beside_the_weights_does_no_harm(write, zipped):
    losses = defaultdict(list, {"L1_pixel_loss": [0.5, 0.4]})
    beside = {"losses": losses, "val_losses": defaultdict(list, {"bbox_pred": [np.mean([1.0])]})}
    assert load_published_sg2im(write(zipped=zipped, beside=beside)).ignored == ()


def test_a_network_written_in_the_published_layout_comes_back_the_same(source, tmp_path):
    path = tmp_path / "mine.pt"
    save_published_sg2im(path, source)
    assert not zipfile.is_zipfile(path)  # the old format, which sg2im's torch can read
    network, ignored = load_published_sg2im(path)
    assert ignored == ()
    assert network.vocabulary == source.vocabulary
    assert network.sizes == source.sizes
    for name, value in source.state_dict().items():
        assert torch.equal(network.state_dict()[name], value), name
    assert [p.name for p in tmp_path.iterdir()] == ["mine.pt"]


def test_a_network_without_masks_is_written_and_read_as_one(tmp_path):
    vocabulary = Vocabulary((IMAGE, "a"), (IN_IMAGE,))
    save_published_sg2im(tmp_path / "mine.pt", Sg2Im(vocabulary, **SIZES, masks=False))
    assert load_published_sg2im(tmp_path / "mine.pt").network.mask_net is None


def test_the_golden_checkpoint_lists_the_old_options_it_has():
    data = os.environ.get("RETRIEVEGAN_DATA")
    if data is None:
        pytest.skip("RETRIEVEGAN_DATA is not set: no golden data")
    network, ignored = load_published_sg2im(Path(data) / "golden" / "sg2im_small.pt")
    assert network.vocabulary.predicates[-1] == "top touching"
    assert ignored == tuple(
        f"model_kwargs.{name}"
        for name in ("box_anchor", "decouple_obj_predictions", "gconv_mode", "vec_noise_dim")
    )


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@FORMATS
@LOADERS
def test_nothing_in_a_checkpoint_is_executed(tmp_path, load, zipped):
    path, left = tmp_path / "bad.pt", tmp_path / "executed"
    torch.save({"model_state": Trap(left)}, path, _use_new_zipfile_serialization=zipped)
    refused(load, path, "asks for getattr, which is not plain data")
    path.write_bytes(pickle.dumps(Trap(left)))
    refused(load, path, "cannot be read")
    assert not left.exists()
    pickle.loads(path.read_bytes())  # the trap works
    assert left.exists()


@FORMATS
def test_what_stands_in_for_a_number_of_numpys_is_not_numpys(write, zipped):
    """A scalar of objects would be unpickled by NumPy."""
    path = write(zipped=zipped, beside={"x": np.array([Path], dtype=object)})
    refused(load_published_graph, path, "asks for numpy")


@LOADERS
@FORMATS
def test_a_file_cut_short_is_one_clear_line(write, load, zipped):
    path = write(zipped=zipped)
    whole = path.read_bytes()
    for size in (0, 1, 10, 100, 1000, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        refused(load, path, "cannot be read as a checkpoint")


@LOADERS
def test_a_file_of_something_else_is_one_clear_line(tmp_path, load):
    path = tmp_path / "file.pt"
    path.write_bytes(np.random.default_rng(0).bytes(4000))
    refused(load, path, "cannot be read as a checkpoint")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("notes.txt", "nothing")
    refused(load, path, "cannot be read as a checkpoint")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("archive/data.pkl", bytes(10_000_000))
    refused(load, path, "compressed zip")
    torch.save([1, 2], path)
    refused(load, path, "holds a list")
    refused(load, tmp_path / "none.pt", "no checkpoint at")
    refused(load, tmp_path, "is a folder")


VOCAB = {"object_name_to_idx": {IMAGE: 0, "a": 1}, "pred_name_to_idx": {IN_IMAGE: 0, "p": 1}}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"vocab": None}, "'vocab' is None, not a dictionary"),
        ({"vocab": {}}, "'object_name_to_idx' is None"),
        ({"vocab": VOCAB | {"object_name_to_idx": {"a": 1}}}, "lacks '__image__'"),
        ({"vocab": VOCAB | {"pred_name_to_idx": {"p": 1}}}, "lacks '__in_image__'"),
        ({"vocab": VOCAB | {"object_name_to_idx": {IMAGE: 6}}}, "row 6 of obj_embeddings"),
        ({"vocab": VOCAB | {"pred_name_to_idx": {IN_IMAGE: 3}}}, "row 3 of pred_embeddings"),
        ({"vocab": VOCAB | {"object_name_to_idx": {IMAGE: -1}}}, "not a name to a row"),
        ({"vocab": VOCAB | {"object_name_to_idx": {IMAGE: 0, 7: 1}}}, "7 to 1, not a name"),
        ({"vocab": VOCAB | {"object_name_to_idx": {IMAGE: torch.ones(2)}}}, "a tensor of shape"),
        ({"mlp_normalization": "batch"}, "mlp_normalization is 'batch'"),
        ({"gconv_pooling": "sum"}, "gconv_pooling is 'sum'"),
        ({"gconv_num_layers": 5}, "no tensor gconv_net.gconvs.2"),
        ({"gconv_num_layers": 0}, "gconv_num_layers is 0, not a whole number from 1"),
        ({"gconv_num_layers": 10**9}, "gconv_num_layers is 1000000000, not"),
        ({"gconv_hidden_dim": 10**15}, "gconv_hidden_dim is 1000000000000000, not"),
        ({"gconv_hidden_dim": 30_000}, "ask for over 268,435,456 weights"),
        ({"gconv_hidden_dim": 7}, r"weight is of shape \((6, 12|3, 6)\), where \((7, 12|any, 7)\)"),
        ({"gconv_hidden_dim": torch.ones(10**6)}, "a tensor of shape"),
        ({"gconv_hidden_dim": "6" * 10**6}, "gconv_hidden_dim is '6666"),
        ({"embedding_dim": True}, "embedding_dim is True"),
        ({"embedding_dim": 5, "gconv_dim": 5}, r"is of shape \(7, 4\), where \(any, 5\)"),
        ({"mask_size": 32}, "mask_size is 32"),
    ],
)
@LOADERS
def test_a_graph_part_that_does_not_fit_is_refused(write, load, kwargs, message):
    refused(load, write(**kwargs), message)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"image_size": (8, 16)}, "not a square's"),
        ({"image_size": (10**9, 10**9)}, "image_size is 1000000000"),
        ({"image_size": 8}, "image_size is 8"),
        ({"image_size": (10, 10)}, "2 refinement modules cannot double up to 10 px"),
        ({"refinement_dims": ()}, "not 1 to 10 widths"),
        ({"refinement_dims": (4,) * 1000}, "not 1 to 10 widths"),
        ({"refinement_dims": (5, 10**12)}, "refinement_dims.1. is 1000000000000"),
        ({"refinement_dims": (30_000, 30_000)}, "over 268,435,456 weights"),
        ({"layout_noise_dim": -1}, "layout_noise_dim is -1"),
        ({"layout_noise_dim": 3}, r"is of shape \(5, 7, 3, 3\), where \(5, 8, 3, 3\)"),
        ({"activation": "elu"}, "activation is 'elu'"),
        ({"mask_size": torch.ones(2)}, "mask_size is a tensor"),
        ({"image_size": (torch.ones(2), torch.zeros(2))}, "image_size is a tensor"),
        ({"activation": [["leakyrelu"]]}, "activation is"),
        ({"activation": "leakyrelu-" + "9" * 50}, "activation is"),
        ({"normalization": torch.ones(2)}, "normalization is a tensor"),
    ],
)
def test_a_drawing_part_that_does_not_fit_is_refused(write, kwargs, message):
    refused(load_published_sg2im, write(**kwargs), message)


@pytest.mark.parametrize(
    "strange",
    [
        torch.ones(4, 6).to_sparse(),
        torch.ones(4, 6, dtype=torch.complex64),
        torch.empty(4, 6, device="meta"),
        "box_net",
        None,
    ],
)
@LOADERS
def test_what_is_no_plain_tensor_is_no_weight(write, load, strange):
    path = write(weights={"box_net.2.weight": strange})
    refused(load, path, "it has no tensor box_net.2.weight")


def test_a_tensor_that_only_claims_its_size_takes_no_memory_for_it(write):
    """A view can show one number any number of times."""
    huge = torch.zeros(1).expand(1 << 20, 1 << 20)
    path = write(weights={"box_net.2.weight": huge})
    refused(load_published_graph, path, r"box_net.2.weight is of shape \(1048576, 1048576\)")
    wide = {"gconv_dim": 32_768, "embedding_dim": 32_768, "gconv_hidden_dim": 32_768}
    refused(load_published_graph, write(**wide), "over 268,435,456 weights")


class Greedy:
    """Unpickled by Python itself, it would be a list as long as the view claims to be."""

    def __reduce__(self):
        return list, (torch.zeros(1).expand(1000),)


@FORMATS
def test_a_list_is_not_filled_from_a_view(write, zipped):
    path = write(zipped=zipped, beside={"losses": Greedy()})
    assert _unpickled(path)["losses"] == []


def test_torch_reads_the_members_that_were_looked_at(write, source, tmp_path):
    """Of two zips laid end to end Python reads the last; what torch would is another matter."""
    first = write(weights={"box_net.2.bias": torch.full((4,), 7.0)}).read_bytes()
    second = write().read_bytes()
    both = tmp_path / "both.pt"
    both.write_bytes(first + second)
    network = load_published_sg2im(both).network
    torch.testing.assert_close(network.box_net[2].bias, source.box_net[2].bias, rtol=0, atol=0)


@pytest.mark.parametrize("load", [load_published_sg2im, load_published_graph])
@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.full((4,), float("nan")), "box_net.2.bias holds values that are not finite"),
        (torch.ones(4, dtype=torch.bool), "box_net.2.bias is of torch.bool"),
    ],
)
def test_weights_that_are_no_numbers_are_refused(write, load, value, message):
    refused(load, write(weights={"box_net.2.bias": value}), message)


def test_a_weight_that_is_there_with_and_without_prefix_is_refused(write):
    path = write(weights={"module.box_net.2.bias": torch.zeros(4)})
    refused(load_published_sg2im, path, "box_net.2.bias twice")


def test_a_small_slope_is_written_so_that_it_can_be_read(tmp_path):
    network = Sg2Im(
        Vocabulary((IMAGE, "a"), (IN_IMAGE,)), 4, 4, 2, image_px=4, decoder=(3,), slope=1e-5
    )
    save_published_sg2im(tmp_path / "small.pt", network)
    assert load_published_sg2im(tmp_path / "small.pt").network.sizes["slope"] == 1e-5
