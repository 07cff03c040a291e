"""The training command: how a run goes on, and what cannot change then."""

import os

import pytest

from model import checkpoint
from model.loop import train
from model.train import TrainOptions, main
from pipeline.options import write_json
from tests.model.small_runs import losses_of, small, trainer_of


def test_a_run_beyond_its_last_step_is_not_called_trained(bank, tmp_path):
    train(trainer_of(bank, small()), bank, tmp_path)
    write_json(tmp_path / "config.json", {"bank": str(bank.path), "train": small()})
    with pytest.raises(checkpoint.UserError, match="at step 4 already, beyond --steps 2"):
        main(TrainOptions(resume=tmp_path, steps=2))


@pytest.mark.parametrize("other", [{"batch": 3}, {"recipe": "demo"}, {"gt_in_candidates": True}])
def test_what_cannot_change_in_a_run_that_goes_on_is_refused(tmp_path, other):
    with pytest.raises(ValueError, match="cannot change in a run that goes on"):
        TrainOptions(resume=tmp_path, **other)


def test_a_run_without_a_checkpoint_starts_again_with_the_same_losses(bank, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for run in (whole, stopped):
        run.mkdir()
    config = small(steps=2)
    train(trainer_of(bank, config), bank, whole)
    (stopped / "log.jsonl").write_text('{"step": 0, "total": 0.0}\n')
    write_json(stopped / "config.json", {"bank": str(bank.path), "train": config})
    main(TrainOptions(resume=stopped))
    assert losses_of(stopped) == losses_of(whole)


def test_a_file_in_the_place_of_a_new_run_is_one_line(bank, tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(checkpoint.UserError, match=r"--out .*run is a file; name a folder"):
        main(TrainOptions(bank=bank.path, recipe="demo", out=tmp_path / "run"))
    with pytest.raises(
        checkpoint.UserError, match=r"cannot write .*Not a directory; mend this, or name"
    ):
        main(TrainOptions(bank=bank.path, recipe="demo", out=tmp_path / "run/new"))


def test_a_run_that_may_not_be_written_is_one_line(bank, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(checkpoint.UserError, match=r"cannot write .*Permission denied"):
        main(TrainOptions(bank=bank.path, recipe="demo", out=tmp_path / "run"))
