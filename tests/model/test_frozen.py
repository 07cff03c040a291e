"""Trainings of the bank's networks that are stopped and go on."""

import pytest
import torch
from torch import nn

from model import frozen
from model.frozen import SavedTraining, repeatable, rng_of_step, training_steps

STEPS = 6


@pytest.fixture(autouse=True)
def save_every_step(monkeypatch):
    monkeypatch.setattr(frozen, "SAVE_EVERY_S", 0.0)


def train(saved, stop_at=STEPS):
    """A network's weights after all steps, and which of them were taken."""
    taken = []
    with repeatable(seed=0):
        network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
        unused = nn.Linear(2, 2)  # as a head whose masks no photo of the steps had
        optimiser = torch.optim.Adam([*network.parameters(), *unused.parameters()], lr=0.1)
        for step in training_steps("a network", STEPS, network, optimiser, saved):
            if step == stop_at:
                raise KeyboardInterrupt
            taken.append(step)
            inputs = torch.from_numpy(rng_of_step(0, step).normal(size=(5, 3))).float()
            optimiser.param_groups[0]["lr"] = 0.1 * (1 - step / STEPS)
            optimiser.zero_grad()
            network(inputs).square().sum().backward()
            optimiser.step()
    return network.state_dict(), taken


def equal(one, other):
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_a_training_that_was_stopped_goes_on_and_ends_in_the_same_weights(tmp_path):
    saved = SavedTraining(tmp_path / "training.safetensors", "key")
    whole, _ = train(None)
    for stop_at in (2, 5):
        with pytest.raises(KeyboardInterrupt):
            train(saved, stop_at)
    weights, taken = train(saved)
    assert taken == [5]
    assert equal(weights, whole)


def test_what_was_saved_for_another_network_or_is_damaged_is_not_used(tmp_path):
    saved = SavedTraining(tmp_path / "training.safetensors", "key")
    whole, _ = train(None)
    with pytest.raises(KeyboardInterrupt):
        train(saved, stop_at=3)
    weights, taken = train(SavedTraining(saved.path, "of another bank"))
    assert taken == list(range(STEPS))
    assert equal(weights, whole)
    saved.path.write_bytes(saved.path.read_bytes()[:-1])
    assert train(saved)[1] == list(range(STEPS))


def test_the_progress_of_a_training_is_of_the_steps_that_are_left(tmp_path, capsys):
    saved = SavedTraining(tmp_path / "training.safetensors", "key")
    with pytest.raises(KeyboardInterrupt):
        train(saved, stop_at=3)
    train(saved)
    assert "a network: 6 steps, the last 3 in" in capsys.readouterr().err


def test_the_progress_of_a_training_goes_on_from_the_steps_taken_before(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("pipeline.progress.LINE_EVERY_S", 0.0)
    saved = SavedTraining(tmp_path / "training.safetensors", "key")
    with pytest.raises(KeyboardInterrupt):
        train(saved, stop_at=3)
    capsys.readouterr()
    train(saved)
    shown = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in shown] == [
        *(f"a network: {n}/6 steps" for n in (4, 5)),
        "a network: 6 steps",
    ]


def test_a_training_is_saved_once_in_a_while_and_not_at_every_step(tmp_path, monkeypatch):
    seconds = iter(range(100))
    monkeypatch.setattr(frozen.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(frozen, "SAVE_EVERY_S", 2.0)
    monkeypatch.setattr("pipeline.progress.informs", lambda: False)  # it asks for the time too
    written = []
    monkeypatch.setattr(SavedTraining, "save", lambda saved, step, *_: written.append(step))
    train(SavedTraining(tmp_path / "training.safetensors", "key"))
    # Each look takes a second, and a save looks once more: 1 2 | 4 5 | 7 8.
    assert written == [2, 4, 6]
