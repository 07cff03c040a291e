"""Where a node's vector lies on the layout, cell by cell."""

import pytest
import torch
from torch.nn import functional as F

from model.padding import padding_of
from model.sg2im.layout import coverage, lay_out

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])


def test_a_mask_over_the_whole_picture_is_itself_at_its_own_size():
    mask = torch.rand(1, 5, 5)
    torch.testing.assert_close(coverage(WHOLE, mask, 5), mask)


def test_corners_of_a_mask_lie_on_the_corners_of_the_picture():
    mask = torch.tensor([[[1.0, 2.0], [3.0, 4.0]]])
    covered = coverage(WHOLE, mask, 9)[0]
    corners = [covered[y, x].item() for y in (0, -1) for x in (0, -1)]
    assert corners == pytest.approx([1.0, 2.0, 3.0, 4.0])
    assert covered[0, 4].item() == pytest.approx(1.5)  # x runs along the last axis


def test_a_box_without_a_mask_is_full_inside_and_empty_far_outside():
    box = torch.tensor([[0.25, 0.5, 0.75, 1.0]])
    covered = coverage(box, None, 17)[0]
    assert covered[8:, 4:13].min().item() == pytest.approx(1.0)
    assert covered[:7].max().item() == 0.0
    assert covered[:, :3].max().item() == 0.0
    assert covered[:, 14:].max().item() == 0.0


def test_a_box_with_sides_swapped_turns_its_mask_around():
    mask = torch.rand(1, 4, 4)
    turned = torch.tensor([[1.0, 0.0, 0.0, 1.0]])
    torch.testing.assert_close(coverage(turned, mask, 4), mask.flip(2))


def test_a_box_without_width_or_height_gives_finite_values_and_gradients():
    boxes = torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.5, 0.0, 0.5, 1.0]], requires_grad=True)
    covered = coverage(boxes, torch.rand(2, 4, 4), 8)
    assert covered.isfinite().all()
    covered.sum().backward()
    assert boxes.grad.isfinite().all()


def test_places_and_masks_are_not_rounded_where_maps_are():
    boxes, masks = torch.rand(2, 4), torch.rand(2, 4, 4)
    with torch.autocast("cpu", torch.bfloat16):
        covered = coverage(boxes, masks, 8)
    assert torch.equal(covered, coverage(boxes, masks, 8))


def test_vectors_are_summed_where_they_meet_in_their_own_picture_only():
    vectors, covered = torch.rand(6, 3), torch.rand(6, 2, 5)
    padding = padding_of(torch.tensor([0, 1, 1]), 3)  # and three image nodes behind
    layout = lay_out(vectors, covered, padding)
    products = vectors[:, :, None, None] * covered[:, None]
    for image, nodes in enumerate(([0, 3], [1, 2, 4], [5])):
        torch.testing.assert_close(layout[image], products[nodes].sum(0))


def test_a_layout_is_the_sampled_product_of_vector_and_mask():
    """How sg2im computes it: the product first, then sampled."""
    vectors, masks = torch.rand(2, 3), torch.rand(2, 4, 4)
    boxes = torch.tensor([[0.1, 0.2, 0.9, 0.7], [-0.2, 0.4, 0.5, 1.3]])
    cells = torch.linspace(0, 1, 6)
    expected = torch.zeros(3, 6, 6)
    for vector, mask, (x0, y0, x1, y1) in zip(vectors, masks, boxes, strict=True):
        x, y = (cells - x0) / (x1 - x0), (cells - y0) / (y1 - y0)
        grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1) * 2 - 1
        product = (vector[:, None, None] * mask)[None]
        expected += F.grid_sample(product, grid[None], align_corners=True)[0]
    layout = lay_out(vectors, coverage(boxes, masks, 6), padding_of(torch.tensor([0]), 1))[0]
    torch.testing.assert_close(layout, expected)
