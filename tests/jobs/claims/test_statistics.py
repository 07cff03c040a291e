"""Student's t by its tables, Holm by an example worked by hand, and the words of verdicts."""

import math

import pytest

from jobs.claims.statistics import (
    holm,
    mean_of,
    paired_difference,
    student_p,
    student_quantile,
    verdict,
)

# Two-sided 5 % and 1 % points, as in any table of t.
TABLE = {
    1: (12.706, 63.657),
    2: (4.303, 9.925),
    3: (3.182, 5.841),
    4: (2.776, 4.604),
    5: (2.571, 4.032),
    9: (2.262, 3.250),
    10: (2.228, 3.169),
    30: (2.042, 2.750),
}


@pytest.mark.parametrize("freedom", TABLE)
def test_the_quantiles_of_t_are_those_of_its_table(freedom):
    found = [student_quantile(freedom, level) for level in (0.95, 0.99)]
    assert found == pytest.approx(TABLE[freedom], abs=5e-4)


@pytest.mark.parametrize("freedom", range(1, 8))
def test_p_is_one_without_a_difference_and_falls_with_t_on_either_side(freedom):
    p = [student_p(t, freedom) for t in (0.0, 0.5, 2.0, 9.0, math.inf)]
    assert p[0] == 1
    assert p == sorted(p, reverse=True)
    assert p[-1] == pytest.approx(0, abs=1e-15)
    assert student_p(-2.0, freedom) == p[2]


def test_p_of_one_and_of_two_degrees_of_freedom_is_their_closed_form():
    assert student_p(1.0, 1) == pytest.approx(0.5)  # Cauchy's quartile
    assert student_p(2.0, 2) == pytest.approx(1 - 2 / math.sqrt(2 + 2**2))


def test_a_mean_has_the_interval_of_student_s_t():
    mean = mean_of([1.0, 2.0, 3.0])  # deviation 1, error 1 / sqrt(3)
    assert mean.value == 2
    assert mean.high - 2 == 2 - mean.low == pytest.approx(4.30265 / math.sqrt(3), rel=1e-5)
    assert mean.p == pytest.approx(student_p(2 * math.sqrt(3), 2))


def test_a_difference_is_of_pairs():
    found = paired_difference([0.5, 0.7, 0.9], [0.4, 0.6, 0.8])  # 0.1 in each of unlike seeds
    assert found.low == pytest.approx(found.high) == pytest.approx(0.1)
    assert found.p < 1e-9
    with pytest.raises(ValueError, match="zip"):
        paired_difference([0.5, 0.7], [0.4])


def test_seeds_that_are_all_alike_are_certain_of_a_difference_and_of_none():
    assert mean_of([0.25, 0.25]) == (0.25, 0.25, 0.25, pytest.approx(0, abs=1e-12))
    assert mean_of([0.0, 0.0]) == (0, 0, 0, 1)


def test_holm_multiplies_the_smallest_by_how_many_there_are_and_keeps_the_order():
    p = {"a": 0.01, "b": 0.04, "c": 0.03, "d": 0.005}
    found = holm(p)  # d x 4, a x 3, c x 2, and b x 1, which may not be below c
    assert list(found) == list(p)
    assert found == pytest.approx({"a": 0.03, "b": 0.06, "c": 0.06, "d": 0.02})
    assert holm({"a": 0.9, "b": 1.0}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("differences", "p", "told"),
    [
        ([0.1], 0.05, "shown"),
        ([-0.1], 0.05, "contrary"),
        ([0.1], 0.051, "not shown"),
        ([-0.1], 0.051, "not shown"),
        ([0.1, 0.2], 0.01, "shown"),
        ([0.1, -0.2], 0.01, "not shown"),
        ([-0.1, -0.2], 0.01, "contrary"),
        ([0.0], 1.0, "not shown"),
    ],
)
def test_a_verdict_needs_all_differences_on_one_side_and_a_small_p(differences, p, told):
    assert verdict(differences, p) == told
