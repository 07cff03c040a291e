"""Which picture of a photo is shown, and how a sheet is filled."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from bank.bank import Bank
from bank.manifest import read_manifest, write_manifest
from jobs.show.sheets import BOX_COLOUR, CELL, _wrapped, patch_sheet, photos_folder, sources_of


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture
def patch(bank):
    return int(bank.patch_ids[0])


def packed_view(bank, patch):
    (packed,) = sources_of(bank, [patch], None)
    assert not packed.original
    return packed.view


def test_the_photo_is_shown_where_it_is_at_hand_else_the_packed_picture(
    bank, patch, toy_data, tmp_path
):
    (packed,) = sources_of(bank, [patch], tmp_path)
    assert not packed.original
    (shown,) = sources_of(bank, [patch], toy_data)
    assert shown.original
    assert shown.view.size == packed.view.size
    colours = {colour for _, colour in shown.view.getcolors(1 << 20)}
    assert BOX_COLOUR in colours


def test_a_photo_of_another_dataset_with_the_same_name_and_size_is_not_shown(bank, patch, tmp_path):
    row = bank.table.take(bank.rows(np.array([patch]))).to_pylist()[0]
    path = tmp_path / bank.credits([patch])[0]["file"]
    path.parent.mkdir(parents=True)
    size = (row["source_width"], row["source_height"])
    for other in (Image.new("RGB", size, (255, 0, 255)), Image.new("RGB", (31, 17))):
        other.save(path)
        (shown,) = sources_of(bank, [patch], tmp_path)
        assert not shown.original
        assert np.array_equal(shown.view, packed_view(bank, patch))


def test_the_photos_of_a_bank_that_has_no_digests_of_them_are_not_shown(
    toy_bank, patch, toy_data, tmp_path
):
    older = tmp_path / "bank"
    shutil.copytree(toy_bank, older)
    bank = Bank.open(older)
    (older / "photos.arrow").unlink()
    (shown,) = sources_of(bank, [patch], toy_data)
    assert not shown.original


def test_photos_are_looked_for_where_the_bank_s_build_did(toy_bank, tmp_path, monkeypatch):
    other = shutil.copytree(toy_bank, tmp_path / "bank")
    manifest = read_manifest(other)
    write_manifest(other, replace(manifest, recipe={**manifest.recipe, "toy_photos": 100}))
    monkeypatch.chdir(tmp_path)
    Path("data/toy").mkdir(parents=True)
    assert photos_folder(Bank.open(other), None) is None
    Path("data/toy-100").mkdir()
    assert photos_folder(Bank.open(other), None) == Path("data/toy-100")
    assert photos_folder(Bank.open(toy_bank), None) == Path("data/toy")


def test_a_sheet_holds_every_patch_in_rows():
    patches = np.zeros((11, 8, 8, 3), np.uint8)
    one = patch_sheet(patches[:1], ["a"])
    many = patch_sheet(patches, ["a"] * 11)
    assert many.width > 7 * (one.width - 6)
    assert many.height == 2 * (one.height - 6) + 6


@pytest.mark.parametrize(
    ("label", "lines"),
    [
        ("motorcycle (here: bus)\n123", ["motorcycle (here:", "bus)", "123"]),
        ("", [""]),
        ("train2017/000000581929.jpg", ["train2017/0000005", "81929.jpg"]),
        ("a 0123456789012345678901 b", ["a", "0123456789012345", "678901 b"]),
    ],
)
def test_a_caption_is_wrapped_and_loses_nothing(label, lines):
    font = ImageFont.load_default(size=11)
    wrapped = _wrapped(label, font, CELL)
    assert all(font.getlength(line) <= CELL for line in wrapped)
    assert "".join(wrapped).replace(" ", "") == label.replace(" ", "").replace("\n", "")
    assert wrapped == lines


def test_a_sheet_has_room_for_the_lines_of_its_longest_caption():
    patches = np.zeros((2, 8, 8, 3), np.uint8)
    short = patch_sheet(patches, ["a", "b"])
    long = patch_sheet(patches, ["a", "motorcycle (here: bus)"])
    assert long.width == short.width
    added = np.asarray(long)[short.height - 6 :]
    assert added.shape[0] == 14 + 6
    assert added.min() < 100  # "bus)"
