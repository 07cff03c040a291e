"""Is a difference between two methods more than chance? Student's t over paired values, and Holm's
correction for several questions at once."""

import math
from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import Literal, NamedTuple

LEVEL = 0.95

Verdict = Literal["shown", "contrary", "not shown"]


class Mean(NamedTuple):
    """A mean over seeds, and its 95 % interval."""

    value: float
    low: float
    high: float
    p: float  # of Student's t: how often chance alone takes a mean of 0 so far from 0, either way


def mean_of(values: Sequence[float]) -> Mean:
    """Of at least two values, one of each seed."""
    mean, freedom = fmean(values), len(values) - 1
    error = stdev(values) / math.sqrt(len(values))
    half = student_quantile(freedom) * error
    t = mean / error if error else (math.inf if mean else 0.0)
    return Mean(mean, mean - half, mean + half, student_p(t, freedom))


def paired_difference(better: Sequence[float], worse: Sequence[float]) -> Mean:
    """Of two methods with the same seeds, in the same order."""
    return mean_of([a - b for a, b in zip(better, worse, strict=True)])


def student_p(t: float, freedom: int) -> float:
    """The probability that Student's t lies further from 0 than `t`, on either side.

    Exact, as a finite series (Abramowitz and Stegun, 26.7.3 and 26.7.4).
    """
    angle = math.atan(abs(t) / math.sqrt(freedom))
    odd = freedom % 2
    term = total = 0.0
    if freedom > 1:
        term = total = math.cos(angle) if odd else 1.0
    for n in range(2 + odd, freedom, 2):
        term *= (n - 1) / n * math.cos(angle) ** 2
        total += term
    within = math.sin(angle) * total
    if odd:
        within = 2 / math.pi * (angle + within)
    return max(0.0, 1 - within)


def student_quantile(freedom: int, level: float = LEVEL) -> float:
    """The t within which, on both sides of 0, `level` of the distribution lies."""
    low, high = 0.0, 1.0
    while student_p(high, freedom) > 1 - level:
        high *= 2
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if student_p(middle, freedom) > 1 - level else (low, middle)
    return high


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p values (Holm 1979): those at most 1 - LEVEL may be called significant together,
    and one that is not so is called so with that probability at most."""
    adjusted, highest = {}, 0.0
    for rank, name in enumerate(sorted(p, key=lambda name: p[name])):
        highest = max(highest, min(1.0, (len(p) - rank) * p[name]))
        adjusted[name] = highest
    return {name: adjusted[name] for name in p}


def verdict(differences: Sequence[float], adjusted_p: float) -> Verdict:
    """Of a claim that each of these differences is above 0.

    adjusted_p  of the least certain of them
    """
    if adjusted_p > 1 - LEVEL:
        return "not shown"
    if all(difference > 0 for difference in differences):
        return "shown"
    return "contrary" if all(difference < 0 for difference in differences) else "not shown"
