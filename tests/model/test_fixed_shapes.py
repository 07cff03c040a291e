"""Fillers make the shapes of batches few, and change nothing that a step computes."""

import pytest
import torch

from model.batch import scene_batch, tensors_of
from model.fixed_shapes import LEAST_SCENES, FixedShapes, longest_scene
from model.parallel import Ranks
from model.recipes import demo
from model.sources import BankSource, part_of
from model.trainers import trainer_for
from tests.model.retrievegan.small import (
    N,
    O,
    assert_same_step,
    small_batch,
    small_config,
    small_trainer,
    with_draws,
)
from tests.model.small_runs import small

SHAPES = FixedShapes(objects=4, triples=6, longest=5)
FILLERS = 3  # of five objects, to eight; of eight triples, to twelve


def filled_with_anything(batch):
    """The fillers have random pixels and crops, another category and features that are no numbers;
    none of it may be seen."""
    filled = SHAPES.scenes(batch)
    random = torch.Generator().manual_seed(5)

    def other(rows):
        pixels = torch.randint(0, 256, rows.shape, dtype=torch.uint8, generator=random)
        return torch.cat([rows[:O], pixels[O:]])

    nodes = filled.graph.nodes.clone()
    nodes[O : O + FILLERS] = torch.tensor([2, 4, 1])
    cooccurrence = filled.true_cooccurrence.clone()
    cooccurrence[O:] = 1e9
    boxes = filled.boxes.clone()
    boxes[O:] = torch.tensor([0.25, 0.5, 0.75, 1])
    return filled._replace(
        graph=filled.graph._replace(nodes=nodes),
        boxes=boxes,
        true_patches=other(filled.true_patches),
        true_cooccurrence=cooccurrence,
        candidates=filled.candidates._replace(patches=other(filled.candidates.patches)),
    )


@pytest.mark.parametrize(
    "rule",
    [
        {},
        {"relaxation": "soft", "temperature": 0.7},
        {"relaxation": "marginal", "query": "fixed"},
        {"gt_in_candidates": True},
        {"start": "medoid"},
        {"same_patch_allowed": True, "relaxation": "soft", "gt_in_candidates": True},
        {"mode": "predefined"},
        {"mode": "random"},
    ],
    ids=str,
)
@pytest.mark.parametrize("fill", [SHAPES.scenes, filled_with_anything])
def test_a_step_of_a_batch_with_fillers_is_the_step_of_the_batch(rule, fill):
    """Losses, gradients and spectral norms."""
    trainer = small_trainer(retrieval=rule)
    with torch.no_grad():
        for layer in trainer.model.refinement:
            layer.flow[2].weight.normal_(0, 0.2)
    batch = with_draws(small_batch(), trainer.config)
    assert_same_step(trainer, fill(batch), as_in=batch)


def test_rows_are_multiples_with_a_filler_at_least_and_the_choice_takes_the_longest():
    batch = small_batch()
    for shapes, objects, triples in (
        (SHAPES, 8, 12), (FixedShapes(5, 8, 5), 10, 8), (FixedShapes(6, 9, 5), 6, 9)
    ):  # fmt: skip
        filled = shapes.scenes(batch)
        assert len(filled.boxes) == objects
        assert filled.padding.real.tolist() == [True] * O + [False] * (objects - O)
        assert filled.padding.present.shape == filled.padding.row.shape == (N, 5)
        assert len(filled.graph.triples) == triples
        assert len(filled.images) == N


def test_all_that_is_of_objects_has_as_many_rows():
    for rule in ({}, {"mode": "random"}):
        config = small_config(retrieval=rule)
        batch = with_draws(small_batch(), config)
        filled = SHAPES.scenes(batch)
        all_real = batch.padding._replace(real=torch.ones(O, dtype=torch.bool))
        alike = tensors_of(batch._replace(padding=all_real))
        for before, after in zip(alike, tensors_of(filled), strict=True):
            assert after.dtype == before.dtype
            if before.dim() and len(before) == O:
                assert len(after) == O + FILLERS
                assert torch.equal(after[:O], before)
        assert filled.boxes[O:].tolist() == [[0, 0, 1, 1]] * FILLERS
        made = filled.draws.choice.rank if rule else filled.draws.choice.noise
        assert len(made) == O + FILLERS
        assert (filled.draws.truth is None) == bool(rule)
        assert rule or len(filled.draws.truth.order) == O + FILLERS


def test_fillers_are_a_graph_of_their_own():
    graph, filled = small_batch().graph, SHAPES.scenes(small_batch()).graph
    last, triples = O + FILLERS - 1, len(graph.triples)
    assert filled.num_images == N
    assert filled.nodes.tolist() == [
        *graph.nodes[:O].tolist(), *[0] * FILLERS, *graph.nodes[O:].tolist()
    ]  # fmt: skip
    moved = torch.arange(O + N) + FILLERS * (torch.arange(O + N) >= O)
    for (s, p, o), (t, q, u) in zip(graph.triples, filled.triples[:triples], strict=True):
        assert (moved[s], p, moved[o]) == (t, q, u)
    assert filled.triples[triples:].tolist() == [[last, 0, last]] * 4
    assert torch.equal(filled.in_image[:O], graph.in_image)


def test_no_filler_is_asked_of_a_row_that_names_a_real_one():
    """Every index of a filled batch names a row that is there."""
    filled = SHAPES.scenes(small_batch())
    k = filled.candidates.ids.shape[1]
    assert filled.draws.truth.order.sort(1).values.eq(torch.arange(k + 1)).all()
    assert filled.candidates.valid[O:].all()
    assert filled.graph.in_image.max() < len(filled.graph.triples)
    assert filled.graph.object_image.max() < N
    assert filled.padding.row.max() < O


def test_batches_of_a_bank_have_few_shapes(bank):
    scenes = bank.scene_ids("train")
    shapes = FixedShapes.of(LEAST_SCENES, longest_scene(bank))
    rule, source = demo().retrieval, BankSource(bank)
    before, after = set(), set()
    for first in range(0, 40, 4):
        part = part_of(bank, scenes[first : first + 4], first=first)
        batch = scene_batch(bank, source, part, rule, seed=0)
        before.add(tuple(t.shape for t in tensors_of(batch)))
        filled = shapes.scenes(batch)
        after.add(tuple(t.shape for t in tensors_of(filled)))
        assert len(filled.boxes) % shapes.objects == len(filled.graph.triples) % shapes.triples == 0
        assert len(batch.boxes) < len(filled.boxes) <= len(batch.boxes) + shapes.objects
    assert len(after) <= len(before) // 2


def test_a_trainer_whose_steps_are_captured_has_batches_of_fixed_shapes(bank):
    trainer = trainer_for(small(), bank, torch.device("cpu"))
    source, part = BankSource(bank), part_of(bank, bank.scene_ids("train")[:4])
    trainer.fix_shapes(bank)
    assert trainer.shapes is None  # nothing is captured on a CPU
    assert trainer.collate(bank, source, part).padding.real is None
    trainer.captured = object()
    trainer.fix_shapes(bank)
    batch = trainer.collate(bank, source, part)
    assert trainer.shapes == FixedShapes.of(4, longest_scene(bank))
    assert batch.padding.present.shape[1] == longest_scene(bank)
    assert not batch.padding.real.all()


def test_shapes_are_those_of_a_processes_part():
    trainer = small_trainer(batch_size=48)
    trainer._longest = 9
    assert trainer.shapes == FixedShapes.of(48, 9)
    trainer.ranks = Ranks(0, 2)
    assert trainer.shapes == FixedShapes.of(24, 9)
    assert FixedShapes.of(10, 9) == FixedShapes(objects=20, triples=40, longest=9)
    assert FixedShapes.of(1, 9) == FixedShapes.of(LEAST_SCENES, 9)
