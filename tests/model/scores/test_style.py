"""The style classifier learns what it is to tell, and pairs are counted as they should be."""

import json

import numpy as np
import pytest
import torch

from bank.bank import Bank
from model.pixels import to_float, to_uint8
from model.scores import style
from model.scores.style import (
    StyledObjects,
    classify,
    style_accuracy,
    style_agreement,
    style_classifier,
    train_classifier,
    training_objects,
)
from pipeline.scene import image_of

RED, GREEN, BLUE = range(3)  # styles of made-up pictures
SIDE = 16
LEFT, RIGHT = (0.0, 0.0, 0.5, 1.0), (0.5, 0.0, 1.0, 1.0)  # they only touch
WHOLE = (0.0, 0.0, 1.0, 1.0)


def painted(left: int, right: int, side: int = SIDE) -> np.ndarray:
    """A noisy picture whose halves have these styles."""
    picture = np.random.default_rng(3 * left + right).integers(0, 90, (side, side, 3))
    picture[:, : side // 2, left] += 150
    picture[:, side // 2 :, right] += 150
    return picture.astype(np.uint8)


@pytest.fixture(scope="module")
def classifier():
    """Of the three colours, learned from halves of pictures."""
    pairs = [(left, right) for left in range(3) for right in range(3)]
    objects = StyledObjects(
        torch.from_numpy(np.stack([painted(*pair) for pair in pairs])),
        torch.tensor([LEFT, RIGHT] * len(pairs)),
        torch.arange(len(pairs)).repeat_interleave(2),
        torch.tensor(pairs).flatten(),
    )
    return train_classifier(objects, steps=40)


# Three scenes, two draws of each; the last scene has only objects that overlap.
BOXES = torch.tensor([LEFT, RIGHT, WHOLE, RIGHT, LEFT, LEFT, WHOLE])
OBJECT_IMAGE = torch.tensor([0, 0, 0, 1, 1, 2, 2])
PICTURES = np.stack(
    [
        [painted(RED, RED), painted(RED, BLUE)],
        [painted(GREEN, GREEN), painted(RED, RED)],
        [painted(BLUE, BLUE), painted(GREEN, GREEN)],
    ]
)


def test_pairs_of_one_picture_agree_where_both_objects_show_one_style(classifier):
    sums = style_agreement(classifier, PICTURES, BOXES, OBJECT_IMAGE)
    assert sums.totals.tolist() == [1, 2, 0]
    assert sums.weights.tolist() == [2, 2, 0]  # left and right, in two draws


def test_each_object_is_told_from_its_own_box_draw_and_scene(classifier):
    told = classify(classifier, PICTURES, BOXES, OBJECT_IMAGE)
    assert told[0, [0, 1, 3, 4, 5, 6]].tolist() == [RED, RED, GREEN, GREEN, BLUE, BLUE]
    assert told[1, [0, 1, 3, 4, 5, 6]].tolist() == [RED, BLUE, RED, RED, GREEN, GREEN]


def test_what_is_told_does_not_depend_on_the_size_of_the_blocks(classifier, monkeypatch):
    whole = classify(classifier, PICTURES, BOXES, OBJECT_IMAGE)
    monkeypatch.setattr(style, "AT_ONCE", 2)
    assert torch.equal(classify(classifier, PICTURES, BOXES, OBJECT_IMAGE), whole)


def test_pictures_of_another_size_are_resized_to_the_classifier_s(classifier):
    larger = PICTURES.repeat(4, 2).repeat(4, 3)
    assert torch.equal(
        classify(classifier, larger, BOXES, OBJECT_IMAGE),
        classify(classifier, PICTURES, BOXES, OBJECT_IMAGE),
    )


def test_the_accuracy_is_over_all_objects_and_draws(classifier):
    some = torch.tensor([0, 1, 3, 5, 6])
    truth = torch.tensor([RED, BLUE, GREEN, BLUE, RED])
    sums = style_accuracy(classifier, PICTURES, BOXES[some], OBJECT_IMAGE[some], truth)
    assert sums.totals.tolist() == [3, 1, 1]
    assert sums.weights.tolist() == [4, 2, 4]


# On the toy world


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture(scope="module")
def styles(bank, toy_data):
    named = json.loads((toy_data / "styles.json").read_text("utf-8"))["styles"]
    return np.array([named[str(i)] for i in image_of(bank.patch_ids)], np.int64)


def test_training_objects_are_those_of_training_scenes_with_their_photo_s_style(bank, styles):
    objects = training_objects(bank, styles, 32)
    ids = bank.scene_ids("train")
    assert len(objects.images) == len(ids)
    style_of = dict(zip(image_of(bank.patch_ids).tolist(), styles.tolist(), strict=True))
    for place in (0, 17, len(ids) - 1):
        scene, of_scene = bank.scene(int(ids[place])), objects.object_image == place
        resized = to_uint8(to_float(torch.from_numpy(scene.image.copy()), 32))
        assert torch.equal(objects.images[place], resized)
        assert np.array_equal(objects.boxes[of_scene], scene.boxes)
        assert set(objects.styles[of_scene].tolist()) == {style_of[int(ids[place])]}
    assert len(objects.styles) == bank.table["split"].to_pylist().count("train")


def test_styles_of_photos_that_it_has_not_seen_are_told_and_mismatched_crops_are_not(bank, styles):
    classifier = train_classifier(training_objects(bank, styles, 32), steps=120)
    scenes = [bank.scene(int(i)) for split in ("val", "test") for i in bank.scene_ids(split)]
    counts = torch.tensor([len(scene.boxes) for scene in scenes])
    object_image = torch.arange(len(scenes)).repeat_interleave(counts)
    boxes = torch.from_numpy(np.concatenate([scene.boxes for scene in scenes]))
    pictures = np.stack([scene.image for scene in scenes])[:, None]
    rows = bank.rows(np.concatenate([scene.patch_ids for scene in scenes]))
    truth = torch.from_numpy(styles[rows])

    def mean(sums):
        return sums.totals.sum() / sums.weights.sum()

    chance = 1 / 12
    assert mean(style_accuracy(classifier, pictures, boxes, object_image, truth)) > 4 * chance
    assert mean(style_agreement(classifier, pictures, boxes, object_image)) > 4 * chance
    others = truth[torch.randperm(len(truth), generator=torch.Generator().manual_seed(0))]
    assert mean(style_accuracy(classifier, pictures, boxes, object_image, others)) < 2 * chance


def test_training_is_the_same_every_time_and_leaves_other_draws_alone(bank, styles):
    objects = training_objects(bank, styles, 32)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = train_classifier(objects, steps=3).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    again = train_classifier(objects, steps=3).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.fixture
def few_steps(monkeypatch, tmp_path):
    """A cache of its own, and a count of trainings, each of a single step."""
    trained = []

    def train(objects, steps):
        assert steps == style.STEPS
        trained.append(objects.images.shape[1])
        return train_classifier(objects, steps=1)

    monkeypatch.setenv("RETRIEVEGAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(style, "train_classifier", train)
    return trained


def test_a_classifier_is_trained_once_and_then_kept(bank, styles, few_steps, tmp_path):
    first = style_classifier(bank, styles, 16)
    again = style_classifier(bank, styles, 16)
    assert few_steps == [16]
    kept, trained = again.state_dict(), first.state_dict()
    assert all(torch.equal(kept[name], trained[name]) for name in trained)
    assert again.side == 16
    assert not again.training
    (file,) = (tmp_path / "cache").iterdir()
    file.write_bytes(b"damaged")
    style_classifier(bank, styles, 16)
    assert few_steps == [16, 16]


def test_another_side_other_styles_or_another_bank_is_another_classifier(
    bank, styles, few_steps, monkeypatch
):
    style_classifier(bank, styles, 16)
    style_classifier(bank, styles, 8)
    style_classifier(bank, (styles + 1) % 12, 16)
    monkeypatch.setattr(Bank, "content_digest", "of another bank")
    style_classifier(bank, styles, 16)
    monkeypatch.setattr(style, "VERSION", style.VERSION + 1)
    style_classifier(bank, styles, 16)
    assert few_steps == [16, 8, 16, 16, 16]
