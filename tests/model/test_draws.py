"""Random numbers by position: the same for a scene in whatever batch it comes."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from model.draws import ByPosition, OneStream, normal_maps
from model.padding import padding_of
from model.recipes import demo
from model.retrieval.choice import draw_passes, numbers_per_object

CPU = torch.device("cpu")
K = 4


def drawn(positions, counts, *, seed=0, noise=True, rule=None):
    """What both passes of some scenes draw."""
    image = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    valid = torch.ones(sum(counts), K, dtype=torch.bool)
    uniforms = ByPosition(seed, positions, np.array(counts), numbers_per_object(K))
    rule = rule or replace(demo().retrieval, start="random")
    return draw_passes(rule, valid, padding_of(image, len(counts)), uniforms, noise=noise)


def test_a_scene_draws_the_same_alone_and_beside_larger_ones():
    """Though its padding differs."""
    beside = drawn([5, 6, 7], [9, 3, 2])
    alone = drawn([6], [3])
    own = slice(9, 12)
    assert torch.equal(beside.choice.noise[own], alone.choice.noise)
    assert torch.equal(beside.truth.order[own], alone.truth.order)
    assert beside.choice.start[1] == alone.choice.start[0]
    assert beside.truth.first[1] == alone.truth.first[0]


def test_another_seed_or_position_draws_others():
    noises = [drawn([p], [3], seed=s).choice.noise for s, p in ((0, 0), (0, 1), (1, 0), (1, 1))]
    assert len({tuple(noise.flatten().tolist()) for noise in noises}) == 4


def test_numbers_are_those_of_a_philox_generator_with_the_key_seed_and_position():
    """Of one release and the next: a run that goes on must draw the same."""
    uniforms = ByPosition(3, [7, 2**33 + 1], np.array([1, 2]), 5)
    philox = np.random.Generator(np.random.Philox(key=np.array([3, 2**33 + 1], np.uint64)))
    of_image = philox.random(2, np.float32)
    of_objects = philox.random((2, 5), np.float32)
    for begin, end in ((0, 3), (3, 5)):
        drawn = uniforms.objects((3, end - begin))
        assert np.array_equal(drawn[1:].numpy(), of_objects[:, begin:end])
    assert [uniforms.images(2)[1].item() for _ in range(2)] == of_image.tolist()
    known = [0.034741878509521484]
    first = ByPosition(0, [0], np.array([1]), 1).images(1).tolist()
    assert first == pytest.approx(known)


def test_numbers_are_even_in_0_to_1():
    drawn = ByPosition(0, range(300), np.full(300, 20), 4).objects((6000, 4))
    assert drawn.min() >= 0
    assert drawn.max() < 1
    counts = torch.bincount((drawn.flatten() * 10).long(), minlength=10).float()
    assert counts == pytest.approx(2400, rel=0.1)


def test_one_stream_is_a_generators():
    numbers = torch.rand(7, generator=torch.Generator().manual_seed(5))
    stream = OneStream(torch.Generator().manual_seed(5))
    assert torch.equal(torch.cat([stream.objects((2, 2)).flatten(), stream.images(3)]), numbers)


def test_noise_of_picture_size_is_each_images_own():
    maps = normal_maps(4, (7, 8, 9), (2, 5, 5), CPU)
    assert maps.shape == (3, 2, 5, 5)
    assert torch.equal(maps[1:2], normal_maps(4, (8,), (2, 5, 5), CPU))
    assert not torch.equal(maps[0], maps[1])
    assert not torch.equal(maps, normal_maps(5, (7, 8, 9), (2, 5, 5), CPU))
    many = normal_maps(0, range(50), (4, 8, 8), CPU)
    assert many.mean() == pytest.approx(0, abs=0.03)
    assert many.std() == pytest.approx(1, abs=0.03)
