"""From a command line to options."""

from dataclasses import dataclass, field

import pytest

from pipeline.options import parse


@dataclass(frozen=True)
class Rules:
    least_sides: tuple[int, ...] = ()


@dataclass(frozen=True)
class Options:
    ids: tuple[int, ...] = ()
    steps: int = 1
    rules: Rules = field(default_factory=Rules)


@pytest.mark.parametrize("flag", ["--ids", "--rules.least-sides"])
def test_a_list_that_is_given_twice_is_refused_rather_than_cut(flag):
    with pytest.raises(ValueError, match=f"^{flag} is given twice: give it once, with all"):
        parse(Options, [flag, "3", f"{flag}=4"])


def test_of_a_number_that_is_given_twice_the_last_counts():
    options = parse(Options, ["--steps", "3", "--ids", "1", "2", "--steps", "4"])
    assert options == Options(ids=(1, 2), steps=4)


@pytest.mark.parametrize("given", [["--scheduler", "http://h:87"], ["--scheduler=http://h:87"]])
def test_the_address_of_a_dashboard_is_none_of_a_scheduler(given):
    with pytest.raises(ValueError, match=r"http://h:87 is a dashboard's address; .* with tcp://"):
        parse(Options, given)
