"""Scenes of 30 objects, the most that a photo of Visual Genome's may have: built, trained on by
every loader, sampled."""

import json
from itertools import product

import numpy as np
import pytest
import simplejpeg

from bank.bank import Bank
from jobs.build_bank import BuildBank, main
from jobs.sample import SampleOptions
from jobs.sample import main as sample
from model.train import main as train
from pipeline.datasets import DatasetRules
from pipeline.visual_genome import cap
from pipeline.visual_genome.rules import OBJECTS_PER_PHOTO
from tests.model.small_runs import losses_of, options_of
from tests.pipeline.visual_genome_files import (
    NAMES,
    SMALL_RULES,
    files,
    listed_object,
    relation,
    write,
)

_, MOST = OBJECTS_PER_PHOTO
PLACES = range(MOST)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Photos of 30 objects each, all of them in relationships."""
    folder = tmp_path_factory.mktemp("large") / "vg"
    folder.mkdir()
    content = files()
    random = np.random.default_rng(0)
    for entry in content["objects.json"]:
        image_id = entry["image_id"]
        entry["objects"] = [listed_object(image_id, p, NAMES[p % len(NAMES)]) for p in PLACES]
    for entry, objects in zip(content["relationships.json"], content["objects.json"], strict=True):
        image_id = objects["image_id"]
        entry["relationships"] = [relation(image_id, p, "near", (p + 1) % MOST) for p in PLACES]
    write(folder, content)
    for photo in content["image_data.json"]:
        pixels = random.integers(0, 256, (photo["height"], photo["width"], 3), np.uint8)
        path = folder / "VG_100K" / f"{photo['image_id']}.jpg"
        path.write_bytes(simplejpeg.encode_jpeg(pixels))
    return folder


def build(data, out):
    main(
        BuildBank(
            dataset="vg",
            data=data,
            out=out,
            rules=DatasetRules(vg=SMALL_RULES),
            image_size=64,
            patch_size=16,
            candidates=6,
            shard_photos=2,
            encoder_steps=1,
            cooccurrence_steps=1,
        )
    )
    return Bank.open(out)


@pytest.fixture(scope="module")
def bank(data, tmp_path_factory):
    """A bank that keeps all 30, as if the protocol did not cut scenes to 10."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cap, "MOST_OBJECTS", MOST)
        return build(data, tmp_path_factory.mktemp("large") / "bank")


def test_visual_genomes_protocol_cuts_such_a_scene_to_ten(data, tmp_path):
    ten = build(data, tmp_path / "bank")
    assert {len(ten.scene(int(i)).objects) for i in ten.scene_ids("train")} == {10}


@pytest.fixture(scope="module")
def runs(bank, tmp_path_factory):
    """Two steps by each kind of loader, with a worker process and without."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RETRIEVEGAN_CACHE", str(folder / "cache"))
        for kind, workers in product(("resident", "stream"), (0, 1)):
            run = ["--bank", bank.path, "--recipe", "demo", "--steps", 2, "--batch-size", 2]
            loader = ["--loader", kind, "--loader-workers", workers]
            train(options_of(*run, *loader, "--out", folder / f"{kind}-{workers}"))
    return [path for path in folder.iterdir() if path.name != "cache"]


def test_scenes_of_thirty_objects_are_trained_on_the_same_by_every_loader(bank, runs):
    assert {len(bank.scene(int(i)).objects) for i in bank.scene_ids("train")} == {MOST}
    losses = [losses_of(run) for run in runs]
    assert [len(each) for each in losses] == [2] * 4
    assert all(each == losses[0] for each in losses)


def test_a_graph_of_thirty_objects_is_sampled(bank, runs, tmp_path):
    scene = bank.scene(int(bank.scene_ids("val")[0]))
    graph, out = tmp_path / "graph.json", tmp_path / "out"
    graph.write_text(json.dumps({"objects": scene.objects, "relationships": scene.triples}))
    sample(SampleOptions(run=runs[0], graph=(graph,), out=out))
    assert (out / "image-0.png").exists()
    assert f"  {MOST - 1} " in (out / "credits.txt").read_text("utf-8")
