import pytest
import torch
from torch.autograd import gradgradcheck
from torch.nn import functional as F

from model.boxes import covered, paste
from model.padding import Padding, padding_of
from model.retrievegan.composition import (
    CropEncoder,
    CropRefinement,
    Fuser,
    Nodes,
    paste_together,
    softmax_over_objects,
    warp,
)
from tests.model.retrievegan.small import layers_of


def test_objects_of_one_image_share_a_cell_and_never_with_another_image():
    score = torch.tensor([[0.0, 1.0], [5.0, 0.0]])[:, :, None, None].expand(2, 2, 2, 2)
    inside = torch.ones(2, 2, 2, 2)
    inside[0, 1, 0, 0] = 0
    inside[1, 1] = 0  # the second image has one object
    share = softmax_over_objects(score, inside)
    torch.testing.assert_close(share[0, :, 1, 1], torch.softmax(torch.tensor([0.0, 1.0]), 0))
    assert share[0, :, 0, 0].tolist() == [1, 0]
    assert (share[1] == torch.tensor([1.0, 0.0])[:, None, None]).all()


def test_the_canvas_of_an_image_hears_only_its_own_objects():
    torch.manual_seed(0)
    fuser = Fuser(width=5, predicate_width=3, canvas=4)
    nodes = Nodes(torch.randn(4, 2), torch.randn(4, 3, 2, 2), torch.randn(2, 3, 2, 2))
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    padding = padding_of(torch.tensor([0, 1]), 2)
    before = fuser(nodes, boxes, padding, 8)
    maps = nodes.maps.clone()
    maps[0] += 1
    after = fuser(nodes._replace(maps=maps), boxes, padding, 8)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0, :, :, 4:], after[0, :, :, 4:])  # outside its box nothing changes


def test_a_layer_of_the_refinement_is_what_its_equations_give_node_by_node():
    torch.manual_seed(0)
    layer = CropRefinement(width=3, predicate_width=2, hidden=4)
    with torch.no_grad():
        layer.flow[2].weight.normal_(0, 0.3)
        layer.flow[2].bias.normal_(0, 0.3)
    maps, predicates = torch.randn(5, 3, 5, 4), torch.randn(4, 2, 5, 4)
    triples = [(0, 1), (1, 2), (0, 2), (3, 0)]  # node 3 is in one, node 4 in none
    subject, other = torch.tensor(triples).T
    with torch.no_grad():
        updates, refined = layer(maps, predicates, subject, other)
        warped = torch.stack(
            [warped_by_hand(m, f) for m, f in zip(maps, layer.flow(maps), strict=True)]
        )
        messages = [
            layer.message(torch.cat([warped[s], predicates[t], warped[o]])[None])[0]
            for t, (s, o) in enumerate(triples)
        ]
        for node in range(5):
            heard = [m[:3] for m, (s, _) in zip(messages, triples, strict=True) if s == node]
            heard += [m[5:] for m, (_, o) in zip(messages, triples, strict=True) if o == node]
            mean = torch.stack(heard).mean(0) if heard else torch.zeros(3, 5, 4)
            expected = layer.own(warped[node, None]) + layer.pooled(mean[None])
            torch.testing.assert_close(updates[node, None], expected, atol=1e-5, rtol=1e-4)
        for t, message in enumerate(messages):
            torch.testing.assert_close(refined[t], message[3:5])


def warped_by_hand(maps, flow):
    """Bilinear at each cell's own place plus its flow, in halves of the map's side; clamped."""
    _, h, w = maps.shape
    out = torch.zeros_like(maps)
    for y in range(h):
        for x in range(w):
            at_x = min(max(x + float(flow[0, y, x]) * (w - 1) / 2, 0), w - 1)
            at_y = min(max(y + float(flow[1, y, x]) * (h - 1) / 2, 0), h - 1)
            x0, y0 = min(int(at_x), w - 2), min(int(at_y), h - 2)
            fx, fy = at_x - x0, at_y - y0
            top = maps[:, y0, x0] * (1 - fx) + maps[:, y0, x0 + 1] * fx
            bottom = maps[:, y0 + 1, x0] * (1 - fx) + maps[:, y0 + 1, x0 + 1] * fx
            out[:, y, x] = top * (1 - fy) + bottom * fy
    return out


def sampled(maps, flow):
    """`warp` by torch's sampling, at each cell's own place plus its flow."""
    h, w = maps.shape[-2:]
    ys, xs = torch.meshgrid(
        torch.linspace(-1, 1, h, dtype=maps.dtype),
        torch.linspace(-1, 1, w, dtype=maps.dtype),
        indexing="ij",
    )
    grid = torch.stack([xs, ys], -1) + flow.permute(0, 2, 3, 1)
    return F.grid_sample(maps, grid, padding_mode="border", align_corners=True)


@pytest.mark.parametrize("reach", [0.3, 1.0, 4.0])  # the last beyond the edge, almost everywhere
def test_a_warp_is_what_sampling_gives_with_its_gradients(reach):
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(3, 2, 4, 5, generator=generator).requires_grad_()
    flow = (reach * (2 * torch.rand(3, 2, 4, 5, generator=generator) - 1)).requires_grad_()
    ours, theirs = warp(maps, flow), sampled(maps, flow)
    torch.testing.assert_close(ours, theirs)
    weights = torch.randn(ours.shape, generator=generator)
    gradients = [
        torch.autograd.grad((made * weights).sum(), (maps, flow)) for made in (ours, theirs)
    ]
    for mine, other in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, other, atol=1e-5, rtol=1e-4)


def test_a_warp_to_the_edge_and_beyond_has_no_gradient_there():
    """Right, left, down, up by whole sides: every cell reads the edge."""
    maps = torch.arange(12.0).reshape(1, 1, 3, 4)
    for axis, by, edge in ((0, 2.0, [3, 7, 11]), (0, -2.0, [0, 4, 8]), (1, 5.0, [8, 9, 10, 11])):
        flow = torch.zeros(1, 2, 3, 4)
        flow[:, axis] = by
        flow.requires_grad_()
        warped = warp(maps, flow)
        expected = torch.tensor(edge, dtype=torch.float32)
        expected = expected[:, None].expand(3, 4) if axis == 0 else expected.expand(3, 4)
        assert torch.equal(warped[0, 0], expected)
        warped.sum().backward()
        assert not flow.grad[:, axis].any()


def test_a_flow_that_is_no_number_harms_no_other_map():
    maps, flow = torch.randn(3, 2, 4, 4, requires_grad=True), torch.zeros(3, 2, 4, 4)
    flow[1] = torch.nan
    flow.requires_grad_()
    warped = warp(maps, flow)
    torch.testing.assert_close(warped[[0, 2]], maps[[0, 2]])
    warped[[0, 2]].sum().backward()
    assert flow.grad[[0, 2]].isfinite().all()
    torch.testing.assert_close(maps.grad[[0, 2]], torch.ones(2, 2, 4, 4))


def test_a_warp_is_placed_in_float32_and_keeps_the_maps_type():
    maps, flow = torch.randn(2, 3, 16, 16), torch.full((2, 2, 16, 16), 0.07).bfloat16()
    half = warp(maps.bfloat16(), flow)
    assert half.dtype == torch.bfloat16
    assert half.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(half.float(), warp(maps, flow.float()), atol=0.05, rtol=0)


def test_a_warp_has_gradients_of_gradients():
    maps = torch.randn(1, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    gradgradcheck(lambda m: warp(m, torch.full((1, 2, 3, 3), 0.3)) ** 2, maps)


def test_at_the_start_of_training_no_map_is_warped():
    layer = CropRefinement(width=3, predicate_width=2, hidden=4)
    assert not layer.flow(torch.randn(2, 3, 5, 5)).any()


def test_the_canvas_is_attention_over_the_objects_of_a_cell_plus_the_background():
    torch.manual_seed(1)
    fuser = Fuser(width=5, predicate_width=3, canvas=4)
    # Maps of one value per object, so that pasting them changes nothing.
    vectors, maps = torch.randn(5, 2), torch.randn(5, 3, 1, 1).repeat(1, 1, 2, 2)
    maps[3:] = torch.randn(2, 3, 2, 2)
    in_image = torch.randn(3, 3, 1, 1).expand(3, 3, 2, 2)
    image = torch.tensor([0, 0, 1])
    boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.25, 0, 1, 1], [0.5, 0.5, 1, 1]])
    with torch.no_grad():
        canvas = fuser(Nodes(vectors, maps, in_image), boxes, padding_of(image, 2), 4)
        inputs = torch.cat([vectors, maps[:, :, 0, 0]], 1)[:, :, None, None]
        keys = fuser.key(inputs[:3])
        values = fuser.value(keys)[:, :, 0, 0]
        scores = (keys * fuser.query(in_image[:, :, :1, :1])).sum(1)[:, 0, 0] / 4**0.5
        images = torch.cat([vectors[3:, :, None, None].expand(-1, -1, 2, 2), maps[3:]], 1)
        background = F.interpolate(fuser.background(images), scale_factor=2.0, mode="bilinear")
    covers = {0: [0, 1], 1: [1, 2, 3], 2: [2, 3]}  # columns, by hand
    for n in range(2):
        for row in range(4):
            for column in range(4):
                objects = [
                    o for o in range(3)
                    if image[o] == n and column in covers[o] and (o < 2 or row >= 2)
                ]  # fmt: skip
                expected = background[n, :, row, column].clone()
                if objects:
                    attention = torch.softmax(scores[objects], 0)
                    expected += (attention[:, None] * values[objects]).sum(0)
                torch.testing.assert_close(canvas[n, :, row, column], expected)


def scenes_with_fillers():
    """Two images of two objects and one, a filler, and a place more than the longest has."""
    padding = padding_of(torch.tensor([0, 0, 1]), 2)
    zero = torch.zeros(1, dtype=torch.long)
    return Padding(
        torch.cat([padding.image, zero]),
        torch.cat([padding.place, zero]),
        F.pad(padding.present, (0, 1)),
        F.pad(padding.row, (0, 1)),
        torch.tensor([True, True, True, False]),
    )


@pytest.mark.parametrize("fillers", [False, True])
def test_pasted_together_maps_are_the_sum_of_what_each_is_pasted_and_weighted(fillers):
    """As `paste` puts each into its box, with attention that is 0 elsewhere."""
    generator = torch.Generator().manual_seed(0)
    padding = scenes_with_fillers() if fillers else padding_of(torch.tensor([0, 0, 1]), 2)
    boxes = torch.tensor([[0.0, 0, 0.5, 1], [0.25, 0.125, 1, 0.8], [0.5, 0.5, 1, 1]])
    boxes = torch.cat([boxes, torch.tensor([[0.0, 0, 1, 1]] * fillers).reshape(-1, 4)])
    maps = torch.randn(3 + fillers, 4, 3, 5, generator=generator).requires_grad_()
    attention = torch.rand(*padding.present.shape, 8, 8, generator=generator)
    attention = (attention * padding.pad(covered(boxes, 8)[:, 0])).requires_grad_()
    canvas = paste_together(maps, attention, boxes, padding)
    pasted = paste(maps[:3], boxes[:3], 8, align_corners=False)
    weighted = pasted * padding.unpad(attention)[:3, None]
    expected = torch.zeros(2, 4, 8, 8).index_add(0, torch.tensor([0, 0, 1]), weighted)
    torch.testing.assert_close(canvas, expected)
    assert canvas.is_contiguous(memory_format=torch.channels_last)
    weights = torch.randn(canvas.shape, generator=generator)
    gradients = [
        torch.autograd.grad((made * weights).sum(), (maps, attention))
        for made in (canvas, expected)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-4)
    assert not gradients[0][0][3:].any()


def test_a_filler_adds_nothing_to_the_canvas_whatever_its_map():
    padding = scenes_with_fillers()
    boxes = torch.tensor([[0.0, 0, 1, 1]]).repeat(4, 1)
    maps = torch.randn(4, 3, 2, 2)
    maps[3] = torch.nan
    attention = torch.rand(2, 3, 8, 8) * padding.present[:, :, None, None]
    canvas = paste_together(maps, attention, boxes, padding)
    assert canvas.isfinite().all()


def test_scores_are_pasted_into_their_boxes_as_the_maps_are():
    """Of maps and scores that differ from cell to cell."""
    torch.manual_seed(2)
    fuser = Fuser(width=5, predicate_width=3, canvas=4)
    nodes = Nodes(torch.randn(4, 2), torch.randn(4, 3, 4, 4), 3 * torch.randn(3, 3, 4, 4))
    boxes = torch.tensor([[0.0, 0, 0.75, 1], [0.25, 0.125, 1, 0.8], [0, 0.5, 1, 1]])
    with torch.no_grad():
        canvas = fuser(nodes, boxes, padding_of(torch.tensor([0, 0, 0]), 1), 8)
        inputs = torch.cat([nodes.vectors[:, :, None, None].expand(-1, -1, 4, 4), nodes.maps], 1)
        keys = fuser.key(inputs[:3])
        score = (keys * fuser.query(nodes.in_image)).sum(1, keepdim=True) / 2
        score, values = (
            paste(each, boxes, 8, align_corners=False) for each in (score, fuser.value(keys))
        )
        covers = covered(boxes, 8).bool()
        shares = torch.softmax(score.masked_fill(~covers, -torch.inf), 0).nan_to_num(0)
        background = F.interpolate(fuser.background(inputs[3:]), scale_factor=2.0, mode="bilinear")
    torch.testing.assert_close(canvas, background + (shares * values).sum(0, keepdim=True))


def test_a_large_score_outside_its_box_takes_nothing_from_those_inside():
    score = torch.tensor([0.0, 900.0]).view(1, 2, 1, 1).requires_grad_()
    inside = torch.tensor([1.0, 0.0]).view(1, 2, 1, 1)
    weights = softmax_over_objects(score, inside)
    assert weights.flatten().tolist() == [1, 0]
    weights[0, 0].sum().backward()
    assert score.grad.isfinite().all()


def test_a_cell_that_no_box_covers_has_no_weight_and_a_finite_gradient():
    score = torch.ones(1, 2, 1, 1, requires_grad=True)
    weights = softmax_over_objects(score, torch.zeros(1, 2, 1, 1))
    weights.sum().backward()
    assert not weights.any()
    assert not score.grad.any()


def test_the_gradient_of_a_share_is_that_of_a_softmax():
    score = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(score)
    ours = softmax_over_objects(score, torch.ones_like(score))
    theirs = torch.softmax(score, 1)
    gradients = [torch.autograd.grad((made * weights).sum(), score)[0] for made in (ours, theirs)]
    torch.testing.assert_close(*gradients)


def test_large_scores_give_no_overflow_and_no_gradient_that_is_not_finite():
    score = torch.tensor([[500.0, 90.0], [-500.0, 0.0]]).view(2, 2, 1, 1).requires_grad_()
    inside = torch.tensor([[1.0, 1.0], [1.0, 0.0]]).view(2, 2, 1, 1)
    weights = softmax_over_objects(score, inside)
    assert weights.flatten().tolist() == [1, 0, 1, 0]
    weights.sum().backward()
    assert score.grad.isfinite().all()


def test_the_crop_encoder_halves_the_map_at_each_layer_and_keeps_where_things_are():
    torch.manual_seed(0)
    encoder = CropEncoder((4, 6), 5)
    patches = torch.zeros(2, 3, 16, 16)
    patches[1, :, :4, 12:] = 1.0  # top right
    with torch.no_grad():
        maps = encoder(patches)
    assert maps.shape == (2, 5, 4, 4)
    change = (maps[1] - maps[0]).abs().sum(0)
    assert change[:2, 3].sum() > 0.5 * change.sum()


def test_the_layers_are_pastegans_with_group_normalisation():
    assert layers_of(CropEncoder((16, 48), 5).layers) == [
        "conv 3x3/2 3>16", "norm 1x16", "leaky 0.1", "conv 3x3/2 16>48", "norm 3x48", "leaky 0.1",
        "conv 1x1 48>5",
    ]  # fmt: skip
    refinement = CropRefinement(width=3, predicate_width=2, hidden=4)
    assert layers_of(refinement.flow) == ["conv 3x3 3>4", "leaky 0.1", "conv 3x3 4>2", "tanh"]
    assert layers_of(refinement.message) == ["conv 3x3 8>4", "leaky 0.1", "conv 3x3 4>8"]
    assert layers_of(refinement.pooled) == ["leaky 0.1", "conv 1x1 3>3"]
    assert layers_of([refinement.own]) == ["conv 1x1 3>3"]


def test_maps_that_are_no_numbers_warp_nothing_outside_their_memory():
    """A process would crash, where a run that has diverged should say so."""
    layer = CropRefinement(width=16, predicate_width=2, hidden=8)
    maps = torch.full((6, 16, 8, 8), torch.nan, requires_grad=True)
    ends = torch.tensor([0, 1, 2]), torch.tensor([3, 4, 5])
    updates, _ = layer(maps.to(memory_format=torch.channels_last), torch.zeros(3, 2, 8, 8), *ends)
    updates.sum().backward()
    assert updates.isnan().all()
