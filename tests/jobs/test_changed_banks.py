"""Finished banks that are overwritten, extended, retried and edited; photos that are left out."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from bank.bank import Bank
from bank.errors import BankError
from bank.manifest import read_manifest, write_manifest
from bank.table import column, read_table, read_vectors
from bank.verify import verify
from jobs import edit_bank
from jobs.build_bank import BuildBank, main
from jobs.edit_bank import EditBank
from jobs.stages import build, cutting, removal, staging
from jobs.stages.staging import next_version
from model import checkpoint
from model.loop import restore, train
from model.run_folder import RunError
from pipeline import codec
from pipeline.coco.reader import read_coco
from pipeline.crop import PhotoError
from pipeline.errors import UserError
from pipeline.scene import image_of
from tests.model.small_runs import small, trainer_of

ROOT = Path(__file__).parents[2]
FEW, MORE = 10, 14


@pytest.fixture(scope="module")
def base(toy_data, toy_bank, tmp_path_factory):
    """A build of seconds with networks that are given."""
    return BuildBank(
        dataset="toy",
        data=toy_data,
        out=tmp_path_factory.mktemp("base") / "bank",
        limit=FEW,
        shard_photos=4,
        image_size=32,
        patch_size=16,
        candidates=5,
        graph_encoder=str(toy_bank / "graph_encoder.safetensors"),
        cooccurrence=str(toy_bank / "cooccurrence.safetensors"),
    )


@pytest.fixture(scope="module")
def few(base):
    main(base)
    return base.bank


@pytest.fixture(scope="module")
def more(base, tmp_path_factory):
    options = replace(base, limit=MORE, out=tmp_path_factory.mktemp("more") / "bank")
    main(options)
    return options.bank


@pytest.fixture
def built(base, few, tmp_path):
    """A finished bank of one's own, and the options that built it."""
    return replace(base, out=shutil.copytree(few, tmp_path / "bank"))


@pytest.fixture
def own_data(base, tmp_path):
    """A copy of the dataset, to be damaged; its first training photos."""
    folder = shutil.copytree(base.data, tmp_path / "data")
    photos = [p.photo for p in read_coco(folder, limit=FEW).photos if p.photo.split == "train"]
    return folder, photos


def digests_of(bank):
    manifest = read_manifest(bank)
    return manifest.content_digest, manifest.derived_digest


def reasons_of(bank):
    lines = (bank / "failures.jsonl").read_text().splitlines()
    return {row["image_id"]: row["reason"] for row in map(json.loads, lines)}


def inodes(bank):
    return {
        path.relative_to(bank).as_posix(): path.stat().st_ino
        for folder in ("patches", "scenes")
        for path in (bank / folder).rglob("*.*")
    }


def check_whole(bank):
    assert verify(bank).damages == ()
    assert not (bank / "work").exists()


# --mode extend


def test_an_extended_bank_is_a_fresh_build_in_other_shards(built, more):
    before = inodes(built.bank)

    main(replace(built, limit=MORE, mode="extend"))

    assert digests_of(built.bank) == digests_of(more)
    check_whole(built.bank)
    after = inodes(built.bank)
    # Of the shards of val, one photo is of another split now: that shard alone is another file.
    kept = [path for path, inode in before.items() if after.get(path) == inode]
    assert {p for p in before if "train" in p} <= set(kept)
    assert len(before) - len(kept) <= 2
    manifest = read_manifest(built.bank)
    assert manifest.recipe["limit"] == MORE
    assert [edit["edit"] for edit in manifest.edits] == ["added photos"]
    assert manifest.edits[0]["photos"] >= 2 * (MORE - FEW)


@pytest.mark.parametrize("scope", ["category", "all"])
def test_equal_files_are_one_photo_for_candidates_however_the_bank_came_about(
    base, own_data, tmp_path, capsys, scope
):
    folder, photos = own_data
    held_out = next(p.photo for p in read_coco(folder).photos if p.photo.split != "train")
    for other in (photos[1], held_out):  # by another name: known once the files have been read
        shutil.copyfile(folder / photos[0].file, folder / other.file)
    same = [photo.image_id for photo in (*photos[:2], held_out)]
    options = replace(
        base, data=folder, out=tmp_path / "bank", candidates=200, candidate_scope=scope, limit=FEW
    )

    def check():
        bank = Bank.open(options.bank)
        ids = bank.patch_ids[np.isin(image_of(bank.patch_ids), same)]
        candidates = bank.candidates(ids)
        assert candidates.valid.any(1).all()
        assert not np.isin(image_of(candidates.ids), same).any()
        others = bank.candidates(np.setdiff1d(bank.patch_ids, ids))
        assert np.isin(image_of(others.ids), same[0]).any()
        check_whole(options.bank)

    main(options)
    said = capsys.readouterr().out
    assert "files listed under several ids: 1, of which both for training and held out: 1" in said
    check()
    main(replace(options, mode="extend", limit=MORE))
    check()
    edit_bank.main(EditBank(bank=options.bank, remove_photo=(photos[2].image_id,)))
    check()


def test_extending_by_the_same_photos_does_nothing(built, capsys):
    before = (built.bank / "manifest.json").read_bytes()
    main(replace(built, mode="extend"))
    assert "nothing to do" in capsys.readouterr().out
    assert (built.bank / "manifest.json").read_bytes() == before
    check_whole(built.bank)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": 3}, r"it has \d+ photos that are not read now"),
        ({"limit": MORE, "patch_size": 8}, "--patch-size was 16, asked for is 8"),
        ({"limit": MORE, "shard_photos": 5}, "--shard-photos was 4, asked for is 5"),
    ],
    ids=["fewer", "patch_size", "shard_photos"],
)
def test_what_would_not_be_one_bank_is_refused_and_the_bank_stays(built, change, said):
    with pytest.raises(BankError, match=said):
        main(replace(built, mode="extend", **change))
    check_whole(built.bank)


def test_a_machine_with_another_codec_does_not_add_to_a_bank(built, monkeypatch):
    answers = {**codec.answers(), "JPEG": "another"}
    monkeypatch.setattr(codec, "answers", lambda: answers)
    with pytest.raises(BankError, match=r"codec answers otherwise \(JPEG\)"):
        main(replace(built, limit=MORE, mode="extend"))


def test_there_must_be_a_bank_to_extend(base, tmp_path):
    with pytest.raises(BankError, match="is no finished bank yet"):
        main(replace(base, out=tmp_path / "new", mode="extend"))


def test_an_extension_that_was_interrupted_leaves_the_bank_and_goes_on(
    built, few, more, monkeypatch, capsys
):
    wanted = replace(built, limit=MORE, mode="extend")

    def full(*args):
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(build, "assemble", full)
        with pytest.raises(BankError, match="cannot write somewhere: No space left on device"):
            main(wanted)
    assert digests_of(built.bank) == digests_of(few)
    assert verify(built.bank).damages == ()
    Bank.open(built.bank)
    main(built)
    assert "give its --mode again to go on" in capsys.readouterr().out
    main(wanted)
    assert digests_of(built.bank) == digests_of(more)
    check_whole(built.bank)


class KilledError(BaseException):
    """As if the process ended here."""


@pytest.mark.parametrize("moves", [0, 1, 7, 20])
def test_a_swap_that_was_interrupted_is_finished_by_the_next_command(
    built, more, monkeypatch, moves
):
    move, done = staging._move, []

    def killed_after(source, target):
        if len(done) == moves:
            raise KilledError
        done.append(target)
        move(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(staging, "_move", killed_after)
        with pytest.raises(KilledError):
            main(replace(built, limit=MORE, mode="extend"))
    with pytest.raises(BankError, match="its build did not finish; run"):
        read_manifest(built.bank)
    main(replace(built, limit=MORE))  # --mode resume
    assert digests_of(built.bank) == digests_of(more)
    check_whole(built.bank)


# --mode overwrite


def test_overwriting_builds_anew_while_the_old_bank_stays_in_use(built, few, monkeypatch):
    wanted = replace(built, patch_size=8, mode="overwrite")

    def full(*args):
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(build, "assemble", full)
        with pytest.raises(BankError, match="No space left on device"):
            main(wanted)
    assert digests_of(built.bank) == digests_of(few)
    (built.bank / "report.html").write_text("a page about the old one")
    main(wanted)
    assert read_manifest(built.bank).recipe["patch_size"] == 8
    assert read_manifest(built.bank).edits == ()
    assert not (built.bank / "report.html").exists()
    check_whole(built.bank)


# Failed photos


def test_failed_photos_are_tried_again_alone(built, own_data, few):
    data, photos = own_data
    spoilt = [data / photos[1].file, data / photos[5].file]
    good = [path.read_bytes() for path in spoilt]
    spoilt[0].write_bytes(good[0][:-300])
    spoilt[1].unlink()
    bad = replace(built, data=data, out=built.bank.with_name("bad"))
    main(bad)
    assert set(reasons_of(bad.bank)) == {photos[1].image_id, photos[5].image_id}
    before = inodes(bad.bank)

    spoilt[0].write_bytes(good[0])
    with pytest.raises(BankError, match="photos has changed since"):
        main(bad)
    main(replace(bad, retry_failed=True))
    assert reasons_of(bad.bank) == {photos[5].image_id: "photo_missing"}
    spoilt[1].write_bytes(good[1])
    main(replace(bad, retry_failed=True))

    assert reasons_of(bad.bank) == {}
    assert digests_of(bad.bank) == digests_of(few)
    after = inodes(bad.bank)
    assert before.items() <= after.items()
    check_whole(bad.bank)
    main(replace(bad, retry_failed=True))  # nothing to do


def test_photos_that_fail_again_leave_the_bank_as_it_was(built, own_data, capsys):
    data, photos = own_data
    (data / photos[0].file).unlink()
    bad = replace(built, data=data, out=built.bank.with_name("bad"))
    main(bad)
    before = (bad.bank / "manifest.json").read_bytes()
    main(replace(bad, retry_failed=True))
    assert "1 photo tried again, in vain" in capsys.readouterr().out
    assert (bad.bank / "manifest.json").read_bytes() == before
    check_whole(bad.bank)


def test_a_photo_whose_folder_was_never_there_costs_itself_when_it_is_tried_again_too(
    built, own_data, capsys
):
    data, photos = own_data
    for path in (data / "annotations").glob("*_train2017.json"):
        value = json.loads(path.read_text())
        for image in value["images"]:
            if image["id"] == photos[0].image_id:
                image["file_name"] = "nowhere/" + image["file_name"]
        path.write_text(json.dumps(value))
    bad = replace(built, data=data, out=built.bank.with_name("bad"))
    main(bad)
    assert reasons_of(bad.bank) == {photos[0].image_id: "photo_missing"}
    main(replace(bad, retry_failed=True))
    assert "1 photo tried again, in vain" in capsys.readouterr().out


def test_too_many_failures_leave_the_bank_unfinished(built, own_data, few):
    data, photos = own_data
    paths = [data / photo.file for photo in photos[:2]]
    good = [path.read_bytes() for path in paths]
    for path in paths:
        path.unlink()
    bad = replace(built, data=data, out=built.bank.with_name("bad"), max_failures=1)
    with pytest.raises(BankError, match=r"2 photos could not be used \(2 photo_missing\)"):
        main(bad)
    with pytest.raises(BankError, match="did not finish"):
        read_manifest(bad.bank)
    for path, content in zip(paths, good, strict=True):
        path.write_bytes(content)
    main(replace(bad, retry_failed=True))
    assert digests_of(bad.bank) == digests_of(few)


def test_a_photo_that_failed_for_a_moment_is_tried_again_where_that_is_asked_for(
    base, few, tmp_path, monkeypatch
):
    wanted = replace(base, out=tmp_path / "bank", max_failures=0)
    first = read_coco(base.data, limit=FEW).photos[0].photo.file
    read = cutting.read_photo

    def not_there_yet(folder, file, *never_there):
        if file == first:
            raise PhotoError("photo_missing", "no such file")
        return read(folder, file, *never_there)

    with monkeypatch.context() as patch:
        patch.setattr(cutting, "read_photo", not_there_yet)
        with pytest.raises(BankError, match="1 photo could not be used"):
            main(wanted)
    with pytest.raises(BankError, match="1 photo could not be used"):
        main(wanted)  # the file is the same, and so is what is known of it
    main(replace(wanted, retry_failed=True))
    assert digests_of(wanted.bank) == digests_of(few)


def test_photos_in_quarantine_are_no_failures(base, few, tmp_path):
    out = tuple(int(i) for i in Bank.open(few).scene_ids("train")[:2])
    main(replace(base, out=tmp_path / "bank", quarantine=out, max_failures=0))
    assert reasons_of(tmp_path / "bank") == dict.fromkeys(out, "quarantined")


# Photos that kill

KILLER = """
import os, signal, simplejpeg

decode = simplejpeg.decode_jpeg

def decode_or_die(data, *args, **kwargs):
    if b"crashing" in data:
        os.kill(os.getpid(), signal.SIGSEGV)
    return decode(data, *args, **kwargs)

simplejpeg.decode_jpeg = decode_or_die
"""


def build_with_killer(options, folder, *more):
    """The command line, in processes that die over a JPEG that says so."""
    (folder / "sitecustomize.py").write_text(KILLER)
    command = [sys.executable, "-m", "jobs.build_bank", "--dataset", "toy", *more]
    for name in ("data", "out", "limit", "shard_photos", "image_size", "patch_size"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    for name in ("candidates", "graph_encoder", "cooccurrence", "resizer"):
        command += [f"--{name.replace('_', '-')}", str(getattr(options, name))]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_photo_that_crashes_its_worker_is_named_and_may_be_quarantined(
    built, own_data, tmp_path, monkeypatch, workers
):
    data, photos = own_data
    crashing = photos[6]
    path = data / crashing.file
    path.write_bytes(path.read_bytes() + b"crashing")
    # By Pillow: the processes that try photos then start without torch.
    options = replace(built, data=data, out=tmp_path / "new", resizer="pillow")

    if not workers:  # then the build itself crashes
        assert build_with_killer(options, tmp_path).returncode == -11
    done = build_with_killer(options, tmp_path, "--workers", str(workers))
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert f"{crashing.image_id} ({crashing.file}: SIGSEGV)" in line
    assert f"--quarantine {crashing.image_id}" in line
    assert "Traceback" not in done.stderr
    cut = {p.stem for p in (options.bank / "work/receipts").iterdir()}
    assert len(cut) == 6  # all but one of seven

    decode = simplejpeg.decode_jpeg

    def decode_others(data, *args, **kwargs):
        assert b"crashing" not in data
        return decode(data, *args, **kwargs)

    monkeypatch.setattr(simplejpeg, "decode_jpeg", decode_others)
    main(replace(options, quarantine=(crashing.image_id,)))
    assert reasons_of(options.bank) == {crashing.image_id: "quarantined"}
    assert read_manifest(options.bank).recipe["quarantine"] == [crashing.image_id]
    check_whole(options.bank)


def test_of_a_worker_that_was_killed_from_outside_no_photo_is_named(built, own_data, tmp_path, few):
    _, photos = own_data
    options = replace(built, out=tmp_path / "new")
    note = options.bank / "work/attempts/train-00000"
    note.parent.mkdir(parents=True)
    note.write_text(f"{photos[0].image_id:<20}")
    main(options)
    assert digests_of(options.bank) == digests_of(few)


# --quarantine and jobs.edit_bank


def removed(bank, image_ids, **more):
    edit_bank.main(EditBank(bank=bank, remove_photo=tuple(image_ids), **more))


def test_a_photo_that_is_taken_out_is_nowhere_any_more(built, few):
    out = [int(i) for i in Bank.open(few).scene_ids("train")[[1, 2, 7]]]
    pixels = Bank.open(few)
    ids = column(read_table(few / "patches.arrow"), "patch_id")
    theirs = ids[np.isin(image_of(ids), out)]
    traces = [p.tobytes() for p in pixels.patches(theirs)]

    removed(built.bank, out)

    check_whole(built.bank)
    bank = Bank.open(built.bank)
    assert not set(out) & set(bank.scene_ids("train").tolist())
    left = column(read_table(built.bank / "patches.arrow"), "patch_id")
    assert set(left) == set(ids) - set(theirs)
    for name, what in (("features", "feature"), ("cooccurrence", "co_occurrence")):
        now, vectors = read_vectors(built.bank / f"{name}.arrow", what)
        then, before = read_vectors(few / f"{name}.arrow", what)
        np.testing.assert_array_equal(now, left)
        np.testing.assert_array_equal(vectors, before[np.isin(then, left)])
    assert not set(bank.candidates(left).ids.ravel()) & set(theirs)
    assert not set(np.load(built.bank / "index/ids.npy")) & set(theirs)
    for path in built.bank.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            assert not any(trace in data for trace in traces), path
    manifest = read_manifest(built.bank)
    assert manifest.recipe["quarantine"] == out
    assert manifest.edits[0]["photos"] == out
    assert reasons_of(built.bank) == dict.fromkeys(out, "quarantined")


def test_a_bank_without_a_photo_is_a_build_with_that_photo_in_quarantine(built, base, tmp_path):
    out = [int(i) for i in Bank.open(built.bank).scene_ids("train")[[0, 9]]]
    removed(built.bank, out)
    fresh = replace(base, out=tmp_path / "fresh", quarantine=tuple(out))
    main(fresh)
    assert digests_of(built.bank) == digests_of(fresh.bank)
    main(replace(built, quarantine=tuple(out)))  # nothing to do
    main(built)  # they stay out, whether or not they are named


def test_networks_are_trained_anew_where_that_is_asked_for(base, few, tmp_path):
    trained = {"graph_encoder": "train", "cooccurrence": "train"}
    steps = {"encoder_steps": 2, "cooccurrence_steps": 2}
    old = replace(base, out=tmp_path / "old", **trained, **steps)
    main(old)
    out = [int(Bank.open(few).scene_ids("train")[3])]
    fresh = replace(old, out=tmp_path / "fresh", quarantine=tuple(out))
    main(fresh)
    kept = shutil.copytree(old.bank, tmp_path / "kept")
    removed(kept, out)
    removed(old.bank, out, retrain=True)
    assert digests_of(old.bank) == digests_of(fresh.bank)
    assert digests_of(kept)[0] == digests_of(fresh.bank)[0]
    assert digests_of(kept)[1] != digests_of(fresh.bank)[1]
    assert read_manifest(kept).counts == read_manifest(fresh.bank).counts


def test_of_a_bank_older_than_an_option_networks_are_trained_anew_by_its_default(base, tmp_path):
    steps = {"encoder_steps": 2, "cooccurrence_steps": 2}
    old = replace(base, out=tmp_path / "old", cooccurrence="train", graph_encoder="train", **steps)
    main(old)
    out = [int(Bank.open(old.bank).scene_ids("train")[3])]
    aged = shutil.copytree(old.bank, tmp_path / "aged")
    manifest = read_manifest(aged)
    newer = ("graph_encoder", "cooccurrence", "resizer", "seed")
    recipe = {name: value for name, value in manifest.recipe.items() if name not in newer}
    write_manifest(aged, replace(manifest, recipe=recipe))
    for bank in (old.bank, aged):
        removed(bank, out, retrain=True)
    assert digests_of(aged) == digests_of(old.bank)
    assert read_manifest(aged).counts == read_manifest(old.bank).counts
    assert read_manifest(aged).counts["encoder_steps"] == 2
    assert set(read_manifest(aged).recipe) == {*recipe, "quarantine"}
    check_whole(aged)


def test_an_edit_in_place_of_an_unfinished_extension_leaves_nothing_of_it(
    built, base, tmp_path, monkeypatch
):
    def full(*args):
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(build, "assemble", full)
        with pytest.raises(BankError, match="No space left on device"):
            main(replace(built, limit=MORE, mode="extend"))
    shards = read_manifest(built.bank).shards
    assert {p.name for p in (next_version(built.bank) / "patches").iterdir()} - set(shards)
    out = int(Bank.open(built.bank).scene_ids("train")[2])
    removed(built.bank, [out])
    assert {p.name for p in (built.bank / "patches").iterdir()} == set(shards)
    assert {p.stem for p in (built.bank / "scenes").iterdir()} == set(shards)
    check_whole(built.bank)
    fresh = replace(base, out=tmp_path / "fresh", quarantine=(out,))
    main(fresh)
    assert digests_of(built.bank) == digests_of(fresh.bank)


def test_a_photo_that_was_taken_out_is_not_taken_in_again(built, base, more, tmp_path):
    out = int(Bank.open(built.bank).scene_ids("train")[2])
    removed(built.bank, [out])
    main(replace(built, limit=MORE, mode="extend"))
    fresh = replace(base, limit=MORE, out=tmp_path / "fresh", quarantine=(out,))
    main(fresh)
    assert digests_of(built.bank) == digests_of(fresh.bank)
    main(replace(built, limit=MORE, patch_size=8, mode="overwrite"))
    assert out not in Bank.open(built.bank).scene_ids("train")
    check_whole(built.bank)


def test_all_photos_of_a_shard_may_leave(built, base, tmp_path):
    out = [int(i) for i in Bank.open(built.bank).scene_ids("train")[:4]]
    removed(built.bank, out)
    check_whole(built.bank)
    assert not (built.bank / "scenes/train-00000.tar").exists()
    fresh = replace(base, out=tmp_path / "fresh", quarantine=tuple(out))
    main(fresh)
    assert digests_of(built.bank) == digests_of(fresh.bank)


def test_unknown_photos_are_refused_by_name(built):
    before = (built.bank / "manifest.json").read_bytes()
    with pytest.raises(BankError, match="has no photo 987654321"):
        removed(built.bank, [987654321])
    with pytest.raises(UserError, match="--quarantine 987654321: no photo of that image id"):
        main(replace(built, quarantine=(987654321,)))
    with pytest.raises(ValueError, match="at least one image id"):
        EditBank(bank=built.bank, remove_photo=())
    assert (built.bank / "manifest.json").read_bytes() == before
    check_whole(built.bank)


def test_a_photo_that_was_taken_out_before_is_said_to_be(built, capsys):
    out = int(Bank.open(built.bank).scene_ids("val")[0])
    removed(built.bank, [out])
    manifest = (built.bank / "manifest.json").read_bytes()
    removed(built.bank, [out])
    assert f"already taken out: {out}" in capsys.readouterr().out
    assert (built.bank / "manifest.json").read_bytes() == manifest


def test_an_edit_that_was_interrupted_leaves_the_bank_and_can_be_done_again(
    built, few, monkeypatch
):
    out = int(Bank.open(built.bank).scene_ids("train")[2])

    def full(*args):
        raise OSError(28, "No space left on device", "somewhere")

    with monkeypatch.context() as patch:
        patch.setattr(removal, "assemble", full)
        with pytest.raises(BankError, match="No space left on device"):
            removed(built.bank, [out])
    assert digests_of(built.bank) == digests_of(few)
    assert verify(built.bank).damages == ()
    removed(built.bank, [out])
    assert out not in Bank.open(built.bank).scene_ids("train")
    check_whole(built.bank)


def test_a_bank_of_before_photos_arrow_says_what_to_do(built):
    (built.bank / "photos.arrow").unlink()
    with pytest.raises(BankError, match=r"built by an earlier version"):
        removed(built.bank, [1])


def test_no_staging_folder_is_left_behind(built):
    removed(built.bank, [int(Bank.open(built.bank).scene_ids("train")[2])])
    assert not next_version(built.bank).exists()


# Trainings under way


def test_a_run_refuses_in_one_line_a_bank_that_was_extended_under_it(base, built, tmp_path):
    """Also one whose content stays, and whose shards alone are others."""
    run, config = tmp_path / "run", small(image_px=32, steps=2)
    config = replace(config, retrieval=replace(config.retrieval, candidates=5))
    trainer = trainer_of(Bank.open(built.bank), config)
    run.mkdir()
    train(trainer, Bank.open(built.bank), run)
    restore(trainer, Bank.open(built.bank), run)
    main(replace(built, limit=MORE, mode="extend"))
    with pytest.raises(RunError, match=r"was trained on a bank with content digest") as refused:
        restore(trainer, Bank.open(built.bank), run)
    assert "\n" not in str(refused.value)
    other = tmp_path / "other"
    main(replace(base, out=other, shard_photos=5))
    trained_on = checkpoint.read_state(checkpoint.last(run)).bank
    assert Bank.open(other).content_digest == trained_on
    with pytest.raises(RunError, match=r"they would come in another order now; give") as refused:
        restore(trainer, Bank.open(other), run)
    assert "\n" not in str(refused.value)
