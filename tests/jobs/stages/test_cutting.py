import json
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import simplejpeg

from bank.errors import BankError
from bank.table import read_table
from jobs.stages.cut import absent_folders
from jobs.stages.cutting import CropOptions, ShardTask, cut_shard, read_shard_failures
from jobs.stages.receipts import receipt_path
from pipeline import codec
from pipeline.dataset import Dataset
from pipeline.errors import DatasetError
from pipeline.plan import Shard, annotation_digest, write_plan
from pipeline.protocol import state
from pipeline.scene import IMAGE, IN_IMAGE, AnnotatedObject, AnnotatedPhoto, Photo, Vocabulary

W, H = 48, 32
BOXES = ((0, 0, 20, 20), (10, 5, 30, 25), (0, 16, 48, 16))


def annotated(image_id: int, boxes=BOXES, size=(W, H)) -> AnnotatedPhoto:
    photo = Photo(image_id, f"photos/{image_id}.jpg", *size, "train", "CC BY", "https://e.org")
    objects = tuple(AnnotatedObject(i, "cat", tuple(box), None) for i, box in enumerate(boxes))
    return AnnotatedPhoto(photo, objects)


def placed(image_id: int, folder: str, **more: str) -> AnnotatedPhoto:
    """With its photo said to lie in another folder."""
    whole = annotated(image_id)
    return replace(whole, photo=replace(whole.photo, file=f"{folder}/{image_id}.jpg", **more))


def write_photo(folder: Path, image_id: int) -> Path:
    path = folder / "photos" / f"{image_id}.jpg"
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(image_id).integers(0, 256, (H, W, 3), np.uint8)
    path.write_bytes(simplejpeg.encode_jpeg(pixels, colorspace="RGB"))
    return path


def task_for(root: Path, *photos: AnnotatedPhoto, bank: str = "bank") -> ShardTask:
    plan = root / bank / "work/plan/train-00000.json"
    plan.parent.mkdir(parents=True, exist_ok=True)
    write_plan(plan, Shard("train-00000", photos))
    return ShardTask(
        "train-00000", plan, root / "data", root / bank, CropOptions(16, 8, "torch"), {}
    )


def dataset_of(data: Path, *photos: AnnotatedPhoto) -> Dataset:
    names = Vocabulary((IMAGE, "cat"), (IN_IMAGE,))
    protocol = state("some photos", photos, names, rules={}, counts={}, literature={})
    return Dataset("own", str(data), names, photos, {}, protocol)


@pytest.fixture
def data(tmp_path):
    for image_id in (3, 4, 7):
        write_photo(tmp_path / "data", image_id)
    return tmp_path / "data"


def test_a_shard_has_a_patch_for_every_object_of_every_photo(tmp_path, data):
    done = cut_shard(task_for(tmp_path, annotated(3), annotated(4)))
    assert done.receipt.counts == {"photos": 2, "scenes": 2, "patches": 6}
    rows = read_table(tmp_path / "bank/work/shards/train-00000.patches.arrow").to_pylist()
    assert [r["patch_id"] for r in rows] == [i << 16 | o for i in (3, 4) for o in range(3)]
    assert rows[1]["photo_file"] == "photos/3.jpg"
    assert (rows[1]["licence"], rows[1]["source_url"]) == ("CC BY", "https://e.org")
    assert rows[0]["x1"] == pytest.approx(20 / W)


def test_objects_in_any_order_give_the_same_patches(tmp_path, data):
    mixed = annotated(3)
    mixed = AnnotatedPhoto(mixed.photo, mixed.objects[::-1])
    cut_shard(task_for(tmp_path, mixed, bank="mixed"))
    cut_shard(task_for(tmp_path, annotated(3)))
    for path in ("patches/train-00000/data.mdb", "work/shards/train-00000.patches.arrow"):
        assert (tmp_path / "mixed" / path).read_bytes() == (tmp_path / "bank" / path).read_bytes()


def test_each_bad_photo_costs_itself_and_says_why(tmp_path, data):
    good = (data / "photos/3.jpg").read_bytes()
    bad = {
        10: (good[: len(good) // 2], "photo_cut_short"),
        11: (b"this is text", "photo_unreadable"),
        12: (None, "photo_missing"),
        13: (good, "photo_wrong_size"),
        14: (b"", "photo_unreadable"),
    }
    photos = [annotated(3), annotated(13, size=(W + 1, H))]
    photos += [annotated(i) for i in bad if i != 13]
    for image_id, (content, _) in bad.items():
        if content is not None:
            (data / f"photos/{image_id}.jpg").write_bytes(content)
    done = cut_shard(task_for(tmp_path, *sorted(photos, key=lambda p: p.photo.image_id)))
    assert done.receipt.counts == {"photos": 6, "scenes": 1, "patches": 3}
    reasons = {r.image_id: r.reason for r in read_shard_failures(tmp_path / "bank", "train-00000")}
    assert reasons == {image_id: reason for image_id, (_, reason) in bad.items()}


def test_an_object_outside_its_photo_costs_that_object(tmp_path, data):
    boxes = (BOXES[0], (W, 0, 5, 5), (0, 0, 0, 4), BOXES[1])
    done = cut_shard(task_for(tmp_path, annotated(3, boxes)))
    assert done.receipt.counts["patches"] == 2
    left_out = read_shard_failures(tmp_path / "bank", "train-00000")
    assert [(r.object_index, r.reason) for r in left_out] == [
        (1, "box_outside"),
        (2, "box_outside"),
    ]


def test_a_photo_without_a_usable_object_is_left_out(tmp_path, data):
    done = cut_shard(task_for(tmp_path, annotated(3, ((W, H, 5, 5),)), annotated(4)))
    assert done.receipt.counts["scenes"] == 1
    reasons = [r.reason for r in read_shard_failures(tmp_path / "bank", "train-00000")]
    assert reasons == ["box_outside", "no_objects"]


def test_a_shard_whose_photos_are_all_bad_leaves_no_empty_files(tmp_path, data):
    cut_shard(task_for(tmp_path, annotated(99)))
    assert not (tmp_path / "bank/scenes").exists()
    assert not (tmp_path / "bank/patches").exists()
    assert cut_shard(task_for(tmp_path, annotated(99))).fresh is False


@pytest.mark.parametrize("empty", [False, True])
def test_a_lost_photo_folder_stops_the_build(tmp_path, data, empty):
    (data / "photos").rename(data / "elsewhere")
    if empty:
        (data / "photos").mkdir()  # where a disk was mounted
    with pytest.raises(DatasetError, match="is gone"):
        cut_shard(task_for(tmp_path, annotated(3)))
    assert not receipt_path(tmp_path / "bank", "cut-train-00000").exists()


def test_a_folder_never_there_costs_its_photos_and_one_lost_meanwhile_stops(tmp_path, data):
    astray = [placed(5, "photos/more"), placed(6, "https:/e.org")]
    dataset = dataset_of(data, annotated(3), annotated(4), *astray)
    assert absent_folders(dataset) == {"photos/more", "https:/e.org"}
    task = task_for(tmp_path, *dataset.photos)
    with pytest.raises(DatasetError, match="photos/more is gone"):
        cut_shard(task)

    done = cut_shard(replace(task, never_there=("https:/e.org", "photos/more")))

    assert done.receipt.counts["scenes"] == 2
    left_out = read_shard_failures(tmp_path / "bank", "train-00000")
    assert [r.reason for r in left_out] == ["photo_missing"] * 2
    assert left_out[0].detail == "photos/more/5.jpg: no folder photos/more, or an empty one"


def test_where_most_photos_or_a_link_lead_into_nothing_the_build_does_not_begin(tmp_path, data):
    astray = [placed(i, "photos/disk") for i in (5, 6)]
    others = [annotated(i) for i in (3, 4, 7)]
    assert absent_folders(dataset_of(data, *others, *astray)) == {"photos/disk"}
    with pytest.raises(DatasetError, match="1 of the 1 photos for val lie"):
        absent_folders(dataset_of(data, *others, placed(5, "photos/disk", split="val")))
    with pytest.raises(DatasetError, match=r"2 of the 3 photos for train .*photos/disk/5\.jpg"):
        absent_folders(dataset_of(data, annotated(3), *astray))
    (data / "photos/disk").mkdir()
    with pytest.raises(DatasetError, match=r"are not there, or empty, e\.g\. .*photos/disk/5\.jpg"):
        absent_folders(dataset_of(data, annotated(3), *astray))
    (data / "photos/disk").rmdir()
    (data / "photos/disk").symlink_to(tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="mount"):
        absent_folders(dataset_of(data, *others, *astray[1:]))


def test_a_shard_that_is_there_is_not_cut_again(tmp_path, data):
    first = cut_shard(task_for(tmp_path, annotated(3), annotated(4)))
    again = cut_shard(task_for(tmp_path, annotated(3), annotated(4)))
    assert (first.fresh, again.fresh) == (True, False)
    assert first.receipt == again.receipt


def test_a_photo_that_was_mended_is_cut_again(tmp_path, data):
    (data / "photos/3.jpg").write_bytes(b"broken")
    assert cut_shard(task_for(tmp_path, annotated(3))).receipt.counts["patches"] == 0
    write_photo(data, 3)
    mended = cut_shard(task_for(tmp_path, annotated(3)))
    assert mended.fresh
    assert mended.receipt.counts["patches"] == 3


def test_a_damaged_shard_is_cut_again(tmp_path, data):
    first = cut_shard(task_for(tmp_path, annotated(3)))
    (tmp_path / "bank/scenes/train-00000.tar").write_bytes(b"")
    again = cut_shard(task_for(tmp_path, annotated(3)))
    assert again.fresh
    assert again.receipt == first.receipt


def test_a_worker_that_finds_another_answer_than_an_earlier_one_stops_the_build(tmp_path, data):
    task = task_for(tmp_path, annotated(3))
    cut_shard(task)
    path = receipt_path(task.bank, task.stage)
    receipt = json.loads(path.read_bytes())
    receipt["outputs"]["scenes/train-00000.tar"][0] = "0" * 64  # as a broken machine would say
    path.write_text(json.dumps(receipt))
    with pytest.raises(BankError, match=r"came out differently \(scenes/train-00000\.tar\)"):
        cut_shard(task)


def test_nothing_of_an_attempt_is_left_behind(tmp_path, data):
    cut_shard(task_for(tmp_path, annotated(3)))
    assert list((tmp_path / "bank/work/tmp").iterdir()) == []


def test_a_worker_without_the_shared_folder_says_what_it_needs(tmp_path, data):
    task = task_for(tmp_path, annotated(3))
    task.plan.unlink()
    with pytest.raises(BankError, match="same paths as here"):
        cut_shard(task)


def test_a_worker_that_does_not_read_file_names_in_utf_8_refuses(tmp_path, data, monkeypatch):
    monkeypatch.setattr("sys.getfilesystemencoding", lambda: "iso8859-1")
    with pytest.raises(BankError, match=r"takes file names for iso8859-1: .* PYTHONUTF8=1"):
        cut_shard(task_for(tmp_path, annotated(3)))


def test_a_worker_whose_decoder_is_another_refuses(tmp_path, data):
    task = task_for(tmp_path, annotated(3))
    cut_shard(replace(task, codec=codec.answers_with("torch")))
    others = {**codec.answers_with("torch"), "JPEG": "another"}
    with pytest.raises(BankError, match=r"worker on \S+ decodes or resizes otherwise .*\(JPEG\)"):
        cut_shard(replace(task, codec=others))


def test_another_decoder_cuts_again(tmp_path, data):
    task = task_for(tmp_path, annotated(3))
    assert cut_shard(task).fresh
    assert not cut_shard(task).fresh
    assert cut_shard(replace(task, codec=codec.answers_with("torch"))).fresh


def test_what_was_read_is_recorded(tmp_path, data):
    content = (data / "photos/3.jpg").read_bytes()
    (data / "photos/4.jpg").unlink()
    cut_shard(task_for(tmp_path, annotated(3), annotated(4)))
    rows = read_table(tmp_path / "bank/work/shards/train-00000.photos.arrow").to_pylist()
    assert [row["image_id"] for row in rows] == [3, 4]
    assert (rows[0]["bytes"], rows[0]["sha256"]) == (len(content), sha256(content).digest())
    assert (rows[1]["bytes"], rows[1]["sha256"]) == (None, None)
    assert rows[0]["annotation_sha256"] == annotation_digest(annotated(3))
    assert annotation_digest(annotated(3)) != annotation_digest(annotated(3, BOXES[:2]))
