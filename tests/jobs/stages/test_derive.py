import shutil
from dataclasses import replace

import numpy as np
import pytest

from bank.contents import Contents
from bank.errors import BankError
from jobs.stages.derive import (
    Derivation,
    DeriveOptions,
    cooccurrence_network,
    graph_encoder,
    nearest_candidates,
    object_features,
    training_rows,
)
from jobs.stages.receipts import WORK, Receipt
from model import frozen

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
    with pytest.raises(BankError, match=f"has {missing} patches in no scene"):
        object_features(Derivation(contents, "", OPTIONS), Receipt("", "", {}))
    assert not (bank / "features.arrow").exists()


def test_only_patches_of_training_photos_become_candidates(toy_bank):
    contents = Contents(toy_bank, PATCH_SIZE)
    splits = contents.strings("split")
    assert training_rows(contents).tolist() == [split == "train" for split in splits]
    assert 0 < training_rows(contents).sum() < len(splits)


@pytest.mark.parametrize("network", [graph_encoder, cooccurrence_network])
def test_a_network_whose_training_was_stopped_comes_out_as_if_it_was_not(
    tmp_path, toy_bank, network, monkeypatch
):
    """What decides the derived digest."""
    options = replace(OPTIONS, encoder_steps=4, cooccurrence_steps=4)
    whole = bank_of(tmp_path / "whole", toy_bank, options)
    receipt = network(whole)
    save = frozen.SavedTraining.save
    steps = []

    def save_and_stop(self, step, *networks):
        save(self, step, *networks)
        steps.append(step)
        if len(steps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(frozen, "SAVE_EVERY_S", 0.0)
    monkeypatch.setattr(frozen.SavedTraining, "save", save_and_stop)
    stopped = bank_of(tmp_path / "stopped", toy_bank, options)
    with pytest.raises(KeyboardInterrupt):
        network(stopped)
    assert network(stopped).outputs == receipt.outputs
    assert steps == [1, 2, 3, 4]
    left = [path.name for path in stopped.bank.iterdir() if path.name.endswith(".safetensors")]
    assert left == list(receipt.outputs)  # the state lies in the work folder


def test_a_stage_is_done_again_for_other_inputs_and_candidates_for_other_equal_files(
    tmp_path, toy_bank
):
    features = Receipt("", "", {})
    made = bank_of(tmp_path / "bank", toy_bank, OPTIONS)
    keys = [nearest_candidates(made, features).key]
    keys.append(nearest_candidates(made, features).key)
    twice = Contents(made.bank, PATCH_SIZE)
    twice.photos = np.where(twice.photos == twice.photos[1], twice.photos[0], twice.photos)
    keys.append(nearest_candidates(replace(made, contents=twice), features).key)
    fewer = replace(made, options=replace(OPTIONS, candidates=3))
    keys.append(nearest_candidates(fewer, features).key)
    assert len(set(keys)) == 3
    assert keys[0] == keys[1]


def test_a_training_that_was_saved_by_other_code_is_not_gone_on_with(
    tmp_path, toy_bank, monkeypatch
):
    made = bank_of(tmp_path / "bank", toy_bank, OPTIONS)
    before = made.training("cooccurrence", []).key
    assert made.training("cooccurrence", []).key == before
    assert made.training("cooccurrence", [1]).key != before
    monkeypatch.setattr("jobs.stages.derive.code_digest", lambda *_: "of another version")
    assert made.training("cooccurrence", []).key != before


def bank_of(folder, toy_bank, options):
    shutil.copytree(toy_bank, folder)
    for path in folder.glob("*.safetensors"):
        path.unlink()
    (folder / WORK).mkdir()
    return Derivation(Contents(folder, PATCH_SIZE), "", options)
