"""The training loop: what it writes, and that an interruption costs nothing."""

import json

import pytest
import torch

from model import loop
from model.loop import restore, train
from model.run_folder import RunError
from tests.model.small_runs import losses_of, small, trainer_of


def test_a_resumed_run_has_the_losses_of_one_that_was_never_interrupted(bank, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(trainer_of(bank, small()), bank, whole)
    train(trainer_of(bank, small(steps=2)), bank, cut)
    with (cut / "log.jsonl").open("a") as log:  # a step was taken after the last checkpoint
        log.write(json.dumps({"step": 2, "total": 0.0}) + '\n{"step": 3, "to')
    again = trainer_of(bank, small())
    torch.manual_seed(99)  # whatever the process drew before
    restore(again, bank, cut)
    train(again, bank, cut)
    assert losses_of(cut) == losses_of(whole)
    assert [row["step"] for row in losses_of(whole)] == [0, 1, 2, 3]


def test_a_run_logs_every_loss_by_name_and_leaves_grid_and_curves(bank, tmp_path):
    train(trainer_of(bank, small()), bank, tmp_path)
    names = set(losses_of(tmp_path)[0])
    assert names >= {
        "boxes", "gt_selection", "cooccurrence", "reconstruction", "adversarial_image",
        "adversarial_object", "discriminator_image", "discriminator_object", "total",
    }  # fmt: skip
    assert (tmp_path / "samples-000004.png").is_file()
    assert list((tmp_path / "tensorboard").iterdir())


def test_an_image_larger_than_the_banks_is_refused_before_the_first_step(bank):
    with pytest.raises(RunError, match=r"256 px, but those of .* are of 128 px"):
        trainer_of(bank, small(image_px=256))


@pytest.mark.parametrize("name", ["log.jsonl", "tensorboard", "samples-000004.png"])
def test_a_file_of_a_run_that_cannot_be_written_is_one_line(bank, tmp_path, name):
    if name == "tensorboard":
        (tmp_path / name).write_text("a file")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=rf"cannot write {tmp_path}/{name}: "):
        train(trainer_of(bank, small()), bank, tmp_path)


def test_a_disk_that_is_full_at_a_steps_line_of_the_log_is_one_line(bank, tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(loop, "_keep_log_until", lambda *_: None)  # it would read without end
    with pytest.raises(RunError, match=r"log\.jsonl: No space left on device"):
        train(trainer_of(bank, small()), bank, tmp_path)
