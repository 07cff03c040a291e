import tarfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import webdataset
from webdataset import tariterators

from pipeline.files import UNREADABLE
from pipeline.pack import (
    SceneSample,
    read_sample,
    sample_digest,
    sample_from,
    sample_of,
    write_samples,
)
from pipeline.scene import Box, Photo, Relation, Scene, SceneObject

SIDE = 8
HEADER = 128  # bytes, of an array
# Of sample(9): banks that are there say so.
PINNED = "2f12e469b0d632ce2c6b666e38dc0c42dce23a09100fcb138f5cca19696b281b"


def scene(image_id: int, masks: bool = True) -> Scene:
    mask = np.eye(16, dtype=np.uint8) if masks else None
    return Scene(
        Photo(image_id, "a.jpg", 40, 30, "train", "CC BY", "https://example.org"),
        (
            SceneObject(2, "cat", Box(0.1, 0.2, 0.5, 0.7), mask),
            SceneObject(5, "Gra\u00df", Box(0.0, 0.5, 1.0, 1.0), None),
        ),
        (Relation(0, "above", 1),),
    )


def sample(image_id: int, masks: bool = True) -> SceneSample:
    image = np.full((SIDE, SIDE, 3), image_id % 256, np.uint8)
    return sample_of(scene(image_id, masks), image)


def assert_same(a: SceneSample, b: SceneSample) -> None:
    assert (a.image_id, a.objects, a.triples) == (b.image_id, b.objects, b.triples)
    for name in ("image", "boxes", "patch_ids", "masks"):
        x, y = getattr(a, name), getattr(b, name)
        assert (x is None) == (y is None), name
        assert x is None or (np.array_equal(x, y) and x.dtype == y.dtype), name


def with_attributes(image_id: int) -> SceneSample:
    plain = scene(image_id)
    tall = replace(plain.objects[0], attributes=("tall", "grau\u00df"))
    return sample_of(
        replace(plain, objects=(tall, plain.objects[1])), np.zeros((SIDE, SIDE, 3), np.uint8)
    )


def test_attributes_are_packed_where_a_scene_has_some(tmp_path):
    (place,) = write_samples(tmp_path / "a.tar", [with_attributes(9)])
    assert read_sample(tmp_path / "a.tar", place).attributes == (("tall", "grau\u00df"), ())
    assert sample(9).attributes == ()


def test_a_scene_without_attributes_is_what_it_was_before_there_were_any():
    assert sample_digest(sample(9)).hex() == PINNED
    plain = sample(9)
    assert sample_digest(plain._replace(attributes=(("tall",), ()))) != sample_digest(plain)


def test_patch_ids_say_photo_and_object():
    assert sample(9).patch_ids.tolist() == [9 << 16 | 2, 9 << 16 | 5]


def test_an_object_without_a_mask_fills_its_box_where_others_have_masks():
    assert sample(9).masks[1].all()
    assert sample(9, masks=False).masks is None


@pytest.mark.parametrize("masks", [True, False])
def test_what_is_read_from_the_middle_of_a_tar_is_what_was_written(tmp_path, masks):
    written = [sample(i, masks) for i in (7, 300, 12_345)]
    places = write_samples(tmp_path / "a.tar", written)
    for wanted, place in reversed(list(zip(written, places, strict=True))):
        assert_same(read_sample(tmp_path / "a.tar", place), wanted)


def test_a_picture_that_is_not_asked_for_is_not_read(tmp_path):
    (place,) = write_samples(tmp_path / "a.tar", [sample(7)])
    got = read_sample(tmp_path / "a.tar", place, image=False)
    assert got.image.size == 0
    assert got.objects == sample(7).objects


def test_any_webdataset_reader_opens_the_tar(tmp_path):
    written = [sample(7), sample(300)]
    write_samples(tmp_path / "a.tar", written)
    with (tmp_path / "a.tar").open("rb") as file:
        members = tariterators.tar_file_expander([{"url": "a.tar", "stream": file}])
        stream = list(tariterators.group_by_keys(members))
    assert [s["__key__"] for s in stream] == ["7", "300"]
    for members, wanted in zip(stream, written, strict=True):
        assert_same(sample_from(members), wanted)


def test_a_tar_is_what_webdatasets_own_writer_makes_of_the_same_members(tmp_path):
    written = [sample(7), sample(12_345_678_901_234, masks=False), *(sample(i) for i in range(8))]
    write_samples(tmp_path / "ours.tar", written)
    with tarfile.open(tmp_path / "ours.tar") as tar, (tmp_path / "theirs.tar").open("wb") as file:
        writer = webdataset.TarWriter(file, mtime=0, mode=0o444, encoder=False)
        for member in tar:
            key, extension = member.name.split(".", 1)
            writer.write({"__key__": key, extension: tar.extractfile(member).read()})
        writer.close()
    assert (tmp_path / "ours.tar").read_bytes() == (tmp_path / "theirs.tar").read_bytes()


def test_a_tar_says_nothing_of_the_time_or_the_person(tmp_path):
    write_samples(tmp_path / "a.tar", [sample(7)])
    with tarfile.open(tmp_path / "a.tar") as tar:
        for member in tar:
            assert (member.mtime, member.uid, member.gid, member.mode) == (0, 0, 0, 0o444)
            assert (member.uname, member.gname) == ("bigdata", "bigdata")
            assert not member.pax_headers


@pytest.mark.parametrize(
    "change",
    [
        {"image": np.zeros((SIDE, SIDE, 3), np.uint8)},
        {"image_id": 8},
        {"objects": ("dog", "Gra\u00df")},
        {"boxes": np.zeros((2, 4), np.float32)},
        {"triples": (Relation(1, "above", 0),)},
        {"patch_ids": np.array([1, 2])},
        {"masks": None},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_of_a_sample_covers_every_part(change):
    assert sample_digest(sample(7)._replace(**change)) != sample_digest(sample(7))


def test_a_sample_that_was_written_and_read_has_the_same_digest(tmp_path):
    (place,) = write_samples(tmp_path / "a.tar", [sample(7)])
    assert sample_digest(read_sample(tmp_path / "a.tar", place)) == sample_digest(sample(7))


def members_of(path: Path, written: SceneSample) -> dict[str, bytes]:
    (place,) = write_samples(path, [written])
    data = path.read_bytes()
    names = ("json", "npy", "masks.npy")
    return {n: data[m.offset :][: m.size] for n, m in zip(names, place, strict=True)}


def test_whatever_bit_of_a_sample_has_flipped_reading_raises_nothing_else(tmp_path):
    members = members_of(tmp_path / "a.tar", with_attributes(9))
    for name, content in members.items():
        for bit in range(8 * (len(content) if name == "json" else HEADER)):
            flipped = bytearray(content)
            flipped[bit // 8] ^= 1 << bit % 8
            with suppress(*UNREADABLE):
                sample_from({**members, name: bytes(flipped)})


@pytest.mark.parametrize(
    ("name", "written", "other"),
    [
        ("json", b'["cat"', b"[" * 100_000),
        ("json", b'"patch_ids":[', b'"patch_ids":[1000000000000000000000000000000,'),
        ("npy", b"8, 8, 3), }" + b" " * 20, b"1000000000000000000000000000,)}"),
        ("npy", b"8, 8, 3), }", b"8, 8, 3, } "),
    ],
    ids=["deep", "large id", "large shape", "open bracket"],
)
def test_what_a_host_may_have_written_is_unreadable_too(tmp_path, name, written, other):
    members = members_of(tmp_path / "a.tar", sample(9))
    assert written in members[name]
    members[name] = members[name].replace(written, other)
    with pytest.raises(UNREADABLE):
        sample_from(members)
