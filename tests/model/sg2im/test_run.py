"""sg2im in use: seeds, boxes, names, and what is no sg2im."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch

from model.config import RetrieveGANConfig
from model.recipes import demo, sg2im_demo
from model.retrievegan.run import RetrieveGANRun
from model.run_folder import RunError, read_config
from model.sg2im.network import Sg2Im
from model.sg2im.published import save_published_sg2im
from model.sg2im.run import Sg2ImRun, load_graph_encoder, load_network
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.scene import GEOMETRIC, IMAGE, IN_IMAGE, Box, Relation, SceneGraph, Vocabulary

VOCABULARY = Vocabulary((IMAGE, "boat", "sea", "sky"), (IN_IMAGE, *GEOMETRIC))
GRAPH = SceneGraph(("sky", "sea", "boat"), (Relation(0, "above", 1), Relation(2, "inside", 1)))
BOXES = (Box(0, 0, 1, 0.5), Box(0, 0.5, 1, 1), Box(0.3, 0.4, 0.6, 0.7))
SIZES = {"embedding": 6, "hidden": 8, "layers": 2, "image_px": 16, "noise": 2, "decoder": (6, 5)}


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return Sg2Im(VOCABULARY, **SIZES)


@pytest.fixture
def opened(network):
    return Sg2ImRun(network)


def same(*images):
    return all(np.array_equal(images[0], image) for image in images[1:])


def test_a_seed_decides_the_picture(opened):
    image = opened.generate(GRAPH, seed=3)
    assert image.shape == (16, 16, 3)
    assert image.dtype == np.uint8
    assert same(image, opened.generate(GRAPH, seed=3))
    assert not same(image, opened.generate(GRAPH, seed=4))


def test_boxes_come_from_the_call_else_the_graph_else_the_network(opened):
    by_network, by_call = opened.generate(GRAPH), opened.generate(GRAPH, boxes=BOXES)
    carrying = replace(GRAPH, boxes=BOXES)
    assert same(by_call, opened.generate(carrying))
    assert not same(by_call, by_network)
    other = opened.generate(carrying, boxes=BOXES[::-1])
    assert not same(by_call, other)
    assert same(other, opened.generate(replace(GRAPH, boxes=BOXES[::-1])))


def test_where_boxes_are_given_the_picture_itself_is_the_whole_one(opened, monkeypatch):
    seen = []
    lay_out = opened.model.lay_out

    def watched(vectors, boxes, masks, padding):
        seen.append(boxes)
        return lay_out(vectors, boxes, masks, padding)

    monkeypatch.setattr(opened.model, "lay_out", watched)
    opened.generate(GRAPH, boxes=BOXES)
    opened.generate(GRAPH)
    torch.testing.assert_close(seen[0], torch.tensor([*BOXES, (0, 0, 1, 1)]))
    assert [Box(*sides) for sides in seen[1][:3].tolist()] == list(opened.predict_boxes(GRAPH))


def test_rescaling_can_be_left_out(opened):
    stretched, plain = (opened.generate(GRAPH, rescale=on) for on in (True, False))
    assert (stretched.min(), stretched.max()) == (0, 255)
    assert not same(stretched, plain)


def test_all_unknown_names_are_in_one_line(opened):
    graph = SceneGraph(("boot", "sea", "moon"), (Relation(0, "abve", 1),))
    with pytest.raises(UserError, match="does not know 'boot', 'moon', 'abve'"):
        opened.generate(graph)
    with pytest.raises(UserError, match="does not know 'boot'"):
        opened.predict_boxes(graph)


def test_what_is_no_graph_is_refused(opened):
    with pytest.raises(UserError, match="no objects"):
        opened.generate(SceneGraph((), ()))
    with pytest.raises(UserError, match="1 box given for a graph of 3 objects"):
        opened.generate(GRAPH, boxes=BOXES[:1])
    with pytest.raises(UserError, match="0 boxes given for a graph of 3 objects"):
        opened.generate(GRAPH, boxes=())


def test_a_published_checkpoint_is_sampled_as_its_network(opened, network, tmp_path):
    path = tmp_path / "mine.pt"
    save_published_sg2im(path, network)
    checkpoint = torch.load(path, weights_only=True)
    checkpoint["model_kwargs"]["vec_noise_dim"] = 0
    torch.save(checkpoint, path)
    opened = Sg2ImRun.open(path)
    assert opened.ignored == ("model_kwargs.vec_noise_dim",)
    assert opened.vocabulary == VOCABULARY
    assert same(opened.generate(GRAPH, seed=1), opened.generate(GRAPH, seed=1))
    with pytest.raises(UserError, match=r"mine\.pt does not know 'moon'"):
        opened.generate(SceneGraph(("moon",), ()))


def test_each_kind_of_run_says_what_it_is_where_the_other_is_needed(tmp_path):
    for config in (demo(), sg2im_demo()):
        (tmp_path / config.recipe).mkdir()
        write_json(tmp_path / config.recipe / "config.json", {"bank": "b", "train": config})
    ours, baseline = tmp_path / "demo", tmp_path / "sg2im-demo"
    for needs_retrieval in (RetrieveGANRun.open, partial(read_config, kind=RetrieveGANConfig)):
        with pytest.raises(RunError, match=r"is a run of sg2im \(recipe sg2im-demo\); here"):
            needs_retrieval(baseline)
    for needs_sg2im in (Sg2ImRun.open, partial(load_network, device="cpu"), load_graph_encoder):
        with pytest.raises(RunError, match=r"is a run of RetrieveGAN \(recipe demo\); here"):
            needs_sg2im(ours)
    with pytest.raises(RunError, match="has no checkpoint"):
        Sg2ImRun.open(baseline)


def test_what_is_nowhere_says_so(tmp_path):
    with pytest.raises(RunError, match="is not a run"):
        Sg2ImRun.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match="no checkpoint at"):
        Sg2ImRun.open(tmp_path / "nowhere.pt")
