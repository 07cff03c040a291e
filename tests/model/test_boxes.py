"""Cutting out boxes and pasting into them, against F.grid_sample and by hand."""

import pytest
import torch
from torch.nn import functional as F

from model.boxes import covered, crop, overlaps, paste

WHOLE = [0.0, 0.0, 1.0, 1.0]
BOXES = torch.tensor(
    [
        WHOLE,
        [0.13, 0.22, 0.71, 0.93],
        [0.5, 0.0, 1.0, 0.5],  # touches two borders
        [-0.3, 0.2, 0.6, 1.4],  # reaches outside
        [1.1, 1.2, 1.5, 1.3],  # lies outside
        [0.4999, 0.1, 0.5004, 0.9],  # thin, a cell in it where cells lie on the edges
        [0.4, 0.6, 0.4, 0.6],  # a point
        [0.83, 0.7, 0.21, 0.1],  # sides swapped, as they may be predicted
    ]
)
IMAGE = torch.tensor([0, 1, 1, 0, 1, 0, 1, 0])


def by_grid(sources, x, y, **rule):
    """sources (B, C, H, W) at x, y (B, side), a side being from -1 to 1."""
    side = x.shape[1]
    grid = torch.stack([x[:, None].expand(-1, side, -1), y[:, :, None].expand(-1, -1, side)], -1)
    return F.grid_sample(sources, grid, **rule)


def crop_by_grid(images, boxes, image, side, align_corners):
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    if align_corners:
        at = torch.linspace(0, 1, side)[None, :, None]
        rule = {"align_corners": True, "padding_mode": "zeros"}
        points = low * (1 - at) + high * at
    else:
        at = (torch.arange(side)[None, :, None] + 0.5) / side
        rule = {"align_corners": False, "padding_mode": "border"}
        points = (low + high) / 2 + (at - 0.5) * (high - low).clamp_min(1 / images.shape[-1])
    return by_grid(images[image], *(points * 2 - 1).unbind(-1), **rule)


def paste_by_grid(maps, boxes, side, align_corners):
    low, high = boxes[:, None, :2], boxes[:, None, 2:]
    if align_corners:
        cells = torch.linspace(0, 1, side)[None, :, None]
        extent = torch.where((high - low).abs() < 1e-6, 1e-6, high - low)
        x, y = ((cells - low) / extent * 2 - 1).unbind(-1)
        return by_grid(maps, x, y, align_corners=True, padding_mode="zeros")
    cells = (torch.arange(side)[None, :, None] + 0.5) / side
    x, y = ((cells - (low + high) / 2) / (high - low).clamp_min(1 / side) * 2).unbind(-1)
    inside = (y.abs() <= 1)[:, None, :, None] & (x.abs() <= 1)[:, None, None]
    return by_grid(maps, x, y, align_corners=False, padding_mode="border") * inside


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize("side", [1, 3, 12])
def test_a_crop_and_its_gradient_are_those_of_grid_sample(align_corners, side):
    torch.manual_seed(side)
    images = torch.randn(2, 3, 6, 8, requires_grad=True)
    crops = crop(images, BOXES, IMAGE, side, align_corners=align_corners)
    expected = crop_by_grid(images, BOXES, IMAGE, side, align_corners)
    assert crops.shape == (8, 3, side, side)
    torch.testing.assert_close(crops, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(crops)
    found, wanted = (torch.autograd.grad(each, images, weights)[0] for each in (crops, expected))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("align_corners", [True, False])
@pytest.mark.parametrize(("size", "side"), [(1, 6), (4, 1), (4, 9), (9, 4)])
def test_what_is_pasted_and_its_gradient_are_those_of_grid_sample(align_corners, size, side):
    torch.manual_seed(side)
    maps = torch.randn(8, 3, size + 2, size, requires_grad=True)
    pasted = paste(maps, BOXES, side, align_corners=align_corners)
    expected = paste_by_grid(maps, BOXES, side, align_corners)
    assert pasted.shape == (8, 3, side, side)
    torch.testing.assert_close(pasted, expected, atol=1e-5, rtol=1e-5)
    weights = torch.randn_like(pasted)
    found, wanted = (torch.autograd.grad(each, maps, weights)[0] for each in (pasted, expected))
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def test_cells_are_at_their_centres_or_their_corners_on_the_edges():
    """By hand: a ramp of the values 0, 1, 2, 3 along x, cut from its half to its end."""
    ramp = torch.arange(4.0).expand(1, 1, 4, 4)
    box, first = torch.tensor([[0.5, 0.0, 1.0, 1.0]]), torch.tensor([0])
    at_centres = crop(ramp, box, first, 4, align_corners=False)
    assert at_centres[0, 0, 0].tolist() == pytest.approx([1.75, 2.25, 2.75, 3.0])
    at_corners = crop(ramp, box, first, 4, align_corners=True)
    assert at_corners[0, 0, 0].tolist() == pytest.approx([1.5, 2.0, 2.5, 3.0])


def test_beyond_the_image_its_last_pixels_go_on_or_values_fall_to_nothing():
    ones, first = torch.ones(1, 1, 5, 5), torch.tensor([0])
    box = torch.tensor([[0.5, 0.0, 1.5, 1.0]])
    assert crop(ones, box, first, 9, align_corners=False).eq(1).all()
    falling = crop(ones, box, first, 9, align_corners=True)[0, 0, 2]
    assert falling.tolist() == pytest.approx([1, 1, 1, 1, 1, 0.5, 0, 0, 0])


def test_outside_a_box_nothing_is_put_or_values_fall_to_nothing_over_one_cell():
    ones, box = torch.ones(1, 1, 3, 3), torch.tensor([[0.25, 0.0, 0.75, 1.0]])
    put = paste(ones, box, 8, align_corners=False)[0, 0, 4]
    assert put.tolist() == [0, 0, 1, 1, 1, 1, 0, 0]
    falling = paste(ones, box, 9, align_corners=True)[0, 0, 4]
    assert falling.tolist() == pytest.approx([0, 0.5, 1, 1, 1, 1, 1, 0.5, 0])


def test_pasting_keeps_left_left_and_top_at_the_top():
    maps = torch.zeros(1, 1, 2, 2)
    maps[0, 0, 0, 1] = 1  # top right
    for align_corners in (True, False):
        pasted = paste(maps, torch.tensor([WHOLE]), 8, align_corners=align_corners)
        assert pasted[0, 0, 0, 7] == 1
        assert pasted[0, 0, 7].max() == 0
        assert pasted[0, 0, :, 0].max() == 0


def test_cropping_undoes_pasting():
    maps, box, first = torch.rand(1, 3, 8, 8), torch.tensor([[0.25] * 2 + [0.75] * 2]), [0]
    pasted = paste(maps, box, 16, align_corners=False)
    back = crop(pasted, box, torch.tensor(first), 8, align_corners=False)
    torch.testing.assert_close(back, maps, atol=1e-5, rtol=1e-5)


def test_a_crop_is_the_pixels_of_its_box_in_its_own_image():
    images = torch.arange(2 * 3 * 8 * 8.0).reshape(2, 3, 8, 8)
    boxes = torch.tensor([[0.0, 0.25, 0.5, 0.75], [0.5, 0.0, 1.0, 0.5], WHOLE])
    crops = crop(images, boxes, torch.tensor([1, 0, 1]), 4, align_corners=False)
    torch.testing.assert_close(crops[0], images[1, :, 2:6, 0:4])
    torch.testing.assert_close(crops[1], images[0, :, 0:4, 4:8])
    torch.testing.assert_close(crops[2], F.avg_pool2d(images[1], 2))


def test_crops_with_corners_lie_on_the_edges_of_the_box():
    """An image whose colour is its place: x in red, y in green."""
    ramp = torch.linspace(0, 1, 9)
    image = torch.stack([ramp.expand(9, 9), ramp[:, None].expand(9, 9), torch.zeros(9, 9)])
    boxes = torch.tensor([[0.25, 0.1, 0.75, 0.6], WHOLE])
    part, whole = crop(image[None], boxes, torch.tensor([0, 0]), 5, align_corners=True)
    assert part[:2, 0, 0].tolist() == pytest.approx([0.25, 0.1])
    assert part[:2, -1, -1].tolist() == pytest.approx([0.75, 0.6])
    assert part[:2, 0, -1].tolist() == pytest.approx([0.75, 0.1])
    torch.testing.assert_close(whole[0, 0], torch.linspace(0, 1, 5))


def test_gradients_reach_the_cropped_pixels_and_no_others():
    images = torch.zeros(2, 3, 8, 8, requires_grad=True)
    box = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    crop(images, box, torch.tensor([1]), 4, align_corners=True).sum().backward()
    assert images.grad[0].abs().sum() == 0
    assert images.grad[1, :, :4, :4].abs().sum() > 0
    assert images.grad[1, :, 5:, 5:].abs().sum() == 0


def test_a_box_under_a_pixel_is_widened_to_one_before_it_is_cut_out():
    images = torch.arange(8.0).expand(1, 1, 8, 8)
    box = torch.tensor([[0.5625, 0.5, 0.5625, 0.5]])  # the centre of column 4
    found = crop(images, box, torch.tensor([0]), 2, align_corners=False)
    torch.testing.assert_close(found[0, 0], torch.tensor([[3.75, 4.25], [3.75, 4.25]]))


@pytest.mark.parametrize("side", [*range(1, 20), 64, 96, 128])
def test_a_box_thinner_than_a_cell_still_covers_some(side):
    """The centres of such boxes lie midway between two cells, where rounding might lose both."""
    x, width = torch.arange(side + 1) / side, torch.tensor([0, 1e-3, 0.5])[:, None] / side
    low, high = (x - width / 2).flatten(), (x + width / 2).flatten()
    boxes = torch.stack([low, torch.zeros_like(low), high, torch.ones_like(low)], 1)
    assert covered(boxes, side).flatten(1).any(1).all()


def test_a_box_covers_the_cells_whose_centres_it_holds_its_edges_included():
    boxes = torch.tensor([[0.0625, 0.0625, 0.9375, 0.9375], [0.25, 0.5, 0.375, 0.625]])
    inside = covered(boxes, 8)
    assert inside.shape == (2, 1, 8, 8)
    assert inside[0].eq(1).all()  # from centre to centre
    assert inside[1, 0].nonzero().tolist() == [[4, 2]]  # one cell, no wider


def test_what_is_pasted_fills_what_is_covered():
    """Whatever the box: without rounding, as its edges are fractions of a power of two."""
    boxes = torch.randint(0, 65, (200, 2, 2)).sort(1).values.flatten(1) / 64
    for side in (4, 16):
        ones = paste(torch.ones(200, 1, 3, 3), boxes, side, align_corners=False)
        torch.testing.assert_close(ones, covered(boxes, side))


def test_the_type_of_the_pixels_is_kept():
    images, box = torch.ones(1, 3, 4, 4).double(), torch.tensor([[0.0, 0.0, 0.5, 1.0]]).double()
    for align_corners in (True, False):
        cut = crop(images, box, torch.tensor([0]), 2, align_corners=align_corners)
        assert cut.dtype == paste(images, box, 2, align_corners=align_corners).dtype == images.dtype


def test_overlaps_are_areas_of_intersection_and_union():
    boxes = torch.tensor([[0.0, 0, 1, 1], [0.5, 0, 1.5, 1], [2, 2, 3, 3]])
    intersection, union = overlaps(boxes[:, None], boxes)
    assert intersection.tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert union.tolist() == [[1, 1.5, 2], [1.5, 1, 2], [2, 2, 1]]
