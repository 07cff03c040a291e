"""What each method of selection chooses, draw by draw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.config import RetrievalConfig
from model.scores.choices import (
    SelectionMethod,
    choose_all,
    oracle_methods,
    patch_styles,
    selection_methods,
)
from model.scores.metrics import compatibility, same_choice
from model.scores.scenes import Features, distinct_patches, scene_batches
from pipeline.scene import image_of

CPU = torch.device("cpu")
K, DRAWS = 4, 3
STYLES = 5


@pytest.fixture(scope="module")
def batches(bank):
    ids = bank.scene_ids("val")
    return [*scene_batches(bank, ids[:6], K, CPU), *scene_batches(bank, ids[6:11], K, CPU)]


@pytest.fixture(scope="module")
def styles(bank):
    return image_of(bank.patch_ids) % STYLES


def embeddings(batches, *names):
    ids = distinct_patches(batches)
    generator = torch.Generator().manual_seed(0)
    return {name: Features(ids, torch.randn(len(ids), 3, generator=generator)) for name in names}


def all_methods(bank, batches, styles, start="random"):
    rule = RetrievalConfig(candidates=K, start=start)
    embedded = embeddings(batches, "trained", "untrained")
    own = oracle_methods(rule, bank, styles, embedded["trained"])
    return {**selection_methods(rule, embedded), **own}


@pytest.mark.parametrize("start", ["random", "medoid", "best"])
def test_draws_differ_just_where_a_method_says_so(bank, batches, styles, start):
    methods = all_methods(bank, batches, styles, start)
    for name, method in methods.items():
        with torch.no_grad():
            draws = [torch.cat([method.select(b, seed) for b in batches]) for seed in range(DRAWS)]
        alike = all(torch.equal(draw, draws[0]) for draw in draws)
        assert alike != method.is_drawn, name


def test_each_method_chooses_for_each_draw_and_batch_what_its_seed_says(bank, batches, styles):
    methods = all_methods(bank, batches, styles)
    chosen = choose_all(batches, methods, DRAWS, seed=7)
    assert list(chosen) == list(methods)
    for name, draws in chosen.items():
        assert len(draws) == DRAWS
        for draw, of_draw in enumerate(draws):
            for selected, batch in zip(of_draw, batches, strict=True):
                with torch.no_grad():
                    assert torch.equal(selected, methods[name].select(batch, 7 + draw))
                assert batch.valid[torch.arange(len(selected)), selected].all()


def test_a_method_that_draws_nothing_chooses_once_and_the_bar_counts_that(batches, capfd):
    asked = []

    def select(scenes, seed):
        asked.append((len(scenes.image_ids), seed))
        return torch.zeros(len(scenes.patch_ids), dtype=torch.long)

    methods = {"still": SelectionMethod(select, False), "drawn": SelectionMethod(select, True)}
    chosen = choose_all(batches, methods, 2, seed=3)
    assert asked == [(6, 3), (5, 3), (6, 3), (5, 3), (6, 4), (5, 4)]
    assert [len(draws) for draws in chosen.values()] == [2, 2]
    assert "choosing patches: 33 scenes" in capfd.readouterr().err


def test_a_run_that_learned_nothing_has_no_choice_of_its_own(batches):
    methods = selection_methods(RetrievalConfig(), embeddings(batches, "untrained"))
    assert list(methods) == ["untrained", "predefined", "random"]


def test_no_method_agrees_more_than_the_global_oracle(bank, batches, styles):
    agreed = {}
    chosen = choose_all(batches, all_methods(bank, batches, styles), DRAWS, seed=0)
    for name, draws in chosen.items():
        pairs = [
            compatibility(
                patch_styles(bank, batch.candidates, styles).take(selected), batch.padding.image
            )
            for of_draw in draws
            for batch, selected in zip(batches, of_draw, strict=True)
        ]
        agree, counted = (sum(float(p[i].sum()) for p in pairs) for i in range(2))
        agreed[name] = agree / counted
    best = agreed.pop("global oracle")
    assert best > max(agreed.values())
    assert max(agreed, key=agreed.get) == "start-conditioned oracle"


@pytest.mark.parametrize("start", ["random", "medoid", "best"])
def test_the_oracle_that_starts_as_the_run_is_named_so(bank, styles, start):
    methods = oracle_methods(RetrievalConfig(start=start), bank, styles, None)
    own = "oracle from every start" if start == "best" else "start-conditioned oracle"
    assert list(methods) == [own, "global oracle"]
    assert methods[own].is_drawn == (start != "best")


def test_the_global_oracle_chooses_for_a_scene_what_it_would_choose_alone(bank, batches, styles):
    method = oracle_methods(RetrievalConfig(), bank, styles, Features(np.array([0]), None))
    select = method["global oracle"].select
    together = select(batches[0], 0)
    ids = np.array(batches[0].image_ids)
    alone = [select(scene_batches(bank, ids[i : i + 1], K, CPU)[0], 0) for i in range(len(ids))]
    assert torch.equal(together, torch.cat(alone))


def test_the_start_conditioned_oracle_may_repeat_a_patch_only_where_the_run_may(bank, batches):
    """In a world of one style nothing else tells candidates apart."""
    one = np.zeros(len(bank.patch_ids), np.int64)
    features = embeddings(batches, "trained")["trained"]
    chosen = {}
    for allowed in (False, True):
        rule = replace(RetrievalConfig(candidates=K), same_patch_allowed=allowed)
        select = oracle_methods(rule, bank, one, features)["start-conditioned oracle"].select
        chosen[allowed] = [select(batches[0], seed) for seed in range(20)]
    assert not same_choice(chosen[True] + chosen[False], batches[0].padding).all()

    def repeats(draws):
        ids = [batches[0].candidates[torch.arange(len(s)), s].tolist() for s in draws]
        image = batches[0].padding.image.tolist()
        return sum(len(own) - len(set(zip(image, own, strict=True))) for own in ids)

    assert repeats(chosen[False]) == 0 < repeats(chosen[True])
