"""Duplicates are found as a comparison of all with all would find them, and nothing else."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bank.duplicates import (
    EXAMPLES,
    LEAST_BITS,
    MOST_BITS,
    MOST_COLOUR,
    WINDOW,
    Fingerprints,
    Groups,
    fingerprints_of,
    near_duplicates,
)


def picture(seed: int, patch_size: int = 64) -> np.ndarray:
    """Large enough areas of unlike colours for a hash to work on."""
    cells = np.random.default_rng(seed).integers(0, 256, (8, 8, 3)).astype(np.uint8)
    rows = np.arange(patch_size) * 8 // patch_size
    return cells[rows][:, rows]


def noisy(pixels: np.ndarray, seed: int, levels: int = 2) -> np.ndarray:
    noise = np.random.default_rng(seed).integers(-levels, levels + 1, pixels.shape)
    return np.clip(pixels.astype(int) + noise, 0, 255).astype(np.uint8)


def pairs_of(fingerprints: Fingerprints) -> set[tuple[int, int]]:
    found = set()
    for a, b in near_duplicates(fingerprints):
        found |= {(min(x, y), max(x, y)) for x, y in zip(a.tolist(), b.tolist(), strict=True)}
    return found


def of_bits(bits: list[int], colours: list[int] | None = None) -> Fingerprints:
    """128-bit numbers as hashes; every thumbnail of one grey."""
    words = [[n >> 64, n & (1 << 64) - 1] for n in bits]
    greys = np.array(colours or [0] * len(bits), np.uint8)
    return Fingerprints(np.array(words, np.uint64), np.repeat(greys[:, None], 48, 1))


@pytest.mark.parametrize("patch_size", [1, 5, 8, 12, 64, 100])
def test_what_is_kept_has_the_same_shape_for_a_patch_of_any_size(patch_size):
    fingerprints = fingerprints_of(np.stack([picture(n, patch_size) for n in range(3)]))
    assert fingerprints.dhashes.shape == (3, 2)
    assert fingerprints.thumbnails.shape == (3, 48)
    if patch_size >= 8:
        row = (np.arange(patch_size) + 0.5) / patch_size * 255
        ramp = np.broadcast_to(row, (patch_size, patch_size))
        across = np.repeat(ramp[None, ..., None], 3, 3).astype(np.uint8)
        thumbs = fingerprints_of(np.concatenate([across, across.swapaxes(1, 2)])).thumbnails
        wanted = np.broadcast_to((np.arange(4)[:, None] + 0.5) / 4 * 255, (4, 4, 3))
        two = thumbs.reshape(2, 4, 4, 3).astype(float)
        assert np.abs(two[0] - wanted).max() < 20
        assert np.abs(two[1] - wanted.swapaxes(0, 1)).max() < 20


def test_a_patch_with_a_little_noise_looks_alike_and_others_do_not():
    pixels = np.stack([picture(1), picture(2), noisy(picture(1), 3), picture(4)])
    assert pairs_of(fingerprints_of(pixels)) == {(0, 2)}


def test_the_same_shapes_in_other_colours_are_not_alike():
    red, blue = np.zeros((2, 64, 64, 3), np.uint8)
    red[..., 0] = picture(1)[..., 0]
    blue[..., 2] = picture(1)[..., 0]
    assert pairs_of(fingerprints_of(np.stack([red, blue, noisy(red, 1)]))) == {(0, 2)}


def test_flat_patches_are_compared_with_nothing():
    grey = np.full((4, 64, 64, 3), 90, np.uint8)
    fingerprints = fingerprints_of(noisy(grey, 1))
    assert fingerprints.flat.all()
    assert pairs_of(fingerprints) == set()
    few, enough = (1 << LEAST_BITS - 1) - 1, (1 << LEAST_BITS) - 1
    full = (1 << 128) - 1
    assert of_bits([few, enough, full ^ few, full ^ enough]).flat.tolist() == [
        True,
        False,
        True,
        False,
    ]


def test_the_bound_is_as_stated_wherever_the_bits_lie():
    base = int("a5" * 16, 16)
    spread = sum(1 << 16 * n for n in range(MOST_BITS))  # one in each of seven bands
    for changed in (spread, (1 << MOST_BITS) - 1, 1 << 127):
        assert pairs_of(of_bits([base, base ^ changed])) == {(0, 1)}
    for changed in ((1 << MOST_BITS + 1) - 1, spread | 1 << 112):
        assert pairs_of(of_bits([base, base ^ changed])) == set()
    for grey, alike in ((int(MOST_COLOUR), True), (int(MOST_COLOUR) + 1, False)):
        for colours in ([0, grey], [grey, 0]):
            assert bool(pairs_of(of_bits([base, base], colours))) == alike


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 1 << 32), st.integers(2, WINDOW))
def test_all_pairs_are_found_that_a_comparison_of_all_with_all_finds(seed, count):
    rng = np.random.default_rng(seed)
    base = [int.from_bytes(rng.bytes(16), "big") for _ in range(4)]
    bits = []
    for _ in range(count):
        flipped = 0
        for place in rng.integers(0, 128, rng.integers(0, 9)).tolist():
            flipped ^= 1 << place
        bits.append(base[rng.integers(4)] ^ flipped)
    wanted = {
        (a, b)
        for a in range(count)
        for b in range(a + 1, count)
        if (bits[a] ^ bits[b]).bit_count() <= MOST_BITS
    }
    assert pairs_of(of_bits(bits)) == wanted


def test_in_a_crowd_each_still_finds_one_and_the_work_stays_bounded():
    crowd = 5 * WINDOW
    blocks = list(near_duplicates(of_bits([int("a5" * 16, 16)] * crowd)))
    assert len(np.unique(np.concatenate([np.concatenate(block) for block in blocks]))) == crowd
    assert sum(len(a) for a, _ in blocks) <= 8 * WINDOW * crowd


def duplicates_one_by_one(group, images, train, pairs):
    """The definition: the others of a patch's group, and all of those that are paired with it."""
    near = {(a, b) for a, b in pairs} | {(b, a) for a, b in pairs}
    found = []
    for i in range(len(group)):
        others = [
            j
            for j in range(len(group))
            if j != i and (group[i] == group[j] or (group[i], group[j]) in near)
        ]
        found.append(
            (
                bool(others),
                any(images[j] != images[i] for j in others),
                not train[i] and any(train[j] for j in others),
            )
        )
    return found


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_duplicates_are_counted_as_their_definition_says(seed):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 14))
    _, group = np.unique(rng.integers(0, 6, count), return_inverse=True)
    images, train = rng.integers(0, 4, count), rng.random(count) < 0.5
    num_groups = group.max() + 1
    pairs = [(int(a), int(b)) for a, b in rng.integers(0, num_groups, (3, 2)) if a != b]
    groups = Groups(group, images, train)

    equal = zip(*(flags.tolist() for flags in groups.equal()), strict=True)
    assert list(equal) == duplicates_one_by_one(group, images, train, [])

    blocks = [(np.array([a]), np.array([b])) for a, b in pairs]
    alike, examples = groups.alike(blocks)
    flags = zip(*(flags.tolist() for flags in alike), strict=True)
    assert list(flags) == duplicates_one_by_one(group, images, train, pairs)
    for a, b in examples:
        assert images[a] != images[b]
        assert (group[a], group[b]) in pairs or (group[b], group[a]) in pairs


def test_only_a_few_pairs_are_kept_to_be_shown_each_once():
    count = 3 * EXAMPLES
    groups = Groups(np.arange(count), np.arange(count), np.ones(count, bool))
    left, right = np.arange(count - 1), np.arange(1, count)
    _, examples = groups.alike([(left[:2], right[:2]), (right[:2], left[:2]), (left, right)])
    assert len(examples) == len(set(examples)) == EXAMPLES
