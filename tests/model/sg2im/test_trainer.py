"""An sg2im run: its losses, the order of its updates, its switch to fixed normalisation."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from model.batch import image_batch, tensors_of
from model.config import (
    DiscriminatorConfig,
    ExecutionConfig,
    GraphConfig,
    Sg2ImConfig,
    Sg2ImGeneratorConfig,
    Sg2ImLossWeights,
)
from model.draws import normal_maps
from model.fixed_shapes import FixedShapes, longest_scene
from model.loop import grid_scenes, restore, save, train
from model.parallel import run_phases
from model.recipes import sg2im_demo
from model.run_folder import RunError
from model.scene_table import SceneTable
from model.sg2im.imagenet import normalised
from model.sg2im.run import Sg2ImRun, graph_encoder_file, load_graph_encoder
from model.sg2im.trainer import Sg2ImTrainer
from model.sources import BankSource, Counts, Part, part_of
from model.train import main
from pipeline.options import write_json
from pipeline.scene import Relation, SceneGraph
from tests.model.small_runs import edit_state, losses_of, options_of

CPU = torch.device("cpu")


def small(**parts) -> Sg2ImConfig:
    config = replace(
        sg2im_demo(),
        image_px=32,
        batch_size=3,
        steps=6,
        execution=ExecutionConfig(loader_workers=0, grid_every=6, checkpoint_every=3),
        decay_from=1.0,
        eval_after=4,
        graph=GraphConfig(width=6, hidden=8, layers=2),
        generator=Sg2ImGeneratorConfig(noise=2, decoder=(8, 6)),
        discriminator=DiscriminatorConfig(
            image_channels=(4, 6), object_channels=(4, 6), object_hidden=8, object_px=16
        ),
        losses=Sg2ImLossWeights(),
    )
    return replace(config, **parts)


@pytest.fixture
def batch(bank):
    return image_batch(bank, BankSource(bank), part_of(bank, bank.scene_ids("train")[:3]))


def weights_of(network):
    return {name: value.clone() for name, value in network.state_dict().items()}


def moved(network, before):
    now = network.state_dict()
    return {name for name, value in before.items() if not torch.equal(value, now[name])}


def test_a_batch_holds_every_node_the_picture_too(bank, batch):
    samples = [bank.scene(int(i)) for i in bank.scene_ids("train")[:3]]
    objects = sum(len(s.objects) for s in samples)
    assert len(batch.graph.nodes) == objects + 3
    assert torch.equal(
        batch.boxes[:objects], torch.from_numpy(np.concatenate([s.boxes for s in samples]))
    )
    assert batch.boxes[objects:].tolist() == [[0, 0, 1, 1]] * 3
    assert torch.equal(
        batch.masks[:objects], torch.from_numpy(np.concatenate([s.masks for s in samples]))
    )
    assert batch.masks[objects:].min() == 1
    assert batch.images.shape == (3, 128, 128, 3)


def test_a_bank_without_masks_gives_none_and_a_scene_without_fills_its_boxes(bank, monkeypatch):
    first, second = (bank.scene(int(i)) for i in bank.scene_ids("train")[:2])
    samples = [first, second._replace(masks=None)]
    mixed = SceneTable.of_samples(samples, bank.vocabulary, masks=True).masks
    objects = len(first.objects)
    assert np.array_equal(mixed[:objects], first.masks)
    assert mixed[objects:].min() == 1
    part = part_of(bank, [first.image_id])
    monkeypatch.setattr(bank.contents, "has_masks", False)
    assert image_batch(bank, BankSource(bank), part).masks is None


@pytest.mark.parametrize("cut_at", [3, 4, 5])
def test_a_resumed_run_has_the_losses_of_one_that_was_never_interrupted(bank, tmp_path, cut_at):
    """Before, at and behind the switch to fixed normalisation, after four steps."""
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(Sg2ImTrainer(small(), bank.vocabulary), bank, whole)
    train(Sg2ImTrainer(small(steps=cut_at), bank.vocabulary), bank, cut)
    again = Sg2ImTrainer(small(), bank.vocabulary)
    torch.manual_seed(99)  # whatever the process drew before
    restore(again, bank, cut)
    train(again, bank, cut)
    assert losses_of(cut) == losses_of(whole)
    assert [row["step"] for row in losses_of(whole)] == list(range(6))


def test_a_run_logs_every_loss_by_name_and_leaves_grid_and_curves(bank, tmp_path):
    train(
        Sg2ImTrainer(small(steps=1, losses=Sg2ImLossWeights(masks=0.1)), bank.vocabulary),
        bank,
        tmp_path,
    )
    assert set(losses_of(tmp_path)[0]) == {
        "step", "pixels", "boxes", "masks", "adversarial_image", "adversarial_object",
        "object_class", "total", "discriminator_image", "discriminator_object",
        "discriminator_class_real", "discriminator_class_fake", "gradient_norm/generator",
        "gradient_norm/image_discriminator", "gradient_norm/object_discriminator",
    }  # fmt: skip
    with Image.open(tmp_path / "samples-000001.png") as grid:
        assert grid.size == (3 * 132, 6 * 132)  # predicted, true boxes, real
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_losses_are_sg2ims(bank, batch):
    """By hand: squares of boxes, l1 of normalised pixels, and the classifier's weight as it is."""
    trainer = Sg2ImTrainer(small(losses=Sg2ImLossWeights(masks=0.5)), bank.vocabulary)
    model, graph = trainer.model, batch.graph
    model.train()
    shape = (model.noise, model.image_px, model.image_px)
    noise = normal_maps(trainer.config.seed, batch.positions, shape, CPU)
    with torch.no_grad():
        vectors = model.encode(graph.nodes, graph.triples)
        logits = model.mask_logits(vectors)
        images = model.decode(
            model.lay_out(vectors, batch.boxes, batch.masks, batch.padding), noise
        )
        on_object = trainer.object_discriminator(images, batch.boxes, graph.node_image)
        on_image = trainer.image_discriminator(images)
        boxes = model.box_net(vectors)
    real = F.softplus
    expected = {
        "boxes": ((boxes - batch.boxes) ** 2).mean(),
        "pixels": (images - normalised(batch.images, 32)).abs().mean(),
        "masks": F.binary_cross_entropy(logits.sigmoid(), batch.masks.float()),
        "adversarial_image": real(-on_image).mean(),
        "adversarial_object": real(-on_object.real).mean(),
        "object_class": F.cross_entropy(on_object.category, graph.nodes),
    }
    weights = {
        "boxes": 10, "pixels": 1, "masks": 0.5, "adversarial_image": 0.01,
        "adversarial_object": 0.01, "object_class": 0.1,
    }  # fmt: skip
    named = Sg2ImTrainer(trainer.config, bank.vocabulary).step(batch)
    for name, value in expected.items():
        assert named[name] == pytest.approx(value.item(), rel=1e-4), name
    total = sum(weights[name] * value.item() for name, value in expected.items())
    assert named["total"] == pytest.approx(total, rel=1e-4)


def test_the_discriminators_are_shown_what_the_generator_made_before_its_update(bank, batch):
    """In calls of their own, so that normalisation sees real and fake apart."""
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    seen = []
    trainer.image_discriminator.register_forward_hook(
        lambda _, given, out: seen.append((given[0], out))
    )
    before = weights_of(trainer.model)
    named = trainer.step(batch)
    assert len(seen) == 3
    (for_generator, _), (fake, on_fake), (real, on_real) = seen
    assert torch.equal(for_generator, fake)
    assert for_generator.requires_grad
    assert not fake.requires_grad
    assert torch.equal(real, normalised(batch.images, 32))
    expected = F.softplus(on_fake).mean() + F.softplus(-on_real).mean()
    assert named["discriminator_image"] == pytest.approx(expected.item(), rel=1e-5)
    assert moved(trainer.model, before)


def test_each_optimiser_moves_its_own_network(bank, batch):
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    trainer.step(batch)
    for name, optimiser in trainer.optimisers.items():
        own = "model" if name == "generator" else name
        held = {id(p) for group in optimiser.param_groups for p in group["params"]}
        assert held == {id(p) for p in trainer.networks[own].parameters()}
    before = {name: weights_of(network) for name, network in trainer.networks.items()}
    trainer.step(batch)
    for name, network in trainer.networks.items():
        assert moved(network, before[name]), name
    for network, carried in (
        (trainer.image_discriminator, "classifier"),
        (trainer.model, "rel_aux_net"),
    ):
        for name, parameter in network.named_parameters():
            assert (parameter.grad is None) or not name.startswith(carried), name


def test_true_boxes_and_masks_are_laid_out_in_training(bank, batch):
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    given, lay_out = [], trainer.model.lay_out

    def watched(vectors, boxes, masks, padding):
        given.append((boxes, masks))
        return lay_out(vectors, boxes, masks, padding)

    trainer.model.lay_out = watched
    trainer.step(batch)
    assert torch.equal(given[0][0], batch.boxes)
    assert torch.equal(given[0][1], batch.masks)
    assert all(p.grad is None for p in trainer.model.mask_net.parameters())  # weight 0, published
    trainer.step(batch._replace(masks=None))
    assert torch.equal(given[1][0], batch.boxes)
    assert given[1][1].requires_grad  # predicted, and taught by the picture
    gradients = [p.grad for p in trainer.model.mask_net.parameters()]
    assert all(g is not None for g in gradients)
    assert any(g.abs().sum() > 0 for g in gradients)


def test_after_so_many_steps_normalisation_is_fixed_and_the_optimiser_new(bank, batch):
    trainer = Sg2ImTrainer(small(eval_after=2), bank.vocabulary)
    first = trainer.optimisers["generator"]
    for step in range(4):
        before = weights_of(trainer.model)
        trainer.step(batch)
        statistics = {name for name in moved(trainer.model, before) if "running" in name}
        assert trainer.model.training == (step < 2)
        assert bool(statistics) == (step < 2)
        assert (trainer.optimisers["generator"] is first) == (step < 2)
    counted = {int(s["step"]) for s in trainer.optimisers["generator"].state.values()}
    assert counted == {2}
    assert trainer.image_discriminator.training
    assert trainer.object_discriminator.training


def test_a_grid_leaves_the_run_as_it_was(bank, batch):
    trainer, other = (Sg2ImTrainer(small(), bank.vocabulary) for _ in range(2))
    trainer.image_grid(trainer.grid_batch(bank, grid_scenes(bank)))
    assert trainer.model.training
    assert trainer.step(batch) == other.step(batch)


def test_a_run_learns_to_draw_a_picture_that_it_is_shown(bank, batch):
    config = small(
        steps=60, eval_after=30, generator=Sg2ImGeneratorConfig(noise=2, decoder=(24, 16))
    )
    trainer = Sg2ImTrainer(replace(config, lr_generator=5e-3), bank.vocabulary)
    named = [trainer.step(batch) for _ in range(60)]
    assert named[-1]["pixels"] < 0.6 * named[0]["pixels"]
    assert named[-1]["boxes"] < 0.2 * named[0]["boxes"]
    assert named[-1]["discriminator_class_real"] < named[0]["discriminator_class_real"]


def test_from_the_first_loss_that_is_not_finite_on_no_network_is_updated(bank, batch):
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    trainer.step(batch)
    with torch.no_grad():
        trainer.model.refinement_net.output_conv[2].bias.fill_(float("nan"))
    before = {
        name: [p.detach().clone() for p in network.parameters()]
        for name, network in trainer.networks.items()
    }
    assert trainer.step(batch)["pixels"].isnan()
    for name, network in trainer.networks.items():
        for parameter, was in zip(network.parameters(), before[name], strict=True):
            assert torch.equal(parameter.nan_to_num(), was.nan_to_num()), name


def test_an_image_larger_than_the_banks_is_refused_before_the_first_step(bank):
    with pytest.raises(RunError, match=r"256 px, but those of .* are of 128 px"):
        Sg2ImTrainer.for_bank(small(image_px=256), bank, CPU)


def test_other_candidates_do_not_keep_a_run_from_going_on(bank, tmp_path):
    """sg2im sees none of them; another content would."""
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    save(trainer, bank, tmp_path)
    edit_state(tmp_path, derived="e" * 64)
    restore(trainer, bank, tmp_path)
    edit_state(tmp_path, bank="f" * 64)
    with pytest.raises(RunError, match="ffffffffffff"):
        restore(trainer, bank, tmp_path)


def test_the_command_trains_resumes_and_says_that_no_mask_is_learned(bank, tmp_path, capsys):
    write_json(tmp_path / "config.json", {"bank": str(bank.path), "train": small(steps=1)})
    main(options_of("--resume", tmp_path))
    said = capsys.readouterr().out
    assert "loss has weight 0" in said
    assert "recipe sg2im-demo" in said
    main(options_of("--resume", tmp_path, "--steps", 2))
    assert [row["step"] for row in losses_of(tmp_path)] == [0, 1]


def test_a_bank_without_masks_says_that_none_will_be_learned(bank, monkeypatch, capsys):
    def said(masks, laid_out=True):
        config = small(
            losses=Sg2ImLossWeights(masks=masks),
            generator=Sg2ImGeneratorConfig(masks=laid_out, noise=2, decoder=(8, 6)),
        )
        Sg2ImTrainer.for_bank(config, bank, torch.device("cpu"))
        return capsys.readouterr()

    assert said(0.1) == ("", "")
    assert "loss has weight 0" in said(0.0).out
    assert said(0.0, laid_out=False) == ("", "")
    monkeypatch.setattr(bank.contents, "has_masks", False)
    assert "has no masks, so --losses.masks has no effect" in said(0.1).err
    assert said(0.0) == ("", "")
    assert said(0.1, laid_out=False) == ("", "")


def masks_of(case, batch):
    """Of a bank that has some, learned or not, and of one without."""
    masks = None if case == "none" else batch.masks
    return batch._replace(masks=masks), small(
        lr_generator=1e-2,
        lr_discriminator=1e-2,
        eval_after=2,
        losses=Sg2ImLossWeights(masks=0.5 if case == "learned" else 0.0),
    )


def close(ours, expected, what):
    torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-5, msg=lambda m: f"{what}: {m}")


@pytest.mark.parametrize("case", ["learned", "true", "none"])
def test_fillers_count_for_nothing_in_a_step(bank, batch, case):
    """Losses, gradients, running statistics and weights, before and after `eval_after`."""
    batch, config = masks_of(case, batch)
    filled = FixedShapes(objects=32, triples=64, longest=16).images(batch)
    assert int((~filled.real).sum()) > 5
    plain, ours = (Sg2ImTrainer(config, bank.vocabulary) for _ in range(2))
    for step in range(4):
        for trainer in (plain, ours):
            # Else Adam makes a whole step of a gradient that is nothing but rounding.
            for optimiser in trainer.optimisers.values():
                optimiser.param_groups[0]["eps"] = 1.0
        expected, values = plain.step(batch), ours.step(filled)
        assert values.keys() == expected.keys()
        close(values, expected, step)
        for name, network in plain.networks.items():
            other = ours.networks[name]
            close(other.state_dict(), network.state_dict(), (step, name))
            for (at, p), q in zip(network.named_parameters(), other.parameters(), strict=True):
                assert (p.grad is None) == (q.grad is None), at
                if p.grad is not None:
                    close(q.grad, p.grad, (step, name, at))


class Waits(TorchDispatchMode):
    """Names of operations of which the host must know a value, or how large a result is: a GPU is
    waited for, and they cannot be captured."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        known = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}
        if known & {*func.tags}:
            self.names.add(func.name())
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("case", ["learned", "true", "none"])
def test_no_operation_of_a_step_waits_for_a_value(bank, batch, case, monkeypatch):
    monkeypatch.setattr("model.graph.network.count", count_as_on_a_gpu)
    batch, config = masks_of(case, batch)
    trainer = Sg2ImTrainer(config, bank.vocabulary)
    filled = trainer.placed(FixedShapes(objects=32, triples=64, longest=16).images(batch))
    for _ in range(3):
        trainer.prepare()
        with Waits() as waits:
            run_phases(trainer.phases([filled]), trainer.ranks)
        trainer.step_number += 1
        assert not waits.names


def count_as_on_a_gpu(at, rows):
    return (at[:, None] == torch.arange(rows)).sum(0)


def test_mask_logits_are_made_for_a_loss_or_for_running_statistics(bank, batch):
    """And where there is no loss of them, without a gradient."""
    made = []
    for case in ("learned", "true", "none"):
        given, config = masks_of(case, batch)
        trainer = Sg2ImTrainer(replace(config, eval_after=1), bank.vocabulary)
        trainer.model.mask_net.register_forward_hook(
            lambda *_, case=case: made.append((case, torch.is_grad_enabled()))
        )
        for _ in range(2):
            trainer.step(given)
    assert made == [("learned", True)] * 2 + [("true", False)] + [("none", True)] * 2


def test_rounded_to_bf16_a_step_has_nearly_the_losses_of_float32(bank, batch):
    """Convolutions are rounded; what the losses see is not, nor are crops."""
    config = small(losses=Sg2ImLossWeights(masks=0.5))
    rounded = replace(config, execution=replace(config.execution, precision="bf16"))
    trainer = Sg2ImTrainer(rounded, bank.vocabulary)
    seen = []
    for network in (
        trainer.model.mask_net[2],
        trainer.image_discriminator.cnn[0],
        trainer.object_discriminator.discriminator.cnn[0][0],
    ):
        network.register_forward_hook(
            lambda _, given, out: seen.append((given[0].dtype, out.dtype))
        )
    with trainer.arithmetic.autocast():
        placed = trainer.placed(batch)
        images, terms = trainer.forward(placed)
        logits = trainer.object_discriminator(images, batch.boxes, batch.graph.node_image)
        on_images = trainer.image_discriminator(images)
    assert {*seen} == {(torch.float32, torch.bfloat16)}
    results = (images, *logits, on_images, *terms.values())
    assert {each.dtype for each in results} == {torch.float32}
    expected = Sg2ImTrainer(config, bank.vocabulary).step(batch)
    for name, value in Sg2ImTrainer(rounded, bank.vocabulary).step(batch).items():
        assert value.item() == pytest.approx(expected[name].item(), rel=0.05, abs=1e-3), name


def test_a_batch_in_parts_has_the_losses_and_gradients_of_the_batch_where_norms_are_fixed(bank):
    """Batch normalisation sees each part's own scenes; here it sees none."""
    ids = np.asarray(bank.scene_ids("train")[:4], np.int64)
    counts = Counts.of(bank.contents.num_patches_of_images(ids))

    def stepped(count):
        trainer = Sg2ImTrainer(small(eval_after=0, batch_size=4), bank.vocabulary)
        trainer.step_number = 1
        for discriminator in (trainer.image_discriminator, trainer.object_discriminator):
            discriminator.eval()
        size = 4 // count
        parts = (Part(i, ids[i : i + size], counts) for i in range(0, 4, size))
        values = trainer.step(*(image_batch(bank, BankSource(bank), part) for part in parts))
        return values, trainer

    whole, expected = stepped(1)
    for count in (2, 4):
        values, trainer = stepped(count)
        assert values.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(values[name], value, atol=1e-6, rtol=1e-4, msg=name)
        for key, network in expected.networks.items():
            own = trainer.networks[key].parameters()
            for p, q in zip(network.parameters(), own, strict=True):
                assert (p.grad is None) == (q.grad is None)
                if p.grad is not None:
                    torch.testing.assert_close(q.grad, p.grad, atol=2e-6, rtol=2e-3)


def test_an_update_takes_no_gradient_of_another_networks_weights(bank, batch):
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    update, seen = trainer.update, []

    def watched(name, *rest):
        seen.append({
            key: all(p.grad is None for p in network.parameters())
            for key, network in trainer.networks.items()
        })  # fmt: skip
        return update(name, *rest)

    trainer.update = watched
    trainer.step(batch)
    before_generator, before_objects, before_images = seen
    assert all(before_generator.values())
    none_yet = {"model": False, "object_discriminator": True, "image_discriminator": True}
    assert before_objects == none_yet
    assert before_images == none_yet | {"object_discriminator": False}


@pytest.mark.parametrize("eval_after", [0, 4])
def test_a_dry_run_changes_nothing_of_the_first_step(bank, batch, monkeypatch, eval_after):
    """Also of the running means."""
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    config = small(eval_after=eval_after)
    after_dry_run, other = (Sg2ImTrainer(config, bank.vocabulary) for _ in range(2))
    before = [weights_of(network) for network in after_dry_run.networks.values()]
    after_dry_run.dry_run(batch)
    for network, was in zip(after_dry_run.networks.values(), before, strict=True):
        assert not moved(network, was)
    for _ in range(2):
        assert after_dry_run.step(batch) == other.step(batch)
    for ours, theirs in zip(after_dry_run.networks.values(), other.networks.values(), strict=True):
        assert not moved(ours, weights_of(theirs))


def test_a_new_optimiser_needs_new_recordings(bank, batch):
    forgotten = []
    trainer = Sg2ImTrainer(small(eval_after=2), bank.vocabulary)
    modes = []

    class Watched:
        def run(self, parts, ranks, mode):
            modes.append(mode)
            return run_phases(trainer.phases(parts), ranks)

        def forget(self):
            forgotten.append(trainer.step_number)

    trainer.new_optimiser = lambda name: trainer.optimisers[name]  # a capturable one needs a GPU
    trainer.captured = Watched()
    for _ in range(4):
        trainer.step(batch)
    assert forgotten == [2]
    assert len(set(modes[:2])) == len(set(modes[2:])) == 1
    assert modes[1] != modes[2]


def test_batches_are_filled_where_steps_are_captured(bank, batch):
    config = small(execution=ExecutionConfig(accumulate=3))
    assert Sg2ImTrainer.for_bank(config, bank, CPU).collate is image_batch
    trainer = Sg2ImTrainer(config, bank.vocabulary)
    trainer.captured = object()
    trainer.fix_shapes(bank)
    part = part_of(bank, bank.scene_ids("train")[:3])
    filled = trainer.collate(bank, BankSource(bank), part)
    assert torch.equal(filled.boxes[filled.real], batch.boxes)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_captured_step_is_the_step_itself(bank, precision, deterministic):
    """Bit for bit: over several shapes, and before and after `eval_after`."""

    def run(capture):
        execution = ExecutionConfig(capture=capture, precision=precision)
        config = small(steps=12, eval_after=7, batch_size=3, execution=execution)
        trainer = Sg2ImTrainer.for_bank(config, bank, torch.device("cuda"))
        values = [trainer.step(batches[i % 5]) for i in range(12)]
        states = [network.state_dict() for network in trainer.networks.values()]
        return torch.stack([torch.stack([*v.values()]) for v in values]), states, trainer

    parts = (part_of(bank, bank.scene_ids("train")[i : i + 3]) for i in range(0, 15, 3))
    fill = FixedShapes.of(3, longest_scene(bank)).images
    batches = [fill(image_batch(bank, BankSource(bank), part)) for part in parts]
    assert len({tuple(t.shape for t in tensors_of(batch)) for batch in batches}) > 1
    captured, its_states, trainer = run("graph")
    eager, states, _ = run("off")
    assert trainer.captured is not None
    assert torch.equal(captured, eager)
    for ours, theirs in zip(its_states, states, strict=True):
        for name, value in theirs.items():
            assert torch.equal(ours[name], value), name


@pytest.mark.gpu
def test_a_step_on_the_gpu_has_the_losses_of_the_cpu(bank, batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    config = small(
        generator=Sg2ImGeneratorConfig(noise=0, decoder=(8, 6)),  # noise is drawn where it runs
        execution=ExecutionConfig(capture="off"),
    )
    on_gpu = Sg2ImTrainer(config, bank.vocabulary, "cuda").step(batch)
    on_cpu = Sg2ImTrainer(config, bank.vocabulary).step(batch)
    for name, value in on_cpu.items():
        assert on_gpu[name].item() == pytest.approx(value.item(), rel=1e-2, abs=1e-3), name


def test_a_run_gives_a_bank_its_graph_encoder(bank, batch, tmp_path):
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    trainer.step(batch)
    write_json(tmp_path / "config.json", {"bank": "moved away", "train": trainer.config})
    save(trainer, bank, tmp_path)
    encoder = load_graph_encoder(tmp_path)
    assert not encoder.training
    assert not any(p.requires_grad for p in encoder.parameters())
    assert encoder.vocabulary == bank.vocabulary
    graph = batch.graph
    with torch.no_grad():
        expected = trainer.model.encode(graph.nodes, graph.triples)
    assert torch.equal(encoder.encode(graph.nodes, graph.triples), expected)
    encoder.save(tmp_path / "encoder.safetensors")
    again = load_graph_encoder(tmp_path / "encoder.safetensors")
    assert torch.equal(again.encode(graph.nodes, graph.triples), expected)
    assert graph_encoder_file(tmp_path) == tmp_path / "checkpoints/step-000001/model.safetensors"
    assert graph_encoder_file(tmp_path / "x.pt") == tmp_path / "x.pt"


def test_a_run_can_be_sampled_without_its_bank(bank, batch, tmp_path):
    trainer = Sg2ImTrainer(small(), bank.vocabulary)
    write_json(tmp_path / "config.json", {"bank": "moved away", "train": trainer.config})
    save(trainer, bank, tmp_path)
    opened = Sg2ImRun.open(tmp_path)
    assert opened.vocabulary == bank.vocabulary
    assert opened.ignored == ()
    image = opened.generate(SceneGraph(("grass", "tree"), (Relation(1, "above", 0),)))
    assert image.shape == (32, 32, 3)


def test_a_grid_at_the_switch_leaves_the_optimiser_as_it_was(bank, batch):
    trainer = Sg2ImTrainer(small(eval_after=2), bank.vocabulary)
    trainer.step(batch)
    trainer.step(batch)
    before = trainer.optimisers["generator"]
    trainer.image_grid(trainer.grid_batch(bank, grid_scenes(bank)))
    assert trainer.optimisers["generator"] is before
    trainer.step(batch)
    assert trainer.optimisers["generator"] is not before
