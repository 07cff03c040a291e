import numpy as np
import pytest

from bank.bank import Bank
from bank.own_photo import count_from_photos, from_photos, same_photo

# Photos 0, 3, 3, 7: patch ids are the photo's id << 16 and the object's number.
IDS = np.array([0 << 16 | 5, 3 << 16 | 0, 3 << 16 | 65_535, 7 << 16 | 1])


def test_a_patch_is_of_the_photo_that_its_id_begins_with():
    assert from_photos(IDS, np.array([3, 4])).tolist() == [False, True, True, False]
    assert from_photos(IDS.reshape(2, 2), np.array([0])).tolist() == [[True, False], [False, False]]
    assert from_photos(IDS, np.empty(0, np.int64)).tolist() == [False] * 4


@pytest.mark.parametrize(("photos", "count"), [([], 0), ([3], 2), ([0, 7], 2), ([1, 8], 0)])
def test_patches_of_photos_are_counted(photos, count):
    photos = np.array(photos, np.int64)
    assert count_from_photos(IDS, photos) == count == from_photos(IDS, photos).sum()


def test_pairs_of_the_same_photo_are_found_in_any_order():
    random = np.random.default_rng(0)
    asking, offered = random.integers(0, 25, 40), random.permutation(np.arange(60) // 3)
    rows, columns = same_photo(asking, offered)
    found = np.zeros((40, 60), int)
    np.add.at(found, (rows, columns), 1)
    assert (found == (asking[:, None] == offered)).all()


def test_stored_candidates_and_a_search_for_the_same_scene_leave_out_its_photo(toy_bank):
    bank = Bank.open(toy_bank)
    image_id = int(bank.scene_ids("train")[0])
    scene = bank.scene(image_id)
    stored = bank.candidates(scene.patch_ids)
    features = bank.features(scene.patch_ids)
    searched = bank.search(features, scene.objects, bank.num_candidates, exclude_images=[image_id])
    for ids in (stored.ids, searched.ids):
        assert not from_photos(ids, np.array([image_id])).any()
    assert (stored.ids == searched.ids).all()
    anything = bank.search(features, scene.objects, bank.num_candidates)
    assert from_photos(anything.ids, np.array([image_id])).any()
