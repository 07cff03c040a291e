"""The training step: each loss by hand, who sees which images, who is updated by what, when."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from model.batch import with_truth
from model.boxes import crop
from model.config import ExecutionConfig, LossWeights
from model.image_grid import patches_and_images
from model.padding import padding_of
from model.parallel import ALONE, Ranks, run_phases
from model.pixels import to_float
from model.recipes import paper
from model.retrieval.greedy import medoid_start, retrieve, start_feature
from model.retrieval.search import retrieve_tightest
from model.retrievegan.trainer import RetrieveGANTrainer
from model.sources import Counts
from tests.model.retrievegan.small import (
    IMAGE_PX,
    VOCABULARY,
    WEIGHTS,
    N,
    O,
    small_batch,
    small_config,
    small_trainer,
    with_draws,
)

OBJECT_IMAGE = [0, 0, 0, 1, 1]
PAIRS = [(0, 1), (0, 2), (1, 2), (3, 4)]  # of objects of one image
GENERATOR_PARTS = (
    "graph", "embedding", "crop_encoder", "predicates", "refinement", "fuser", "residual",
    "decoder",
)  # fmt: skip
COMPOSED_PARTS = {*GENERATOR_PARTS} - {"embedding"}


def updated(trainer, loss, terms):
    """An update of the generator along a loss."""
    return run_phases(trainer.update("generator", [None], lambda _: (loss, terms)), ALONE)


def losses_in(values):
    """Names of losses, without what else is measured."""
    return {name for name in values if "/" not in name}


def output_of(trainer, batch, step=0):
    return trainer.model(with_draws(batch, trainer.config, step))


def watched_calls(module):
    """The (first argument, result, weights) of every call of a module from now on."""
    calls = []

    def note(_, arguments, result):
        weights = [p.detach().clone() for p in module.parameters()]
        calls.append((arguments[0], result, weights))

    module.register_forward_hook(note)
    return calls


def weights_of(module):
    return [p.detach().clone() for p in module.parameters()]


def equal(ones, others):
    return all(torch.equal(a, b) for a, b in zip(ones, others, strict=True))


def crops_of(images, batch, side=8):
    """The crops of one set of the batch's images, one object at a time."""
    return torch.cat(
        [
            crop(
                images[n, None], batch.boxes[o, None], torch.tensor([0]), side, align_corners=False
            )
            for o, n in enumerate(OBJECT_IMAGE)
        ]
    )


@pytest.fixture
def batch():
    return small_batch()


def test_each_loss_of_a_step_is_what_its_equation_gives(batch):
    """Eqs. 3 to 5 term by term; the adversarial ones from what the discriminators answered."""
    trainer, other = small_trainer(), small_trainer()
    with torch.no_grad():
        output = output_of(other, batch)
    on_images = watched_calls(trainer.image_discriminator)
    on_objects = watched_calls(trainer.object_discriminator)
    values = trainer.step(batch)
    real = to_float(batch.images, IMAGE_PX)
    categories = batch.graph.nodes[:O]
    images_for_d, objects_for_d = on_images[0][1], on_objects[0][1]
    images_for_g, objects_for_g = on_images[1][1], on_objects[1][1]
    vectors = output.cooccurrence
    expected = {
        "boxes": (output.box_sides - batch.boxes).abs().mean(),
        "gt_selection": output.gt_selection.sum() / (O - N),
        "cooccurrence": sum((vectors[i] - vectors[j]).norm() for i, j in PAIRS) / N,
        "reconstruction": (output.images.rebuilt - real).abs().mean(),
        "adversarial_image": F.softplus(-images_for_g).mean(),
        "adversarial_object": F.softplus(-objects_for_g.real).mean(),
        "object_class": F.cross_entropy(objects_for_g.category, categories.repeat(2)),
        "discriminator_image": F.softplus(-images_for_d[:N]).mean()
        + F.softplus(images_for_d[N:]).mean(),
        "discriminator_object": F.softplus(-objects_for_d.real[:O]).mean()
        + F.softplus(objects_for_d.real[O:]).mean(),
        "discriminator_class": F.cross_entropy(objects_for_d.category[:O], categories),
    }
    assert losses_in(values) == {*expected, "total"}
    for name, value in expected.items():
        assert values[name] == pytest.approx(value.item(), rel=1e-4), name
    weights = vars(WEIGHTS)
    total = sum(weights[name] * expected[name].item() for name in weights)
    assert values["total"] == pytest.approx(total, rel=1e-4)


def test_every_loss_of_a_part_is_its_share_of_a_batch_twice_as_large(batch):
    """And the mean of what is measured beside the losses."""
    trainer = small_trainer()
    output = output_of(trainer, batch)

    def terms_of(batch):
        return {
            **trainer.retrieval_terms(batch, output),
            **trainer.image_terms(batch, output.images),
            **trainer.discriminator_terms(batch, output.images),
            **trainer.measured(batch, output),
        }

    trainer.image_discriminator.eval()  # no power iteration between the two
    trainer.object_discriminator.eval()
    whole = terms_of(batch)
    part = terms_of(batch._replace(counts=Counts(*(2 * count for count in batch.counts))))
    assert len(whole) == 11
    for name, value in whole.items():
        torch.testing.assert_close(part[name], value / 2, msg=name)


def test_a_gradient_is_added_up_over_the_processes(batch, monkeypatch):
    """As between two processes that have the same."""
    trainer, other = small_trainer(), small_trainer()
    monkeypatch.setattr("torch.distributed.all_reduce", lambda tensor: tensor.mul_(2))
    other.ranks = Ranks(0, 2)
    values, doubled = trainer.step(batch), other.step(batch)
    assert doubled["gradient_norm/discriminator"].item() == pytest.approx(
        2 * values["gradient_norm/discriminator"].item(), rel=1e-5
    )
    assert doubled["discriminator_image"] == pytest.approx(2 * values["discriminator_image"].item())


def test_both_discriminators_see_real_composed_and_rebuilt_and_then_the_fakes_again(batch):
    trainer, other = small_trainer(), small_trainer()
    with torch.no_grad():
        output = output_of(other, batch)
    on_images = watched_calls(trainer.image_discriminator)
    on_objects = watched_calls(trainer.object_discriminator)
    trainer.step(batch)
    sets = [to_float(batch.images, IMAGE_PX), *output.images]
    assert [len(call[0]) for call in on_images] == [3 * N, 2 * N]
    assert [len(call[0]) for call in on_objects] == [3 * O, 2 * O]
    for (images, *_), (crops, *_), shown in zip(
        on_images, on_objects, (sets, sets[1:]), strict=True
    ):
        torch.testing.assert_close(images, torch.cat(shown))
        expected = torch.cat([crops_of(each, batch) for each in shown])
        torch.testing.assert_close(crops, expected)
    for calls in (on_images, on_objects):
        assert not calls[0][0].requires_grad  # the discriminators' losses stop here
        assert calls[1][0].requires_grad


def test_the_discriminators_are_updated_first_and_then_judge_for_the_generator(batch):
    trainer = small_trainer()
    on_images = watched_calls(trainer.image_discriminator)
    on_objects = watched_calls(trainer.object_discriminator)
    before = {name: weights_of(network) for name, network in trainer.networks.items()}
    order, states = [], []
    update = trainer.update

    def watched(name, *rest):
        gradients = [p.grad for p in trainer.model.parameters()]
        states.append({key: weights_of(network) for key, network in trainer.networks.items()})
        order.append((name, all(g is None for g in gradients)))
        return update(name, *rest)

    trainer.update = watched
    trainer.step(batch)
    assert order == [("discriminator", True), ("generator", True)]
    first, second = states
    assert all(equal(first[name], before[name]) for name in before)
    for name in ("image_discriminator", "object_discriminator"):
        assert not equal(second[name], before[name])  # updated by the first
        assert equal(second[name], weights_of(trainer.networks[name]))  # not by the second
    assert equal(second["model"], before["model"])
    assert not equal(weights_of(trainer.model), before["model"])
    assert equal(on_images[0][2], before["image_discriminator"])
    assert equal(on_images[1][2], second["image_discriminator"])
    assert equal(on_objects[0][2], before["object_discriminator"])
    assert equal(on_objects[1][2], second["object_discriminator"])


@pytest.mark.parametrize(
    ("loss", "parts"),
    [
        ("boxes", {"graph"}),
        ("gt_selection", {"embedding"}),
        ("cooccurrence", {"embedding"}),
        ("reconstruction", COMPOSED_PARTS),
        ("adversarial_image", {*GENERATOR_PARTS}),
        ("adversarial_object", {*GENERATOR_PARTS}),
        ("object_class", {*GENERATOR_PARTS}),
    ],
)
@pytest.mark.parametrize("relaxation", ["straight-through", "soft", "marginal"])
def test_each_loss_reaches_the_parts_that_it_should_teach_and_no_others(
    batch, loss, parts, relaxation
):
    trainer = small_trainer(retrieval={"relaxation": relaxation})
    output = output_of(trainer, batch)
    terms = trainer.retrieval_terms(batch, output) | trainer.image_terms(batch, output.images)
    terms[loss].backward()
    reached = {
        part for part in GENERATOR_PARTS
        if any(
            p.grad is not None and p.grad.any()
            for p in getattr(trainer.model, part).parameters()
        )
    }  # fmt: skip
    assert reached == parts


def test_the_discriminators_losses_teach_the_discriminators_alone(batch):
    trainer = small_trainer()
    output = output_of(trainer, batch)
    for name, term in trainer.discriminator_terms(batch, output.images).items():
        for network in trainer.networks.values():
            network.zero_grad(set_to_none=True)
        term.backward(retain_graph=True)
        own = "image_discriminator" if name == "discriminator_image" else "object_discriminator"
        for key, network in trainer.networks.items():
            taught = any(p.grad is not None and p.grad.any() for p in network.parameters())
            assert taught == (key == own), (name, key)


def test_a_steps_gradient_is_that_of_the_weighted_sum(batch):
    """With plain gradient descent of rate 1 the update is the gradient itself."""
    trainer, other = small_trainer(), small_trainer()
    generator = torch.optim.SGD(trainer.model.parameters(), 1.0)
    still = torch.optim.SGD(
        [*trainer.image_discriminator.parameters(), *trainer.object_discriminator.parameters()], 0.0
    )
    trainer.optimisers = {"generator": generator, "discriminator": still}
    trainer.set_learning_rates = lambda: None
    before = weights_of(trainer.model)
    trainer.step(batch)
    output = output_of(other, batch)
    for network in (other.image_discriminator, other.object_discriminator):
        network(torch.cat([to_float(batch.images, 8)] * 2))  # a power iteration, as in the step
    terms = other.retrieval_terms(batch, output) | other.image_terms(batch, output.images)
    total = sum(getattr(WEIGHTS, name) * term for name, term in terms.items())
    gradients = torch.autograd.grad(total, [*other.model.parameters()], allow_unused=True)
    for old, new, gradient in zip(before, trainer.model.parameters(), gradients, strict=True):
        expected = torch.zeros_like(old) if gradient is None else gradient
        torch.testing.assert_close(old - new.detach(), expected, atol=2e-6, rtol=2e-3)


def test_the_discriminators_gradient_is_that_of_the_sum_of_their_losses(batch):
    trainer, other = small_trainer(), small_trainer()
    discriminators = [trainer.image_discriminator, trainer.object_discriminator]
    parameters = [p for network in discriminators for p in network.parameters()]
    trainer.optimisers["discriminator"] = torch.optim.SGD(parameters, 1.0)
    trainer.set_learning_rates = lambda: None
    before = [p.detach().clone() for p in parameters]
    trainer.step(batch)
    terms = other.discriminator_terms(batch, output_of(other, batch).images)
    theirs = [
        p for network in (other.image_discriminator, other.object_discriminator)
        for p in network.parameters()
    ]  # fmt: skip
    gradients = torch.autograd.grad(sum(terms.values()), theirs)
    for old, new, gradient in zip(before, parameters, gradients, strict=True):
        torch.testing.assert_close(old - new.detach(), gradient, atol=2e-6, rtol=2e-3)


def test_gradients_of_one_step_are_not_added_to_the_next(batch):
    trainer = small_trainer()
    trainer.step(batch)
    for p in trainer.model.parameters():
        if p.grad is not None:
            p.grad.fill_(1e6)
    for name in ("image_discriminator", "object_discriminator"):
        for p in trainer.networks[name].parameters():
            p.grad.fill_(1e6)
    trainer.step(batch)
    for network in trainer.networks.values():
        assert all(p.grad is None or p.grad.abs().max() < 1e5 for p in network.parameters())


def test_the_optimisers_are_adam_with_the_recipes_rates_over_their_own_networks():
    trainer = small_trainer()
    assert trainer.optimisers.keys() == {"generator", "discriminator"}
    networks = {
        "generator": [trainer.model],
        "discriminator": [trainer.image_discriminator, trainer.object_discriminator],
    }
    for name, rate in (("generator", 2e-3), ("discriminator", 3e-3)):
        optimiser = trainer.optimisers[name]
        assert type(optimiser) is torch.optim.Adam
        (group,) = optimiser.param_groups
        assert (group["lr"], group["betas"]) == (rate, (0.5, 0.9))
        expected = [p for network in networks[name] for p in network.parameters()]
        assert [id(p) for p in group["params"]] == [id(p) for p in expected]


def test_learning_rates_fall_to_zero_where_the_recipe_says_so(batch):
    trainer = small_trainer(steps=100, decay_from=0.5)
    for step, factor in ((0, 1), (50, 1), (75, 0.5), (99, 0.02)):
        trainer.step_number = step
        trainer.step(batch)
        rates = {name: o.param_groups[0]["lr"] for name, o in trainer.optimisers.items()}
        assert rates == pytest.approx({"generator": 2e-3 * factor, "discriminator": 3e-3 * factor})
    trainer.step_number = 130  # a run that is given fewer steps than it has taken
    trainer.set_learning_rates()
    assert trainer.optimisers["generator"].param_groups[0]["lr"] == 0
    still = small_trainer(steps=100)
    still.step_number = 99
    still.set_learning_rates()
    assert still.optimisers["generator"].param_groups[0]["lr"] == 2e-3


def test_a_step_is_a_function_of_seed_and_step_number(batch):
    def losses(seed, step):
        trainer = small_trainer(seed=seed)
        trainer.step_number = step
        torch.manual_seed(99)  # whatever else draws
        values = trainer.step(with_draws(batch, trainer.config, step))
        assert trainer.step_number == step + 1
        return values

    assert losses(1, 0) == losses(1, 0)
    assert losses(1, 0)["boxes"] != losses(2, 0)["boxes"]  # other weights
    assert losses(1, 0)["boxes"] == losses(1, 1)["boxes"]  # boxes are not drawn
    assert losses(1, 0)["gt_selection"] != losses(1, 1)["gt_selection"]  # other draws


def test_a_step_and_a_grid_use_the_draws_of_their_batch_and_draw_nothing(batch):
    trainer = small_trainer()
    seen = []
    forward = trainer.model.forward

    def watched(given):
        seen.append((given.draws, trainer.model.training, torch.is_grad_enabled()))
        return forward(given)

    trainer.model.forward = watched
    trainer.step(batch)
    trainer.image_grid(batch)
    (step, *mode), (grid, *grid_mode) = seen
    for used in (step, grid):
        assert used.choice.noise is batch.draws.choice.noise
        assert used.truth.order is batch.draws.truth.order
    assert mode == [True, True]
    assert grid_mode == [False, False]
    assert trainer.model.training


def test_a_grid_shows_selected_patches_then_composed_rebuilt_and_real(batch):
    trainer = small_trainer()
    grid = trainer.image_grid(batch)
    with torch.no_grad():
        output = trainer.model.eval()(batch)
    selected = batch.candidates.patches[torch.arange(O), output.selection.selected]
    columns = [
        ((values + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(1, -1).numpy()
        for values in (
            output.images.composed,
            output.images.rebuilt,
            to_float(batch.images, IMAGE_PX),
        )
    ]
    expected = patches_and_images(OBJECT_IMAGE, selected.numpy(), columns)
    assert grid.tobytes() == expected.tobytes()


@pytest.mark.parametrize("start", ["random", "medoid", "best"])
@pytest.mark.parametrize("gt_in_candidates", [False, True])
def test_a_step_trains_with_the_patches_of_its_rules_start(batch, start, gt_in_candidates):
    trainer, other = (
        small_trainer(retrieval={"start": start, "gt_in_candidates": gt_in_candidates})
        for _ in range(2)
    )
    selections = []
    trainer.model.register_forward_hook(lambda *call: selections.append(call[2].selection))
    before = weights_of(trainer.model.embedding)
    batch = with_draws(batch, trainer.config)
    trainer.step(batch)
    assert not equal(weights_of(trainer.model.embedding), before)
    with torch.no_grad():
        candidates = with_truth(batch) if gt_in_candidates else batch.candidates
        features = other.model.embed(candidates.patches)
        draws = batch.draws.choice
    padding = padding_of(torch.tensor(OBJECT_IMAGE), N)
    settings = {"noise": draws.noise, "temperature": 1.0}
    if start == "best":
        expected = retrieve_tightest(features, candidates.valid, padding, **settings)
    else:
        medoids = medoid_start(features, candidates.valid, padding)
        query = start_feature(features, padding, draws.start if start == "random" else medoids)
        expected = retrieve(features, candidates.valid, padding, query, **settings)
    assert torch.equal(selections[0].selected, expected.selected)
    torch.testing.assert_close(selections[0].weights, expected.weights)


def test_image_losses_alone_teach_the_patch_embedding(batch):
    """Through the choice: without the two losses that see its features."""
    trainer = small_trainer(losses=replace(WEIGHTS, gt_selection=0.0, cooccurrence=0.0))
    trainer.step(batch)
    assert all(p.grad is not None and p.grad.any() for p in trainer.model.embedding.parameters())


@pytest.mark.parametrize("mode", ["predefined", "random"])
def test_without_learned_retrieval_nothing_teaches_the_patch_embedding(batch, mode):
    trainer = small_trainer(retrieval={"mode": mode})
    values = trainer.step(batch)
    assert not {"gt_selection", "cooccurrence"} & values.keys()
    assert all(p.grad is None for p in trainer.model.embedding.parameters())


def test_without_the_auxiliary_classifier_no_category_is_learned(batch):
    trainer = small_trainer(losses=LossWeights(object_class=0.0))
    values = trainer.step(batch)
    assert not {"discriminator_class", "object_class"} & values.keys()
    assert trainer.object_discriminator.category.weight.grad is None


def test_the_object_discriminator_knows_every_category():
    categories = small_trainer().object_discriminator.category.out_features
    assert categories == len(VOCABULARY.objects)


def test_a_run_learns_to_draw_the_scenes_that_it_is_shown(batch):
    trainer = RetrieveGANTrainer(small_config(steps=40, lr_generator=1e-2), VOCABULARY)
    values = [trainer.step(batch) for _ in range(40)]
    assert values[-1]["reconstruction"] < 0.8 * values[0]["reconstruction"]
    assert values[-1]["boxes"] < 0.5 * values[0]["boxes"]
    assert values[-1]["gt_selection"] < 0.7 * values[0]["gt_selection"]


def state_of(trainer, name):
    """Copies of an optimiser's weights, moments and step counts."""
    optimiser = trainer.optimisers[name]
    (group,) = optimiser.param_groups
    moments = [each for state in optimiser.state.values() for each in state.values()]
    return [tensor.detach().clone() for tensor in (*group["params"], *moments)]


def test_from_the_first_loss_that_is_not_finite_on_no_optimiser_changes_anything(batch):
    """The discriminators were updated before the generator's losses of that step were known."""
    trainer = small_trainer()
    assert trainer.step_number == 0
    trainer.step(batch)
    assert trainer.step_number == 1
    assert not trainer.diverged
    predicted = trainer.model.graph.box_net[2].weight
    good = predicted.detach().clone()
    with torch.no_grad():
        predicted.fill_(torch.inf)
    before = state_of(trainer, "generator")
    discriminators = state_of(trainer, "discriminator")
    values = trainer.step(batch)
    assert not values["boxes"].isfinite()
    assert trainer.diverged
    assert equal(state_of(trainer, "generator"), before)
    updated = state_of(trainer, "discriminator")
    assert not equal(updated, discriminators)
    with torch.no_grad():
        predicted.copy_(good)
    before = state_of(trainer, "generator")
    assert all(value.isfinite() for value in trainer.step(batch).values())
    assert equal(state_of(trainer, "generator"), before)
    assert equal(state_of(trainer, "discriminator"), updated)


def test_a_discriminators_loss_that_is_not_finite_keeps_the_generator_from_being_updated(batch):
    trainer = small_trainer()
    trainer.step(batch)
    trainer.discriminator_terms = lambda *_: {
        "discriminator_image": trainer.image_discriminator.logits.bias.sum() * torch.inf
    }
    before = [state_of(trainer, name) for name in trainer.optimisers]
    assert not trainer.step(batch)["discriminator_image"].isfinite()
    for name, state in zip(trainer.optimisers, before, strict=True):
        assert equal(state_of(trainer, name), state), name


def test_one_value_that_is_not_finite_among_others_is_enough(batch):
    trainer = small_trainer()
    before = weights_of(trainer.model)
    loss = trainer.model.decoder.to_rgb[-1].bias.sum()
    updated(trainer, loss, {"total": loss, "boxes": torch.tensor(torch.inf)})
    assert trainer.model.decoder.to_rgb[-1].bias.grad.any()
    assert equal(weights_of(trainer.model), before)


def test_a_gradient_that_is_not_finite_counts_though_the_loss_is(batch):
    trainer = small_trainer()
    trainer.step(batch)
    before = state_of(trainer, "generator")
    bias = trainer.model.decoder.to_rgb[-1].bias
    loss = (bias - bias.detach()).abs().sum().sqrt()  # 0, with a slope without end
    values = updated(trainer, loss, {"total": loss})
    assert values["total"] == 0
    assert not values["gradient_norm/generator"].isfinite()
    assert equal(state_of(trainer, "generator"), before)


def test_beside_the_losses_a_step_tells_gradient_norms_and_how_undecided_the_choice_is(batch):
    trainer, other = small_trainer(), small_trainer()
    values = trainer.step(batch)
    with torch.no_grad():
        entropy = output_of(other, batch).selection.entropy
    assert {*values} - losses_in(values) == {
        "selection/entropy", "gradient_norm/generator", "gradient_norm/discriminator"
    }  # fmt: skip
    assert values["selection/entropy"] == pytest.approx(entropy.mean().item())
    gradients = [p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None]
    norm = torch.cat(gradients).norm().item()
    assert values["gradient_norm/generator"] == pytest.approx(norm, rel=1e-5)
    assert not any(value.requires_grad for value in values.values())


def test_the_paper_recipe_is_built_and_takes_a_step():
    config = paper()
    trainer = RetrieveGANTrainer(config, VOCABULARY)
    values = trainer.step(small_batch())
    assert losses_in(values) == {
        "boxes", "gt_selection", "cooccurrence", "reconstruction", "adversarial_image",
        "adversarial_object", "discriminator_image", "discriminator_object", "total",
    }  # fmt: skip
    assert config.losses.object_class == 0
    for network in trainer.networks.values():
        for name, parameter in network.named_parameters():
            # No auxiliary classifier; the flow's last layer is 0 before the first update.
            untaught = name.startswith("category") or "flow.0" in name
            assert untaught or (parameter.grad is not None and parameter.grad.any()), name


@pytest.mark.parametrize("name", ["model", "image_discriminator", "object_discriminator"])
def test_networks_compute_with_channels_last(name):
    network = small_trainer().networks[name]
    kernels = [p for p in network.parameters() if p.dim() == 4 and min(p.shape[1:3]) > 1]
    assert kernels
    assert all(p.is_contiguous(memory_format=torch.channels_last) for p in kernels)


def test_weights_that_a_loss_leaves_out_have_no_gradient_at_all(batch):
    """Not a gradient of 0, with which Adam would still move them by its momentum."""
    trainer = small_trainer()
    trainer.step(batch)
    loss = trainer.model.decoder.to_rgb[-1].bias.sum()
    updated(trainer, loss, {"total": loss})
    assert all(p.grad is None for p in trainer.model.graph.parameters())


@pytest.mark.gpu
def test_a_step_on_the_gpu_has_the_losses_of_the_cpu(batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    execution = ExecutionConfig(precision="tf32", capture="off")
    config = small_config(execution=execution)
    on_gpu = RetrieveGANTrainer(config, VOCABULARY, "cuda").step(batch)
    on_cpu = RetrieveGANTrainer(small_config(), VOCABULARY).step(batch)
    for name, value in on_cpu.items():
        assert on_gpu[name].item() == pytest.approx(value.item(), rel=1e-2, abs=1e-3), name
