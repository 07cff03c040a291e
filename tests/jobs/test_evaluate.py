"""jobs.evaluate on runs whose scores are known beforehand."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from bank.bank import Bank
from bank.errors import BankError
from jobs.evaluate import Evaluate, main
from jobs.show.scoring import scenes_to_score
from model.loop import save
from model.recipes import demo
from model.retrievegan.run import bank_of, load_network
from model.scores import retrieval as evaluation
from model.trainers import trainer_for
from pipeline.errors import UserError
from pipeline.options import write_json

CPU = torch.device("cpu")
K = 4


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """No data/toy in sight."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture
def styles(bank, tmp_path):
    """Writes a file of styles, style_of(image_id) for every photo of the bank."""

    def write(style_of, name="styles.json"):
        ids = np.unique(bank.patch_ids >> 16).tolist()
        write_json(tmp_path / name, {"styles": {i: style_of(i) for i in ids}})
        return tmp_path / name

    return write


@pytest.fixture
def saved(bank, tmp_path):
    """A run that was saved before its first step, after `change(model)`."""

    def write(change=lambda model: None, mode="learned", start="random"):
        config = replace(demo(), retrieval=replace(demo().retrieval, mode=mode, start=start))
        trainer = trainer_for(config, bank, CPU)
        change(trainer.model)
        run = tmp_path / "run"
        run.mkdir()
        write_json(run / "config.json", {"bank": str(bank.path), "train": config})
        save(trainer, bank, run)
        return run

    return write


def evaluate(run, **options):
    """Scores by (metric, choice)."""
    before = len(lines_of(run))
    main(Evaluate(run=run, **{"scenes": 6, "candidates": K, **options}))
    return {(s["metric"], s["choice"]): s for s in lines_of(run)[before:]}


def lines_of(run):
    path = run / "metrics.jsonl"
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


def numbers(score):
    return [score[name] for name in ("value", "low", "high", "scenes", "pairs")]


def test_a_run_before_its_first_step_scores_as_the_untrained_network(saved, styles):
    scores = evaluate(saved(), styles=styles(lambda i: i % 3))
    selection, together = "ground-truth selection", "compatibility"
    assert numbers(scores[selection, "trained"]) == numbers(scores[selection, "untrained"])
    assert numbers(scores[together, "learned"]) == numbers(scores[together, "untrained"])
    assert [choice for metric, choice in scores if metric == together] == [
        "learned", "learned, noise on", "untrained", "predefined", "random",
        "start-conditioned oracle", "chance",
    ]  # fmt: skip
    oracle, chance = (
        scores[together, choice]["value"] for choice in ("start-conditioned oracle", "chance")
    )
    assert chance < oracle


def test_training_that_moved_the_embedding_shows(saved):
    def move(model):
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            weight = model.embedding.head.weight
            weight.copy_(torch.randn(weight.shape, generator=generator))

    scores = evaluate(saved(move), scenes=20)
    selection = "ground-truth selection"
    assert scores[selection, "trained"]["value"] != scores[selection, "untrained"]["value"]


def test_a_network_whose_embedding_head_is_zeroed_scores_exactly_the_chance(saved):
    def zero(model):
        torch.nn.init.zeros_(model.embedding.head.weight)
        torch.nn.init.ones_(model.embedding.head.bias)

    scores = evaluate(saved(zero))
    chance = numbers(scores["ground-truth selection", "chance"])
    assert chance[0] == pytest.approx(1 / (K + 1))
    for choice in ("trained", "constant E_p"):
        assert numbers(scores["ground-truth selection", choice]) == chance
    assert scores["ground-truth selection", "untrained"]["value"] != chance[0]


def test_noise_is_on_in_its_own_row_alone(saved, styles):
    """Without noise a network that tells no patches apart takes the first of them, the nearest."""
    run = saved(lambda model: torch.nn.init.zeros_(model.embedding.head.weight))
    scores = evaluate(run, styles=styles(lambda i: i % 3), scenes=20)
    rows = ("learned", "learned, noise on", "predefined")
    quiet, noisy, nearest = (numbers(scores["compatibility", row]) for row in rows)
    assert quiet == nearest != noisy


def test_where_every_photo_has_one_style_every_choice_is_compatible(saved, styles):
    scores = evaluate(saved(start="medoid"), styles=styles(lambda i: 2))
    together = [s for (metric, _), s in scores.items() if metric == "compatibility"]
    assert len(together) == 7
    assert all(numbers(s)[:3] == [1.0, 1.0, 1.0] for s in together)


def test_scores_do_not_depend_on_how_many_scenes_go_together(saved, monkeypatch):
    run = saved()
    at_once = evaluate(run)
    monkeypatch.setattr(evaluation, "SCENES_AT_ONCE", 2)
    monkeypatch.setattr(evaluation, "PATCHES_AT_ONCE", 7)
    for key, score in evaluate(run).items():
        assert numbers(score) == pytest.approx(numbers(at_once[key])), key


def test_the_protocol_stands_beside_the_numbers(saved, bank, capsys):
    run = saved()
    scores = evaluate(run, seed=3)
    for score in scores.values():
        assert (score["split"], score["num_scenes"], score["candidates"]) == ("val", 6, K)
        assert (score["seed"], score["step"], score["bank"]) == (3, 0, bank.content_digest)
    out = capsys.readouterr().out
    assert f"split val, 6 scenes, K = {K}" in out
    assert f"seed 3, bank {bank.content_digest[:12]}" in out
    assert "| ground-truth selection | trained |" in out
    assert "styles of this bank's photos are not known" in out


def test_scores_are_added_to_those_of_earlier_calls(saved):
    run = saved()
    first = evaluate(run)
    assert evaluate(run) == first
    assert len(lines_of(run)) == 2 * len(first)


def test_a_run_without_learned_retrieval_claims_no_trained_embedding(saved, styles, capsys):
    scores = evaluate(saved(mode="predefined"), styles=styles(lambda i: i % 3))
    assert not {"trained", "learned", "learned, noise on"} & {choice for _, choice in scores}
    assert ("compatibility", "predefined") in scores
    assert "retrieval is predefined in this run" in capsys.readouterr().out


def test_scenes_are_drawn_by_seed_from_the_split_alone(bank, tmp_path):
    drawn = [
        scenes_to_score(bank, Evaluate(run=tmp_path, scenes=5, seed=seed)).tolist()
        for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    assert set(drawn[0]) <= set(bank.scene_ids("val").tolist())
    every = scenes_to_score(bank, Evaluate(run=tmp_path, split="test", scenes=10**6))
    assert every.tolist() == bank.scene_ids("test").tolist()


def test_styles_of_another_toy_world_are_refused(saved, styles, bank, tmp_path):
    run, file = saved(), styles(lambda i: i % 3)
    name = next(n for n in bank.manifest.inputs if n.endswith(".json"))
    (tmp_path / name).parent.mkdir()
    (tmp_path / name).write_text("{}")
    with pytest.raises(UserError, match="another toy world"):
        evaluate(run, styles=file)


def test_styles_lying_in_the_default_place_are_used_only_if_they_are_the_bank_s(
    saved, styles, bank, tmp_path
):
    run = saved()
    (tmp_path / "data/toy/annotations").mkdir(parents=True)
    styles(lambda i: i % 3, "data/toy/styles.json")
    assert ("compatibility", "learned") in evaluate(run)
    name = next(n for n in bank.manifest.inputs if n.endswith(".json"))
    (tmp_path / "data/toy" / name).write_text("{}")
    assert ("compatibility", "learned") not in evaluate(run)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{"styles": {"1": 0}}', "no style for photo"),
        ('{"styles": [1, 2]}', "no file of styles"),
        ("{", "no file of styles"),
        ("[" * 20_000, "no file of styles"),
        ('{"styles": {"1": 1e999}}', "no file of styles"),
        (None, "cannot be read"),
    ],
)
def test_styles_that_cannot_be_used_are_one_clear_line(saved, tmp_path, text, says):
    file = tmp_path / "broken.json"
    if text is not None:
        file.write_text(text)
    with pytest.raises(UserError, match=says):
        evaluate(saved(), styles=file)


def test_more_candidates_than_the_bank_has_are_refused(saved):
    with pytest.raises(BankError, match="asked for are 10000"):
        evaluate(saved(), candidates=10_000)


def test_an_embedding_that_is_not_finite_is_refused(saved):
    def spoil(model):
        torch.nn.init.constant_(model.embedding.head.bias, float("nan"))

    with pytest.raises(UserError, match="not finite"):
        evaluate(saved(spoil))


def test_a_loaded_run_has_the_weights_it_was_saved_with_and_is_in_evaluation_mode(saved, bank):
    saved_model = {}
    run = saved(lambda model: saved_model.update(model.state_dict()))
    opened = bank_of(run)
    model, state = load_network(run, opened, CPU)
    assert not model.training
    assert opened.content_digest == bank.content_digest
    assert state.step == 0
    for name, value in model.state_dict().items():
        assert torch.equal(value, saved_model[name]), name
