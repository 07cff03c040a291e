"""Pictures of held-out scenes: of their own patches, boxes and draws, however many go together."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.draws import normal_maps
from model.recipes import demo, sg2im_demo
from model.retrieval.choice import noise_by_default
from model.retrievegan.run import RetrieveGANRun
from model.scores import scenes
from model.scores.choices import by_rule, choose_all
from model.scores.pictures import (
    ChosenPatches,
    canvas_pictures,
    composed_pictures,
    photo_pictures,
    saved_as,
    sg2im_pictures,
    through_jpeg,
)
from model.scores.retrieval import repeated_crop_scores
from model.scores.retriever import Retriever
from model.scores.scenes import scene_batches
from model.sg2im.run import Sg2ImRun
from model.trainers import trainer_for
from pipeline.scene import Box, SceneGraph

CPU = torch.device("cpu")
SEEDS = (3, 4)
K = 4


@pytest.fixture(scope="module")
def ids(bank):
    return bank.scene_ids("val")[:5]


@pytest.fixture(scope="module")
def model(bank):
    return trainer_for(demo(), bank, CPU).model.eval()


@pytest.fixture(scope="module")
def sg2im(bank):
    return trainer_for(sg2im_demo(), bank, CPU).model.eval()


def chosen_of(model, bank, batches, **rule):
    rule = replace(model.config.retrieval, **rule)
    retriever = Retriever(model, bank, batches, rule, noise=noise_by_default(rule, len(SEEDS)))
    return ChosenPatches(bank, batches, retriever.method, SEEDS)


def graph_of(bank, image_id, boxes=True):
    scene = bank.scene(int(image_id))
    own = tuple(Box(*corners) for corners in scene.boxes.tolist())
    return SceneGraph(scene.objects, scene.triples, own if boxes else None)


def near(left, right):
    """Equal but for rounding: by one level at most."""
    return np.abs(left.astype(int) - right.astype(int)).max() <= 1


@pytest.mark.parametrize("boxes_from", ["predicted", "gt"])
def test_a_picture_is_what_the_opened_run_makes_of_the_same_patches(bank, ids, model, boxes_from):
    batches = scene_batches(bank, ids, K, CPU)
    chosen = chosen_of(model, bank, batches)
    made = composed_pictures("run", model, chosen, boxes_from)
    block = made.block(0)
    assert block.shape == (5, 2, 64, 64, 3)
    run = RetrieveGANRun(model, bank, CPU)
    ends = np.cumsum([len(objects) for objects, _ in batches[0].graphs])
    for draw in range(2):
        patches = np.split(chosen.of_batch(0)[draw], ends[:-1])
        for n, image_id in enumerate(ids):
            graph = graph_of(bank, image_id, boxes=boxes_from == "gt")
            assert near(run.generate(graph, bank.patches(patches[n])), block[n, draw])
    predicted = run.predict_boxes(graph_of(bank, ids[0]))
    own = [*graph_of(bank, ids[0]).boxes]
    shown = made.object_boxes(batches[0])[: ends[0]]
    expected = own if boxes_from == "gt" else [*predicted]
    assert torch.allclose(shown, torch.tensor(expected), atol=1e-5)


@pytest.mark.parametrize("boxes_from", ["predicted", "gt"])
def test_sg2im_s_pictures_are_those_of_its_opened_run(bank, ids, sg2im, boxes_from):
    batches = scene_batches(bank, ids, K, CPU)
    made = sg2im_pictures("sg2im", sg2im, batches, SEEDS, boxes_from, "min-max")
    block = made.block(0)
    run = Sg2ImRun(sg2im)
    shape = (sg2im.noise, 64, 64)
    for n, image_id in enumerate(ids):
        graph = graph_of(bank, image_id, boxes=boxes_from == "gt")
        noise = normal_maps(SEEDS[1], [int(image_id)], shape, CPU)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sg2im, "draw_noise", lambda *_, noise=noise: noise)
            assert near(run.generate(graph, rescale=True), block[n, 1])
    assert not np.array_equal(block[:, 0], block[:, 1])


def test_pictures_do_not_depend_on_how_many_scenes_go_together(
    bank, ids, model, sg2im, monkeypatch
):
    def made():
        batches = scene_batches(bank, ids, K, CPU)
        sets = (
            composed_pictures("run", model, chosen_of(model, bank, batches), "predicted"),
            sg2im_pictures("sg2im", sg2im, batches, SEEDS, "gt", "clip"),
            canvas_pictures("canvas", chosen_of(model, bank, batches), 64),
            photo_pictures("photos", bank, batches, 64),
        )
        return len(batches), [
            np.concatenate([some.block(n) for n in range(len(batches))]) for some in sets
        ]

    count, together = made()
    monkeypatch.setattr(scenes, "SCENES_AT_ONCE", 2)
    more, apart = made()
    assert (count, more) == (1, 3)
    for left, right in zip(together, apart, strict=True):
        assert near(left, right)


def test_no_crop_serves_two_objects_of_a_picture(bank, model):
    """Of two candidates for each object, which objects of one category share."""
    batches = scene_batches(bank, bank.scene_ids("val"), 2, CPU)
    rule = replace(model.config.retrieval, mode="random", same_patch_allowed=True)
    own = Retriever(model, bank, batches, rule, noise=False).method
    methods = {"by the rule": by_rule(rule, None, noise=False), "of pictures": own}
    choices = choose_all(batches, methods, 4, 0)
    repeats = {s.choice: s.value for s in repeated_crop_scores(batches, choices)}
    assert repeats["by the rule"] > 0
    assert repeats["of pictures"] == 0


def test_photos_are_the_bank_s_at_the_side_asked_for(bank, ids):
    batches = scene_batches(bank, ids, K, CPU)
    own = photo_pictures("photos", bank, batches, bank.image_size)
    assert np.array_equal(own.block(0)[:, 0], [bank.scene(int(i)).image for i in ids])
    assert photo_pictures("photos", bank, batches, 32).block(0).shape == (5, 1, 32, 32, 3)
    assert own.num_scenes == 5


def test_a_jpeg_changes_pixels_a_little_and_a_png_none(bank, ids):
    own = photo_pictures("photos", bank, scene_batches(bank, ids, K, CPU), 64)
    assert saved_as(own, "png") is own
    before, after = own.block(0), saved_as(own, "jpg").block(0)
    assert after.shape == before.shape
    change = np.abs(after.astype(int) - before.astype(int)).mean()
    assert 0 < change < 10
    flat = np.full((1, 2, 16, 16, 3), 77, np.uint8)
    assert np.array_equal(through_jpeg(flat), flat)
