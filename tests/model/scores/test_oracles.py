"""What could be chosen if the true styles were known."""

from itertools import combinations, product

import numpy as np
import pytest
import torch

from model.draws import OneStream
from model.padding import padding_of
from model.retrieval.choice import draw_start
from model.retrieval.greedy import start_feature
from model.scores.oracles import agreeing_styles, global_choice, oracle_choice

O = 5
OBJECT_IMAGE = torch.tensor([0, 0, 0, 1, 1])


def uniforms(seed=0):
    return OneStream(torch.Generator().manual_seed(seed))


def test_the_oracle_gives_every_object_the_style_of_the_start_where_there_is_one():
    """Candidates in styles 0..3 for every object, in another order for each: any start will do."""
    styles = torch.stack([torch.arange(4).roll(o) for o in range(O)])
    padding = padding_of(OBJECT_IMAGE, 2)
    valid = torch.ones(O, 4, dtype=torch.bool)
    for seed in range(8):
        one_hot = torch.nn.functional.one_hot(styles).float()
        slot = draw_start(valid, padding, uniforms(seed))
        start = start_feature(one_hot, padding, slot).argmax(-1)
        selection = oracle_choice(
            styles, valid, padding, uniforms(seed), num_styles=4, start="random", features=one_hot
        )
        assert styles[torch.arange(O), selection.selected].tolist() == start[OBJECT_IMAGE].tolist()


def test_the_oracle_joins_the_majority_when_the_start_s_style_runs_out():
    """Objects 0 to 2 have the start's style; object 3 offers two others, object 4 one of these."""
    styles = torch.tensor([[0, 0], [0, 0], [0, 0], [1, 2], [2, 2]])
    padding = padding_of(torch.zeros(5, dtype=torch.long), 1)
    valid = torch.ones(5, 2, dtype=torch.bool)
    second = []
    for seed in range(200):
        selection = oracle_choice(
            styles, valid, padding, uniforms(seed), num_styles=3, start="medoid",
            features=torch.zeros(5, 2, 1),
        )  # fmt: skip
        assert set(selection.step[:3].tolist()) == {0, 1, 2}
        second.append(int(selection.selected[3]) if selection.step[3] < selection.step[4] else -1)
        if selection.step[4] < selection.step[3]:
            assert selection.selected[3] == 1  # style 2 is there already
    # Four candidates tie for the fourth step, two of each object: none is favoured.
    taken = [second.count(place) for place in (0, 1)]
    assert sum(taken) == pytest.approx(100, abs=25)
    assert taken[0] == pytest.approx(taken[1], abs=25)


def test_the_oracle_starts_at_the_medoid_of_the_run_s_features():
    styles = torch.tensor([[0, 1], [1, 0]])
    features = torch.tensor([[[9.0], [0.0]], [[1.0], [-9.0]]])  # the middle: object 0's second
    padding = padding_of(torch.zeros(2, dtype=torch.long), 1)
    selection = oracle_choice(
        styles, torch.ones(2, 2, dtype=torch.bool), padding, uniforms(), num_styles=2,
        start="medoid", features=features,
    )  # fmt: skip
    assert selection.selected.tolist() == [1, 0]


def test_the_oracle_with_the_best_start_finds_the_one_style_that_all_can_have():
    styles = torch.tensor([[0, 3, 1], [2, 3, 0], [1, 2, 3]])
    padding = padding_of(torch.zeros(3, dtype=torch.long), 1)
    selection = oracle_choice(
        styles, torch.ones(3, 3, dtype=torch.bool), padding, None, num_styles=4, start="best",
        features=torch.zeros(3, 3, 1),
    )  # fmt: skip
    assert selection.selected.tolist() == [1, 1, 2]


def unlike_pairs(styles):
    return sum(a != b for a, b in combinations(styles, 2))


def test_no_way_of_giving_styles_agrees_more():
    """Against every way, at random."""
    random = np.random.default_rng(0)
    for _ in range(300):
        objects, styles = random.integers(1, 6), random.integers(1, 7)
        offered = [
            set(random.choice(styles, random.integers(1, min(3, styles) + 1)).tolist())
            for _ in range(objects)
        ]
        given = agreeing_styles(offered)
        assert all(style in own for style, own in zip(given, offered, strict=True))
        assert unlike_pairs(given) == min(map(unlike_pairs, product(*offered))), offered


def test_the_style_that_most_are_offered_is_not_always_among_the_best():
    """9 is offered to five: 10 + 0 + 1 pairs agree, and 6 + 6 without it."""
    offered = [{1}, {1, 9}, {1, 9}, {1, 9}, {2}, {2}, {2, 9}, {2, 9}]
    assert agreeing_styles(offered) == [1] * 4 + [2] * 4


def test_the_global_oracle_has_the_fewest_unlike_pairs_of_all_choices():
    """Against every choice, at random, padding of the wanted style included."""
    random = np.random.default_rng(1)
    for _ in range(200):
        photo = np.stack([random.choice(12, 3, replace=False) for _ in range(4)])
        styles = photo % 5
        valid = random.random((4, 3)) < 0.7
        valid[:, random.integers(3)] = True
        selected = global_choice(*map(torch.from_numpy, (styles, valid, photo))).tolist()
        assert valid[range(4), selected].all()
        least = min(
            unlike_pairs(styles[range(4), c])
            for c in product(range(3), repeat=4)
            if valid[range(4), c].all()
        )
        assert unlike_pairs(styles[range(4), selected]) == least


def test_the_global_oracle_takes_distinct_photos_where_it_can():
    photo = torch.tensor([[3, 4], [3, 5], [5, 9]])
    valid = torch.tensor([[True, False], [True, True], [True, True]])
    selected = global_choice(torch.zeros(3, 2, dtype=torch.long), valid, photo)
    assert photo[range(3), selected].tolist() == [3, 5, 9]
    alone = torch.tensor([[True, False], [True, False], [True, True]])
    selected = global_choice(torch.zeros(3, 2, dtype=torch.long), alone, photo)
    assert photo[range(3), selected].tolist()[:2] == [3, 3]
