"""A trainer made for a bank: its start, and which banks do not fit. The step: test_step.py."""

from dataclasses import replace

import pytest
import torch

from model.batch import mean_box, scene_batch
from model.config import LossWeights, RetrieveGANConfig
from model.recipes import demo
from model.run_folder import RunError
from model.sources import BankSource, part_of
from model.trainers import trainer_for

CPU = torch.device("cpu")


def small(**parts) -> RetrieveGANConfig:
    config = replace(demo(), batch_size=4, steps=4, decay_from=1.0)
    return replace(config, **parts)


@pytest.fixture
def batch(bank):
    part = part_of(bank, bank.scene_ids("train")[:4])
    return scene_batch(bank, BankSource(bank), part, demo().retrieval, seed=0)


def trainer_of(bank, config):
    return trainer_for(config, bank, CPU)


def predicted_boxes(trainer, batch):
    encoding = trainer.model.graph(batch.graph.nodes, batch.graph.triples)
    return encoding.boxes[: len(batch.boxes)]


def test_no_side_of_a_predicted_box_dies(bank, batch):
    """Behind the last ReLU a side that starts below zero would stay there for ever."""
    for seed in range(4):
        trainer = trainer_of(bank, small(seed=seed, losses=LossWeights(boxes=10.0)))
        with torch.no_grad():
            trainer.model.graph.box_net[2].bias.sub_(2.0)
        optimiser = torch.optim.Adam(trainer.model.graph.parameters(), 1e-2)
        for _ in range(60):
            vectors = trainer.model.encode(batch.graph)[: len(batch.boxes)]
            loss = (trainer.model.graph.box_sides(vectors) - batch.boxes).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        boxes = predicted_boxes(trainer, batch)
        assert (boxes - batch.boxes).abs().mean() < 0.25


def test_a_new_run_predicts_the_mean_box_at_first(bank, batch):
    boxes = predicted_boxes(trainer_of(bank, small()), batch)
    assert (boxes.mean(0) - mean_box(bank)).abs().max() < 0.3


def test_more_candidates_than_the_bank_stores_are_refused_before_the_first_step(bank):
    stored = replace(demo().retrieval, candidates=bank.num_candidates)
    trainer_of(bank, small(retrieval=stored))  # all of them may be used
    config = small(retrieval=replace(demo().retrieval, candidates=10_000))
    with pytest.raises(RunError, match="--candidates 10000"):
        trainer_of(bank, config)
