import pytest

from pipeline.dataset import Dataset
from pipeline.errors import DatasetError
from pipeline.plan import plan_shards, read_plan, write_plan
from pipeline.scene import (
    IMAGE,
    IN_IMAGE,
    AnnotatedObject,
    AnnotatedPhoto,
    Photo,
    Vocabulary,
)


def photo(image_id, split="train", object_indices=(0, 3)):
    rle = {"counts": "abc", "size": [30, 40]}
    objects = tuple(AnnotatedObject(i, "cat", (1.5, 2, 3, 4), rle) for i in object_indices)
    return AnnotatedPhoto(Photo(image_id, f"{image_id}.jpg", 40, 30, split, "", ""), objects)


def dataset(*photos):
    return Dataset("some", ".", Vocabulary((IMAGE, "cat"), (IN_IMAGE,)), photos, {}, None)


def test_shards_are_runs_of_photos_by_id_within_a_split():
    photos = [photo(i) for i in (5, 1, 9, 3)] + [photo(4, "val")]
    shards = list(plan_shards(dataset(*photos), 3))
    assert [s.name for s in shards] == ["train-00000", "train-00001", "val-00000"]
    assert [[p.photo.image_id for p in s.photos] for s in shards] == [[1, 3, 5], [9], [4]]


def test_a_plan_that_was_written_and_read_is_the_same(tmp_path):
    (shard,) = plan_shards(dataset(photo(1), photo(2)), 9)
    write_plan(tmp_path / "plan.json", shard)
    assert read_plan(tmp_path / "plan.json") == shard.photos


@pytest.mark.parametrize(
    ("photos", "message"),
    [
        ([photo(1), photo(1, "val")], "image id 1 belongs to 2 photos"),
        ([photo(-1)], "image id -1 is not between"),
        ([photo(1 << 47)], "is not between"),
        ([photo(1, object_indices=(2, 2))], "repeat or exceed"),
        ([photo(1, object_indices=(1 << 16,))], "repeat or exceed"),
    ],
)
def test_ids_that_would_collide_are_refused(photos, message):
    with pytest.raises(DatasetError, match=message):
        list(plan_shards(dataset(*photos), 9))
