"""What is counted of a set of pictures, and of which pairs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model.padding import padding_of
from model.scores.costs import Costs
from model.scores.extractors import Extractor, PictureFeatures
from model.scores.intervals import SceneSums
from model.scores.picture_scores import (
    LAYOUT,
    STYLE,
    Judges,
    diversity,
    layout_iou,
    score_pictures,
)
from model.scores.pictures import PictureSet
from model.scores.scenes import scene_batches
from model.scores.weights import Weights

CPU = torch.device("cpu")
N, M, SIDE = 6, 3, 4


class MeanColour:
    """Pictures (n, H, W, 3) -> their mean colour and its square: features of width 6."""

    def __call__(self, pictures):
        mean = pictures.float().mean((1, 2)) / 255
        return torch.cat([mean, mean**2], 1), None


EXTRACTOR = Extractor(
    name="squeezenet", published=False, weights=Weights(Path("none"), "0" * 64), width=6,
    side=SIDE, resizer="none", network=MeanColour(), device=CPU,
)  # fmt: skip


@pytest.fixture(scope="module")
def batches(bank):
    return scene_batches(bank, bank.scene_ids("val")[:N], 4, CPU)


def block_of(seed):
    return np.random.default_rng(seed).integers(0, 256, (N, M, SIDE, SIDE, 3)).astype(np.uint8)


def reference():
    pictures = torch.from_numpy(block_of(1).reshape(-1, SIDE, SIDE, 3))
    return {"squeezenet": PictureFeatures(*MeanColour()(pictures))}


def scored(pictures, **judges):
    costs = Costs()
    found = score_pictures(pictures, Judges([EXTRACTOR], reference(), **judges), 0, costs)
    return {score.metric: score for score in found}, costs


def test_a_set_is_scored_as_a_whole_and_its_objects_by_scene(batches):
    seen = []

    def style(block, scenes, boxes):
        seen.append((block.shape, torch.equal(boxes, scenes.boxes)))
        return SceneSums(np.full(N, 1.0), np.full(N, 2.0))

    pictures = PictureSet(
        "made", "predicted", batches, lambda _: block_of(1), lambda scenes: scenes.boxes
    )
    scores, costs = scored(pictures, style=style)
    assert scores["Fréchet distance (squeezenet)"].value == pytest.approx(0, abs=1e-9)
    assert scores["precision (squeezenet)"].value == 1
    assert 0 < scores["recall (squeezenet)"].value < 1  # of the first picture of each scene
    assert scores[LAYOUT].value == pytest.approx(1)
    assert scores[STYLE].value == 0.5
    assert seen == [((N, M, SIDE, SIDE, 3), True)]
    assert {s.pictures for s in scores.values()} == {N * M}
    assert {s.boxes for s in scores.values()} == {"predicted"}
    assert costs.seconds.keys() >= {"making pictures", "features, squeezenet", "style agreement"}


def test_boxes_that_were_given_are_no_layout_to_score(batches):
    pictures = PictureSet("made", "gt", batches, lambda _: block_of(1), lambda s: s.boxes)
    scores, _ = scored(pictures)
    assert not {LAYOUT, STYLE} & scores.keys()


def test_objects_that_all_overlap_agree_on_nothing(batches):
    nothing = SceneSums(np.zeros(N), np.zeros(N))
    pictures = PictureSet("made", "gt", batches, lambda _: block_of(1), lambda s: s.boxes)
    scores, _ = scored(pictures, style=lambda *_: nothing)
    assert STYLE not in scores


def test_pairs_of_equal_pictures_are_no_diversity(batches):
    def with_equal(*equal):
        block = block_of(2)
        for draw in equal:
            block[:, draw] = block[:, 0]
        pictures = PictureSet("made", "gt", batches, lambda _: block)
        return scored(pictures)[0].get("diversity (squeezenet)")

    every, two = with_equal(), with_equal(1)
    assert (every.pairs, two.pairs) == (3 * N, 2 * N)
    assert two.value > 0
    assert with_equal(1, 2) is None


def test_a_published_network_gives_no_diversity_in_its_features(batches):
    published = replace(EXTRACTOR, name="dinov2", published=True)
    pictures = PictureSet("made", "gt", batches, lambda _: block_of(2))
    judges = Judges([published], {"dinov2": reference()["squeezenet"]})
    metrics = {score.metric for score in score_pictures(pictures, judges, 0, Costs())}
    assert "FD-DINOv2" in metrics
    assert not [metric for metric in metrics if metric.startswith("diversity")]


def test_neighbours_among_a_scene_s_own_draws_do_not_change_recall(batches):
    """Recall is that of one picture of each scene, however alike its further draws are."""
    block = block_of(2)
    alike = np.repeat(block[:, :1], M, axis=1)
    one, many = (
        scored(PictureSet("made", "gt", batches, lambda _, some=some: some))[0]
        for some in (block[:, :1], alike)
    )
    for metric in ("recall (squeezenet)", "precision (squeezenet)"):
        assert one[metric].value == many[metric].value


def test_diversity_is_the_mean_over_pairs_with_their_deviation(batches):
    pictures = PictureSet("made", "gt", batches, lambda _: block_of(0))
    distances = torch.arange(2.0 * N).reshape(N, 2)
    unlike = torch.ones(N, 2, dtype=torch.bool)
    unlike[0] = False
    score = diversity("DS", pictures, [distances], [unlike])
    counted = np.arange(2.0, 2 * N)
    assert score.value == pytest.approx(counted.mean())
    assert score.spread == pytest.approx(counted.std())
    assert (score.scenes, score.pairs) == (N - 1, 2 * N - 2)


def test_layout_iou_is_the_mean_over_a_scene_s_objects(batches):
    scenes = batches[0]._replace(
        boxes=torch.tensor([[0.0, 0, 1, 1], [0, 0, 0.5, 1], [0, 0, 0.5, 0.5]]),
        padding=padding_of(torch.tensor([0, 0, 1]), 2),
    )
    predicted = torch.tensor([[0.0, 0, 0.5, 1], [0.5, 0, 1, 1], [0.25, 0, 0.75, 0.5]])
    sums = layout_iou(predicted, scenes)
    assert sums.totals == pytest.approx([0.5, 1 / 3])
    assert sums.weights == pytest.approx([2, 1])


def test_costs_add_up_and_see_the_memory_that_a_part_takes():
    # In a process of its own: what this one holds can shrink while the part's memory grows.
    seconds, peaks, written = json.loads(
        subprocess.run(
            [sys.executable, "-c", MEASURED], capture_output=True, text=True, check=True
        ).stdout
    )
    assert seconds[1] > seconds[0] > 0
    assert peaks["large"] - peaks["small"] > 100
    if os.access("/proc/self/clear_refs", os.W_OK):  # else the peak is of all parts so far
        assert peaks["after"] < peaks["large"] - 100
    assert written["large"].keys() == {"seconds", "process_peak_mb"}


MEASURED = """
import json
from model.scores.costs import Costs

costs = Costs()
with costs.of("small"):
    pass
with costs.of("large"):
    block = b"x" * 200_000_000
    del block
once = costs.seconds["large"]
with costs.of("large"):
    pass
with costs.of("after"):
    pass
print(json.dumps([[once, costs.seconds["large"]], costs.peak_mb, costs.to_json()]))
"""
