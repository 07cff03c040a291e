"""What is trained is trained once, and goes on where it was cut off."""

import re
import shlex
import sys
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from bank.bank import Bank
from jobs.claims.claims import IMAGE_LOSSES, PAPER, PAPER_FLAGS, Training
from jobs.claims.training import Trainer, seconds_of, steps_taken, timed
from model.loop import save
from model.recipes import demo
from model.trainers import trainer_for
from pipeline.options import write_json

STEPS = 100


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture
def trainer(bank, tmp_path):
    return Trainer(bank, tmp_path / "work", "auto")


@pytest.fixture
def calls(tmp_path, monkeypatch):
    """The commands that were run, by a script in the place of Python, which does nothing."""
    notes, python = tmp_path / "notes", tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {notes}\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return lambda: notes.read_text().splitlines() if notes.exists() else []


def cut_off(trainer, step):
    """A run of the demo recipe that has come so far."""
    run = trainer.folder(PAPER, STEPS, seed=3)
    run.mkdir(parents=True)
    write_json(run / "config.json", {"bank": str(trainer.bank.path), "train": demo()})
    if step:
        networks = trainer_for(demo(), trainer.bank, torch.device("cpu"))
        networks.step_number = step
        save(networks, trainer.bank, run)
    return run


def test_what_is_not_there_is_trained_by_the_command_that_is_told(trainer, calls):
    run = trainer.trained(IMAGE_LOSSES, STEPS, seed=3)
    command = trainer.command(IMAGE_LOSSES, STEPS, seed=3)
    assert [f"python {line}" for line in calls()] == [command]
    assert command == (
        f"python -m model.train --bank {trainer.bank.path} --recipe demo {shlex.join(PAPER_FLAGS)} "
        f"--losses.gt-selection 0 --losses.cooccurrence 0 --steps 100 --seed 3 --eval-every 0 "
        f"--out {run}"
    )


def test_a_device_is_handed_on(trainer):
    flags = replace(trainer, device="cpu").flags(PAPER, STEPS, seed=0)
    assert "--device cpu" in shlex.join(flags)


@pytest.mark.parametrize("step", [0, 40])
def test_what_was_cut_off_goes_on_in_its_folder(trainer, calls, step):
    run = cut_off(trainer, step)
    assert steps_taken(run) == step
    assert trainer.trained(PAPER, STEPS, seed=3) == run
    assert calls() == [f"-m model.train --resume {run} --bank {trainer.bank.path}"]


def test_what_is_finished_is_not_trained_again(trainer, calls):
    run = cut_off(trainer, STEPS)
    assert trainer.trained(PAPER, STEPS, seed=3) == run
    assert calls() == []


def test_all_that_decides_what_is_learned_has_a_folder_of_its_own(trainer, bank):
    def other_bank(content, derived):
        bank = SimpleNamespace(content_digest=content)
        bank.manifest = SimpleNamespace(derived_digest=derived)
        return replace(trainer, bank=bank)

    content, derived = bank.content_digest, bank.manifest.derived_digest
    other = Training(PAPER.name, ("--lr-generator", "1e-3"))
    folders = [
        trainer.folder(PAPER, STEPS, 0),
        trainer.folder(PAPER, STEPS, 1),
        trainer.folder(PAPER, STEPS + 1, 0),
        trainer.folder(other, STEPS, 0),
        other_bank("0" * 64, derived).folder(PAPER, STEPS, 0),
        other_bank(content, "0" * 64).folder(PAPER, STEPS, 0),
    ]
    assert len(set(folders)) == len(folders)
    soft = trainer.folder(Training("image losses, soft"), STEPS, 0)
    assert re.fullmatch(r"image-losses-soft-[0-9a-f]{8}", soft.parent.name)
    assert other_bank(content, derived).folder(PAPER, STEPS, 0) == folders[0]


def test_another_device_is_another_training(trainer, monkeypatch):
    here = trainer.folder(PAPER, STEPS, 0)
    assert replace(trainer, device="cpu").folder(PAPER, STEPS, 0) == here  # what "auto" is
    monkeypatch.setattr("jobs.claims.training.choose_device", lambda _: torch.device("cuda:0"))
    assert trainer.folder(PAPER, STEPS, 0) != here


def test_times_add_up_also_of_what_was_stopped(tmp_path):
    path = tmp_path / "seconds.txt"
    with timed(path):
        pass
    assert not path.exists()  # there is no run: it was refused
    (tmp_path / "config.json").touch()
    with timed(path):
        pass
    with pytest.raises(KeyboardInterrupt), timed(path):
        raise KeyboardInterrupt
    assert len(path.read_text().splitlines()) == 2
    path.write_text("1.5\n2.0\n")
    assert seconds_of(path) == 3.5
    assert seconds_of(tmp_path / "none.txt") == 0


def test_a_bank_below_this_folder_is_named_from_here(bank, tmp_path, monkeypatch):
    """Pages name no folder of the machine that measured."""
    monkeypatch.chdir(bank.path.parent)
    flags = Trainer(bank, tmp_path, "auto").flags(PAPER, STEPS, 0)
    assert flags[:2] == ("--bank", bank.path.name)
    monkeypatch.chdir(tmp_path)
    assert Trainer(bank, tmp_path, "auto").flags(PAPER, STEPS, 0)[1] == str(bank.path)
