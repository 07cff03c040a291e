"""A tiny mutation run here, the whole step's by `python -m tests.endurance.step_mutants`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endurance import step_mutants
from tests.endurance.operators import Source, fault, mutants
from tests.endurance.step_faults import (
    FAULTS,
    LOSSES,
    MODULES,
    RELAXATION,
    UNCHANGED,
    Fault,
    Unchanged,
)

ROOT = Path(__file__).parents[2]
TINY = """
import json, os, sys
from tests.endurance.step_faults import Fault, Module
from tests.endurance.step_mutants import endure, fault_mutants

found = fault_mutants([Fault(*words) for words in json.loads(sys.argv[1])])
tests = ("tests/model/retrieval/test_relaxation.py",)
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
modules = [Module(file, tests) for file in {m.file for m in found}]
verdicts = endure(found, [""] * len(found), modules, 2)
print(json.dumps([v.what for v in verdicts]))
"""


def changed(text):
    return {m.source for m in mutants(Source("x.py", text))}


def test_a_fault_is_killed_and_what_changes_nothing_survives():
    """Each in a fork that has the mutated source, while the file stays as it is."""
    before = (ROOT / RELAXATION).read_bytes()
    faults = [
        (RELAXATION, "torch.log((1 - ", "torch.log((2 - ", "exclusion of nobody"),
        (RELAXATION, "for _ in range(k):", "for _ in range(0 + k):", "the same"),
        (LOSSES, "F.l1_loss(image, truth)", "0", "not what these tests are for"),
    ]
    done = subprocess.run(
        [sys.executable, "-c", TINY, json.dumps(faults)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == ["killed", "survived", "no test runs it"]
    assert (ROOT / RELAXATION).read_bytes() == before


def test_every_fault_of_the_table_is_found_once_and_makes_another_program():
    found = step_mutants.fault_mutants()
    assert len(found) == len(FAULTS)
    for mutant in found:
        compile(mutant.source, mutant.file, "exec")
    assert {m.file for m in found} <= {m.file for m in MODULES}


def test_a_fault_that_is_not_found_once_is_named():
    none = Fault(RELAXATION, "no such line", "", "nowhere")
    twice = Fault(RELAXATION, "torch.log(", "", "in two places")
    with pytest.raises(step_mutants.StepMutantsError, match=r"(?s)nowhere.*in two places"):
        step_mutants.fault_mutants([none, twice])


def test_every_reason_belongs_to_a_mutant():
    files = {RELAXATION, *(entry.file for entry in UNCHANGED)}
    modules = [module for module in MODULES if module.file in files]
    found = [*step_mutants.fault_mutants(), *step_mutants.operator_mutants(modules)]
    step_mutants.known_reasons(found)
    gone = Unchanged(RELAXATION, "gumbel", "a", "b", "why not")
    with pytest.raises(step_mutants.StepMutantsError, match="gumbel"):
        step_mutants.known_reasons(found, [gone])


# Operators


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("return a + b", "return a - b"),
        ("return a < b", "return a <= b"),
        ("return a and b", "return a or b"),
        ("return -a", "return (a)"),
        ("return a.detach()", "return (a)"),
        ("return a(1, b)", "return a(b, 1)"),
        ("return a(b, c=2, d=3)", "return a(b, d=3)"),
        ("return a[:b]", "return a[b:]"),
        ("return a[:, None]", "return a[None, :]"),
        ("return a[b, -1]", "return a[b, -2]"),
        ("return {1: a, 2: b}", "return {2: b}"),
        ("return a if b else 1", "return a if (not (b)) else 1"),
        ("return a.sum(b)", "return a.mean(b)"),
        ("return f(a, on=True)", "return f(a, on=False)"),
    ],
)
def test_an_operator_makes_the_slip_that_it_is_for(line, expected):
    assert f"def f(a, b):\n    {expected}\n" in changed(f"def f(a, b):\n    {line}\n")


def test_a_statement_is_dropped_where_the_rest_still_runs():
    text = "def f(a):\n    b = a\n    a = g(b)\n    b.go()\n    return a\n"
    found = changed(text)
    assert text.replace("a = g(b)", "pass") in found
    assert text.replace("b.go()", "pass") in found
    assert text.replace("b = a", "pass") not in found


def test_words_for_people_and_types_are_left_alone():
    text = (
        'def f(a: "int | None" = None) -> "tuple[int, 3]":\n'
        '    """1 + 1."""\n'
        "    b: Literal[1, 2] = a\n"
        '    return f"{b + 1}"\n\n\n'
        "class A:\n    def __repr__(self):\n        return g(1, 2)\n"
    )
    assert changed(text) == set()


def test_a_mutant_knows_its_statement_and_its_function():
    text = "class A:\n    def f(self, b):\n        if (\n            b > 1\n        ):\n"
    text += "            g()\n"
    found = mutants(Source("x.py", text))
    assert {(m.function, m.line, m.statement) for m in found if ">" in m.before} == {
        ("A.f", 4, (3, 5))
    }
    made = fault(Source("x.py", text), "g()", "h()", "another")
    assert (made.line, made.before, made.after) == (6, "g()", "h()")
