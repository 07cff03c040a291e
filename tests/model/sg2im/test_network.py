"""The whole of sg2im: what the published weights expect of it, and the published answers."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

from model.graph.network import GraphBatch, GraphEncoder, graph_tensors
from model.sg2im.cascaded_refinement import RefinementNetwork
from model.sg2im.network import Sg2Im
from model.sg2im.published import load_published_sg2im
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Relation, Vocabulary

VOCABULARY = Vocabulary((IMAGE, "boat", "river", "tree"), (IN_IMAGE, *GEOMETRIC))
GRAPHS = [
    (("boat", "river", "tree"), (Relation(0, "inside", 1), Relation(2, "above", 1))),
    (("tree", "boat"), (Relation(1, "left of", 0),)),
]
SMALL = {"embedding": 6, "hidden": 10, "layers": 2, "image_px": 8, "noise": 3, "decoder": (5, 4)}


@pytest.fixture
def network():
    torch.manual_seed(0)
    return Sg2Im(VOCABULARY, **SMALL).eval()


@pytest.fixture
def graph():
    return graph_tensors(GRAPHS, VOCABULARY)


def names(prefix, count):
    return tuple(f"{prefix} {i}" for i in range(count))


@pytest.mark.parametrize(("objects", "predicates"), [(184, 11), (179, 46)])  # coco64, vg64
def test_names_and_shapes_are_those_of_the_published_files(objects, predicates):
    vocabulary = Vocabulary(
        (IMAGE, *names("o", objects - 1)), (IN_IMAGE, *names("p", predicates - 1))
    )
    with torch.device("meta"):
        network = Sg2Im(vocabulary)
    found = {name: tuple(value.shape) for name, value in network.state_dict().items()}
    expected = {
        "obj_embeddings.weight": (objects + 1, 128),
        "pred_embeddings.weight": (predicates, 128),
    }

    def layer(name, *shape):
        expected.update({f"{name}.weight": shape, f"{name}.bias": shape[:1]})

    def norm(name, channels):
        layer(name, channels)
        expected.update(
            {f"{name}.running_mean": (channels,), f"{name}.running_var": (channels,)}
            | {f"{name}.num_batches_tracked": ()}
        )

    for round_ in ("gconv", *(f"gconv_net.gconvs.{i}" for i in range(4))):
        layer(f"{round_}.net1.0", 512, 384)
        layer(f"{round_}.net1.2", 1152, 512)
        layer(f"{round_}.net2.0", 512, 512)
        layer(f"{round_}.net2.2", 128, 512)
    layer("box_net.0", 512, 128)
    layer("box_net.2", 4, 512)
    for i in range(4):
        norm(f"mask_net.{1 + 4 * i}", 128)
        layer(f"mask_net.{2 + 4 * i}", 128, 128, 3, 3)
    layer("mask_net.16", 1, 128, 1, 1)
    layer("rel_aux_net.0", 512, 264)
    layer("rel_aux_net.2", predicates, 512)
    widths, inputs = (1024, 512, 256, 128, 64), (161, 1184, 672, 416, 288)
    for i, (width, into) in enumerate(zip(widths, inputs, strict=True)):
        module = f"refinement_net.refinement_modules.{i}.net"
        layer(f"{module}.0", width, into, 3, 3)
        norm(f"{module}.1", width)
        layer(f"{module}.3", width, width, 3, 3)
        norm(f"{module}.4", width)
    layer("refinement_net.output_conv.0", 64, 64, 3, 3)
    layer("refinement_net.output_conv.2", 3, 64, 1, 1)
    assert found == expected
    counters = [name for name in found if name.endswith("num_batches_tracked")]
    assert len(found) - len(counters) == 140
    assert len(counters) == 14  # which files from before torch 0.4.1 lack


def golden(name):
    data = os.environ.get("RETRIEVEGAN_DATA")
    if data is None:
        pytest.skip("RETRIEVEGAN_DATA is not set: no golden data")
    return Path(data) / "golden" / name


@pytest.mark.parametrize("given", ["", "_boxes_gt"])
def test_the_published_implementation_and_ours_agree(given):
    network = load_published_sg2im(golden("sg2im_small.pt")).network
    with np.load(golden("sg2im_small_io.npz"), allow_pickle=False) as file:
        io = {name: torch.from_numpy(file[name]) for name in file.files}
    # Its image nodes stand behind the objects of each picture, ours behind all objects.
    order = torch.argsort((io["objs"] == 0).int(), stable=True)
    back = torch.argsort(order)
    triples = io["triples"].clone()
    triples[:, [0, 2]] = back[triples[:, [0, 2]]]
    nodes = io["objs"][order]
    object_image = io["obj_to_img"][order][: int((nodes != 0).sum())]
    graph = GraphBatch(nodes, triples, object_image, in_image=torch.zeros(0))
    assert torch.equal(graph.node_image, io["obj_to_img"][order])
    boxes = io["boxes_gt"][order] if given else None
    noise = torch.zeros(2, network.noise, network.image_px, network.image_px)
    with torch.no_grad():
        made = network.generate(graph, noise, boxes)
    ours = {
        "obj_vecs": made.encoding.vectors[back],
        "boxes": made.encoding.boxes[back],
        "masks": made.encoding.masks[back],
        f"layout_without_noise{given}": made.layout,
        f"image{given}": made.images,
    }
    for name, value in ours.items():
        torch.testing.assert_close(value, io[name], rtol=0, atol=1e-5, msg=name)


def test_noise_comes_from_a_tensor_or_a_seeded_generator(network, graph):
    def images(noise):
        with torch.no_grad():
            return network.generate(graph, noise).images

    def seeded(seed):
        return torch.Generator().manual_seed(seed)

    assert torch.equal(images(seeded(1)), images(seeded(1)))
    assert not torch.equal(images(seeded(1)), images(seeded(2)))
    assert torch.equal(images(seeded(1)), images(network.draw_noise(2, seeded(1))))


def test_a_picture_comes_out_the_same_alone_or_beside_another(network, graph):
    noise = network.draw_noise(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        both = network.generate(graph, noise).images
        alone = network.generate(graph_tensors(GRAPHS[1:], VOCABULARY), noise[1:]).images
    torch.testing.assert_close(both[1:], alone)


def test_boxes_and_masks_that_are_given_stand_in_for_the_predicted(network, graph):
    noise = torch.zeros(2, 3, 8, 8)
    with torch.no_grad():
        predicted = network.generate(graph, noise)
        same = network.generate(
            graph, noise, predicted.encoding.boxes, predicted.encoding.masks
        ).images
        boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).repeat(7, 1)
        moved = network.generate(graph, noise, boxes).images
        masked = network.generate(graph, noise, boxes, torch.ones(7, 16, 16)).images
    assert torch.equal(predicted.images, same)
    assert not torch.allclose(predicted.images, moved)
    assert not torch.allclose(moved, masked)


def test_without_a_mask_head_boxes_are_filled(graph):
    torch.manual_seed(0)
    network = Sg2Im(VOCABULARY, **SMALL, masks=False).eval()
    with torch.no_grad():
        made = network.generate(graph, torch.zeros(2, 3, 8, 8))
    assert made.encoding.masks is None
    assert made.images.shape == (2, 3, 8, 8)
    assert not any(name.startswith("mask_net") for name in network.state_dict())


def test_every_module_sees_the_layout_averaged_to_its_size():
    torch.manual_seed(0)
    network = RefinementNetwork(layout=2, channels=(4, 3), slope=0.2).eval()
    layout = torch.rand(1, 2, 8, 8)
    seen = []
    for module in network.refinement_modules:
        module.register_forward_hook(lambda _, given, out: seen.append(given))
    assert network(layout).shape == (1, 3, 8, 8)
    (coarse, nothing), (fine, features) = seen
    torch.testing.assert_close(coarse, torch.nn.functional.avg_pool2d(layout, 2))
    assert torch.equal(nothing, torch.zeros(1, 1, 4, 4))
    assert torch.equal(fine, layout)
    assert torch.equal(features[:, :, ::2, ::2], features[:, :, 1::2, 1::2])  # doubled, nearest


def test_the_graph_part_is_a_frozen_copy_that_encodes_alike(network, graph):
    part = network.graph_part()
    assert type(part) is GraphEncoder
    assert not part.training
    assert not any(p.requires_grad for p in part.parameters())
    with torch.no_grad():
        for ours, theirs in zip(
            part(graph.nodes, graph.triples), network(graph.nodes, graph.triples), strict=True
        ):
            assert torch.equal(ours, theirs)
        network.obj_embeddings.weight.zero_()
    assert part.obj_embeddings.weight.abs().sum() > 0


def test_a_saved_network_comes_back_whole(network, graph, tmp_path):
    network.save(tmp_path / "sg2im.safetensors")
    again = Sg2Im.load(tmp_path / "sg2im.safetensors")
    noise = torch.rand(2, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(
            again.generate(graph, noise).images, network.generate(graph, noise).images
        )


def test_heads_start_as_pytorch_makes_them_and_graph_convolutions_by_hes_rule():
    torch.manual_seed(0)
    network = Sg2Im(Vocabulary((IMAGE, "a"), (IN_IMAGE,)), 64, 128, 2, image_px=4, decoder=(3,))
    for head in (network.box_net, network.rel_aux_net):
        for layer in (head[0], head[2]):
            assert layer.weight.abs().max() <= layer.in_features**-0.5
    for layer in (network.gconv.net1[0], network.gconv.net2[2]):
        assert layer.weight.std().item() == pytest.approx((2 / layer.in_features) ** 0.5, rel=0.05)
