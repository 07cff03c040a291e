"""What is measured of a claim: which run, scenes and seed each number is of."""

from types import SimpleNamespace

import torch

from jobs.claims.claims import Claim, Comparison, Method, Training
from jobs.claims.record import Settings, measure
from jobs.claims.training import SCORING, TRAINING
from tests.jobs.claims.made_up import scores

HERE, THERE = Training("here"), Training("there", ("--steps", "1"))
CLAIM = Claim(
    name="one",
    statement="Ours is better.",
    source="Figure 4.",
    methods=(Method("ours", HERE), Method("theirs", THERE), Method("oracle", HERE)),
    primary=(Comparison("ours", "theirs"),),
)
SETTINGS = Settings(seeds=2, steps=7, scenes=5, candidates=4, draws=3, content_digest="c" * 64)


class TrainerOfFolders:
    """Trains nothing: a folder with its times for each run."""

    def __init__(self, work):
        self.work = work

    def trained(self, training, steps, seed):
        run = self.work / f"{training.name}-{steps}-{seed}"
        run.mkdir()
        (run / TRAINING).write_text(f"{10 + seed}\n")
        (run / SCORING).write_text(f"{1 + seed}\n")
        return run

    def command(self, training, steps, seed):
        return f"train {training.name} {steps} {seed}"


def test_each_number_is_of_its_own_run_scenes_and_seed(tmp_path, monkeypatch):
    asked = []

    def scored(run, seed, methods, held_out):
        asked.append((run.name, seed, [method.name for method in methods], held_out))
        return {m.name: scores(seed + (0.5 if m.training == HERE else 0.25)) for m in methods}

    monkeypatch.setattr("jobs.claims.record.scores_of", scored)
    held_out = SimpleNamespace(
        bank=SimpleNamespace(
            manifest=SimpleNamespace(recipe={"toy_photos": 9}, derived_digest="d")
        ),
        parts=lambda number: [f"part {part} of {number}" for part in range(number)],
        chance=0.1,
        device=torch.device("cpu"),
    )
    record = measure(CLAIM, TrainerOfFolders(tmp_path), held_out, SETTINGS, "typed")
    assert asked == [
        ("here-7-0", 0, ["ours", "oracle"], "part 0 of 2"),
        ("here-7-1", 1, ["ours", "oracle"], "part 1 of 2"),
        ("there-7-0", 0, ["theirs"], "part 0 of 2"),
        ("there-7-1", 1, ["theirs"], "part 1 of 2"),
    ]
    assert [(method.name, method.training, method.compatibility) for method in record.methods] == [
        ("ours", "here", [0.5, 1.5]),
        ("theirs", "there", [0.25, 1.25]),
        ("oracle", "here", [0.5, 1.5]),
    ]
    assert [(t.name, t.command, t.seconds) for t in record.trainings] == [
        ("here", "train here 7 0", (10, 11)),
        ("there", "train there 7 0", (10, 11)),
    ]
    assert record.scoring_seconds == 1 + 2 + 1 + 2
    assert (record.claim, record.command, record.settings) == ("one", "typed", SETTINGS)
    assert (record.photos, record.derived_digest, record.chance) == (9, "d", 0.1)
