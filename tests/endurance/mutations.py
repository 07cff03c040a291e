"""A whole file and a source of chance -> the file with something wrong in it."""

import copy
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

NASTY: tuple[Any, ...] = (
    None, True, False, -1, 0, 1, 1.5, -0.0, 1e-320, 1e308, -1e308, float("nan"), float("inf"),
    65_536, 1 << 31, (1 << 53) + 1, 1 << 63, 1 << 64, 10**400, -(10**400), "", "1", " ", "x" * 5000,
    "\ud800", "\n", "\0", "../../etc/passwd", "/etc/passwd", "a\\b", "__image__", "__in_image__",
    "é" * 300, [], {}, [[]], [None], [0, 0, 0, 0], [1e308] * 4, [-1, -1, -1], {"id": 1}, {"": None},
    {"size": [1, 1], "counts": "0" * 9}, [[0.0] * 5], [[1e9] * 6], [[float("nan")] * 6],
)  # fmt: skip
DEEP, LONG = "@deep@", "@long@"  # what json cannot write: put in after it
AFTER = {f'"{DEEP}"': "[" * 20_000 + "]" * 20_000, f'"{LONG}"': "9" * 5000}
WORDS = (0, 1, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 60_000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def mutated(data: bytes, others: list[bytes], random: Random, *, as_json: bool) -> bytes:
    """As a JSON value in half the cases where it is one, as bytes in the others."""
    if as_json and random.random() < 0.5:
        return _mutated_value(data, random)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        data = random.choice(BYTES)(data, random, others)
    return data


# Of bytes


def _place(data: bytes, random: Random) -> int:
    """Headers decide most: half of all mutations fall into the first 100 bytes."""
    most = min(len(data), 100) if random.random() < 0.5 else len(data)
    return random.randrange(most) if most else 0


def _flip(data: bytes, random: Random, _: list[bytes]) -> bytes:
    changed = bytearray(data or b"\0")
    for _i in range(random.choice((1, 1, 2, 8))):
        changed[_place(changed, random)] ^= 1 << random.randrange(8)
    return bytes(changed)


def _word(data: bytes, random: Random, _: list[bytes]) -> bytes:
    """An interesting number of 1, 2 or 4 bytes, either end first."""
    number, place = random.choice(WORDS), _place(data, random)
    form, most = random.choice(
        ((">B", 0xFF), (">H", 0xFFFF), ("<H", 0xFFFF), (">I", -1), ("<I", -1))
    )
    word = struct.pack(form, number if most < 0 else number & most)
    return data[:place] + word + data[place + len(word) :]


def _cut(data: bytes, random: Random, _: list[bytes]) -> bytes:
    return data[: random.randrange(len(data) + 1)]


def _remove(data: bytes, random: Random, _: list[bytes]) -> bytes:
    start = _place(data, random)
    return data[:start] + data[start + random.choice((1, 2, 4, 30, 300)) :]


def _repeat(data: bytes, random: Random, _: list[bytes]) -> bytes:
    start = _place(data, random)
    end = start + random.choice((1, 4, 30, 300))
    return data[:end] + data[start:end] * random.choice((1, 3, 50)) + data[end:]


def _insert(data: bytes, random: Random, _: list[bytes]) -> bytes:
    place = _place(data, random)
    return data[:place] + random.randbytes(random.choice((1, 2, 16, 300))) + data[place:]


def _blank(data: bytes, random: Random, _: list[bytes]) -> bytes:
    start = _place(data, random)
    run = data[start : start + random.choice((4, 64, 512))]
    return (
        data[:start] + random.choice((b"\0", b"\xff", b" ")) * len(run) + data[start + len(run) :]
    )


def _splice(data: bytes, random: Random, others: list[bytes]) -> bytes:
    """The beginning of one file, the end of another."""
    other = random.choice(others)
    return data[: _place(data, random)] + other[_place(other, random) :]


def _swap(data: bytes, random: Random, others: list[bytes]) -> bytes:
    return random.choice((*others, b"", b"<!DOCTYPE html><html></html>", random.randbytes(100)))


BYTES: tuple[Callable[[bytes, Random, list[bytes]], bytes], ...] = (
    _flip, _flip, _flip, _word, _word, _word,
    _cut, _remove, _repeat, _insert, _blank, _splice, _swap,
)  # fmt: skip


# Of JSON


def _mutated_value(data: bytes, random: Random) -> bytes:
    root = [json.loads(data)]  # in a list, so that the whole may be replaced too
    for _ in range(random.choice((1, 1, 2))):
        parent, key = _somewhere(root, random)
        _change(parent, key, random)
    text = json.dumps(root[0])
    for written, meant in AFTER.items():
        text = text.replace(written, meant)
    return text.encode()


def _somewhere(root: Any, random: Random) -> tuple[Any, Any]:
    """A container and a key in it, the path drawn step by step: rare fields come up too."""
    parent, key = root, 0
    while True:
        value = parent[key]
        if not isinstance(value, dict | list) or not value or random.random() < 0.12:
            return parent, key
        parent = value
        key = (
            random.choice(list(value)) if isinstance(value, dict) else random.randrange(len(value))
        )


def _change(parent: Any, key: Any, random: Random) -> None:
    how = random.random()
    if how < 0.6:
        parent[key] = copy.deepcopy(random.choice((*NASTY, DEEP, LONG)))
    elif how < 0.7:
        del parent[key]
    elif how < 0.8 and isinstance(parent, list):  # ids twice, and an item where another should be
        parent.insert(random.randrange(len(parent) + 1), copy.deepcopy(parent[key]))
    elif how < 0.9 and isinstance(parent, dict):
        other = random.choice(list(parent))
        parent[key], parent[other] = parent[other], parent[key]
    else:
        value = parent[key]
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        parent[key] = -value if plain else [value]
    if isinstance(parent, list) and not parent:
        parent.append(None)
