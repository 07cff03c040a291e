"""Each half of the held-out photos is scored after the steps that the other half finds best."""

import numpy as np
import pytest
import torch
from PIL import Image

from bank.bank import Bank
from benchmarks.real_photos import (
    ACROSS,
    ASKED,
    HALVES,
    PEERS,
    Row,
    Trained,
    best_steps,
    fixed_rows,
    held_out,
    hit_rate,
    picture,
    some_scenes,
    table,
    trained_rows,
    trainings,
)
from jobs.show.sheets import CELL, GAP
from model.scores.scenes import ANY_QUALITY, Features, constant
from pipeline.scene import image_of
from tests.model.small_runs import options_of


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture(scope="module")
def halves(bank):
    return held_out(bank, ANY_QUALITY)


def telling_apart(bank, split):
    """Alike are patches of one photo of that split, and all others."""
    photos = image_of(bank.patch_ids)
    values = np.where(np.isin(photos, bank.scene_ids(split)), photos, 0)
    return Features(bank.patch_ids, torch.from_numpy(values).double()[:, None])


def test_the_halves_are_of_different_scenes_and_each_has_its_hit_rate(bank, halves):
    assert [{i for b in half for i in b.image_ids} for half in halves] == [
        set(bank.scene_ids(split).tolist()) for split in HALVES
    ]
    for split, own, other in zip(HALVES, halves, reversed(halves), strict=True):
        features = telling_apart(bank, split)
        assert hit_rate(own, features) == 1
        assert hit_rate(other, features) == hit_rate(other, constant(bank.patch_ids)) < 0.5


def test_a_half_is_scored_after_the_steps_that_are_best_on_the_other(bank, halves):
    val, test, none = (*(telling_apart(bank, split) for split in HALVES), constant(bank.patch_ids))
    assert best_steps(halves, {1: [none], 2: [val], 3: [test]}) == (3, 2)
    assert best_steps(halves, {1: [none, none], 2: [none, val], 3: [val, none]}) == (1, 2)


def test_so_what_is_good_for_one_half_alone_gains_nothing(bank, halves):
    val, test = (telling_apart(bank, split) for split in HALVES)
    fixed = {"chance": constant(bank.patch_ids), **dict.fromkeys(PEERS[:2], val)}
    (chance, *_) = fixed_rows(fixed, halves)
    trained = Trained("paper", [test], {1: [val, val], 2: [test, test]})
    untrained, learned = trained_rows([trained], halves)
    assert (untrained.name, untrained.steps) == ("paper, untrained", ())
    assert learned.steps == (2, 1)
    assert len(learned.seeds) == 2
    for seed in learned.seeds:
        assert seed.every.totals.tolist() == pytest.approx(chance.seeds[0].every.totals.tolist())


def test_the_table_tells_differences_over_the_same_scenes(bank, halves):
    val, none = telling_apart(bank, "val"), constant(bank.patch_ids)
    rows = fixed_rows({"predefined": val, "mean colour": none, "paper": none}, halves)
    rows.append(Row("learned", [rows[0].seeds[0], rows[1].seeds[0]], (50, 100)))
    head, _, predefined, colour, _, learned = table(rows)
    assert head.endswith("| less predefined | less mean colour | less paper |")
    whole, chance = (hit_rate([b for half in halves for b in half], f) for f in (val, none))
    assert predefined.startswith(f"| predefined |  | {whole:.3f} (")
    assert predefined.split(" | ")[-3] == ""
    assert f"| {whole - chance:+.3f} (" in predefined
    assert "| +0.000 (+0.000 to +0.000) |" in colour
    assert learned.startswith(f"| learned | 50 / 100 | {(whole + chance) / 2:.3f} (")
    assert f" | {whole:.3f} {chance:.3f} | " in learned


def test_candidates_of_too_little_quality_are_not_scored_against(bank, halves):
    asked = held_out(bank, ASKED)
    number = [sum(int(b.valid.sum()) for half in h for b in half) for h in (halves, asked)]
    assert number[1] < number[0]


def test_trainings_differ_by_their_retrieval_alone_and_keep_every_score_step():
    configs = {}
    for training in trainings(every=7):
        config = options_of("--bank", "b", "--recipe", "demo", *training.flags).config
        assert not config.losses.of_images
        assert config.execution.checkpoint_every == 7
        configs[training.name] = config.retrieval
    asked = [name for name, rule in configs.items() if rule.min_quality == ASKED]
    assert asked == ["paper by quality", "demo by quality"]
    assert configs["paper"].objective == "path"
    assert configs["demo"].objective == "pairs"


def test_the_picture_is_of_the_scenes_with_the_most_to_choose_from(halves):
    scenes = {
        image_id: own.sum(1).double().mean()
        for batch in halves[HALVES.index("test")]
        for image_id, (own,) in zip(batch.image_ids, batch.apart(batch.own_category), strict=True)
        if len(own) <= ACROSS and own.any(1).all()
    }
    some = some_scenes(halves, 3).tolist()
    rest = set(scenes) - set(some)
    assert len(some) == 3
    assert min(scenes[i] for i in some) >= max(scenes[i] for i in rest)


def test_the_picture_shows_true_patches_and_four_ways_of_choosing(bank, halves):
    trained = [Trained(name, [], {1: [telling_apart(bank, "val")]}) for name in ("paper", "demo")]
    shown = picture(bank, halves, trained, 2)
    rows = (shown.height - GAP) // (CELL + GAP)
    assert rows >= 2 * 5
    first = np.asarray(shown)[GAP : GAP + CELL, GAP : GAP + CELL]
    ids = sorted(bank.scene_ids("test").tolist())
    photos = [Image.fromarray(bank.scene(i).image).resize((CELL, CELL)) for i in ids]
    assert any(np.array_equal(first, np.asarray(photo)) for photo in photos)
