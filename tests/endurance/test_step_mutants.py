"""A tiny mutation run here, the whole step's by `python -m tests.endurance.step_mutants`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.endurance import step_mutants
from tests.endurance.operators import Source, fault_mutant, mutants_of
from tests.endurance.step_faults import LOSSES, RELAXATION, Fault, Unchanged
from tests.endurance.step_mutants import FAULTS, MODULES, UNCHANGED, StepMutantsError

ROOT = Path(__file__).parents[2]
TINY = """
import json, os, sys
from tests.endurance.step_faults import Fault, Module
from tests.endurance.step_mutants import fault_mutants, run_mutants

mutants = fault_mutants([Fault(*words) for words in json.loads(sys.argv[1])])
tests = ("tests/model/retrieval/test_relaxation.py",)
os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
modules = [Module(file, tests) for file in {m.file for m in mutants}]
verdicts = run_mutants(mutants, {mutants[-1]: "known"}, modules, 2)
print(json.dumps([v.what for v in verdicts]))
"""


def changed(text):
    return {m.source for m in mutants_of(Source("x.py", text))}


def test_a_fault_is_killed_and_what_changes_nothing_survives():
    """Each in a fork that has the mutated source, while the file stays as it is."""
    before = (ROOT / RELAXATION).read_bytes()
    faults = [
        (RELAXATION, "torch.log((1 - ", "torch.log((2 - ", "exclusion of nobody"),
        (RELAXATION, "for _ in range(k):", "for _ in range(0 + k):", "the same"),
        (LOSSES, "(image - truth).abs()", "image", "not what these tests are for"),
        (RELAXATION, "for _ in range(k):", "for _ in range(k + 0):", "the same, known"),
    ]
    command = [sys.executable, "-c", TINY, json.dumps(faults)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == ["killed", *step_mutants.VERDICTS[1:3], "changes nothing"]
    assert (ROOT / RELAXATION).read_bytes() == before


def test_the_table_of_faults_fits_the_code():
    mutants = step_mutants.fault_mutants()
    assert len(step_mutants.distinct(mutants)) == len(FAULTS)
    assert {m.file for m in mutants} <= {m.file for m in MODULES}


def test_faults_that_are_not_there_once_or_change_nothing_are_named():
    faults = [
        Fault(RELAXATION, "no such line", "", "nowhere"),
        Fault(RELAXATION, "torch.log(", "", "in two places"),
        Fault(RELAXATION, "for _ in range(k):", "for _ in range((k)):", "same program"),
        Fault(RELAXATION, "for _ in range(k):", "for _ in (:", "no Python"),
    ]
    with pytest.raises(StepMutantsError) as error:
        step_mutants.fault_mutants(faults)
    assert all(fault.meaning in str(error.value) for fault in faults)


def test_the_table_of_reasons_fits_the_code():
    files = {entry.file for entry in UNCHANGED}
    assert files <= {module.file for module in MODULES}
    operators = step_mutants.operator_mutants([m for m in MODULES if m.file in files])
    step_mutants.known_reasons([*step_mutants.fault_mutants(), *operators], files)


def test_reasons_are_found_stale_entries_named_and_other_files_left_alone():
    mutants = mutants_of(Source("x.py", "def f(a):\n    return a + 1\n"))
    changes = (("return a + 1", "return a - 1"), ("return a + 1", "return a + 2"))
    table = [Unchanged("never runs", "x.py", "f", changes)]
    reasons = step_mutants.known_reasons(mutants, {"x.py"}, table)
    assert [(m.after, reason) for m, reason in reasons.items()] == [
        ("return a - 1", "never runs"),
        ("return a + 2", "never runs"),
    ]
    text = step_mutants.report(
        [step_mutants.Verdict(m, "changes nothing", reason=r) for m, r in reasons.items()]
    )
    assert text.startswith("changes nothing: 2\n\n- 2: never runs\n\n| module |")

    other = [*table, Unchanged("gone", "y.py", "g", changes)]
    assert step_mutants.known_reasons(mutants, {"x.py"}, other) == reasons
    with pytest.raises(StepMutantsError, match=r"any more: .*'g'"):
        step_mutants.known_reasons(mutants, {"x.py", "y.py"}, other)
    with pytest.raises(StepMutantsError, match="entered 2 times"):
        step_mutants.known_reasons(mutants, {"x.py"}, table * 2)


def test_of_a_fault_and_an_operator_that_make_the_same_the_fault_stays():
    source = Source("x.py", "def f(a):\n    return -a\n")
    fault = fault_mutant(source, "-a", "(a)", "sign lost")
    assert step_mutants.distinct([fault, *mutants_of(source)]) == [fault]


# Operators


@pytest.mark.parametrize(
    ("line", "mutants"),
    [
        ("return a + b", ["return a - b"]),
        ("return a < b", ["return a <= b", "return a > b"]),
        ("return a and b", ["return a or b"]),
        ("return -a", ["return (a)"]),
        ("return a.detach()", ["return (a)"]),
        ("return a(1, b)", ["return a(b, 1)", "return a(2, b)", "return a(0, b)"]),
        ("return a(b, c=c, d=d)", ["return a(b, d=d)", "return a(b, c=c)"]),
        ("return a[:b]", ["return a[b:]"]),
        ("return a[b:]", ["return a[:b]"]),
        ("return a[:, None]", ["return a[None, :]"]),
        ("return a[b, -1]", ["return a[-1, b]", "return a[b, -2]", "return a[b, -0]"]),
        ("return {'1': a, '2': b}", ["return {'2': b}", "return {'1': a}"]),
        ("return a if b else c", ["return a if (not (b)) else c"]),
        ("return a.sum(b)", ["return a.mean(b)"]),
        ("return f(a, on=True)", ["return f(a, on=False)", "return f(a)"]),
        ("a += b", ["pass", "a -= b"]),
    ],
)
def test_the_mutants_of_a_line(line, mutants):
    expected = {f"def f(a, b):\n    {mutant}\n" for mutant in mutants}
    assert changed(f"def f(a, b):\n    {line}\n") == expected


def test_the_mutants_of_a_function():
    """A statement is dropped where the rest still runs."""
    text = "def f(a):\n    b = a\n    a = g(b, a)\n    while not b:\n        b.go()\n    return a\n"
    changes = [
        ("a = g(b, a)", "pass"), ("g(b, a)", "g(a, b)"), ("b.go()", "pass"),
        ("not b", "(not (not b))"), ("not b", "(b)"),
    ]  # fmt: skip
    assert changed(text) == {text.replace(*change) for change in changes}


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
    mutants = mutants_of(Source("x.py", text))
    places = {(m.function, m.line, m.statement) for m in mutants if ">" in m.before}
    assert places == {("A.f", 4, (3, 5))}
    fault = fault_mutant(Source("x.py", text), "g()", "h()", "another")
    assert (fault.line, fault.before, fault.after) == (6, "g()", "h()")
