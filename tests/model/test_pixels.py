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


def test_enlarging_is_bilinear_and_a_wide_image_becomes_a_square():
    image = torch.tensor([[[[0] * 3, [255] * 3]]], dtype=torch.uint8)  # 1 x 2
    large = to_float(image, 4)
    assert large.shape == (1, 3, 4, 4)
    torch.testing.assert_close(large[0, 0, 2], torch.tensor([-1, -0.5, 0.5, 1]))
    torch.testing.assert_close(large[0, 0, :, 0], torch.full((4,), -1.0))


def test_images_of_any_shape_and_number_become_squares():
    for shape in ((4, 2, 4), (4, 4, 2), (2, 4, 2), (3, 4, 4)):
        assert to_float(torch.zeros(*shape, 3, dtype=torch.uint8), 4).shape == (shape[0], 3, 4, 4)


def test_values_outside_are_clamped_and_others_rounded():
    values = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.0, 3.0]).reshape(1, 1, 6).expand(3, 1, 6)
    levels = to_uint8(values.clone().requires_grad_())
    assert levels.shape == (1, 6, 3)
    assert levels[0, :, 0].tolist() == [0, 0, 128, 255, 255, 255]
    assert not levels.requires_grad


def test_half_precision_images_are_rounded_as_float32_ones():
    values = (torch.arange(256) / 127.5 - 1).reshape(1, 1, 256).expand(3, 1, 256)
    low = values.to(torch.bfloat16)
    assert torch.equal(to_uint8(low), to_uint8(low.float()))
