import torch

from model.padding import Padding, padding_of

IMAGE = torch.tensor([0, 0, 0, 2])  # image 1 has no object
FLAT = torch.tensor([[1.0, 2], [3, 4], [5, 6], [7, 8]])


def with_fillers():
    """The same objects and two fillers, padded to four instead of three."""
    padding = padding_of(IMAGE, 3)
    more = torch.zeros(2, dtype=torch.long)
    return Padding(
        torch.cat([padding.image, more]),
        torch.cat([padding.place, more]),
        torch.nn.functional.pad(padding.present, (0, 1)),
        torch.nn.functional.pad(padding.row, (0, 1)),
        torch.tensor([True] * 4 + [False] * 2),
    )


def test_objects_are_padded_to_the_longest_image_and_come_back():
    padding = padding_of(IMAGE, 3)
    padded = padding.pad(FLAT)
    assert padded.tolist() == [
        [[1, 2], [3, 4], [5, 6]],
        [[0, 0], [0, 0], [0, 0]],
        [[7, 8], [0, 0], [0, 0]],
    ]
    assert torch.equal(padding.unpad(padded), FLAT)
    assert padding.place.tolist() == [0, 1, 2, 0]
    assert padding.present.tolist() == [[True] * 3, [False] * 3, [True, False, False]]
    assert padding.num_images == 3


def test_fillers_stand_nowhere_and_come_back_as_zeros():
    padding = with_fillers()
    flat = torch.cat([FLAT, torch.full((2, 2), torch.nan)])
    padded = padding.pad(flat)
    assert padded.shape == (3, 4, 2)
    assert torch.equal(padded[:, :3], padding_of(IMAGE, 3).pad(FLAT))
    assert not padded[:, 3].any()
    assert torch.equal(padding.unpad(padded), torch.cat([FLAT, torch.zeros(2, 2)]))


def test_gradients_go_back_to_where_the_values_came_from_and_none_to_fillers():
    padding = with_fillers()
    flat = torch.ones(6, requires_grad=True)
    weights = torch.arange(12.0).reshape(3, 4)
    weights[:, 3] = weights[1] = torch.nan  # where no object stands
    (padding.pad(flat) * weights).sum().backward()
    assert flat.grad.tolist() == [0, 1, 2, 8, 0, 0]
    padded = torch.ones(3, 4, requires_grad=True)
    of_objects = torch.tensor([1.0, 2, 3, 4, torch.nan, torch.nan])
    (padding.unpad(padded) * of_objects).sum().backward()
    assert padded.grad.tolist() == [[1, 2, 3, 0], [0, 0, 0, 0], [4, 0, 0, 0]]


def test_twice_the_objects_are_in_twice_the_images():
    for padding in (padding_of(IMAGE, 3), with_fillers()):
        flat = torch.arange(1.0, 1 + len(padding.image))
        both = padding.twice()
        assert both.num_images == 6
        assert both.image.tolist() == [*padding.image.tolist(), *(padding.image + 3).tolist()]
        doubled = torch.cat([flat, -flat])
        padded = both.pad(doubled)
        assert torch.equal(padded, torch.cat([padding.pad(flat), padding.pad(-flat)]))
        alone = padding.unpad(padding.pad(flat))
        assert torch.equal(both.unpad(padded), torch.cat([alone, -alone]))
        real = None if padding.real is None else [*padding.real.tolist() * 2]
        assert (None if both.real is None else both.real.tolist()) == real


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
