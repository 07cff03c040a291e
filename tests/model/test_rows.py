"""Rows gathered, summed and moved: by index, and by the products that a GPU takes."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from model import rows
from model.rows import Places, count, gather, move, scatter

AT = torch.tensor([2, 0, 2, 2, 4])  # of five rows; 1 and 3 are not named
ALL = Places(torch.tensor([3, 0, 2, 1])), Places(torch.tensor([1, 3, 2, 0]))
# Four rows to six places, of which three stay empty; row 2 goes nowhere.
SOME = (
    Places(torch.tensor([1, 2, 0, 2, 3, 0]), torch.tensor([1, 0, 1, 0, 1, 0]).bool()),
    Places(torch.tensor([2, 0, 1, 4]), torch.tensor([1, 1, 0, 1]).bool()),
)


@pytest.fixture(params=["by index", "by products"])
def form(request, monkeypatch):
    monkeypatch.setattr(rows, "_sums_in_order", lambda _: request.param == "by index")


def values(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3, 2)])
def test_gathered_rows_are_those_that_were_asked_for(form, shape):
    given = values(*shape)
    gathered = gather(given, AT)
    assert torch.equal(gathered, torch.stack([given[i] for i in AT]))
    weights = values(*gathered.shape, seed=1).detach()
    (gathered * weights).sum().backward()
    expected = torch.zeros(shape, dtype=torch.float64)
    for weight, i in zip(weights, AT, strict=True):
        expected[i] += weight
    torch.testing.assert_close(given.grad, expected)


@pytest.mark.parametrize("shape", [(5, 3), (5, 2, 3, 2)])
def test_scattered_rows_are_summed_where_they_go(form, shape):
    given = values(*shape)
    total = scatter(given, AT, 6)
    expected = torch.zeros(6, *shape[1:], dtype=torch.float64)
    for row, i in zip(given.detach(), AT, strict=True):
        expected[i] += row
    torch.testing.assert_close(total.detach(), expected)
    weights = values(*total.shape, seed=1).detach()
    (total * weights).sum().backward()
    assert torch.equal(given.grad, weights[AT])


def test_rows_are_counted_where_they_go(form):
    counts = count(AT, 6)
    assert counts.tolist() == [1, 0, 3, 0, 1, 0]
    assert counts.dtype == torch.int64


def test_on_a_cpu_sums_are_made_by_index(monkeypatch):
    monkeypatch.setattr(rows.F, "one_hot", None)
    assert gather(values(5, 3), AT).shape == (5, 3)
    assert scatter(values(5, 3), AT, 6).shape == (6, 3)
    assert count(AT, 6).tolist() == [1, 0, 3, 0, 1, 0]


def test_where_nothing_goes_there_are_zeros(form):
    nothing = torch.zeros(0, dtype=torch.long)
    assert gather(values(5, 3), nothing).shape == (0, 3)
    assert scatter(values(0, 3), nothing, 2).tolist() == [[0, 0, 0]] * 2
    assert count(nothing, 2).tolist() == [0, 0]


def test_rows_keep_their_type(form):
    half = torch.randn(5, 3).bfloat16()
    assert gather(half, AT).dtype == torch.bfloat16
    assert torch.equal(gather(half, AT), half[AT])
    assert scatter(half, AT, 6).dtype == torch.bfloat16


@pytest.mark.parametrize("call", [gather, lambda v, at: scatter(v, at, 6)])
def test_gradients_of_gradients_are_there_for_sums_too(form, call):
    gradgradcheck(lambda v: call(v, AT) ** 2, values(5, 2))


@pytest.mark.parametrize(("there", "back"), [ALL, SOME])
def test_moved_rows_and_their_gradients_go_there_and_back(there, back):
    """Also the gradient of the gradient, as a gradient penalty needs it."""
    given = values(4, 2)
    moved = move(given, there, back)
    kept = there.kept if there.kept is not None else torch.ones(4, dtype=torch.bool)
    for place, (row, is_kept) in enumerate(zip(there.row, kept, strict=True)):
        assert torch.equal(moved[place], given[row] * is_kept)
    assert gradcheck(lambda v: move(v, there, back), given)
    assert gradgradcheck(lambda v: move(v, there, back) ** 3, given)


def test_what_is_not_kept_may_be_anything_and_is_nowhere_in_the_gradient():
    there, back = SOME
    given = values(4, 2)
    with torch.no_grad():
        given[2] = torch.nan  # goes nowhere
    moved = move(given, there, back)
    assert moved.isfinite().all()
    (moved * torch.tensor([1.0, torch.nan, 1, 1, 1, 1])[:, None].double()).sum().backward()
    assert given.grad.tolist() == [[1, 1], [1, 1], [0, 0], [1, 1]]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int64, torch.uint8, torch.bfloat16])
def test_rows_of_any_type_are_moved(dtype):
    there, back = SOME
    moved = move(torch.ones(4, 3, 2, dtype=dtype), there, back)
    assert moved.dtype == dtype
    assert moved[:, 0, 0].tolist() == [1, 0, 1, 0, 1, 0]
