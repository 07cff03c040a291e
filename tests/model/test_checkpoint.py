"""What a run is saved as, and which checkpoints a run cannot go on from."""

import errno
import os
from dataclasses import replace

import pytest
import torch

from model import checkpoint
from model.config import RetrieveGANConfig
from model.loop import restore, save
from model.recipes import demo
from model.run_folder import RunError, read_config
from tests.model.small_runs import small, trainer_of


def test_a_bank_with_other_candidates_is_refused_when_a_run_goes_on(bank, tmp_path):
    trainer = trainer_of(bank, small())
    save(trainer, bank, tmp_path)
    path = tmp_path / checkpoint.NAME
    torch.save(torch.load(path, weights_only=True) | {"derived": "e" * 64}, path)
    with pytest.raises(RunError, match="other frozen networks or candidates"):
        restore(trainer, bank, tmp_path)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"train": [], "bank": "x"}', '{"train": {"retrieval": 3}, "bank": "x"}',
     '{"train": {"retrieval": {"temperature": 0}}, "bank": "x"}', "{"],
)  # fmt: skip
def test_a_config_that_is_not_one_is_one_clear_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json"):
        read_config(tmp_path, RetrieveGANConfig)


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(bank, tmp_path):
    save(trainer_of(bank, small()), bank, tmp_path)
    other = replace(demo().retrieval, width=16)
    with pytest.raises(RunError, match="was the config edited"):
        restore(trainer_of(bank, small(retrieval=other)), bank, tmp_path)


def test_a_checkpoint_of_another_bank_is_refused(bank, tmp_path):
    trainer = trainer_of(bank, small())
    save(trainer, bank, tmp_path)
    path = tmp_path / checkpoint.NAME
    state = torch.load(path, weights_only=True)
    torch.save(state | {"bank": "f" * 64}, path)
    with pytest.raises(RunError, match="ffffffffffff"):
        restore(trainer, bank, tmp_path)


def test_a_checkpoint_cut_short_is_one_clear_line(bank, tmp_path):
    trainer = trainer_of(bank, small())
    save(trainer, bank, tmp_path)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(RunError, match="cannot be read"):
        restore(trainer, bank, tmp_path)


class FullDisk:
    """A file of a disk that has room for `room` bytes."""

    def __init__(self, file, room):
        self.file, self.room = file, room

    def write(self, data):
        self.room -= memoryview(data).nbytes
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return self.file.write(data)

    def flush(self):
        self.file.flush()


@pytest.mark.parametrize("room", [0, 1000, 1_000_000])
def test_a_full_disk_is_one_line_that_leaves_the_last_checkpoint_and_nothing_else(
    bank, tmp_path, monkeypatch, room
):
    trainer = trainer_of(bank, small())
    config = tmp_path / "config.json"
    config.write_text("{}")
    write = torch.save
    monkeypatch.setattr(torch, "save", lambda state, file: write(state, FullDisk(file, room)))
    full = rf"cannot write {tmp_path}/checkpoint\.pt: No space left on device; "
    with pytest.raises(RunError, match=f"{full}there was no checkpoint yet"):
        save(trainer, bank, tmp_path)
    assert list(tmp_path.iterdir()) == [config]
    monkeypatch.setattr(torch, "save", write)
    save(trainer, bank, tmp_path)
    monkeypatch.setattr(torch, "save", lambda state, file: write(state, FullDisk(file, room)))
    trainer.step_number = 3
    kept = rf"the last checkpoint is kept: mend this and go on with --resume {tmp_path}"
    with pytest.raises(RunError, match=full + kept):
        save(trainer, bank, tmp_path)
    assert sorted(tmp_path.iterdir()) == [tmp_path / checkpoint.NAME, config]
    restore(trainer, bank, tmp_path)
    assert trainer.step_number == 0


def test_what_torch_cannot_do_for_other_reasons_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"), checkpoint.writing(tmp_path, "file"):
        raise RuntimeError("CUDA out of memory")
