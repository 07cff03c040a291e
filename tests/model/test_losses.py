import pytest
import torch

from model import losses

ONE, TWO, THREE, FOUR = (torch.tensor(float(n)) for n in (1, 2, 3, 4))


def test_a_mean_is_over_the_rows_of_all_processes():
    values = torch.tensor([[1.0, 3.0], [5.0, 7.0], [9.0, 11.0]])
    assert losses.mean(values, THREE).item() == 6.0
    first, second = (losses.mean(part, THREE) for part in (values[:1], values[1:]))
    assert (first + second).item() == 6.0


@pytest.mark.parametrize("name", ["reconstruction", "box_l1", "box_mse", "mask_bce"])
def test_a_loss_of_parts_adds_up_to_that_of_the_whole(name):
    loss = getattr(losses, name)
    given = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(0))
    truth = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1)).round()
    parts = loss(given[:1], truth[:1], THREE) + loss(given[1:], truth[1:], THREE)
    torch.testing.assert_close(parts, loss(given, truth, THREE))


def test_the_losses_of_logits_of_parts_add_up_to_those_of_the_whole():
    logits = torch.randn(9, 5, generator=torch.Generator().manual_seed(0))
    real, fake = logits[:3], logits[3:]  # two sets of fakes
    categories = torch.tensor([0, 4, 2])
    first, second = slice(0, 1), slice(1, 3)
    wholes, parts = [], []
    for rows in (slice(0, 3), first, second):
        sets = torch.cat([fake[:3][rows], fake[3:][rows]])
        of_rows = torch.stack([
            losses.generator_loss(sets, 2 * THREE),
            losses.discriminator_loss(real[rows], sets, THREE),
            losses.classification(real[rows], categories[rows], THREE),
        ])  # fmt: skip
        (parts if rows in (first, second) else wholes).append(of_rows)
    torch.testing.assert_close(sum(parts), wholes[0])
    expected = torch.nn.functional.softplus(-real).mean()
    expected = expected + torch.nn.functional.softplus(fake).mean()
    torch.testing.assert_close(wholes[0][1], expected)
    torch.testing.assert_close(wholes[0][2], torch.nn.functional.cross_entropy(real, categories))


def test_cooccurrence_counts_each_pair_of_an_image_once():
    vectors = torch.zeros(2, 3, 2)
    vectors[0, 1] = torch.tensor([3.0, 4.0])
    vectors[1, 1] = torch.tensor([0.0, 1.0])
    vectors[1, 2] = 100.0  # no object stands there
    present = torch.tensor([[True, True, True], [True, True, False]])
    # image 0: pairs 0-1 (5), 0-2 (0), 1-2 (5); image 1: 0-1 (1)
    assert losses.cooccurrence(vectors, present, TWO).item() == pytest.approx((10 + 1) / 2)


def test_cooccurrence_of_equal_vectors_has_a_finite_gradient():
    vectors = torch.ones(1, 3, 4, requires_grad=True)
    losses.cooccurrence(vectors, torch.ones(1, 3, dtype=torch.bool), ONE).backward()
    assert torch.isfinite(vectors.grad).all()


def test_ground_truth_selection_averages_over_all_objects_but_an_images_first():
    terms = torch.tensor([0.0, 2.0, 4.0])
    assert losses.gt_selection(terms, ONE, THREE).item() == 3.0
    assert losses.gt_selection(terms[:2], ONE, TWO).item() == 2.0
    assert losses.gt_selection(terms[:2], TWO, FOUR).item() == 1.0  # the rest in another process
    # Scenes of one object each: nothing is asked for.
    assert losses.gt_selection(terms[:1], ONE, ONE).item() == 0.0


def test_the_adversarial_losses_pull_logits_in_opposite_directions():
    logits = torch.zeros(3, requires_grad=True)
    losses.generator_loss(logits, THREE).backward()
    assert (logits.grad < 0).all()  # the generator wants a higher logit
    fake = torch.zeros(3, requires_grad=True)
    losses.discriminator_loss(torch.ones(3), fake, THREE).backward()
    assert (fake.grad > 0).all()  # the discriminator a lower one


def test_boxes_are_penalised_by_l1():
    predicted = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    truth = torch.tensor([[0.0, 0.0, 1.0, 0.5]])
    assert losses.box_l1(predicted, truth, ONE).item() == pytest.approx(0.125)


def test_the_squares_of_boxes_are_of_sides_that_are_at_least_zero():
    sides = torch.tensor([[-0.5, 0.25, 1.2, -0.1]])
    truth = torch.tensor([[0.0, 0.5, 1.0, 0.3]])
    expected = torch.nn.functional.mse_loss(sides.clamp_min(0), truth)
    assert losses.box_mse(sides, truth, ONE).item() == pytest.approx(expected.item())


def test_a_side_below_zero_still_learns_that_it_should_be_above():
    sides = torch.tensor([[-0.5, -0.5, 0.4, 1.0]], requires_grad=True)
    losses.box_mse(sides, torch.tensor([[0.3, 0.0, 0.4, 0.9]]), ONE).backward()
    low, right, equal, over = sides.grad[0].tolist()
    assert low < 0 < over
    assert right == equal == 0  # below zero is right where the truth is zero


def test_masks_are_penalised_by_the_cross_entropy_of_their_cells():
    logits = torch.tensor([[[2.0, -1.0], [0.0, 3.0]]])
    truth = torch.tensor([[[1, 0], [1, 0]]], dtype=torch.uint8)
    cells = [torch.nn.functional.softplus(torch.tensor(x)) for x in (-2.0, -1.0, 0.0, 3.0)]
    assert losses.mask_bce(logits, truth, ONE).item() == pytest.approx(sum(cells).item() / 4)


def test_the_terms_are_summed_in_float32():
    class Weights:
        boxes = 1.0

    total = losses.weighted(Weights, {"boxes": torch.tensor(1.0, dtype=torch.bfloat16)})
    assert total.dtype == torch.float32


def test_the_weighted_sum_takes_each_weight_by_its_name():
    class Weights:
        boxes, pixels = 10.0, 0.5

    terms = {"pixels": torch.tensor(2.0), "boxes": torch.tensor(3.0)}
    assert losses.weighted(Weights, terms).item() == 31.0
