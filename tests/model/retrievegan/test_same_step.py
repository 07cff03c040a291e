"""What may not change a step: its parts, the form of its sums, a dry run before it."""

import numpy as np
import pytest
import torch

from model import loop, rows
from model.batch import scene_batch
from model.boxes import crop
from model.fixed_shapes import FixedShapes
from model.parallel import ALONE, run_phases
from model.resizing import by_products
from model.retrievegan import composition, decoder
from model.retrievegan.trainer import RetrieveGANTrainer
from model.sources import BankSource, Counts, Part
from tests.model.retrievegan.small import (
    IMAGE_PX,
    N,
    O,
    assert_same_step,
    halves,
    small_batch,
    small_config,
    small_trainer,
    with_draws,
)

SCENES = 4


@pytest.fixture
def batch():
    return small_batch()


def parts_of(bank, config, count):
    """So many parts of one batch of a bank's scenes, as a loader gives them."""
    ids = np.asarray(bank.scene_ids("train")[:SCENES], np.int64)
    counts = Counts.of(bank.contents.num_patches_of_images(ids))
    size = SCENES // count
    return [
        scene_batch(
            bank,
            BankSource(bank),
            Part(first, ids[first : first + size], counts),
            config.retrieval,
            config.seed,
        )
        for first in range(0, SCENES, size)
    ]


def trainer_of(bank, **changes):
    config = small_config(batch_size=SCENES, **changes)
    return RetrieveGANTrainer(config, bank.vocabulary)


@pytest.mark.parametrize("count", [2, 4])
def test_a_banks_batch_in_parts_has_the_losses_gradients_and_spectral_norms_of_it(bank, count):
    trainer = trainer_of(bank)
    parts = parts_of(bank, trainer.config, count)
    (whole,) = parts_of(bank, trainer.config, 1)
    assert len(parts) == count
    assert_same_step(trainer, *parts, as_in=whole)


@pytest.mark.parametrize(
    "rule",
    [
        {"gt_in_candidates": True},
        {"relaxation": "soft"},
        {"relaxation": "marginal"},
        {"start": "best"},
        {"mode": "predefined"},
        {"mode": "random"},
    ],
    ids=str,
)
def test_a_batch_in_parts_has_the_losses_gradients_and_spectral_norms_of_the_batch(batch, rule):
    trainer = small_trainer(retrieval=rule)
    batch = with_draws(batch, trainer.config)
    assert_same_step(trainer, *halves(batch), as_in=batch)


def test_parts_may_have_fillers(batch):
    trainer, shapes = small_trainer(), FixedShapes(4, 6, 5)
    assert_same_step(trainer, *map(shapes.scenes, halves(batch)), as_in=batch)


def test_each_part_is_seen_by_both_updates_with_the_same_weights(batch):
    """Spectral normalisation takes one iteration at each update, as of a whole batch."""
    trainer = small_trainer()
    seen = []

    def note(discriminator, *_):
        seen.append(discriminator.trunk[0].parametrizations.weight[0]._u.clone())

    trainer.image_discriminator.register_forward_hook(note)
    trainer.step(*halves(batch))
    assert len(seen) == 4
    assert torch.equal(seen[0], seen[1])
    assert torch.equal(seen[2], seen[3])
    assert not torch.equal(seen[1], seen[2])
    assert trainer.image_discriminator.training
    assert trainer.object_discriminator.training


def test_a_whole_batch_goes_through_the_network_once_and_parts_twice_each(batch):
    trainer, calls = small_trainer(), []
    trainer.model.register_forward_hook(
        lambda *call: calls.append(call[2].images.rebuilt.requires_grad)
    )
    trainer.step(batch)
    assert calls == [True]
    calls.clear()
    trainer.step(*halves(batch))
    assert calls == [False, False, True, True]


def test_a_step_whose_sums_are_products_is_the_step(batch, monkeypatch):
    """What a GPU computes, on a CPU."""
    trainer = small_trainer(retrieval={"relaxation": "soft"})
    step, resized = trainer.step, []

    def watched(maps, side):
        resized.append(side)
        return by_products(maps, side)

    def as_on_a_gpu(*parts):
        with monkeypatch.context() as patch:
            patch.setattr(rows, "_sums_in_order", lambda _: False)
            for module in (decoder, composition):
                patch.setattr(module, "resized", watched)
            return step(*parts)

    trainer.step = as_on_a_gpu
    batch = with_draws(batch, trainer.config)
    assert_same_step(trainer, batch, as_in=batch)
    assert resized


# Without effect


def everything_of(trainer):
    """Copies of all that a checkpoint would hold, and more."""
    weights = [t for network in trainer.networks.values() for t in network.state_dict().values()]
    moments = [
        value
        for optimiser in trainer.optimisers.values()
        for state in optimiser.state.values()
        for value in state.values()
    ]
    return [t.detach().clone() for t in (*weights, *moments, trainer.diverged)]


def same(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


def test_without_effect_a_step_changes_no_weight_moment_count_or_buffer(batch):
    trainer = small_trainer()
    trainer.step(batch)
    before = everything_of(trainer)
    for _ in range(2):
        with trainer.without_effect():
            values = run_phases(trainer.phases([batch]), ALONE)
        assert same(everything_of(trainer), before)
        assert all(value.isfinite() for value in values.values())
    trainer.step(batch)
    assert not any(
        torch.equal(a, b) for a, b in zip(everything_of(trainer)[:3], before[:3], strict=True)
    )


def test_a_dry_run_changes_nothing_of_the_first_step(batch, monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    after_dry_run, other = (small_trainer(steps=3, decay_from=0.0) for _ in range(2))
    assert after_dry_run.dry_run(batch) > 0
    assert after_dry_run.step_number == 0
    for _ in range(2):
        assert after_dry_run.step(batch) == other.step(batch)
        assert same(everything_of(after_dry_run), everything_of(other))


def test_the_seconds_of_a_dry_run_are_those_of_one_step_at_the_rates_of_the_step(
    batch, monkeypatch
):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    times = iter((100.0, 112.0))  # of three steps, after one that is not timed
    monkeypatch.setattr(loop.time, "perf_counter", lambda: next(times))
    trainer, rates = small_trainer(steps=4, decay_from=0.0), []
    trainer.step_number = 2

    def phases(_):
        rates.append(trainer.optimisers["generator"].param_groups[0]["lr"])
        yield []
        return {}

    trainer.phases = phases
    assert trainer.dry_run(batch) == 4
    assert rates == [trainer.config.lr_generator / 2] * 4


def test_a_run_that_has_diverged_stays_so_after_a_dry_run(batch):
    trainer = small_trainer()
    trainer.diverged.fill_(1)
    with trainer.without_effect():
        pass
    assert trainer.diverged == 1


# Gradients


def test_the_generators_update_takes_no_gradient_of_the_discriminators_weights(batch):
    trainer = small_trainer()
    discriminators = (trainer.image_discriminator, trainer.object_discriminator)
    parameters = [p for network in discriminators for p in network.parameters()]
    update, kept = trainer.update, []

    def watched(name, *rest):
        if name == "generator":
            kept.extend(p.grad for p in parameters)
            for p in parameters:
                p.grad = None
        return update(name, *rest)

    trainer.update = watched
    trainer.step(batch)
    assert all(gradient is not None and gradient.any() for gradient in kept)
    assert all(p.grad is None for p in parameters)


def test_the_box_head_runs_once(batch):
    trainer, calls = small_trainer(), []
    trainer.model.graph.box_net[0].register_forward_hook(lambda *call: calls.append(call))
    trainer.step(batch)
    assert len(calls) == 1


@pytest.mark.parametrize("judge", ["image", "object"])
def test_a_gradient_penalty_reaches_the_weights_of_its_discriminator(batch, judge):
    """Double backward: through D_img, and through D_obj with its crops."""
    trainer = small_trainer()
    images = torch.rand(N, 3, IMAGE_PX, IMAGE_PX, requires_grad=True)
    if judge == "image":
        network, answer = trainer.image_discriminator, trainer.image_discriminator(images)
    else:
        network = trainer.object_discriminator
        crops = crop(images, batch.boxes, batch.graph.object_image, 8, align_corners=False)
        answer = network(crops).real
        assert len(answer) == O
    (gradient,) = torch.autograd.grad(answer.sum(), images, create_graph=True)
    ((gradient.norm() - 1) ** 2).backward()
    kernels = [p for p in network.trunk.parameters() if p.dim() == 4]
    assert kernels
    assert all(p.grad is not None and p.grad.any() for p in kernels)


def test_a_gradient_penalty_on_the_generator_reaches_its_weights(batch):
    """Double backward through all that composes and decodes."""
    trainer = small_trainer(retrieval={"relaxation": "soft"})
    vectors = trainer.model.encode(batch.graph).detach().requires_grad_()
    patches = torch.rand(O, 3, 8, 8, requires_grad=True)
    images = trainer.model.generate(vectors, batch.graph, batch.padding, patches, batch.boxes)
    gradients = torch.autograd.grad(images.sum(), (vectors, patches), create_graph=True)
    sum(g.square().sum() for g in gradients).backward()
    for name in ("crop_encoder", "fuser", "residual", "decoder"):
        parameters = [*getattr(trainer.model, name).parameters()]
        assert any(p.grad is not None and p.grad.any() for p in parameters), name
