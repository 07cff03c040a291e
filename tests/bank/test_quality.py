"""Shares and sides of patches whose masks and boxes are known, and of a built bank's."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from bank.bank import Bank
from bank.contents import Contents, write_vocabulary
from bank.errors import BankError
from bank.files import file_digest
from bank.manifest import derived_digest, read_manifest, write_manifest
from bank.quality import QUALITY, join_quality, quality_rows
from bank.table import PATCHES, SCENES, read_table, scene_row, write_table
from bank.verify import verify
from pipeline.pack import Member, SceneSample, write_samples
from pipeline.scene import IMAGE, IN_IMAGE, Box, Vocabulary, patch_id

WIDTH, HEIGHT = 640, 480  # px, of every photo
# photo: of its objects, the number in the photo, width and height in px, and how many of the 256
# cells of the mask are set
OBJECTS = {
    3: [(0, 64, 48, 256), (2, 63, 10, 0), (7, 320, 480, 96)],
    5: [(1, 1, 2, None), (4, 640, 480, None)],
    8: [(0, 100, 33, 1)],
}


def mask(cells):
    return (np.arange(256) < cells).reshape(16, 16).astype(np.uint8)


def sample(image_id):
    """Its objects in falling order: their rows are to come by rising patch id."""
    objects = OBJECTS[image_id][::-1]
    # At the lower right: what float32 leaves of x1 - x0 is not a whole number of pixels.
    boxes = [[1 - width / WIDTH, 1 - height / HEIGHT, 1, 1] for _, width, height, _ in objects]
    cells = [cells for *_, cells in objects]
    return SceneSample(
        image=np.zeros((4, 4, 3), np.uint8),
        image_id=image_id,
        objects=("boat",) * len(objects),
        boxes=np.array(boxes, np.float32),
        triples=(),
        patch_ids=np.array([patch_id(image_id, number) for number, *_ in objects]),
        masks=None if None in cells else np.stack([mask(n) for n in cells]),
    )


@pytest.fixture
def contents(tmp_path):
    """A bank's tables and scenes; their pictures lie where nothing can be read."""
    (tmp_path / "scenes").mkdir()
    samples = [sample(image_id) for image_id in OBJECTS]
    places = write_samples(tmp_path / "scenes" / "train-00000.tar", samples)
    rows = [
        scene_row(s, "train", "train-00000", place._replace(image=Member(1 << 40, 9)))
        for s, place in zip(samples, places, strict=True)
    ]
    write_table(tmp_path / "scenes.index.arrow", pa.Table.from_pylist(rows, SCENES))
    empty = {f.name: "" if pa.types.is_string(f.type) else 0 for f in PATCHES}
    size = {"source_width": WIDTH, "source_height": HEIGHT, "pixels_sha256": bytes(32)}
    patches = [
        {**empty, **size, "patch_id": identity, **Box(*box)._asdict()}
        for s in samples
        for identity, box in zip(s.patch_ids.tolist(), s.boxes.tolist(), strict=True)
    ]
    table = pa.Table.from_pylist(patches, PATCHES).sort_by("patch_id")
    write_table(tmp_path / "patches.arrow", table)
    write_vocabulary(tmp_path / "vocabulary.json", Vocabulary((IMAGE, "boat"), (IN_IMAGE,)))
    return Contents(tmp_path, 64)


def test_rows_say_what_masks_and_boxes_are_known_to_be(contents):
    table = quality_rows(contents, np.array([8, 3, 5]))
    assert table.schema == QUALITY
    assert [tuple(row.values()) for row in table.to_pylist()] == [
        (patch_id(image_id, number), cells if cells is None else cells / 256, width, height)
        for image_id, objects in OBJECTS.items()
        for number, width, height, cells in objects
    ]


def test_a_block_is_of_its_own_scenes(contents):
    (row,) = quality_rows(contents, np.array([8])).to_pylist()
    assert row["patch_id"] == patch_id(8, 0)
    with pytest.raises(BankError, match="no scene 4 "):
        quality_rows(contents, np.array([3, 4]))


def joined(contents, folder, size):
    """The bytes of quality.arrow made of blocks of so many scenes."""
    folder.mkdir()
    parts = []
    for start in range(0, len(contents.image_ids), size):
        parts.append(folder / f"{start}.part")
        write_table(parts[-1], quality_rows(contents, contents.image_ids[start : start + size]))
    join_quality(folder / "quality.arrow", parts)
    assert {path.suffix for path in folder.iterdir()} == {".part", ".arrow"}
    return (folder / "quality.arrow").read_bytes()


@pytest.mark.parametrize("size", [1, 2])
def test_the_bytes_do_not_show_the_blocks_where_some_shares_are_unknown(contents, tmp_path, size):
    blocks, whole = (joined(contents, tmp_path / f"by-{n}", n) for n in (size, 3))
    assert blocks == whole
    table = read_table(tmp_path / f"by-{size}" / "quality.arrow")
    assert table.equals(quality_rows(contents, contents.image_ids))
    assert table.column("patch_id").num_chunks == 1


@pytest.mark.parametrize("size", [1, 7, 99, 100])
def test_the_bytes_of_a_built_banks_quality_do_not_show_the_blocks(toy_bank, tmp_path, size):
    contents = Bank.open(toy_bank).contents
    assert joined(contents, tmp_path / "blocks", size) == (
        (toy_bank / "quality.arrow").read_bytes()
    )


def test_a_bank_gives_what_its_scenes_and_boxes_say(toy_bank):
    bank = Bank.open(toy_bank)
    first, last = (bank.scene(int(i)) for i in bank.contents.image_ids[[0, -1]])
    ids = np.concatenate([last.patch_ids, first.patch_ids])
    quality = bank.quality(ids)
    masks = np.concatenate([last.masks, first.masks])
    assert quality.mask_share.tolist() == [m.sum() / 256 for m in masks]
    rows = bank.table.take(bank.rows(ids)).to_pylist()
    assert quality.width_px.tolist() == pytest.approx(
        [(row["x1"] - row["x0"]) * row["source_width"] for row in rows], abs=0.01
    )
    assert quality.height_px.tolist() == pytest.approx(
        [(row["y1"] - row["y0"]) * row["source_height"] for row in rows], abs=0.01
    )


def test_ids_may_have_any_shape_and_padding_is_unknown(toy_bank):
    bank = Bank.open(toy_bank)
    ids = np.array([[bank.patch_ids[9], -1], [-1, bank.patch_ids[4]]])
    quality = bank.quality(ids)
    flat = bank.quality(bank.patch_ids[[9, 4]])
    for found, wanted, padding in zip(quality, flat, (np.nan, 0, 0), strict=True):
        assert found.dtype == np.float32
        assert found.diagonal().tolist() == wanted.tolist()
        assert np.array_equal(found[[0, 1], [1, 0]], [padding] * 2, equal_nan=True)
    with pytest.raises(BankError, match="no patch 12 "):
        bank.quality(np.array([12]))


def test_an_unknown_share_is_nan(toy_bank, tmp_path):
    folder = shutil.copytree(toy_bank, tmp_path / "bank")
    table = read_table(folder / "quality.arrow")
    shares = pa.array([None, *table["mask_share"].to_pylist()[1:]], pa.float32())
    write_table(folder / "quality.arrow", table.set_column(1, "mask_share", shares))
    manifest = read_manifest(folder)
    digest = file_digest(folder / "quality.arrow")
    write_manifest(folder, replace(manifest, files={**manifest.files, "quality.arrow": digest}))
    bank = Bank.open(folder)
    assert np.isnan(bank.quality(bank.patch_ids).mask_share).nonzero()[0].tolist() == [0]


@pytest.fixture
def without(toy_bank, tmp_path):
    """A bank of before quality.arrow."""
    folder = shutil.copytree(toy_bank, tmp_path / "bank")
    (folder / "quality.arrow").unlink()
    manifest = read_manifest(folder)
    files = {path: d for path, d in manifest.files.items() if path != "quality.arrow"}
    write_manifest(folder, replace(manifest, files=files))
    return folder


def test_a_bank_without_the_table_opens_and_says_how_to_get_it(without):
    bank = Bank.open(without)
    assert bank.patches(bank.patch_ids[:1]).any()
    with pytest.raises(BankError, match=r"has no quality\.arrow: .* --mode overwrite"):
        bank.quality(bank.patch_ids)


def test_a_table_of_other_patches_is_refused(toy_bank, tmp_path):
    folder = shutil.copytree(toy_bank, tmp_path / "bank")
    write_table(folder / "quality.arrow", read_table(folder / "quality.arrow").slice(1))
    bank = Bank(folder, read_manifest(folder))
    with pytest.raises(BankError, match=r"quality\.arrow is of other patches"):
        bank.quality(bank.patch_ids[:1])


def test_the_table_is_in_neither_digest(toy_bank, without):
    files = read_manifest(toy_bank).files
    assert "quality.arrow" in files
    assert derived_digest(files) == derived_digest(read_manifest(without).files)
    assert verify(toy_bank) == verify(without)
    assert verify(toy_bank).damages == ()
