"""When the demo begins anew, goes on, or leaves a run as it is."""

import json
from dataclasses import replace

import pytest
import torch

from bank.bank import Bank
from jobs.demo import DemoOptions, example_graphs, standing_of, train_demo
from model.config import demo, paper
from model.retrievegan.trainer import Trainer
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.scene_graph import read_scene_graphs

STEPS = 100


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture
def run(bank, tmp_path):
    """A run stopped at step 50."""
    write_json(tmp_path / "config.json", {"bank": str(bank.path), "train": demo()})
    trainer = Trainer(demo(), bank, torch.device("cpu"))
    trainer.step_number = 50
    trainer.save(tmp_path)
    return tmp_path


def test_where_nothing_is_a_new_run_begins(bank, tmp_path):
    assert standing_of(tmp_path / "demo", bank, STEPS)[0] == "new"
    assert standing_of(tmp_path, bank, STEPS)[0] == "new"


def test_a_run_goes_on_until_its_steps_are_done(bank, run):
    assert standing_of(run, bank, STEPS)[0] == "stopped"
    assert standing_of(run, bank, 50)[0] == "whole"


def test_a_run_of_another_bank_is_replaced(bank, run):
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save({**state, "bank": "0" * 64}, run / "checkpoint.pt")
    standing, reason = standing_of(run, bank, STEPS)
    assert standing == "other"
    assert "another bank" in reason


def test_a_run_by_other_settings_or_without_a_checkpoint_is_replaced(bank, run):
    other = replace(demo(), lr_generator=1.0)
    write_json(run / "config.json", {"bank": str(bank.path), "train": other})
    assert standing_of(run, bank, STEPS)[0] == "other"
    write_json(run / "config.json", {"bank": str(bank.path), "train": demo()})
    (run / "checkpoint.pt").unlink()
    assert standing_of(run, bank, STEPS)[0] == "other"


def test_what_is_not_the_demos_is_never_replaced(bank, run, tmp_path):
    write_json(run / "config.json", {"bank": str(bank.path), "train": paper()})
    with pytest.raises(UserError, match="recipe paper"):
        standing_of(run, bank, STEPS)
    (run / "checkpoint.pt").unlink()
    with pytest.raises(UserError, match="recipe paper"):
        standing_of(run, bank, STEPS)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter-1.md").write_text("once")
    with pytest.raises(UserError, match="something else than a run"):
        standing_of(thesis, bank, STEPS)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"train": 3, "bank": "b"}', "\xff"])
def test_a_folder_whose_config_cannot_be_read_is_never_replaced(bank, tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="whose run it is cannot be told"):
        train_demo(DemoOptions(out=tmp_path, bank=bank.path))
    assert (tmp_path / "config.json").exists()


def test_the_examples_are_six_graphs_the_toy_world_understands(bank):
    graphs = [read_scene_graphs(path, bank.vocabulary) for path in example_graphs()]
    assert [len(found) for found in graphs] == [1] * 6
    assert any(found[0].boxes for found in graphs)
    names = {json.dumps(found[0].objects) for found in graphs}
    assert len(names) == 6
