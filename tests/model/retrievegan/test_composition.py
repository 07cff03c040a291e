import torch

from model.retrievegan.composition import Fuser, Nodes, _softmax_by_image, paste
from model.retrievegan.discriminators import crop_objects


def test_a_patch_is_pasted_into_its_box_and_nowhere_else():
    maps = torch.ones(1, 1, 4, 4)
    pasted, inside = paste(maps, torch.tensor([[0.25, 0.5, 0.75, 1.0]]), 8)
    expected = torch.zeros(8, 8)
    expected[4:8, 2:6] = 1
    assert torch.equal(pasted[0, 0], expected)
    assert torch.equal(inside[0, 0], expected)


def test_pasting_keeps_left_left_and_top_at_the_top():
    maps = torch.zeros(1, 1, 2, 2)
    maps[0, 0, 0, 1] = 1  # top right
    pasted, _ = paste(maps, torch.tensor([[0.0, 0.0, 1.0, 1.0]]), 8)
    assert pasted[0, 0, 0, 7] == 1
    assert pasted[0, 0, 7].max() == 0


def test_a_box_thinner_than_a_cell_still_covers_some():
    for x in torch.linspace(0, 1, 13):
        box = torch.stack([x, torch.tensor(0.3), x + 1e-4, torch.tensor(0.6)])[None]
        assert paste(torch.ones(1, 1, 2, 2), box.clamp(0, 1), 8)[1].sum() > 0 or x in (0, 1)


def test_cropping_undoes_pasting():
    maps = torch.rand(1, 3, 8, 8)
    box = torch.tensor([[0.25, 0.25, 0.75, 0.75]])
    pasted, _ = paste(maps, box, 16)
    back = crop_objects(pasted, box, torch.zeros(1, dtype=torch.long), 8)
    torch.testing.assert_close(back, maps, atol=1e-5, rtol=1e-5)


def test_objects_of_one_image_share_a_cell_and_never_with_another_image():
    score = torch.tensor([0.0, 1.0, 5.0]).view(3, 1, 1, 1).expand(3, 1, 2, 2)
    inside = torch.ones(3, 1, 2, 2)
    inside[1, 0, 0, 0] = 0
    share = _softmax_by_image(score, inside, torch.tensor([0, 0, 1]), 2)
    pair = torch.softmax(torch.tensor([0.0, 1.0]), 0)
    torch.testing.assert_close(share[0, 0, 1, 1], pair[0])
    torch.testing.assert_close(share[:, 0, 0, 0], torch.tensor([1.0, 0.0, 1.0]))


def test_the_canvas_of_an_image_hears_only_its_own_objects():
    torch.manual_seed(0)
    fuser = Fuser(width=5, predicate_width=3, canvas=4)
    nodes = Nodes(torch.randn(4, 2), torch.randn(4, 3, 2, 2), torch.randn(2, 3, 2, 2))
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.0, 1.0, 1.0]])
    image = torch.tensor([0, 1])
    before = fuser(nodes, boxes, image, 8)
    maps = nodes.maps.clone()
    maps[0] += 1
    after = fuser(nodes._replace(maps=maps), boxes, image, 8)
    assert not torch.equal(before[0], after[0])
    assert torch.equal(before[1], after[1])
    assert torch.equal(before[0, :, :, 4:], after[0, :, :, 4:])  # outside its box nothing changes
