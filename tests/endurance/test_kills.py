"""A handful of kills here, a hundred by `python -m tests.endurance.kills`."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bank.manifest import read_manifest
from tests.endurance.kills import (
    IS_DONE,
    JOINS,
    BadEndError,
    Event,
    Scenario,
    check_bank,
    check_end,
    count,
    files_with_receipts,
    lengths,
)

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
    bench = SimpleNamespace(bank=bank, scratch=scratch, run=lambda command: verified, joined=dict)
    return bench, Scenario([], None, read_manifest(bank), {})


def test_a_bank_that_is_as_it_must_be_is_accepted(ended):
    shard = "patches/train-00000/data.mdb"
    check_bank(*ended, {shard: (ended[0].bank / shard).stat().st_ino})


def test_what_dask_left_in_its_own_folder_is_not_ours(ended):
    make(ended[0].scratch / "dask-scratch-space/worker-a/storage")
    check_bank(*ended, {})


def make(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (lambda bench: make(bench.bank / "features.arrow.7.partial"), "left over or missing"),
        (lambda bench: (bench.bank / "features.arrow").unlink(), "left over or missing"),
        (lambda bench: (bench.bank / "work").mkdir(), r"left over or missing: \['work'\]"),
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


def test_another_digest_and_what_was_made_again_are_noticed(ended):
    bench, scenario = ended
    other = replace(scenario, expected=replace(scenario.expected, derived_digest="0" * 64))
    with pytest.raises(BadEndError, match="another derived_digest"):
        check_bank(bench, other, {})
    with pytest.raises(BadEndError, match="made again although there were receipts"):
        check_bank(bench, scenario, {"patches/train-00000/data.mdb": 1})
    block = "work/receipts/features-00003.json"
    bench.joined = lambda: {block: 7}
    check_bank(bench, scenario, {block: 7})
    with pytest.raises(BadEndError, match=r"made again although there were receipts.*00003"):
        check_bank(bench, scenario, {block: 1})


def test_a_stage_takes_until_it_is_done_or_the_next_begins():
    told = [
        Event("reading", 0, 0.0),
        Event("quality", 2, 1.0),
        Event("features", 3, 1.5),
        Event("quality", JOINS, 2.0),
        Event("quality", IS_DONE, 3.0),
        Event("features", IS_DONE, 5.0),
        Event("manifest", 0, 6.0),
        Event("end", 0, 8.0),
    ]
    assert lengths(told) == {"reading": 1.0, "quality": 2.0, "features": 3.5, "manifest": 2.0}


def test_what_has_a_receipt_is_known_by_its_file(tmp_path):
    made = {"features.arrow": ["", 0], "work/parts/features/00001-k/part": ["", 0]}
    for name in made:
        make(tmp_path / name)
    receipt = tmp_path / "work/receipts/features-00001.json"
    make(receipt)
    receipt.write_text(json.dumps({"outputs": made}))
    place = "work/receipts/features-00001.json"
    kept = files_with_receipts(tmp_path)
    assert kept == {name: (tmp_path / name).stat().st_ino for name in ("features.arrow", place)}
    assert count(kept, {place: 1}) == (1, 1)


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
