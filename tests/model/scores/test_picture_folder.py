"""Pictures in a folder: which scenes they are of, and that nothing is taken for what it is not."""

import numpy as np
import pytest
from PIL import Image

from model.scores.picture_folder import SHOWN, open_pictures, write_picture
from pipeline.crop import MAX_PIXELS
from pipeline.errors import UserError

HEIGHT, WIDTH = 6, 9


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)


def put(folder, *names, mode="RGB", **settings):
    """Files of these names, each with pixels of its own; returns them by name."""
    pixels = {name: picture(sum(name.encode())) for name in names}
    for name, some in pixels.items():
        Image.fromarray(some).convert(mode).save(folder / name, **settings)
    return pixels


def read(folder, draws):
    """All that the folder has with so many draws."""
    return folder.read(folder.scenes(draws), draws)


def refused(folder, ids, *words):
    with pytest.raises(UserError) as caught:
        read(open_pictures(folder, ids), 1)
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_written_pictures_come_back_in_the_order_of_scenes_and_draws(tmp_path):
    ids = (581929, 7, 139)
    pixels = {(i, draw): picture(i + draw) for i in ids for draw in range(11)}
    for (image_id, draw), some in pixels.items():
        write_picture(tmp_path / "out", image_id, draw, 11, some)

    folder = open_pictures(tmp_path / "out", np.array(ids))

    block = read(folder, 11)
    assert block.dtype == np.uint8
    assert block.shape == (3, 11, HEIGHT, WIDTH, 3)
    wanted = [[pixels[i, draw] for draw in range(11)] for i in sorted(ids)]
    assert np.array_equal(block, wanted)
    first = read(folder, 2)
    assert np.array_equal(first, block[:, :2])
    assert (folder.width, folder.height) == (WIDTH, HEIGHT)


def test_the_one_picture_of_a_scene_has_no_number(tmp_path):
    written = write_picture(tmp_path, 12, 0, 1, picture(1))
    several = [write_picture(tmp_path, 12, draw, 2, picture(2)) for draw in range(2)]
    assert [p.name for p in (written, *several)] == ["12.png", "12_0.png", "12_1.png"]
    assert sorted(tmp_path.iterdir()) == sorted((written, *several))


def test_names_of_other_programs_are_understood(tmp_path):
    pixels = put(tmp_path, "000000000139.png", "285.PNG", "00285_001.png", "0.png")
    put(tmp_path, "000000000724.jpg", "000000000724_01.jpeg", "785_0.JPG", quality=95)
    folder = open_pictures(tmp_path, [139, 285, 724, 785, 0])
    assert {i: len(files) for i, files in folder.files.items()} == {
        0: 1,
        139: 1,
        285: 2,
        724: 2,
        785: 1,
    }
    assert not folder.missing
    assert not folder.extra
    two, jpeg = read(folder, 2)
    assert np.array_equal(two, [pixels["285.PNG"], pixels["00285_001.png"]])
    assert jpeg.shape == (2, HEIGHT, WIDTH, 3)


def test_scenes_with_fewer_draws_are_left_out(tmp_path):
    put(tmp_path, *(f"{i}_{draw}.png" for i in range(1, 8) for draw in range(1 + i % 3)))
    folder = open_pictures(tmp_path, range(1, 8))
    assert folder.scenes(1).tolist() == [*range(1, 8)]
    assert folder.scenes(2).tolist() == [1, 2, 4, 5, 7]
    assert folder.draws == 3
    assert folder.scenes(4).tolist() == []


def test_missing_scenes_and_extra_files_are_counted_and_the_first_are_named(tmp_path):
    put(tmp_path, "3.png", "4_0.png", "4_1.png", "99.png", "3_a.png", "x3.png", "-3.png", "3.gif")
    (tmp_path / "notes\n.txt").write_text("made by another model")
    (tmp_path / "5.png").mkdir()
    folder = open_pictures(tmp_path, range(3, 15))
    assert folder.missing == tuple(range(5, 15))
    expected = {"99.png", "3_a.png", "x3.png", "-3.png", "3.gif", "notes\n.txt", "5.png"}
    assert set(folder.extra) == expected
    lines = folder.notes()
    assert lines[0] == f"{tmp_path}: pictures of 2 of 12 scenes, 1 to 2 of each, 9 x 6 px"
    assert lines[1] == "missing: 10 scenes (5, 6, 7, 8, 9, ...)"
    assert lines[2].startswith("extra: 7 files ('-3.png', '3.gif', '3_a.png', '5.png', '99.png'")
    assert lines[2].count("'") == 2 * SHOWN
    assert not any("\n" in line for line in lines)
    (whole,) = open_pictures(tmp_path, [3]).notes()[:1]
    assert "pictures of 1 of 1 scene, 1 of each" in whole


@pytest.mark.parametrize(
    "names", [("7.png", "7_0.png"), ("7.png", "007.png"), ("7_1.png", "7_01.jpg")]
)
def test_two_files_of_one_scene_and_draw_are_refused(tmp_path, names):
    put(tmp_path, *names)
    refused(tmp_path, [7], "are both draw", "of scene 7", *names)
    put(tmp_path, "8.png")
    assert list(open_pictures(tmp_path, [8]).files) == [8]  # scene 7 was not asked for


def test_pictures_of_another_size_are_refused_before_any_is_scored(tmp_path):
    put(tmp_path, "1.png", "2.png")
    Image.fromarray(picture(1)[:, :5]).save(tmp_path / "3.png")
    with pytest.raises(UserError, match=r"3\.png has 5 x 6 px and 1\.png has 9 x 6"):
        open_pictures(tmp_path, [1, 2, 3])
    assert len(open_pictures(tmp_path, [1, 2]).files) == 2


def test_what_is_no_picture_is_refused_in_one_line(tmp_path):
    put(tmp_path, "1.png")
    whole = (tmp_path / "1.png").read_bytes()
    for name, data in (("2.png", whole[:-40]), ("3.png", b"<html>"), ("4.png", b"")):
        (tmp_path / name).write_bytes(data)
        refused(tmp_path, [1, int(name[0])], name, "cannot be read as a picture")


def test_a_picture_of_too_many_pixels_is_refused_undecoded(tmp_path):
    side = int(MAX_PIXELS**0.5) + 1
    Image.new("1", (side, side)).save(tmp_path / "1.png")
    with pytest.raises(UserError, match="allowed are"):
        open_pictures(tmp_path, [1])


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pixels_are_rgb_without_alpha_whatever_the_file_has(tmp_path, mode):
    pixels = picture(3)
    image = Image.fromarray(pixels).convert(mode)
    if mode == "RGBA":
        image.putalpha(0)
    image.save(tmp_path / "1.png")
    ((read,),) = open_pictures(tmp_path, [1]).read([1], 1)
    wanted = pixels if mode == "RGBA" else np.asarray(image.convert("RGB"))
    assert np.array_equal(read, wanted)


def test_a_folder_without_any_of_the_scenes_says_how_pictures_are_named(tmp_path):
    put(tmp_path, "8.png")
    refused(tmp_path, [7, 9], "no picture of any of the 2 scenes", "<image_id>_<draw>.png")
    refused(tmp_path / "nowhere", [7], "no such folder")


def test_the_sha256_is_of_the_scenes_and_their_pixels_alone(tmp_path):
    for name in ("a", "b", "c"):
        (tmp_path / name).mkdir()
        put(tmp_path / name, "7.png", "8.png")
    digest = open_pictures(tmp_path / "a", [7, 8]).sha256
    (tmp_path / "b" / "7.png").rename(tmp_path / "b" / "007_0.png")
    (tmp_path / "b" / "notes.txt").write_text("made by another model")
    assert open_pictures(tmp_path / "b", [8, 7]).sha256 == digest
    (tmp_path / "c" / "7.png").rename(tmp_path / "c" / "x")
    (tmp_path / "c" / "8.png").rename(tmp_path / "c" / "7.png")
    (tmp_path / "c" / "x").rename(tmp_path / "c" / "8.png")
    assert open_pictures(tmp_path / "c", [7, 8]).sha256 != digest
    (tmp_path / "a" / "8.png").rename(tmp_path / "a" / "9.png")
    assert open_pictures(tmp_path / "a", [7, 9]).sha256 != digest
