"""The scores of claims are those of jobs.evaluate, and are computed once."""

from copy import copy
from dataclasses import replace

import pytest
import torch

from bank.bank import Bank
from jobs.claims import scoring
from jobs.claims.claims import COMPATIBLE, PAPER, Method
from jobs.claims.scoring import KEPT, HeldOut, scores_of
from jobs.show.styles import read_styles
from model.loop import save
from model.recipes import demo
from model.retrievegan.run import load_network
from model.scores.measure import scores_of_retriever
from model.scores.retrieval import COMPATIBILITY, GROUND_TRUTH, STYLES_SHOWN, UNLIKE_CHOICES
from model.scores.retriever import Retriever
from model.trainers import trainer_for
from pipeline.errors import UserError
from pipeline.options import write_json

CPU = torch.device("cpu")
SEED = 2
CONFIG = replace(demo(), retrieval=replace(demo().retrieval, start="random"))
LEARNED, RANDOM = Method("learned", PAPER), Method("random", PAPER, choice={"mode": "random"})
ORACLE = Method("oracle", PAPER, "start-conditioned oracle")


@pytest.fixture(scope="module")
def held_out(toy_bank, toy_data):
    bank = Bank.open(toy_bank)
    styles = read_styles(toy_data / "styles.json", bank)
    return HeldOut(bank, styles, bank.scene_ids("test"), k=6, draws=3, device=CPU)


@pytest.fixture
def run(held_out, tmp_path):
    """One of a single step, which starts as the paper's do."""
    write_json(tmp_path / "config.json", {"bank": str(held_out.bank.path), "train": CONFIG})
    trainer = trainer_for(replace(CONFIG, seed=SEED), held_out.bank, CPU)
    with torch.no_grad():  # E_p after its first step is another than before
        for weights in trainer.model.embedding.parameters():
            weights.mul_(1.5).add_(0.1)
    trainer.step_number = 1
    save(trainer, held_out.bank, tmp_path)
    return tmp_path


def test_the_scores_are_those_that_evaluate_tells(run, held_out):
    ours = scores_of(run, SEED, COMPATIBLE.methods, held_out)
    model, _ = load_network(run, held_out.bank, CPU)
    retriever = Retriever(
        model, held_out.bank, held_out.batches, model.config.retrieval, noise=False
    )
    told = {
        (score.metric, score.choice): score.value
        for score in scores_of_retriever(
            retriever, held_out.batches, held_out.styles, draws=3, seed=SEED * 3
        )
    }
    for name, scores in ours.items():
        assert scores.compatibility == told[COMPATIBILITY, name]
        assert scores.unlike_choices == told[UNLIKE_CHOICES, name]
        assert scores.styles_shown == told[STYLES_SHOWN, name]
    assert ours["learned"].ground_truth == told[GROUND_TRUTH, "trained"]
    assert ours["learned, noise on"].ground_truth == ours["learned"].ground_truth
    assert ours["untrained"].ground_truth == told[GROUND_TRUTH, "untrained"]
    assert ours["learned"].ground_truth != ours["untrained"].ground_truth
    others = ("predefined", "random", "start-conditioned oracle", "global oracle")
    assert [ours[name].ground_truth for name in others] == [None] * len(others)
    assert held_out.chance == told[COMPATIBILITY, "chance"]


def test_what_was_scored_is_not_scored_again(run, held_out, monkeypatch):
    first = scores_of(run, SEED, [LEARNED, RANDOM], held_out)
    asked = []
    true = scoring.measured

    def noted(run, seed, methods, held_out):
        asked.append([method.name for method in methods])
        return true(run, seed, methods, held_out)

    monkeypatch.setattr(scoring, "measured", noted)
    again = [replace(LEARNED, name="by another name"), RANDOM]
    assert [*scores_of(run, SEED, again, held_out).values()] == [*first.values()]
    assert asked == []
    noisy = replace(LEARNED, noise=True)
    assert scores_of(run, SEED, [noisy, RANDOM], held_out)["random"] == first["random"]
    scores_of(run, SEED, [replace(LEARNED, choice={"start": "medoid"})], held_out)
    scores_of(run, SEED, [LEARNED], replace(held_out, draws=2))
    scores_of(run, SEED, [LEARNED], replace(held_out, image_ids=held_out.image_ids[1:]))
    scores_of(run, SEED, [LEARNED], replace(held_out, k=5))
    scores_of(run, SEED, [LEARNED], replace(held_out, styles=held_out.styles[::-1].copy()))
    derived = replace(held_out, bank=copy(held_out.bank))
    manifest = replace(held_out.bank.manifest, derived_digest="0" * 64)
    monkeypatch.setattr(derived.bank, "manifest", manifest)
    scores_of(run, SEED, [LEARNED], derived)
    assert asked == [["learned"]] * 7


def test_a_run_that_was_trained_anew_is_scored_anew(run, held_out, monkeypatch):
    scores_of(run, SEED, [RANDOM], held_out)
    model = next(run.glob("checkpoints/*/model.safetensors"))
    data = bytearray(model.read_bytes())
    data[-1] ^= 1
    model.write_bytes(data)
    monkeypatch.setattr(scoring, "measured", lambda *_: {"random": "anew"})
    monkeypatch.setattr(scoring, "write_json", lambda *_: None)
    assert scores_of(run, SEED, [RANDOM], held_out) == {"random": "anew"}


def test_a_choice_is_made_by_other_fields_than_the_run_was_trained_with(run, held_out):
    both = Method("nearest", PAPER, choice={"mode": "predefined"}), RANDOM
    scores = scores_of(run, SEED, both, held_out)
    assert scores["nearest"].unlike_choices == pytest.approx(1 / 3)  # nothing is drawn
    assert scores["random"].unlike_choices > 0.9


def test_no_patch_is_chosen_twice_in_a_scene_though_a_run_was_trained_so(run, held_out):
    once = scores_of(run, SEED, [LEARNED, ORACLE], held_out)
    twice = [replace(each, choice={"same_patch_allowed": True}) for each in (LEARNED, ORACLE)]
    for name, scores in scores_of(run, SEED, twice, held_out).items():
        assert scores != once[name]
    (run / KEPT).unlink()
    allowed = replace(CONFIG, retrieval=replace(CONFIG.retrieval, same_patch_allowed=True))
    write_json(run / "config.json", {"bank": str(held_out.bank.path), "train": allowed})
    assert scores_of(run, SEED, [LEARNED, ORACLE], held_out) == once


def test_kept_scores_that_are_damaged_say_what_to_do(run, held_out):
    (run / KEPT).write_text('{"a": {"compatibility": "high"}}')
    with pytest.raises(UserError, match=r"claims.json is damaged .*: remove it, and"):
        scores_of(run, SEED, [RANDOM], held_out)


def test_each_seed_has_scenes_of_its_own_and_none_is_left_out(held_out):
    parts = held_out.parts(3)
    ids = [part.image_ids.tolist() for part in parts]
    assert sorted(i for part in ids for i in part) == sorted(held_out.image_ids.tolist())
    assert max(map(len, ids)) - min(map(len, ids)) <= 1
    assert [batch.num_images for batch in parts[1].batches] == [len(ids[1])]
    few = replace(held_out, image_ids=held_out.image_ids[:2])
    with pytest.raises(UserError, match=r"2 test scenes for 3 seeds.*fewer --seeds"):
        few.parts(3)
