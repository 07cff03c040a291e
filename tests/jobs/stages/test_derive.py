import shutil

import pytest

from bank.contents import Contents
from bank.errors import BankError
from jobs.stages.derive import Derivation, DeriveOptions, object_features, training_rows
from jobs.stages.receipts import Receipt

OPTIONS = DeriveOptions("train", "train", 1, "train", "train", 1, 20, "category")
PATCH_SIZE = 64


def test_features_made_anew_are_the_same_file(tmp_path, toy_bank):
    bank = tmp_path / "bank"
    shutil.copytree(toy_bank, bank)
    (bank / "features.arrow").unlink()
    object_features(Derivation(Contents(bank, PATCH_SIZE), "", OPTIONS), Receipt("", "", {}))
    assert (bank / "features.arrow").read_bytes() == (toy_bank / "features.arrow").read_bytes()


def test_a_patch_that_no_scene_has_is_an_error_and_gets_no_vector_of_zeros(tmp_path, toy_bank):
    bank = tmp_path / "bank"
    shutil.copytree(toy_bank, bank)
    (bank / "features.arrow").unlink()
    contents = Contents(bank, PATCH_SIZE)
    missing = len(contents.patches_of_images(contents.image_ids[:1])[0])
    contents.image_ids = contents.image_ids[1:]
    contents.scene = lambda image_id, image: Contents(bank, PATCH_SIZE).scene(image_id, image=image)
    with pytest.raises(BankError, match=f"{missing} patches of .* are in no scene"):
        object_features(Derivation(contents, "", OPTIONS), Receipt("", "", {}))
    assert not (bank / "features.arrow").exists()


def test_only_patches_of_training_photos_become_candidates(toy_bank):
    contents = Contents(toy_bank, PATCH_SIZE)
    splits = contents.strings("split")
    assert training_rows(contents).tolist() == [split == "train" for split in splits]
    assert 0 < training_rows(contents).sum() < len(splits)
