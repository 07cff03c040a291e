"""Which picture of a photo is shown, and how a sheet is filled."""

import numpy as np
import pytest
from PIL import Image

from bank.bank import Bank
from jobs.show.sheets import BOX_COLOUR, patch_sheet, sources_of


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


def test_the_photo_is_shown_where_it_is_at_hand_else_the_packed_picture(bank, tmp_path):
    patch = int(bank.patch_ids[0])
    (credit,) = bank.credits([patch])
    row = bank.table.take(bank.rows(np.array([patch]))).to_pylist()[0]
    (packed,) = sources_of(bank, [patch], tmp_path)
    assert not packed.original
    path = tmp_path / credit["file"]
    path.parent.mkdir(parents=True)
    Image.new("RGB", (row["source_width"], row["source_height"]), (0, 0, 255)).save(path)
    (shown,) = sources_of(bank, [patch], tmp_path)
    assert shown.original
    assert shown.view.size == packed.view.size
    colours = {colour for _, colour in shown.view.getcolors(1 << 20)}
    assert BOX_COLOUR in colours


def test_a_photo_that_has_changed_since_is_not_shown(bank, tmp_path):
    patch = int(bank.patch_ids[0])
    path = tmp_path / bank.credits([patch])[0]["file"]
    path.parent.mkdir(parents=True)
    Image.new("RGB", (31, 17)).save(path)
    (shown,) = sources_of(bank, [patch], tmp_path)
    assert not shown.original


def test_a_sheet_holds_every_patch_in_rows():
    patches = np.zeros((11, 8, 8, 3), np.uint8)
    one = patch_sheet(patches[:1], ["a"])
    many = patch_sheet(patches, ["a very long label that would run into its neighbour"] * 11)
    assert many.width > 7 * (one.width - 6)
    assert many.height == 2 * (one.height - 6) + 6
