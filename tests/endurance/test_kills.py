"""A handful of kills here, a hundred by `python -m tests.endurance.kills`."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bank.manifest import read_manifest
from tests.endurance.kills import BadEndError, Scenario, check_bank, check_end

ROOT = Path(__file__).parents[2]


def test_a_build_that_is_killed_at_any_stage_ends_in_the_same_bank_when_it_is_run_again():
    command = [sys.executable, "-m", "tests.endurance.kills", "--count", "3", "--seed", "1"]
    done = subprocess.run(
        [*command, "--only", "build, driver"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| build | driver | 3 |" in done.stdout


# The script itself


@pytest.fixture
def ended(toy_bank, tmp_path):
    """A bank that is as it must be, and what is expected of it."""
    bank, scratch = tmp_path / "bank", tmp_path / "scratch"
    shutil.copytree(toy_bank, bank)
    scratch.mkdir()
    verified = SimpleNamespace(wait=lambda: 0)
    bench = SimpleNamespace(bank=bank, scratch=scratch, run=lambda command: verified)
    return bench, Scenario([], None, read_manifest(bank), {})


def test_a_bank_that_is_as_it_must_be_is_accepted(ended):
    shard = "patches/train-00000/data.mdb"
    check_bank(*ended, {shard: (ended[0].bank / shard).stat().st_ino})


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda bench: make(bench.bank / "features.arrow.7.partial"), "left over or missing"),
        (lambda bench: (bench.bank / "features.arrow").unlink(), "left over or missing"),
        (lambda bench: (bench.bank / "work").mkdir(), "work/ is left over"),
        (lambda bench: make(bench.scratch / "patches"), "left over in TMPDIR"),
        (lambda bench: setattr(bench.run(""), "wait", lambda: 1), "does not verify"),
    ],
    ids=["partial", "missing", "work", "temporary", "damaged"],
)
def test_whatever_is_not_as_it_must_be_is_noticed(ended, harm, said):
    ended[0].run("").said = lambda: "damaged"
    harm(ended[0])
    with pytest.raises(BadEndError, match=said):
        check_bank(*ended, {})


def test_another_digest_and_a_shard_that_was_made_again_are_noticed(ended):
    bench, scenario = ended
    other = replace(scenario, expected=replace(scenario.expected, derived_digest="0" * 64))
    with pytest.raises(BadEndError, match="another derived_digest"):
        check_bank(bench, other, {})
    with pytest.raises(BadEndError, match="made again although there were receipts"):
        check_bank(bench, scenario, {"patches/train-00000/data.mdb": 1})


@pytest.mark.parametrize(
    ("status", "said", "victim"),
    [
        (1, "error: a\nerror: b\n", "scheduler"),
        (1, "Traceback (most recent call last):\nerror: a\n", "scheduler"),
        (1, "error: a\n", "one worker"),
        (0, "", "driver"),
        (1, "error: a\n", ""),
    ],
)
def test_an_end_that_is_unclear_is_noticed(status, said, victim):
    with pytest.raises(BadEndError, match=f"exit {status} in cutting"):
        check_end(SimpleNamespace(said=lambda: said, stage="cutting"), status, victim)
