"""Patches pasted into their boxes."""

import numpy as np
import torch
from PIL import Image

from model.padding import padding_of
from model.scores.canvas import GREY, paste, pixels_of

P, PX = 8, 16


def plain(*values):
    """A patch of one grey each."""
    return torch.tensor(values, dtype=torch.uint8)[:, None, None, None].expand(-1, P, P, 3)


def boxes(*corners):
    return torch.tensor(corners) / PX


def one_image(objects):
    return padding_of(torch.zeros(objects, dtype=torch.long), 1)


def test_a_patch_fills_its_box_and_the_rest_is_grey():
    canvas = paste(plain(200), boxes([2, 3, 10, 7]), one_image(1), PX)
    expected = torch.full((1, PX, PX, 3), GREY, dtype=torch.uint8)
    expected[0, 3:7, 2:10] = 200
    assert torch.equal(canvas, expected)


def test_a_smaller_patch_lies_before_a_larger_one_in_whatever_order_they_come():
    large, small = [0, 0, 16, 8], [4, 2, 8, 14]
    for order in ([0, 1], [1, 0]):
        patches, where = plain(10, 90)[order], boxes(large, small)[order]
        canvas = paste(patches, where, one_image(2), PX)[0, :, :, 0]
        assert (canvas[2:14, 4:8] == 90).all()
        assert (canvas[:8, [0, 3, 8, 15]] == 10).all()
        assert (canvas[14:] == GREY).all()


def test_of_two_equally_large_ones_the_later_lies_before():
    canvas = paste(plain(10, 90), boxes([0, 0, 8, 8], [4, 0, 12, 8]), one_image(2), PX)
    assert canvas[0, 0, [0, 4, 11], 0].tolist() == [10, 90, 90]


def test_each_patch_goes_to_its_own_image():
    image = torch.tensor([0, 1, 1])
    where = boxes([0, 0, 4, 4], [0, 0, 4, 4], [8, 8, 12, 12])
    canvas = paste(plain(1, 2, 3), where, padding_of(image, 3), PX)
    assert canvas.shape == (3, PX, PX, 3)
    assert [canvas[i, 0, 0, 0].item() for i in range(3)] == [1, 2, GREY]
    assert [canvas[i, 8, 8, 0].item() for i in range(3)] == [GREY, 3, GREY]


def test_a_patch_of_the_box_s_size_keeps_its_pixels_and_a_smaller_box_averages_them():
    random = torch.Generator().manual_seed(0)
    patch = torch.randint(0, 256, (1, P, P, 3), generator=random, dtype=torch.uint8)
    same = paste(patch, boxes([4, 5, 4 + P, 5 + P]), one_image(1), PX)[0, 5 : 5 + P, 4 : 4 + P]
    assert torch.equal(same, patch[0])
    stripes = torch.zeros(1, P, P, 3, dtype=torch.uint8)
    stripes[:, ::2] = 255  # without antialiasing some rows would be white or black
    small = paste(stripes, boxes([0, 0, 2, 2]), one_image(1), PX)[0, :2, :2]
    assert ((small > 100) & (small < 155)).all()
    pillow = Image.fromarray(patch[0].numpy()).resize((5, 3), Image.Resampling.BILINEAR)
    ours = paste(patch, boxes([1, 2, 6, 5]), one_image(1), PX)[0, 2:5, 1:6].numpy()
    assert np.abs(ours.astype(int) - np.asarray(pillow)).max() <= 1


def test_corners_are_rounded_stay_inside_and_at_least_a_pixel_apart():
    found = pixels_of(
        boxes(
            [1.4, 2.6, 4.6, 5.4],
            [-3.0, -1.0, 20.0, 2.0],
            [5.2, 5.2, 5.3, 5.3],
            [15.9, 15.9, 16.0, 16.0],
            [18.0, -9.0, 20.0, -2.0],
            [8.0, 8.0, 3.0, 3.0],
        ),
        PX,
    )
    assert found.tolist() == [
        [1, 3, 5, 5],
        [0, 0, 16, 2],
        [5, 5, 6, 6],
        [15, 15, 16, 16],
        [15, 0, 16, 1],
        [8, 8, 9, 9],
    ]
