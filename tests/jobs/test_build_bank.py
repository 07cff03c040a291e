import fcntl
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from bank.bank import Bank
from bank.contents import content_digest
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import read_manifest, write_manifest
from bank.table import read_table
from bank.verify import verify
from jobs.build_bank import BuildBank, main
from jobs.stages.assemble import assemble
from jobs.stages.cluster import Pool
from jobs.stages.cut import cut, plan
from jobs.stages.cutting import CropOptions
from jobs.stages.networks import check_networks
from model.graph.frozen_encoder import embed_scenes
from model.graph.network import GraphEncoder
from model.loop import save
from model.recipes import sg2im_demo
from model.sg2im.published import save_published_sg2im
from model.sg2im.run import graph_encoder_file, load_network
from model.trainers import trainer_for
from pipeline import codec
from pipeline.coco.reader import CocoRules, read_coco
from pipeline.datasets import DatasetRules
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.scene import Vocabulary
from pipeline.scene_graph import read_scene_graph
from pipeline.toy.visual_genome import write_toy_visual_genome
from pipeline.visual_genome.rules import VisualGenomeRules

ROOT = Path(__file__).parents[2]
LIMIT, SHARD_PHOTOS = 14, 4  # 4 shards of train, 2 of val, 2 of test
NUM_SHARDS = 8


@pytest.fixture
def options(toy_data, toy_bank, tmp_path):
    """A build of seconds: 28 small photos and networks that are given."""
    return BuildBank(
        dataset="toy",
        data=toy_data,
        out=tmp_path / "bank",
        limit=LIMIT,
        shard_photos=SHARD_PHOTOS,
        image_size=32,
        patch_size=16,
        candidates=5,
        graph_encoder=str(toy_bank / "graph_encoder.safetensors"),
        cooccurrence=str(toy_bank / "cooccurrence.safetensors"),
    )


@pytest.fixture(scope="module")
def reference(toy_data, toy_bank, tmp_path_factory):
    """What `options` build in this process."""
    base = options.__wrapped__(toy_data, toy_bank, tmp_path_factory.mktemp("reference"))
    main(base)
    return base.bank


@pytest.fixture
def built(reference, options):
    """`options`, with a finished bank in place."""
    shutil.copytree(reference, options.bank)
    return options


@pytest.fixture(scope="module")
def digests(reference):
    manifest = read_manifest(reference)
    assert len(manifest.shards) == NUM_SHARDS
    return manifest.content_digest, manifest.derived_digest


def digests_of(options):
    manifest = read_manifest(options.bank)
    return manifest.content_digest, manifest.derived_digest


def test_two_dask_workers_build_the_same_bank_as_no_dask_at_all(options, digests):
    main(replace(options, workers=2))
    assert digests_of(options) == digests


def content_of(options, seed=None, workers=0):
    """The content digest alone; `seed` shuffles the order in which shards are cut and joined."""
    options.bank.mkdir()
    dataset = read_coco(options.data, limit=options.limit)
    crops = CropOptions(options.image_size, options.patch_size, options.resizer)
    tasks = plan(dataset, options.bank, options.shard_photos, crops)
    if seed is not None:
        random.Random(seed).shuffle(tasks)
    with Pool(workers) as pool:
        names = list(cut(tasks, pool))
    if seed is not None:
        random.Random(seed + 1).shuffle(names)
    assemble(options.bank, names, dataset.vocabulary)
    return content_digest(options.bank)


def test_one_dask_worker_cuts_the_same_content(options, digests):
    assert content_of(options, workers=1) == digests[0]


@pytest.mark.parametrize("shard_photos", [1, 5, 1000])
def test_the_size_of_a_shard_does_not_show(options, digests, shard_photos):
    assert content_of(replace(options, shard_photos=shard_photos)) == digests[0]


@pytest.mark.parametrize("seed", [0, 1])
def test_the_order_in_which_shards_finish_does_not_show(options, digests, seed):
    assert content_of(options, seed) == digests[0]


@pytest.mark.parametrize(
    "change",
    [{"patch_size": 17}, {"image_size": 33}, {"resizer": "pillow"}, {"limit": 13}],
    ids=str,
)
def test_what_shapes_the_content_does_show(options, digests, change):
    assert content_of(replace(options, **change)) != digests[0]


def test_another_folder_of_photos_and_another_working_folder_do_not_show(
    options, digests, tmp_path, monkeypatch
):
    shutil.copytree(options.data, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    main(replace(options, data=Path("elsewhere"), out=Path("here")))
    assert digests_of(replace(options, out=Path("here"))) == digests


def test_a_finished_bank_has_the_files_of_the_format_and_no_others(built):
    options = built
    files = {p.relative_to(options.bank).as_posix() for p in options.bank.rglob("*") if p.is_file()}
    manifest = read_manifest(options.bank)
    assert files == set(manifest.files) | {"manifest.json"}
    fixed = {"patches.arrow", "scenes.index.arrow", "vocabulary.json", "failures.jsonl"}
    fixed |= {"features.arrow", "cooccurrence.arrow", "candidates.arrow"}
    fixed |= {"graph_encoder.safetensors", "cooccurrence.safetensors"}
    assert fixed <= files
    shards = {
        p.split("/")[1].removesuffix(".tar") for p in files if p.startswith(("patches/", "scenes/"))
    }
    assert shards == set(manifest.shards)


def test_a_finished_bank_is_left_as_it_is(built, capsys):
    options = built
    before = {p: p.stat().st_mtime_ns for p in options.bank.rglob("*")}
    capsys.readouterr()
    main(options)
    assert "nothing to do" in capsys.readouterr().out
    assert {p: p.stat().st_mtime_ns for p in options.bank.rglob("*")} == before


def test_every_option_but_those_that_say_how_the_work_is_done_is_in_the_recipe(built):
    work = {"data", "out", "workers", "scheduler", "mode", "retry_failed", "max_failures"}
    beside = {"rules", "quarantine"}  # the rules one by one; quarantine where there is any
    rules = {"require_stuff", "edition", "test_rule", "licences"}
    names = {field.name for field in fields(BuildBank)} - work - beside
    assert set(read_manifest(built.bank).recipe) == names | rules | {"seed"}


OLDER = ("resizer", "toy_format", "toy_photos", "licences", "test_rule", "seed", "cooccurrence")


def without_options(bank, names):
    """As an earlier version wrote it, which had no such options."""
    manifest = read_manifest(bank)
    recipe = {name: value for name, value in manifest.recipe.items() if name not in names}
    assert len(recipe) == len(manifest.recipe) - len(names)
    write_manifest(bank, replace(manifest, recipe=recipe))


def test_an_option_that_is_newer_than_the_bank_has_its_default(
    toy_bank, toy_data, tmp_path, capsys
):
    bank = tmp_path / "bank"
    shutil.copytree(toy_bank, bank)
    without_options(bank, OLDER)
    steps = {"encoder_steps": 1, "cooccurrence_steps": 1}
    same = BuildBank(dataset="toy", data=toy_data, out=bank, shard_photos=16, **steps)
    main(same)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(BankError, match="--resizer was torch, asked for is pillow"):
        main(replace(same, resizer="pillow"))
    without_options(bank, ["encoder_steps"])
    with pytest.raises(BankError, match="--encoder-steps was None, asked for is 1"):
        main(same)


@pytest.mark.parametrize(("dataset", "was"), [(None, "None"), ("vg", "vg"), ("ade", "ade")])
def test_a_bank_of_no_or_another_dataset_was_built_otherwise(built, dataset, was):
    without_options(built.bank, ["dataset"])
    if dataset:
        manifest = read_manifest(built.bank)
        recipe = {"dataset": dataset, **manifest.recipe}
        write_manifest(built.bank, replace(manifest, recipe=recipe))
    with pytest.raises(
        BankError, match=f"built otherwise: .*--dataset was {was}, asked for is toy"
    ):
        main(built)


def interrupt(options):
    """Cut all shards, then fail while features are written, as on a disk that goes bad."""
    (options.bank / "work").mkdir(parents=True)
    (options.bank / "features.arrow").mkdir()
    with pytest.raises(IsADirectoryError):
        main(options)
    (options.bank / "features.arrow").rmdir()


def test_an_interrupted_build_goes_on_and_cuts_only_what_is_missing(options, digests, capsys):
    interrupt(options)
    (options.bank / "work/receipts/cut-train-00001.json").unlink()
    (options.bank / "scenes/val-00000.tar").write_bytes(b"cut short")
    capsys.readouterr()
    main(options)
    assert (
        f"kept from an earlier run: {NUM_SHARDS - 2} of {NUM_SHARDS} shards"
        in capsys.readouterr().out
    )
    assert digests_of(options) == digests


def test_an_unfinished_build_may_go_on_with_other_settings(options, digests, capsys):
    interrupt(replace(options, shard_photos=3, patch_size=8))
    main(options)
    assert digests_of(options) == digests
    assert len(list((options.bank / "scenes").iterdir())) == NUM_SHARDS


def wait_for_shards(options, child):
    """Until the build has finished two, however long that takes."""
    receipts = options.bank / "work/receipts"
    while len(list(receipts.glob("cut-*.json"))) < 2:
        assert child.poll() is None
        time.sleep(0.002)


def test_a_killed_build_goes_on_and_ends_in_the_same_bank(options, digests, start):
    command = [sys.executable, "-m", "jobs.build_bank", "--dataset", "toy", "--shard-photos", "1"]
    command += ["--data", str(options.data), "--out", str(options.bank), "--limit", str(LIMIT)]
    command += ["--image-size", "32", "--patch-size", "16"]
    child = start(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    wait_for_shards(options, child)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (options.bank / "manifest.json").exists()
    main(replace(options, shard_photos=1))
    assert digests_of(options) == digests


def test_ctrl_c_is_one_line_though_it_reaches_the_workers_too(options, tmp_path, start):
    command = [sys.executable, "-m", "jobs.build_bank", "--dataset", "toy", "--shard-photos", "1"]
    command += ["--data", str(options.data), "--out", str(options.bank), "--workers", "2"]
    with (tmp_path / "stderr").open("w+") as stderr:
        child = start(command, cwd=ROOT, stderr=stderr, stdout=subprocess.DEVNULL)
        wait_for_shards(options, child)
        os.killpg(child.pid, signal.SIGINT)
        assert child.wait(600) == 130
        stderr.seek(0)
        said = stderr.read()
    assert "Traceback" not in said
    assert said.splitlines()[-1].startswith("interrupted; what was finished is kept")
    assert not (options.bank / "manifest.json").exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"patch_size": 8}, "--patch-size was 16, asked for is 8"),
        ({"limit": 3}, "--limit was 14, asked for is 3"),
        ({"graph_encoder": "train"}, "--graph-encoder was .* asked for is train"),
    ],
    ids=["patch_size", "limit", "graph_encoder"],
)
def test_a_finished_bank_of_another_recipe_is_kept_and_the_difference_named(built, change, said):
    options = built
    before = (options.bank / "manifest.json").read_bytes()
    with pytest.raises(BankError, match=said):
        main(replace(options, **change))
    assert (options.bank / "manifest.json").read_bytes() == before
    Bank.open(options.bank)


def test_a_finished_bank_of_other_photos_is_kept_and_the_difference_named(built, tmp_path):
    data = shutil.copytree(built.data, tmp_path / "data")
    main(replace(built, data=data))  # the same photos in another place are the same
    annotations = data / "annotations/instances_val2017.json"
    before = annotations.read_text()
    annotations.write_text(before + "\n")
    with pytest.raises(BankError, match=r"annotations/instances_val2017\.json has changed since"):
        main(replace(built, data=data))
    annotations.write_text(before)
    (data / read_coco(data, limit=LIMIT).photos[0].photo.file).unlink()
    with pytest.raises(BankError, match=r"photos has changed since"):
        main(replace(built, data=data))


def test_bad_photos_cost_themselves_and_are_counted(options, reference, tmp_path, capsys):
    data = shutil.copytree(options.data, tmp_path / "data")
    ids = [p.photo for p in read_coco(data, limit=LIMIT).photos if p.photo.split == "train"]
    cut_short, text, missing = (data / photo.file for photo in ids[:3])
    cut_short.write_bytes(cut_short.read_bytes()[:-200])
    text.write_text("no photo")
    missing.unlink()
    main(replace(options, data=data))
    lines = (options.bank / "failures.jsonl").read_text().splitlines()
    reasons = {row["image_id"]: row["reason"] for row in map(json.loads, lines)}
    named = ["photo_cut_short", "photo_unreadable", "photo_missing"]
    assert reasons == dict(zip([p.image_id for p in ids[:3]], named, strict=True))
    out = capsys.readouterr().out
    assert "left out: 1 photo_cut_short, 1 photo_missing, 1 photo_unreadable" in out
    bad = set(reasons)
    rows = read_table(reference / "patches.arrow").to_pylist()
    kept = read_table(options.bank / "patches.arrow").to_pylist()
    assert kept == [row for row in rows if row["image_id"] not in bad]


def test_photos_that_are_all_gone_stop_the_build(options, tmp_path):
    data = shutil.copytree(options.data, tmp_path / "data")
    for folder in (data / "train2017", data / "val2017"):
        for path in folder.iterdir():
            path.unlink()
        (folder / "a list of photos.txt").touch()  # an empty folder is one that is not mounted
    said = r"e\.g\. image \d+, photo_missing: val2017/\d+\.jpg: no such file; all"
    for _ in range(2):  # what was left out does not make the folder another's
        with pytest.raises(BankError, match=rf"not one .* \(28 photo_missing\), {said}") as caught:
            main(replace(options, data=data))
        assert f"all are in {options.bank / 'failures.jsonl'}" in str(caught.value)
        rows = [json.loads(r) for r in (options.bank / "failures.jsonl").read_text().splitlines()]
        assert [row["reason"] for row in rows] == ["photo_missing"] * 28
    main(options)
    assert (options.bank / "failures.jsonl").read_text() == ""


def test_where_not_one_photo_can_be_used_the_bank_that_is_there_stays(built, tmp_path):
    data = shutil.copytree(built.data, tmp_path / "data")
    for path in [*(data / "train2017").iterdir(), *(data / "val2017").iterdir()]:
        path.write_bytes(b"no photo")
    before = (built.bank / "manifest.json").read_bytes()
    with pytest.raises(BankError, match=r"28 photo_unreadable.*all are in .*next/failures\.jsonl"):
        main(replace(built, data=data, mode="overwrite"))
    assert (built.bank / "manifest.json").read_bytes() == before
    assert (built.bank / "failures.jsonl").read_text() == ""
    assert (built.bank / "work/next/failures.jsonl").read_text().count("photo_unreadable") == 28


def test_a_folder_with_other_files_is_not_built_into(options):
    options.bank.mkdir()
    (options.bank / "thesis.tex").write_text("years of work")
    with pytest.raises(BankError, match="holds other files"):
        main(options)
    assert [p.name for p in options.bank.iterdir()] == ["thesis.tex"]


def test_two_builds_do_not_write_into_one_folder(options):
    (options.bank / "work").mkdir(parents=True)
    with (options.bank / "work/lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(BankError, match="another build is writing"):
            main(options)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"workers": -1}, "--workers is -1"),
        ({"patch_size": 0}, "--patch-size is 0"),
        ({"candidates": 0}, "--candidates is 0"),
        ({"encoder_steps": 0}, "--encoder-steps is 0"),
        ({"max_failures": -1}, "--max-failures is -1"),
        ({"workers": 2, "scheduler": "tcp://here:1"}, "give one"),
    ],
    ids=["workers", "patch_size", "candidates", "encoder_steps", "max_failures", "scheduler"],
)
def test_nonsense_is_refused_by_name(options, change, said):
    with pytest.raises(ValueError, match=said):
        replace(options, **change)


def test_a_network_that_is_not_there_is_noticed_before_anything_is_cut(options):
    with pytest.raises(UserError, match="--graph-encoder nowhere: there is no file nowhere"):
        main(replace(options, graph_encoder="nowhere"))
    with pytest.raises(UserError, match="--cooccurrence"):
        main(replace(options, cooccurrence="nowhere"))
    assert not options.bank.exists()


def test_a_file_that_is_no_network_is_noticed_before_anything_is_cut(options, tmp_path):
    (tmp_path / "net.safetensors").write_text("hello")
    with pytest.raises(UserError):
        main(replace(options, cooccurrence=str(tmp_path / "net.safetensors")))
    assert not options.bank.exists()


def test_a_missing_dataset_is_one_line_and_exit_code_1(tmp_path):
    command = [sys.executable, "-m", "jobs.build_bank", "--dataset", "coco", "--data", "nowhere"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "bank")],
        cwd=ROOT,
        env={**os.environ, "PYTHONWARNINGS": "error"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1


def test_real_photos_build_a_bank(options, tmp_path):
    folder = os.environ.get("RETRIEVEGAN_DATA")
    if not folder:
        pytest.skip("RETRIEVEGAN_DATA does not name a folder with real photos")
    real = BuildBank(
        dataset="coco",
        data=Path(folder) / "coco",
        out=tmp_path / "coco",
        limit=10,
        encoder_steps=1,
        cooccurrence_steps=1,
    )
    main(real)
    assert read_manifest(real.bank).counts["scenes"] == 20


def test_a_graph_encoder_that_lacks_names_is_noticed_before_anything_is_cut(options, tmp_path):
    known = read_coco(options.data).vocabulary
    fewer = Vocabulary(tuple(n for n in known.objects if n != "tree"), known.predicates[:-1])
    GraphEncoder(fewer, 4, 4, 1).save(tmp_path / "net.safetensors")
    with pytest.raises(UserError, match=f"does not know 2 of .* tree, {known.predicates[-1]};"):
        main(replace(options, graph_encoder=str(tmp_path / "net.safetensors")))
    assert not options.bank.exists()


def test_a_toy_bank_says_that_it_is_of_the_toy_world(toy_bank):
    assert read_manifest(toy_bank).dataset == "toy"


@pytest.mark.parametrize(
    ("toy_format", "toy_photos", "name"),
    [
        ("coco", None, "toy"),
        ("vg", None, "toy-vg"),
        ("coco", 7000, "toy-7000"),
        ("vg", 7, "toy-vg-7"),
    ],
)
def test_each_toy_bank_has_a_folder_of_its_own(toy_format, toy_photos, name):
    options = BuildBank(dataset="toy", toy_format=toy_format, toy_photos=toy_photos)
    assert options.bank == Path("bank") / name


def test_a_toy_bank_of_another_size_says_so_and_is_not_taken_for_the_default(
    toy_bank, tmp_path, capsys
):
    given = {n: str(toy_bank / f"{n}.safetensors") for n in ("graph_encoder", "cooccurrence")}
    small = {"data": tmp_path / "data", "out": tmp_path / "bank", "image_size": 32}
    sized = BuildBank(dataset="toy", toy_photos=9, candidates=2, **small, **given)
    main(sized)
    bank = Bank.open(sized.bank)
    assert [len(bank.scene_ids(s)) for s in ("train", "val", "test")] == [5, 2, 2]
    assert (bank.manifest.recipe["toy_photos"], bank.manifest.recipe["test_rule"]) == (9, "half")
    capsys.readouterr()
    main(sized)
    assert "nothing to do" in capsys.readouterr().out
    with pytest.raises(BankError, match="--toy-photos was 9, asked for is None"):
        main(replace(sized, toy_photos=None))
    with pytest.raises(ValueError, match="--toy-photos is 2; it must be from 3"):
        replace(sized, toy_photos=2)


# Protocols


@pytest.fixture(scope="module")
def toy_vg_data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "toy-vg"
    write_toy_visual_genome(folder, train_photos=40, val_photos=16)
    return folder


VG_FEW = VisualGenomeRules(
    min_object_count=2,
    min_attribute_count=2,
    min_relation_count=2,
    min_box_px=14,
    min_photo_px=100,
)


def test_the_toy_world_as_visual_genome_files_builds_a_bank_with_given_relations(
    toy_vg_data, tmp_path, capsys
):
    out = tmp_path / "bank"
    main(
        BuildBank(
            dataset="toy",
            toy_format="vg",
            data=toy_vg_data,
            out=out,
            rules=DatasetRules(vg=VG_FEW),
            encoder_steps=1,
            cooccurrence_steps=1,
        )
    )

    assert not verify(out).damages
    bank, manifest = Bank.open(out), read_manifest(out)
    assert (manifest.dataset, manifest.recipe["toy_format"]) == ("toy", "vg")
    assert (manifest.recipe["vg_min_box_px"], manifest.recipe["splits"]) == (14, "sg2im")
    assert manifest.protocol["vocabulary"]["relations"] == len(bank.vocabulary.predicates) - 1
    assert not {"left of", "surrounding"} <= set(bank.vocabulary.predicates)  # VG's own words
    relations = {
        relation.predicate
        for split in ("train", "val", "test")
        for image_id in bank.scene_ids(split)
        for relation in bank.scene(int(image_id)).triples
    }
    assert relations
    assert relations <= set(bank.vocabulary.predicates)
    scenes = [bank.scene(int(i)) for i in bank.scene_ids("train")]
    assert any(any(scene.attributes) for scene in scenes)
    assert all(scene.masks is None for scene in scenes)
    read_scene_graph(ROOT / "examples" / "vg_harbour.json", bank.vocabulary)
    stated = capsys.readouterr().out
    assert "protocol: toy world; its files are read as Visual Genome" in stated
    assert manifest.protocol["split_hash"][:16] in stated


def test_photos_and_annotations_in_zips_give_the_same_content(options, digests, tmp_path):
    packed = tmp_path / "packed"
    packed.mkdir()
    for name, pattern in (("annotations.zip", "annotations/*"), ("photos.zip", "*2017/*")):
        with zipfile.ZipFile(packed / name, "w") as archive:
            for path in sorted(options.data.glob(pattern)):
                archive.write(path, path.relative_to(options.data))

    assert content_of(replace(options, data=packed), workers=2) == digests[0]


@pytest.mark.parametrize(
    ("change", "flag"),
    [
        (
            {"dataset": "vg", "rules": DatasetRules(coco=CocoRules(licences=("cc-by",)))},
            "--licences is for COCO's",
        ),
        (
            {"dataset": "coco", "rules": DatasetRules(vg=VisualGenomeRules(splits="own"))},
            "--splits is for Visual",
        ),
        (
            {"toy_format": "vg", "rules": DatasetRules(coco=CocoRules(edition="deprecated-40k"))},
            "--edition is for",
        ),
        (
            {"rules": DatasetRules(vg=VisualGenomeRules(min_box_px=3))},
            "--vg-min-box-px is for Visual",
        ),
        ({"dataset": "coco", "toy_format": "vg"}, "--toy-format is for --dataset toy"),
        ({"dataset": "vg", "toy_photos": 7}, "--toy-photos is for --dataset toy, not vg"),
    ],
)
def test_a_flag_of_the_other_dataset_is_refused_and_not_ignored(options, change, flag):
    with pytest.raises(ValueError, match=flag):
        replace(options, **change)


def test_a_bank_built_by_another_protocol_is_not_taken_for_the_one_asked_for(built):
    other = replace(built, rules=DatasetRules(coco=CocoRules(test_rule="last-2048")))
    with pytest.raises(BankError, match="--test-rule was remainder, asked for is last-2048"):
        main(other)


def test_names_known_only_to_the_given_encoder_are_printed(options, tmp_path, capsys):
    known = read_coco(options.data).vocabulary
    more = Vocabulary((*known.objects, "unicorn"), (*known.predicates, "left touching"))
    GraphEncoder(more, 128, 8, 2).save(tmp_path / "net.safetensors")
    check_networks(str(tmp_path / "net.safetensors"), "train", known)
    line = "also knows 2 names that this dataset lacks: 'unicorn', 'left touching'"
    assert line in capsys.readouterr().out


def test_an_sg2im_run_or_its_published_form_is_the_encoder_and_the_manifest_says_which(
    options, toy_bank, tmp_path
):
    bank, run = Bank.open(toy_bank), tmp_path / "run"
    run.mkdir()
    write_json(run / "config.json", {"bank": str(toy_bank), "train": sg2im_demo()})
    save(trainer_for(sg2im_demo(), bank, torch.device("cpu")), bank, run)
    save_published_sg2im(tmp_path / "toy64.pt", load_network(run, torch.device("cpu")))

    by_run = replace(options, out=tmp_path / "by-run", graph_encoder=str(run))
    by_file = replace(options, out=tmp_path / "by-file", graph_encoder=str(tmp_path / "toy64.pt"))
    main(by_run)
    main(by_file)

    manifests = [read_manifest(o.bank) for o in (by_run, by_file)]
    assert manifests[0].derived_digest == manifests[1].derived_digest
    recorded = [m.recipe["graph_encoder"] for m in manifests]
    assert recorded == [
        file_digest(p).sha256 for p in (graph_encoder_file(run), tmp_path / "toy64.pt")
    ]
    opened = Bank.open(by_run.bank)
    scene = opened.scene(int(opened.scene_ids("val")[0]))
    wanted = embed_scenes(load_network(run, torch.device("cpu")), [scene])
    np.testing.assert_array_equal(opened.features(scene.patch_ids), wanted)


def test_a_machine_with_another_codec_is_named(built, monkeypatch, capsys):
    main(replace(built))
    assert "otherwise" not in capsys.readouterr().err
    answers = {**codec.answers(), "JPEG": "another"}
    monkeypatch.setattr(codec, "answers", lambda: answers)
    main(built)
    said = capsys.readouterr().err
    assert "JPEG of this machine answers otherwise than those that this project was tested" in said
    assert "JPEG of this machine answers otherwise than those that built the bank" in said


def test_the_manifest_says_what_decides_bytes(built):
    manifest = read_manifest(built.bank)
    assert manifest.codec == codec.answers()
    assert manifest.versions == codec.versions()
    assert manifest.machine == codec.machine()
    photos = read_table(built.bank / "photos.arrow").to_pylist()
    assert len(photos) == manifest.counts["photos"]
    read = (Path(built.data) / "train2017").iterdir()
    known = {file_digest(path).sha256 for path in read}
    assert len(known & {row["sha256"].hex() for row in photos}) == LIMIT
