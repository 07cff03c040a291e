"""The numbers of a bank that was written so that they are known."""

import hashlib
import json
import random
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from bank import shards as shards_module
from bank import statistics as statistics_module
from bank.bank import Bank
from bank.contents import write_vocabulary
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import Manifest, write_manifest
from bank.quality import QUALITY
from bank.shards import map_size, write_patches
from bank.statistics import (
    EXAMPLES,
    collect_statistics,
    open_checked,
    read_recalls,
    scenes_like_training,
)
from bank.table import PATCHES, SCENES, read_table, write_table
from jobs.build_bank import BuildBank
from jobs.build_bank import main as build_bank
from pipeline.scene import IMAGE, IN_IMAGE, Vocabulary, patch_id
from pipeline.toy.coco import write_toy

WIDTH, HEIGHT = 640, 480  # px, of every photo
K = 2
CC0, BY = "https://creativecommons.org/publicdomain/zero/1.0/", "cc-by"


def picture(seed: int) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    return cells.repeat(8, 0).repeat(8, 1)


def noisy(pixels: np.ndarray) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-2, 3, pixels.shape)
    return np.clip(pixels.astype(int) + noise, 0, 255).astype(np.uint8)


# photo, split, shard, licence: its patches' category, width and height in px, pixels, fallbacks
PHOTOS = (
    (
        (3, "train", "train-00001", BY),
        [
            ("boat", 64, 64, picture(1), 0),
            ("boat", 63, 64, picture(2), 1),
            ("sea", 32, 16, picture(1), 2),  # equal to the first, of the same photo
        ],
    ),
    (
        (5, "train", "train-00000", CC0),
        [("boat", 128, 256, picture(2), 0), ("sky", 640, 480, np.full((64, 64, 3), 9), 2)],
    ),
    ((6, "val", "val-00000", CC0), [("boat", 10, 10, noisy(picture(1)), 0)]),
    ((7, "test", "test-00000", ""), [("kite", 7, 600, picture(8), 1)]),
)
FAILURES = [("box_outside", 4)] + [("photo_missing", None)] * 5


def write_bank(folder: Path) -> Path:
    rows, shards = [], {}
    for (image_id, split, shard, licence), objects in PHOTOS:
        for n, (category, width, height, pixels, _) in enumerate(objects):
            data = np.asarray(pixels, np.uint8).tobytes()
            shards.setdefault(shard, []).append((patch_id(image_id, n), data))
            rows.append(
                {
                    "patch_id": patch_id(image_id, n),
                    "image_id": image_id,
                    "object_index": n,
                    "category": category,
                    "x0": 0.0,
                    "y0": 0.0,
                    "x1": width / WIDTH,
                    "y1": height / HEIGHT,
                    "source_width": WIDTH,
                    "source_height": HEIGHT,
                    "split": split,
                    "licence": licence,
                    "source_url": "",
                    "photo_file": f"{image_id}.jpg",
                    "pixels_sha256": hashlib.sha256(data).digest(),
                }
            )
    for shard, patches in shards.items():
        write_patches(folder / "patches" / shard, patches, map_size(len(patches), 64))
    write_table(folder / "patches.arrow", pa.Table.from_pylist(rows, schema=PATCHES))
    empty = {f.name: b"\0" * 32 if f.name == "sample_sha256" else 0 for f in SCENES}
    scenes = [
        {**empty, "image_id": image_id, "split": split, "shard": shard}
        for (image_id, split, shard, _), _ in PHOTOS
    ]
    write_table(folder / "scenes.index.arrow", pa.Table.from_pylist(scenes, schema=SCENES))
    names = (IMAGE, "sea", "boat", "sky", "kite", "bus")
    write_vocabulary(folder / "vocabulary.json", Vocabulary(names, (IN_IMAGE,)))
    fallbacks = [fallback for _, objects in PHOTOS for *_, fallback in objects]
    candidates = {
        "patch_id": [row["patch_id"] for row in rows],
        "fallback": [[n < fallback for n in range(K)] for fallback in fallbacks],
        "valid": [[True, True]] * (len(rows) - 1) + [[True, False]],
    }
    lists = pa.list_(pa.bool_(), K)
    schema = pa.schema([("patch_id", pa.int64()), ("fallback", lists), ("valid", lists)])
    write_table(folder / "candidates.arrow", pa.table(candidates, schema=schema))
    write_index(folder, {"boat": {"recall": 0.995}, "sea": {"recall": 0.0}, "sky": {}})
    lines = [
        {"image_id": n, "object_index": at, "reason": reason, "detail": "why"}
        for n, (reason, at) in enumerate(FAILURES)
    ]
    (folder / "failures.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    write_manifest_of(folder)
    return folder


def write_index(folder: Path, categories: object) -> None:
    (folder / "index").mkdir(exist_ok=True)
    (folder / "index" / "index.json").write_text(json.dumps({"categories": categories}))


def write_manifest_of(folder: Path) -> None:
    paths = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != "manifest.json")
    recipe = {"image_size": 128, "patch_size": 64, "candidates": K, "candidate_scope": "category"}
    write_manifest(
        folder,
        Manifest(
            dataset="made up",
            recipe=recipe,
            inputs={},
            protocol={},
            counts={},
            left_out={},
            shards={},
            files={p.relative_to(folder).as_posix(): file_digest(p) for p in paths},
            content_digest="a" * 64,
            derived_digest="b" * 64,
            versions={},
        ),
    )


@pytest.fixture
def folder(tmp_path):
    return write_bank(tmp_path / "bank")


@pytest.fixture
def statistics(folder):
    return collect_statistics(open_checked(folder))


def test_patches_are_counted_by_split_and_category(statistics):
    assert (statistics.patches, statistics.photos, statistics.splits) == (7, 4, (5, 1, 1))
    counts = {c.name: (c.splits, c.photos) for c in statistics.categories}
    assert list(counts) == ["sea", "boat", "sky", "kite", "bus"]  # as the vocabulary has them
    assert counts["boat"] == ((3, 1, 0), 3)
    assert counts["kite"] == ((0, 0, 1), 1)
    assert counts["bus"] == ((0, 0, 0), 0)


def test_categories_without_patches_and_with_fewer_than_k_in_training_are_named(statistics):
    assert [c.name for c in statistics.empty] == ["bus"]
    assert [c.name for c in statistics.thin] == ["sea", "sky", "kite"]


def test_a_name_that_only_the_table_has_is_counted_too(folder):
    write_vocabulary(folder / "vocabulary.json", Vocabulary((IMAGE, "sea"), (IN_IMAGE,)))
    write_manifest_of(folder)
    names = [c.name for c in collect_statistics(open_checked(folder)).categories]
    assert sorted(names) == ["boat", "kite", "sea", "sky"]


def test_sizes_are_those_of_the_boxes_in_pixels_of_the_photo(statistics):
    rows = {row.least: (row.under, row.shorter, row.longer) for row in statistics.sizes}
    assert rows == {
        0: (8, 1, 0),
        8: (16, 1, 1),
        16: (32, 1, 0),
        32: (64, 1, 1),
        64: (128, 1, 2),  # a side of just 64 px is not enlarged
        128: (256, 1, 0),
        256: (512, 1, 1),
        512: (None, 0, 2),
    }
    assert statistics.enlarged == pytest.approx(4 / 7)
    assert statistics.wholly_enlarged == pytest.approx(2 / 7)
    boat = next(c for c in statistics.categories if c.name == "boat")
    assert boat.side_px == pytest.approx(np.median([64, (63 * 64) ** 0.5, (128 * 256) ** 0.5, 10]))
    assert statistics.side_px[1] == pytest.approx(64)


def test_licences_are_counted_by_patch_and_by_photo(statistics):
    assert set(statistics.licences) == {(BY, 3, 1), (CC0, 3, 2), ("", 1, 1)}
    assert [patches for _, patches, _ in statistics.licences] == [3, 3, 1]


def test_duplicates_are_counted_by_where_the_other_is(statistics):
    # Equal: the first and third of photo 3; its second and photo 5's first.
    assert tuple(statistics.equal) == (4, 2, 0)
    # Alike as well: photo 6's with the two of photo 3, which are in training.
    assert tuple(statistics.alike) == (5, 5, 1)
    assert statistics.flat == 1
    assert statistics.pairs == ((patch_id(3, 0), patch_id(6, 0)),)
    alike = {c.name: c.alike for c in statistics.categories}
    assert alike == {"sea": 1, "boat": 1, "sky": 0, "kite": 0, "bus": 0}


def test_held_out_scenes_with_a_patch_like_a_training_one_are_named(folder):
    bank = open_checked(folder)
    assert scenes_like_training(bank, "val").tolist() == [6]  # its patch is a noisy training patch
    assert scenes_like_training(bank, "test").tolist() == []


def test_a_held_out_patch_equal_to_a_training_one_names_its_scene_though_it_is_flat(
    tmp_path, monkeypatch
):
    *others, ((image_id, *of_photo), objects) = PHOTOS
    sky = ("sky", 9, 9, np.full((64, 64, 3), 9), 0)
    monkeypatch.setitem(globals(), "PHOTOS", (*others, ((image_id, *of_photo), [*objects, sky])))
    bank = open_checked(write_bank(tmp_path / "bank"))
    assert scenes_like_training(bank, "test").tolist() == [image_id]


def test_held_out_scenes_that_look_like_one_another_are_not_named(tmp_path, monkeypatch):
    kite = ("kite", 9, 9, picture(77), 0)
    more = [(of, [*objects, kite] if of[1] != "train" else objects) for of, objects in PHOTOS]
    monkeypatch.setitem(globals(), "PHOTOS", more)
    bank = open_checked(write_bank(tmp_path / "bank"))
    assert scenes_like_training(bank, "test").tolist() == []


def test_held_out_scenes_whose_photo_is_a_copy_of_a_training_photo_are_named(toy_bank, tmp_path):
    data = tmp_path / "data"
    write_toy(data, train_photos=6, val_photos=8)
    source = min((data / "train2017").iterdir())
    held_out = sorted((data / "val2017").iterdir())
    copied = {"val": held_out[2], "test": held_out[5]}
    for path in copied.values():
        path.write_bytes(source.read_bytes())  # its objects are still where they were
    given = {n: str(toy_bank / f"{n}.safetensors") for n in ("graph_encoder", "cooccurrence")}
    out = tmp_path / "bank"
    build_bank(BuildBank(dataset="toy", data=data, out=out, image_size=32, candidates=2, **given))
    bank = open_checked(out)
    for split, path in copied.items():
        assert scenes_like_training(bank, split).tolist() == [int(path.stem)]


def test_fallback_is_a_fraction_of_the_candidates_that_there_are(statistics):
    assert statistics.fallback == pytest.approx(6 / 13)  # one of the 14 places is padding
    fractions = {c.name: c.fallback for c in statistics.categories}
    assert fractions == {"sea": 1, "boat": 1 / 8, "sky": 1, "kite": 1, "bus": 0}


def write_quality(folder: Path, shares: list[float | None]) -> None:
    ids = read_table(folder / "patches.arrow").column("patch_id")
    sides = pa.nulls(len(ids), pa.float32()).fill_null(9.0)
    table = pa.table([ids, pa.array(shares, pa.float32()), sides, sides], schema=QUALITY)
    write_table(folder / "quality.arrow", table)
    write_manifest_of(folder)


def test_shares_of_masks_are_of_the_patches_whose_share_is_known(folder):
    write_quality(folder, [0.5, None, None, 1, 0, 0.25, None])
    statistics = collect_statistics(open_checked(folder))
    quantiles = np.quantile([0, 0.25, 0.5, 1], (0.1, 0.5, 0.9)).tolist()
    assert statistics.mask_shares == (pytest.approx(quantiles), 3)
    shares = {c.name: c.mask_share for c in statistics.categories}
    # Of the boats 0.5, 1 and 0.25.
    assert shares == {"sea": None, "boat": 0.5, "sky": 0, "kite": None, "bus": None}


def test_without_masks_or_without_the_table_all_shares_are_unknown(folder, statistics):
    assert statistics.mask_shares is None
    assert {c.mask_share for c in statistics.categories} == {None}
    write_quality(folder, [None] * 7)
    assert collect_statistics(open_checked(folder)) == statistics


def test_recall_is_read_where_it_is_recorded_and_exact_where_not(statistics, folder):
    recalls = {c.name: c.recall for c in statistics.categories}
    assert recalls == {"sea": 0, "boat": 0.995, "sky": 1, "kite": None, "bus": None}
    for damaged in ([], {"boat": 3}, {"boat": {"recall": "much"}}):
        write_index(folder, damaged)
        write_manifest_of(folder)
        with pytest.raises(BankError, match=r"index\.json is damaged"):
            read_recalls(Bank.open(folder))


def test_failures_are_counted_by_reason_with_a_few_examples(statistics):
    missing, outside = statistics.failures
    assert (missing.reason, missing.times, statistics.left_out) == ("photo_missing", 5, 6)
    assert missing.examples == tuple(f"photo {n}: why" for n in range(1, EXAMPLES + 1))
    assert outside.examples == ("photo 0, object 4: why",)


def test_the_numbers_do_not_depend_on_how_much_is_read_at_once(statistics, folder, monkeypatch):
    monkeypatch.setattr(statistics_module, "BLOCK", 1)
    assert collect_statistics(open_checked(folder)) == statistics


@pytest.mark.parametrize("seed", range(3))
def test_the_numbers_do_not_depend_on_the_order_of_the_results(statistics, folder, seed):
    def shuffled(function, tasks):
        return map(function, random.Random(seed).sample(tasks, len(tasks)))

    assert collect_statistics(open_checked(folder), shuffled) == statistics


def test_no_shard_is_held_open_after(statistics):
    assert shards_module._environment.cache_info().currsize == 0


@pytest.mark.parametrize(
    "name",
    [
        "patches.arrow",
        "scenes.index.arrow",
        "vocabulary.json",
        "candidates.arrow",
        "index/index.json",
        "failures.jsonl",
        "quality.arrow",
        "patches/val-00000/data.mdb",
    ],
)
def test_a_file_that_has_changed_is_named_before_it_is_read(folder, name):
    write_quality(folder, [0.5] * 7)
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BankError, match=f"{name} is not as it was written"):
        collect_statistics(open_checked(folder))


def test_a_file_of_patches_that_is_gone_is_named(folder):
    bank = open_checked(folder)
    (folder / "patches" / "val-00000" / "data.mdb").unlink()
    with pytest.raises(BankError, match=r"val-00000/data\.mdb cannot be read"):
        collect_statistics(bank)


def test_candidates_of_another_bank_are_refused(folder):
    table = pa.ipc.open_file(folder / "candidates.arrow").read_all()
    write_table(folder / "candidates.arrow", table.slice(1))
    write_manifest_of(folder)
    with pytest.raises(BankError, match="of other patches"):
        collect_statistics(open_checked(folder))


def test_a_built_bank_agrees_with_its_manifest(toy_bank):
    bank = open_checked(toy_bank)
    statistics = collect_statistics(bank)
    assert statistics.patches == bank.manifest.counts["patches"] == len(bank)
    assert statistics.photos == bank.manifest.counts["scenes"]
    assert sum(c.patches for c in statistics.categories) == statistics.patches
    candidates = bank.candidates(bank.patch_ids)
    assert statistics.fallback == pytest.approx(candidates.fallback.sum() / candidates.valid.sum())
    assert {f.reason: f.times for f in statistics.failures} == dict(bank.manifest.left_out)
