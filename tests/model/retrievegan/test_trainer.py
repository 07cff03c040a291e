"""A run: what a step teaches, what an interruption costs, what stops it."""

import json
from dataclasses import replace

import pytest
import torch

from bank.bank import Bank
from model import checkpoint
from model.batch import mean_box, scene_batch
from model.config import LossWeights, RetrieveGANConfig, demo, from_json, paper
from model.graph.network import graph_tensors
from model.loop import train
from model.retrievegan.network import RetrieveGAN, padding_of_graph
from model.retrievegan.trainer import RetrieveGANTrainer, doubled
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


def losses_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]


def test_a_resumed_run_has_the_losses_of_one_that_was_never_interrupted(bank, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(RetrieveGANTrainer(small(), bank, CPU), whole)
    train(RetrieveGANTrainer(small(steps=2), bank, CPU), cut)
    with (cut / "log.jsonl").open("a") as log:  # a step was taken after the last checkpoint
        log.write(json.dumps({"step": 2, "total": 0.0}) + '\n{"step": 3, "to')
    again = RetrieveGANTrainer(small(), bank, CPU)
    torch.manual_seed(99)  # whatever the process drew before
    again.restore(cut)
    train(again, cut)
    assert losses_of(cut) == losses_of(whole)
    assert [row["step"] for row in losses_of(whole)] == [0, 1, 2, 3]


def test_a_run_logs_every_loss_by_name_and_leaves_grid_and_curves(bank, tmp_path):
    train(RetrieveGANTrainer(small(), bank, CPU), tmp_path)
    names = set(losses_of(tmp_path)[0])
    assert names >= {
        "boxes", "gt_selection", "co_occurrence", "reconstruction", "adversarial_image",
        "adversarial_object", "image_discriminator", "object_discriminator", "total",
    }  # fmt: skip
    assert (tmp_path / "samples-000004.png").is_file()
    assert list((tmp_path / "tensorboard").iterdir())


def test_the_same_seed_gives_the_same_losses_and_another_does_not(bank, batch):
    def first_loss(seed):
        return RetrieveGANTrainer(small(seed=seed), bank, CPU).step(batch)["total"]

    assert first_loss(1) == first_loss(1)
    assert first_loss(1) != first_loss(2)


def test_image_losses_alone_move_the_patch_embedding_and_change_choices(bank, batch):
    weights = LossWeights(gt_selection=0.0, co_occurrence=0.0)
    trainer = RetrieveGANTrainer(small(losses=weights, lr_generator=1e-2), bank, CPU)
    grid = padding_of_graph(batch.graph)

    def choices():
        with torch.no_grad():
            features = trainer.model.embed(batch.candidates.patches)
            generator = torch.Generator().manual_seed(5)
            found = trainer.model.choose(batch.candidates, features, grid, generator, noise=False)
        return found.chosen.tolist()

    before = choices()
    trainer.step(batch)
    gradients = [p.grad for p in trainer.model.embedding.parameters()]
    assert all(g is not None and g.abs().sum() > 0 for g in gradients)
    for _ in range(5):
        trainer.step(batch)
    assert choices() != before


def test_without_learned_retrieval_no_gradient_reaches_the_patch_embedding(bank, batch):
    for mode in ("predefined", "random"):
        config = small(retrieval=replace(demo().retrieval, mode=mode))
        trainer = RetrieveGANTrainer(config, bank, CPU)
        named = trainer.step(batch)
        assert "gt_selection" not in named
        assert all(p.grad is None for p in trainer.model.embedding.parameters())


def test_predefined_retrieval_takes_the_nearest_and_in_training_one_of_three(bank, batch):
    config = small(retrieval=replace(demo().retrieval, mode="predefined"))
    model = RetrieveGANTrainer(config, bank, CPU).model
    grid = padding_of_graph(batch.graph)
    found = model.choose(batch.candidates, None, grid, None, noise=False)
    assert set(found.chosen.tolist()) == {0}
    drawn = set()
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        drawn |= set(
            model.choose(batch.candidates, None, grid, generator, noise=True).chosen.tolist()
        )
    assert drawn == {0, 1, 2}


def test_the_true_patch_can_join_the_candidates_of_the_generation_pass(bank, batch):
    config = small(retrieval=replace(demo().retrieval, gt_in_candidates=True))
    trainer = RetrieveGANTrainer(config, bank, CPU)
    with torch.no_grad():
        fakes = trainer.forward(batch, trainer.noise(0))
    assert fakes.chosen.weights.shape[1] == batch.candidates.ids.shape[1] + 1
    assert torch.equal(fakes.offered.ids[:, -1], batch.patch_ids)
    trainer.grid()  # a choice may point at the true patch


def test_no_side_of_a_predicted_box_dies(bank, batch):
    """Behind the last ReLU a side that starts below zero would stay there for ever."""
    for seed in range(4):
        trainer = RetrieveGANTrainer(small(seed=seed, losses=LossWeights(boxes=10.0)), bank, CPU)
        with torch.no_grad():
            trainer.model.graph.box_net[2].bias.sub_(2.0)
        optimiser = torch.optim.Adam(trainer.model.graph.parameters(), 1e-2)
        for _ in range(60):
            vectors = trainer.model.encode(batch.graph).objects[: len(batch.boxes)]
            loss = (trainer.model.box_sides(vectors) - batch.boxes).abs().mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        boxes = trainer.model.encode(batch.graph).boxes[: len(batch.boxes)]
        assert (boxes - batch.boxes).abs().mean() < 0.25


def test_a_new_run_predicts_the_mean_box_at_first(bank, batch):
    boxes = (
        RetrieveGANTrainer(small(), bank, CPU).model.encode(batch.graph).boxes[: len(batch.boxes)]
    )
    assert (boxes.mean(0) - mean_box(bank)).abs().max() < 0.3


def test_without_the_auxiliary_classifier_no_category_is_learned(bank, batch):
    trainer = RetrieveGANTrainer(small(losses=LossWeights(object_class=0.0)), bank, CPU)
    named = trainer.step(batch)
    assert "discriminator_class" not in named
    assert "object_class" not in named
    assert trainer.object_discriminator.category.weight.grad is None


def test_a_bank_with_other_candidates_is_refused_when_a_run_goes_on(bank, tmp_path):
    trainer = RetrieveGANTrainer(small(), bank, CPU)
    trainer.save(tmp_path)
    path = tmp_path / checkpoint.NAME
    torch.save(torch.load(path, weights_only=True) | {"derived": "e" * 64}, path)
    with pytest.raises(checkpoint.RunError, match="other frozen networks or candidates"):
        trainer.restore(tmp_path)


def test_more_candidates_than_the_bank_stores_are_refused_before_the_first_step(bank):
    config = small(retrieval=replace(demo().retrieval, candidates=10_000))
    with pytest.raises(checkpoint.RunError, match="--candidates 10000"):
        RetrieveGANTrainer(config, bank, CPU)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"train": [], "bank": "x"}', '{"train": {"retrieval": 3}, "bank": "x"}',
     '{"train": {"retrieval": {"temperature": 0}}, "bank": "x"}', "{"],
)  # fmt: skip
def test_a_config_that_is_not_one_is_one_clear_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(checkpoint.RunError, match=r"config\.json"):
        checkpoint.read_config(tmp_path)


def test_a_checkpoint_that_does_not_fit_its_config_is_refused(bank, tmp_path):
    RetrieveGANTrainer(small(), bank, CPU).save(tmp_path)
    other = replace(demo().retrieval, width=16)
    with pytest.raises(checkpoint.RunError, match="was the config edited"):
        RetrieveGANTrainer(small(retrieval=other), bank, CPU).restore(tmp_path)


def test_a_loss_that_is_not_finite_stops_the_run_naming_loss_and_step(bank, batch):
    trainer = RetrieveGANTrainer(small(), bank, CPU)
    trainer.step(batch)
    with torch.no_grad():
        trainer.model.decoder.to_rgb[-1].bias.fill_(float("nan"))
    with pytest.raises(checkpoint.RunError, match="'reconstruction' is nan at step 1"):
        trainer.step(batch)


def test_a_checkpoint_of_another_bank_is_refused(bank, tmp_path):
    trainer = RetrieveGANTrainer(small(), bank, CPU)
    trainer.save(tmp_path)
    path = tmp_path / checkpoint.NAME
    state = torch.load(path, weights_only=True)
    torch.save(state | {"bank": "f" * 64}, path)
    with pytest.raises(checkpoint.RunError, match="ffffffffffff"):
        trainer.restore(tmp_path)


def test_a_checkpoint_cut_short_is_one_clear_line(bank, tmp_path):
    trainer = RetrieveGANTrainer(small(), bank, CPU)
    trainer.save(tmp_path)
    path = tmp_path / checkpoint.NAME
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(checkpoint.RunError, match="cannot be read"):
        trainer.restore(tmp_path)


def test_both_paths_in_one_batch_give_what_each_gives_alone(bank, batch):
    model = RetrieveGAN(small(), bank.vocabulary).eval()
    graph, objects = batch.graph, len(batch.boxes)
    patches = torch.rand(objects, 3, 32, 32)
    others = torch.rand(objects, 3, 32, 32)
    with torch.no_grad():
        vectors = model.encode(graph).objects
        alone = [model.generate(vectors, graph, p, batch.boxes) for p in (patches, others)]
        things, pictures = vectors[:objects], vectors[objects:]
        both = model.generate(
            torch.cat([things, things, pictures, pictures]),
            doubled(graph),
            torch.cat([patches, others]),
            batch.boxes.repeat(2, 1),
        )
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-4, rtol=1e-4)


def test_a_scene_comes_out_the_same_alone_or_beside_another(bank):
    model = RetrieveGAN(small(), bank.vocabulary).eval()
    ids = bank.scene_ids("train")[:2]
    pair = scene_batch(bank, ids, 4)
    single = scene_batch(bank, ids[1:], 4)
    assert torch.equal(
        single.graph.triples,
        graph_tensors([(s.objects, s.triples) for s in [bank.scene(ids[1])]], bank.vocabulary)[1],
    )
    with torch.no_grad():
        mine = pair.graph.object_image == 1
        patches = torch.rand(len(pair.boxes), 3, 32, 32)
        together = model.generate(model.encode(pair.graph).objects, pair.graph, patches, pair.boxes)
        alone = model.generate(
            model.encode(single.graph).objects, single.graph, patches[mine], single.boxes
        )
    torch.testing.assert_close(together[1:], alone, atol=1e-4, rtol=1e-4)


def test_learning_rates_fall_to_zero_where_the_recipe_says_so(bank):
    trainer = RetrieveGANTrainer(small(steps=100, decay_from=0.5), bank, CPU)
    rates = {}
    for step in (0, 50, 75, 99):
        trainer.step_number = step
        trainer.set_learning_rates()
        rates[step] = trainer.optimisers["generator"].param_groups[0]["lr"]
    full = trainer.config.lr_generator
    assert rates == pytest.approx({0: full, 50: full, 75: full / 2, 99: full / 50})


def test_the_demo_recipe_has_under_a_million_parameters(bank):
    assert sum(p.numel() for p in RetrieveGAN(demo(), bank.vocabulary).parameters()) < 1_000_000


def test_a_picture_larger_than_the_banks_is_refused_before_the_first_step(bank):
    with pytest.raises(checkpoint.RunError, match=r"256 px, but those of .* are of 128 px"):
        RetrieveGANTrainer(small(image_px=256), bank, CPU)


@pytest.mark.parametrize("recipe", [paper, demo])
def test_a_config_comes_back_from_its_json(recipe):
    assert from_json(json.loads(json.dumps(to_json(recipe())))) == recipe()


def test_an_unknown_key_in_a_config_is_refused():
    with pytest.raises(checkpoint.UserError, match="'temprature'"):
        from_json({"retrieval": {"temprature": 1.0}})


@pytest.mark.gpu
def test_a_step_on_the_gpu_has_the_losses_of_the_cpu(bank, batch):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device on this machine")
    on_gpu = RetrieveGANTrainer(small(), bank, torch.device("cuda")).step(batch)
    on_cpu = RetrieveGANTrainer(small(), bank, CPU).step(batch)
    for name, value in on_cpu.items():
        assert on_gpu[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name


def test_a_run_beyond_its_last_step_is_not_called_trained(bank, tmp_path):
    train(RetrieveGANTrainer(small(), bank, CPU), tmp_path)
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
    train(RetrieveGANTrainer(config, bank, CPU), whole)
    (stopped / "log.jsonl").write_text('{"step": 0, "total": 0.0}\n')
    write_json(stopped / "config.json", {"bank": str(bank.path), "train": config})
    main(TrainOptions(resume=stopped))
    assert losses_of(stopped) == losses_of(whole)
