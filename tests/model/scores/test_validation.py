"""The score by which a run keeps its best checkpoint."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bank.bank import Bank
from model.config import MinQuality
from model.recipes import demo, sg2im_demo
from model.scores import validation
from model.scores.retrieval import ground_truth_scores
from model.scores.scenes import Features, constant, distinct_patches, embed, scene_batches
from model.scores.validation import validation_score
from model.trainers import trainer_for

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


def model_of(bank, config):
    return trainer_for(config, bank, CPU).model


def test_it_is_the_ground_truth_selection_score_of_the_network_as_it_is(bank, capfd):
    model = model_of(bank, demo())
    score = validation_score(model, bank)
    ids = bank.scene_ids("val")
    batches = scene_batches(bank, ids, demo().retrieval.candidates, CPU)
    patches = distinct_patches(batches)
    capfd.readouterr()
    values = [score()]
    assert capfd.readouterr() == ("", "")  # no bar in the middle of a training
    for _ in range(2):
        embeddings = {"trained": embed(model, bank, patches)}
        expected = ground_truth_scores(batches, embeddings, 0)[0]
        assert values[-1] == pytest.approx(expected.value)
        with torch.no_grad():
            for parameter in model.embedding.parameters():
                parameter.normal_()
        values.append(score())
    assert values[0] != values[1]
    assert values[1] == values[2] or values[1] != values[0]


def test_the_true_patch_is_sought_among_candidates_of_the_runs_quality(bank):
    rule = replace(demo().retrieval, min_coverage=0.8)
    model = model_of(bank, replace(demo(), retrieval=rule))
    plain, strict = (
        scene_batches(bank, bank.scene_ids("val"), rule.candidates, CPU, minimum)
        for minimum in (MinQuality(), rule.min_quality)
    )
    features = {"trained": embed(model, bank, distinct_patches([*plain, *strict]))}
    before, expected = (ground_truth_scores(some, features, 0)[0].value for some in (plain, strict))
    assert validation_score(model, bank)() == pytest.approx(expected)
    assert expected != pytest.approx(before)


def test_it_is_the_same_whenever_it_is_asked_for(bank):
    score = validation_score(model_of(bank, demo()), bank)
    first = score()
    torch.manual_seed(99)
    assert score() == first


def test_many_scenes_are_scored_by_some(bank, monkeypatch):
    monkeypatch.setattr(validation, "VALIDATION_SCENES", 3)
    asked = []

    def noted(bank, ids, *others):
        asked.append(ids)
        return scene_batches(bank, ids, *others)

    monkeypatch.setattr(validation, "scene_batches", noted)
    for _ in range(2):
        validation_score(model_of(bank, demo()), bank)
    first, second = asked
    assert np.array_equal(first, second)
    assert len(set(first.tolist()) & set(bank.scene_ids("val").tolist())) == 3


@pytest.mark.parametrize(
    "config",
    [sg2im_demo(), replace(demo(), retrieval=replace(demo().retrieval, mode="predefined"))],
)
def test_where_nothing_is_learned_about_retrieval_there_is_none(bank, config):
    assert validation_score(model_of(bank, config), bank) is None


def test_without_val_scenes_or_pairs_there_is_none(bank, monkeypatch):
    model = model_of(bank, demo())
    pairs = validation.ground_truth
    monkeypatch.setattr(
        validation, "ground_truth",
        lambda *given: pairs(*given)._replace(credit=torch.zeros(0)),
    )  # fmt: skip
    assert validation_score(model, bank) is None
    monkeypatch.setattr(bank, "scene_ids", lambda split: np.array([], np.int64))
    assert validation_score(model, bank) is None


def test_a_constant_embedding_has_one_vector_for_all():
    features = constant(np.array([3, 5]))
    assert isinstance(features, Features)
    assert torch.equal(features(torch.tensor([3])), features(torch.tensor([5])))
