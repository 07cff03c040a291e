"""Which steps are recorded, and what is asked of a batch; the recordings: `pytest -m gpu`."""

import pytest
import torch

from model import capture
from model.capture import records
from model.config import ExecutionConfig
from model.train import main
from pipeline.errors import UserError
from tests.model.retrievegan.small import small_trainer
from tests.model.small_runs import options_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GRAPH = ExecutionConfig(capture="graph")


def test_steps_are_recorded_on_a_gpu_where_it_is_asked_for(monkeypatch):
    assert records("graph", GPU, None)
    assert not records("off", GPU, None)
    assert not records("off", CPU, "there is a reason")
    for by_default in (False, True):
        monkeypatch.setattr(capture, "BY_DEFAULT", by_default)
        assert records("auto", GPU, None) == by_default
        assert not records("auto", CPU, None)
        assert not records("auto", GPU, "there is a reason")


def test_a_recording_on_a_cpu_is_one_line_that_says_what_to_do(bank, tmp_path):
    with pytest.raises(UserError, match=r"^--capture graph needs a GPU: leave it out, or give "):
        small_trainer(execution=GRAPH)
    flags = ("--bank", bank.path, "--recipe", "demo", "--device", "cpu", "--out", tmp_path / "run")
    with pytest.raises(UserError, match=r"^--capture graph needs a GPU"):
        main(options_of(*flags, "--capture", "graph"))
    assert not (tmp_path / "run").exists()


def test_a_choice_of_as_many_starts_as_there_are_candidates_cannot_be_recorded():
    reason = small_trainer(retrieval={"start": "best"}).reason_against_capture
    said = r"^--capture graph: --start best tries as many .*; give --capture off$"
    with pytest.raises(UserError, match=said):
        records("graph", GPU, reason)
    assert small_trainer(retrieval={"start": "medoid"}).reason_against_capture is None
    assert (
        small_trainer(retrieval={"start": "best", "mode": "random"}).reason_against_capture is None
    )
