"""Which patch and which image stand where in a grid."""

import numpy as np

from model.image_grid import GAP, images_side_by_side, patches_and_images

SIDE = 20
CELL = SIDE + GAP
HALF = (SIDE - GAP) // 2


def flat(*colours):
    """A stack of images of one colour each."""
    return np.stack([np.full((6, 6, 3), colour, np.uint8) for colour in colours])


def test_images_stand_side_by_side_a_row_per_scene_a_column_per_kind():
    sheet = np.asarray(images_side_by_side([flat(10, 20, 30), flat(40, 50, 60)], SIDE))
    assert sheet.shape == (3 * CELL, 2 * CELL, 3)
    for row in range(3):
        for column, colours in enumerate([(10, 20, 30), (40, 50, 60)]):
            top, left = row * CELL, column * CELL
            assert (sheet[top : top + SIDE, left : left + SIDE] == colours[row]).all()
            assert (sheet[top + SIDE : top + CELL, left : left + SIDE] == 255).all()


def test_the_patches_of_a_scene_stand_before_its_images_two_to_a_column():
    patches = flat(1, 2, 3, 4)
    grid = patches_and_images([0, 0, 0, 1], patches, [flat(10, 20), flat(40, 50)], SIDE)
    sheet = np.asarray(grid)
    across = 2 * (HALF + GAP)  # of three patches, two to a column
    assert sheet.shape == (2 * CELL, across + 2 * CELL, 3)

    def cell(top, left, side):
        values = np.unique(sheet[top : top + side, left : left + side])
        return int(values[0]) if len(values) == 1 else None

    below, right = HALF + GAP, HALF + GAP
    assert [cell(0, 0, HALF), cell(below, 0, HALF), cell(0, right, HALF)] == [1, 2, 3]
    assert cell(below, right, HALF) == 255
    assert [cell(CELL, 0, HALF), cell(CELL + below, 0, HALF)] == [4, 255]
    for row in range(2):
        images = [cell(row * CELL, across + i * CELL, SIDE) for i in range(2)]
        assert images == [[10, 40], [20, 50]][row]
