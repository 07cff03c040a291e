import torch

from model.padding import padding_of

IMAGE = torch.tensor([0, 0, 0, 2])  # image 1 has no object


def test_objects_are_padded_to_the_longest_image_and_come_back():
    padding = padding_of(IMAGE, 3)
    flat = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]])
    padded = padding.pad(flat)
    assert padded.tolist() == [
        [[1, 2], [3, 4], [5, 6]],
        [[0, 0], [0, 0], [0, 0]],
        [[7, 8], [0, 0], [0, 0]],
    ]
    assert torch.equal(padding.unpad(padded), flat)
    assert padding.place.tolist() == [0, 1, 2, 0]
    assert padding.present.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert padding.num_images == 3


def test_padding_keeps_the_type_and_the_gradient():
    padding = padding_of(IMAGE, 3)
    assert padding.pad(torch.tensor([True, False, True, True])).dtype == torch.bool
    flat = torch.ones(4, requires_grad=True)
    (padding.pad(flat) * torch.arange(9.0).reshape(3, 3)).sum().backward()
    assert flat.grad.tolist() == [0, 1, 2, 6]


def test_an_image_without_objects_at_the_end_counts_too():
    padding = padding_of(torch.tensor([0, 0]), 3)
    assert padding.present.tolist() == [[True, True], [False, False], [False, False]]


def test_no_object_at_all_is_an_empty_padding():
    padding = padding_of(torch.zeros(0, dtype=torch.long), 2)
    assert padding.pad(torch.zeros(0, 5)).shape == (2, 0, 5)
