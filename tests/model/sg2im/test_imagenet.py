import pytest
import torch

from model.sg2im.imagenet import denormalised, normalised


def an_image(*shape):
    return torch.randint(0, 256, (*shape, 3), dtype=torch.uint8)


def test_the_mean_colour_is_zero_and_white_is_as_far_as_torchvision_says():
    mean = torch.tensor([[[[124, 116, 104]]]], dtype=torch.uint8).expand(1, 4, 4, 3)
    assert normalised(mean, 4).abs().max() < 0.02
    white = torch.full((1, 4, 4, 3), 255, dtype=torch.uint8)
    assert normalised(white, 4)[0, :, 0, 0].tolist() == pytest.approx(
        [2.2489, 2.4286, 2.6400], 1e-4
    )


def test_without_rescaling_a_picture_comes_back_within_one_level():
    image = an_image(2, 8, 8)
    back = denormalised(normalised(image, 8), rescale=False)
    assert back.shape == image.shape
    assert (back.int() - image.int()).abs().max() <= 1  # cut off, not rounded


def test_rescaling_stretches_each_picture_from_its_own_least_to_its_greatest():
    dim = an_image(2, 8, 8) // 4 + 20
    back = denormalised(normalised(dim, 8))
    assert back.amin((1, 2, 3)).tolist() == [0, 0]
    assert back.amax((1, 2, 3)).tolist() == [255, 255]
    alone = denormalised(normalised(dim[:1], 8))
    assert torch.equal(alone, back[:1])


def test_what_lies_outside_is_cut_off_where_nothing_is_rescaled():
    values = torch.tensor([-50.0, 50.0])[:, None, None, None].expand(2, 3, 4, 4)
    assert denormalised(values, rescale=False).unique().tolist() == [0, 255]


def test_a_picture_of_one_colour_stays_a_picture():
    assert denormalised(torch.zeros(1, 3, 4, 4)).shape == (1, 4, 4, 3)
    flat = denormalised(torch.full((1, 3, 4, 4), 7.0))
    assert (flat == flat[:, :1, :1]).all()
