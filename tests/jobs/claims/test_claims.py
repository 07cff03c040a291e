"""The claims as data: every name, flag and field in them is one that there is."""

from dataclasses import fields, replace

import pytest

from jobs.claims.claims import CLAIMS, PAPER_FLAGS, asked_for
from model.config import RetrievalConfig, flags_of
from model.recipes import demo, paper
from tests.model.small_runs import options_of

METHODS = [method for claim in CLAIMS.values() for method in claim.methods]
TRAININGS = [*dict.fromkeys(method.training for method in METHODS)]


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=lambda claim: claim.name)
def test_a_claim_compares_methods_that_it_has_each_by_its_own_name(claim):
    names = [method.name for method in claim.methods]
    compared = [name for pair in (*claim.primary, *claim.further) for name in pair]
    assert len(set(names)) == len(names)
    assert set(compared) <= set(names)
    assert claim.primary
    assert all(better != worse for better, worse in (*claim.primary, *claim.further))


@pytest.mark.parametrize("training", TRAININGS, ids=lambda training: training.name)
def test_a_training_changes_what_its_flags_name_and_nothing_else(training):
    asked = options_of("--bank", "b", "--recipe", "demo", *training.flags).config
    named = {flag for flag in training.flags if flag.startswith("--")}
    before, after = flags_of(demo()), flags_of(asked)
    changed = {flag for flag in before if before[flag] != after[flag]}
    assert {flag.rpartition(".")[2].strip("-") for flag in changed} == {
        flag.rpartition(".")[2].strip("-") for flag in named
    }


def test_how_the_training_paper_differs_from_the_recipe_is_what_the_pages_say():
    ours = options_of("--bank", "b", "--recipe", "demo", *PAPER_FLAGS).config
    theirs = flags_of(paper())
    losses = {
        flag: (value, theirs[flag])
        for flag, value in flags_of(ours).items()
        if flag.startswith("--losses") and value != theirs[flag]
    }
    assert losses == {"--losses.gt-selection": (1.0, 0.1), "--losses.object-class": (0.02, 0.0)}
    sizes = {field.name for field in fields(RetrievalConfig)} - {"channels", "width"}
    assert {
        name for name in sizes if getattr(ours.retrieval, name) != getattr(paper().retrieval, name)
    } == {"same_patch_allowed"}


def test_trainings_of_one_name_are_the_same_and_of_the_same_flags_have_one_name():
    assert len({training.name for training in TRAININGS}) == len(TRAININGS)
    assert len({training.flags for training in TRAININGS}) == len(TRAININGS)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_a_method_chooses_by_fields_that_the_rule_has(method):
    assert set(method.choice) <= {field.name for field in fields(RetrievalConfig)}
    replace(RetrievalConfig(), **method.choice)


def test_all_asks_for_every_claim():
    assert [claim.name for claim in asked_for("all")] == list(CLAIMS)
    assert [claim.name for claim in asked_for("losses")] == ["losses"]
