"""A run on a bank: what it writes, what an interruption costs, what stops it."""

import json
from dataclasses import replace

import pytest
import torch

from bank.bank import Bank
from model import checkpoint
from model.batch import mean_box, scene_batch
from model.config import LossWeights, RetrieveGANConfig, from_json
from model.loop import restore, save, train
from model.recipes import demo, paper, trainer_for
from model.train import TrainOptions, main
from pipeline.options import to_json, write_json

CPU = torch.device("cpu")


def small(**parts) -> RetrieveGANConfig:
    config = replace(demo(), batch=4, steps=4, grid_every=4, checkpoint_every=2, decay_from=1.0)
    return replace(config, **parts)


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture
def batch(bank):
    return scene_batch(bank, bank.scene_ids("train")[:4], 6)


def trainer_of(bank, config):
    return trainer_for(config, bank, CPU)


def losses_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


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


def test_no_side_of_a_predicted_box_dies(bank, batch):
    """Behind the last ReLU a side that starts below zero would stay there for ever."""
    for seed in range(4):
        trainer = trainer_of(bank, small(seed=seed, losses=LossWeights(boxes=10.0)))
        with torch.no_grad():
            trainer.model.graph.box_net[2].bias.sub_(2.0)
        optimiser = torch.optim.Adam(trainer.model.graph.parameters(), 1e-2)
        for _ in range(60):
            vectors = trainer.model.encode(batch.graph).vectors[: len(batch.boxes)]
            loss = (trainer.model.box_sides(vectors) - batch.boxes).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        boxes = trainer.model.encode(batch.graph).boxes[: len(batch.boxes)]
        assert (boxes - batch.boxes).abs().mean() < 0.25


def test_a_new_run_predicts_the_mean_box_at_first(bank, batch):
    boxes = trainer_of(bank, small()).model.encode(batch.graph).boxes[: len(batch.boxes)]
    assert (boxes.mean(0) - mean_box(bank)).abs().max() < 0.3


def test_a_bank_with_other_candidates_is_refused_when_a_run_goes_on(bank, tmp_path):
    trainer = trainer_of(bank, small())
    save(trainer, bank, tmp_path)
    path = tmp_path / checkpoint.NAME
    torch.save(torch.load(path, weights_only=True) | {"derived": "e" * 64}, path)
    with pytest.raises(checkpoint.RunError, match="other frozen networks or candidates"):
        restore(trainer, bank, tmp_path)


def test_more_candidates_than_the_bank_stores_are_refused_before_the_first_step(bank):
    config = small(retrieval=replace(demo().retrieval, candidates=10_000))
    with pytest.raises(checkpoint.RunError, match="--candidates 10000"):
        trainer_of(bank, config)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"train": [], "bank": "x"}', '{"train": {"retrieval": 3}, "bank": "x"}',
     '{"train": {"retrieval": {"temperature": 0}}, "bank": "x"}', "{"],
)  # fmt: skip
def test_a_config_that_is_not_one_is_one_clear_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(checkpoint.RunError, match=r"config\.json"):
        checkpoint.read_config(tmp_path, RetrieveGANConfig)


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(bank, tmp_path):
    save(trainer_of(bank, small()), bank, tmp_path)
    other = replace(demo().retrieval, width=16)
    with pytest.raises(checkpoint.RunError, match="was the config edited"):
        restore(trainer_of(bank, small(retrieval=other)), bank, tmp_path)


def test_a_checkpoint_of_another_bank_is_refused(bank, tmp_path):
    trainer = trainer_of(bank, small())
    save(trainer, bank, tmp_path)
    path = tmp_path / checkpoint.NAME
    state = torch.load(path, weights_only=True)
    torch.save(state | {"bank": "f" * 64}, path)
    with pytest.raises(checkpoint.RunError, match="ffffffffffff"):
        restore(trainer, bank, tmp_path)


def test_a_checkpoint_cut_short_is_one_clear_line(bank, tmp_path):
    trainer = trainer_of(bank, small())
    save(trainer, bank, tmp_path)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoint.RunError, match="cannot be read"):
        restore(trainer, bank, tmp_path)


def test_a_picture_larger_than_the_banks_is_refused_before_the_first_step(bank):
    with pytest.raises(checkpoint.RunError, match=r"256 px, but those of .* are of 128 px"):
        trainer_of(bank, small(image_px=256))


@pytest.mark.parametrize("recipe", [paper, demo])
def test_a_config_comes_back_from_its_json(recipe):
    assert from_json(json.loads(json.dumps(to_json(recipe())))) == recipe()


def test_an_unknown_key_in_a_config_is_refused():
    with pytest.raises(checkpoint.UserError, match="'temprature'"):
        from_json({"retrieval": {"temprature": 1.0}})


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
