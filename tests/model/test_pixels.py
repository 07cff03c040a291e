import torch

from model.pixels import to_float, to_uint8


def test_pixels_at_their_own_size_come_back_unchanged():
    image = torch.randint(0, 256, (2, 8, 8, 3), dtype=torch.uint8)
    assert torch.equal(to_uint8(to_float(image, 8)), image)


def test_shrinking_keeps_the_mean_and_the_channels_apart():
    image = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
    image[..., 0] = 255
    small = to_float(image, 4)
    assert small.shape == (1, 3, 4, 4)
    torch.testing.assert_close(small[0].mean((1, 2)), torch.tensor([1.0, -1.0, -1.0]))
