"""Training where no loss looks at images: none are made, and retrieval learns what it would."""

from dataclasses import replace

import pytest
import torch

from model import losses
from model.config import LossWeights
from model.fixed_shapes import FixedShapes
from model.loop import restore, train
from tests.model.retrievegan.small import (
    WEIGHTS,
    assert_same_step,
    descending,
    halves,
    small_batch,
    small_trainer,
    with_draws,
)
from tests.model.small_runs import losses_of, small, trainer_of

OF_IMAGES = ("adversarial_image", "adversarial_object", "reconstruction", "object_class")
NO_IMAGES = replace(WEIGHTS, **dict.fromkeys(OF_IMAGES, 0.0))
DISCRIMINATORS = ("image_discriminator", "object_discriminator")


@pytest.fixture
def batch():
    return small_batch()


def test_any_loss_that_looks_at_images_has_them_made(batch):
    assert LossWeights().of_images
    assert not NO_IMAGES.of_images
    trainer = small_trainer(losses=NO_IMAGES)
    for name in OF_IMAGES:
        weights = replace(NO_IMAGES, **{name: 1e-3})
        assert weights.of_images
        values = small_trainer(losses=weights).step(batch)
        assert {"reconstruction", "discriminator_image", "discriminator_object"} <= values.keys()
    assert trainer.model(batch).images is None
    with torch.no_grad():
        assert trainer.model.eval()(batch).images is not None


@pytest.mark.parametrize("parts", [1, 2])
def test_no_image_is_made_and_the_discriminators_stay_as_they_are(batch, parts, monkeypatch):
    trainer = small_trainer(losses=NO_IMAGES)
    before = {
        name: {key: value.clone() for key, value in trainer.networks[name].state_dict().items()}
        for name in trainer.networks
    }
    monkeypatch.setattr(trainer.model, "generate", None)
    for name in DISCRIMINATORS:
        monkeypatch.setattr(trainer.networks[name], "forward", None)
    values = trainer.step(*(halves(batch) if parts == 2 else [batch]))
    named = {name for name in values if "/" not in name}
    assert named == {"boxes", "gt_selection", "cooccurrence", "total"}
    total = sum(getattr(NO_IMAGES, name) * values[name] for name in named - {"total"})
    torch.testing.assert_close(values["total"], total)
    changed = {
        name: {
            key for key, value in network.state_dict().items() if not value.equal(before[name][key])
        }
        for name, network in trainer.networks.items()
    }
    assert not changed["image_discriminator"]
    assert not changed["object_discriminator"]
    assert {key.partition(".")[0] for key in changed["model"]} == {"embedding", "graph"}
    assert not trainer.optimisers["discriminator"].state


@pytest.mark.parametrize("rule", [{}, {"objective": "pairs", "start": "best"}], ids=str)
def test_the_gradient_is_that_of_the_same_losses_beside_images(batch, rule):
    trainer, other = small_trainer(losses=NO_IMAGES, retrieval=rule), small_trainer(retrieval=rule)
    batch = with_draws(batch, trainer.config)
    values = descending(trainer).step(batch)
    output = other.model(batch)
    assert output.images is not None
    terms = other.retrieval_terms(batch, output)
    losses.weighted(NO_IMAGES, terms).backward()
    for name, term in terms.items():
        assert torch.equal(values[name], term)
    for (name, ours), theirs in zip(
        trainer.model.named_parameters(), other.model.parameters(), strict=True
    ):
        assert (ours.grad is None) == (theirs.grad is None), name
        if ours.grad is not None:
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-7, rtol=1e-5, msg=name)
    assert all(p.grad.any() for p in trainer.model.embedding.parameters())


def test_a_step_in_parts_or_with_fillers_is_that_of_the_batch(batch):
    assert_same_step(small_trainer(losses=NO_IMAGES), *halves(batch), as_in=batch)
    shapes = FixedShapes(4, 6, 5)
    for rule in ({}, {"objective": "pairs"}):
        trainer = small_trainer(losses=NO_IMAGES, retrieval=rule)
        assert_same_step(trainer, shapes.scenes(batch), as_in=batch)


def test_a_sample_grid_shows_images_all_the_same(batch):
    """Those of the network as it is; the next step makes none again."""
    trainer, other = small_trainer(losses=NO_IMAGES), small_trainer()
    trainer.step(batch)
    other.model.load_state_dict(trainer.model.state_dict())
    assert trainer.image_grid(batch).tobytes() == other.image_grid(batch).tobytes()
    assert "reconstruction" not in trainer.step(batch)


def test_a_resumed_run_has_the_losses_of_one_that_was_never_interrupted(bank, tmp_path):
    weights = LossWeights(adversarial_image=0, adversarial_object=0, reconstruction=0)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(trainer_of(bank, small(losses=weights)), bank, whole)
    train(trainer_of(bank, small(losses=weights, steps=2)), bank, cut)
    again = trainer_of(bank, small(losses=weights))
    restore(again, bank, cut)
    train(again, bank, cut)
    assert losses_of(cut) == losses_of(whole)
    assert [row["step"] for row in losses_of(whole)] == [0, 1, 2, 3]
    assert not {"reconstruction", "discriminator_image"} & losses_of(whole)[0].keys()
    assert (whole / "samples-000004.png").read_bytes() == (cut / "samples-000004.png").read_bytes()


def test_a_grid_offers_all_candidates_that_the_bank_stores(bank):
    """As sampling does, not only those of training."""
    trainer = trainer_of(bank, small())
    assert trainer.config.retrieval.candidates < bank.num_candidates
    grid = trainer.grid_batch(bank, bank.scene_ids("val")[:2])
    assert grid.candidates.ids.shape[1] == bank.num_candidates
    assert grid.draws.choice.noise is None
