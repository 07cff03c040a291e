"""Three kills here, fifty by `python -m tests.endurance.run_kills`."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.endurance.forks import BadEndError
from tests.endurance.run_kills import (
    LOADERS_PROCESS,
    RANK,
    TRAINER,
    Bench,
    check_ends,
    check_left_over,
    check_run,
)

ROOT = Path(__file__).parents[2]


def test_a_training_that_is_killed_in_a_step_a_grid_or_a_checkpoint_ends_in_the_same_run():
    command = [sys.executable, "-m", "tests.endurance.run_kills", "--count", "3", "--seed", "1"]
    command += ["--first", "step", "grid", "checkpoint"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "| all | 3 |" in done.stdout


# The script itself


@pytest.fixture
def runs(tmp_path):
    """Two equal runs."""
    folders = tmp_path / "run", tmp_path / "expected"
    for folder in folders:
        (folder / "checkpoints/step-000012").mkdir(parents=True)
        (folder / "checkpoints/step-000012/model.safetensors").write_bytes(b"weights")
        (folder / "log.jsonl").write_text('{"step": 0, "total": 1.5}\n')
        (folder / "config.json").write_text(folder.name)  # how it is executed is in there
    return folders


def test_runs_that_differ_only_in_how_they_were_executed_are_equal(runs):
    check_run(*runs)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("checkpoints/step-000012/model.safetensors", "other weights", "not the bytes"),
        ("checkpoints/step-000012.partial", "", "left over or missing"),
        ("log.jsonl", '{"step": 0, "total": 1.4}\n', "another line in log.jsonl"),
    ],
)
def test_whatever_is_not_as_in_the_undisturbed_run_is_noticed(runs, file, content, said):
    (runs[0] / file).write_text(content)
    with pytest.raises(BadEndError, match=said):
        check_run(*runs)


def test_files_and_processes_that_are_left_over_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.endurance.run_kills.LEAVE_S", 0.0)
    (tmp_path / "scratch").mkdir()
    check_left_over(Bench(tmp_path), {2**22 + 1})  # no process has that number
    with pytest.raises(BadEndError, match="outlive the training"):
        check_left_over(Bench(tmp_path), {os.getpid()})
    (tmp_path / "run/a.partial").mkdir(parents=True)
    (tmp_path / "scratch/b").touch()
    with pytest.raises(BadEndError, match=r"left over: \['a.partial', 'b'\]"):
        check_left_over(Bench(tmp_path), set())


def ended(status, said):
    return SimpleNamespace(wait=lambda: status, said=lambda: said, stage="step")


@pytest.mark.parametrize(
    ("status", "said", "victim", "was_killed"),
    [
        (-9, "Traceback (most recent call last):\n", TRAINER, True),
        (0, "trained to step 12\n", TRAINER, False),
        (1, "error: a loader's process ended\n", LOADERS_PROCESS, True),
        (0, "", "", False),
    ],
)
def test_a_clear_end_is_accepted(status, said, victim, was_killed):
    assert check_ends([ended(status, said)], victim) == was_killed


@pytest.mark.parametrize(
    ("status", "said", "victim"),
    [
        (1, "error: a\nerror: b\n", LOADERS_PROCESS),
        (1, "Traceback (most recent call last):\nerror: a\n", LOADERS_PROCESS),
        (-9, "", LOADERS_PROCESS),
        (1, "error: a\n", TRAINER),
        (-9, "", ""),
    ],
)
def test_an_unclear_end_is_noticed(status, said, victim):
    with pytest.raises(BadEndError, match=rf"exit \[{status}\] in step"):
        check_ends([ended(status, said)], victim)


def test_of_two_ranks_one_is_killed_and_the_other_ends_by_itself():
    lost = ended(1, "error: another process of this training has ended\n")
    assert check_ends([ended(-9, ""), lost], RANK)
    assert not check_ends([ended(0, ""), ended(0, "")], RANK)
    with pytest.raises(BadEndError, match=r"exit \[-9, 1\] in step, step"):
        check_ends([ended(-9, ""), ended(1, "Traceback (most recent call last):\n")], RANK)
