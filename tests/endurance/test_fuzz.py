"""Files mutated at random: a few hundred here, ten thousand by `python -m tests.endurance.fuzz`."""

import copy
import json
import os
import resource
import signal
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bank.bank import Bank
from bank.errors import BankError
from pipeline.coco.reader import read_coco
from pipeline.data_folder import DataFolder
from pipeline.errors import UserError
from pipeline.scene_graph import parse_scene_graph
from pipeline.visual_genome.reader import read_visual_genome
from tests.endurance import fuzz
from tests.endurance.fuzz import TARGETS, VOCABULARY, Bench, Outcome, Target, Worker

CASES = 300
SEED = 2


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fuzz") / "base"
    folder.mkdir()
    fuzz.prepare(folder)
    return folder


def test_mutated_files_of_every_kind_are_taken_or_refused_in_one_line(base):
    tally = fuzz.fuzz(base, SEED, range(CASES))
    assert [f"{n}: {o.result} {o.detail}" for n, o in tally.failures] == []
    assert set(tally.results) == {target.kind for target in TARGETS}
    assert sum(c.total() for c in tally.results.values()) == CASES
    # Neither all too tame nor all too wild.
    results = {result for counts in tally.results.values() for result in counts}
    assert {"unchanged", "accepted", "refused", "left out: photo_unreadable"} <= results
    assert "| all | 300 |" in tally.table()


def test_a_mutated_dataset_is_refused_by_the_command_too(base):
    (number,) = fuzz.refused_numbers(base, SEED, 1)
    assert fuzz.command_refuses(base, SEED, number).startswith("error: ")


# The fuzzer itself


def crash(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def hang(*_):
    signal.pause()


def break_down(*_):
    raise KeyError("a bug")


def gobble(folder, file):
    """More than a case may, the first time; how much that takes depends on what a fork has given
    back of what its parent held."""
    held, before = [], peak()
    while len(held) < gobbled[0] if gobbled else peak() - before <= fuzz.MOST_GROWTH:
        held.append(bytearray(10 << 20))
    gobbled.append(len(held))
    return str((folder / file).stat().st_size)


gobbled = []  # blocks, by the calls of one process


def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def mumble(*_):
    raise UserError("two\nlines")


ENDS = {"crash": crash, "hang": hang, "traceback": break_down, "memory": gobble, "unclear": mumble}


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
@pytest.mark.parametrize("end", ENDS)
def test_whatever_a_reader_does_is_seen_and_the_next_case_is_run(base, end, monkeypatch):
    monkeypatch.setattr(fuzz, "CASE_S", 0.3 if end == "hang" else 20.0)
    monkeypatch.setattr(fuzz, "MOST_GROWTH", 60_000)
    first, second = in_a_forked_worker(base, ENDS[end], monkeypatch)
    assert first.result == end
    # Memory that was held once is no growth.
    assert second.result == ("accepted" if end == "memory" else end)


def in_a_forked_worker(base, read, monkeypatch):
    """Two outcomes. It is forked, so that it has this very reader."""
    target = Target("a kind", 1, "graphs", ("one.json",), read)
    monkeypatch.setattr(fuzz, "TARGETS", (target,))
    monkeypatch.setattr(fuzz, "START", "fork")
    monkeypatch.setattr(Bench, "warm", lambda *_: None)
    worker = Worker(base, 0, "")
    try:
        return [worker.run(number) for number in range(2)]
    finally:
        worker.close()


def test_a_case_is_the_same_whenever_it_is_drawn(base):
    bench, again = Bench(base, base), Bench(base, base)
    for number in range(50):
        assert bench.draw(SEED, number) == again.draw(SEED, number)
    assert bench.draw(SEED, 1) != bench.draw(SEED + 1, 1)


def test_damage_that_verify_does_not_name_is_a_failure(base, tmp_path, monkeypatch):
    bench = Bench(base, tmp_path, "bank")
    number = next(n for n in range(99) if bench.draw(0, n).file != "manifest.json")
    assert bench.run(bench.draw(0, number)).result not in fuzz.BAD
    monkeypatch.setattr(fuzz, "verify", lambda _: type("Verification", (), {"damages": ()}))
    assert bench.run(bench.draw(0, number)) == Outcome(
        "bank", "missed", f"verify does not name {bench.draw(0, number).file}"
    )


# Values of any form in any place

SETTINGS = settings(
    derandomize=True,
    deadline=None,
    max_examples=100,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.integers(-(1 << 70), 1 << 70) | st.floats() | st.integers(-2, 300)
PLAIN = st.none() | st.booleans() | NUMBERS | st.text(st.characters(exclude_categories=()))
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3)
)


def places(value):
    """Every container of a JSON value, with each of its keys."""
    keys = value if isinstance(value, dict) else range(len(value)) if type(value) is list else ()
    for key in keys:
        yield value, key
        yield from places(value[key])


def put_somewhere(whole, value, at):
    """A copy of `whole` with `value` in one of its places, a number of any size says which."""
    changed = copy.deepcopy(whole)
    found = list(places(changed))
    container, key = found[at % len(found)]
    container[key] = value
    return changed


def is_clear(read):
    """Whether it is read, or refused in one line; all else goes up."""
    try:
        read()
    except UserError as error:
        return "\n" not in str(error) and len(str(error)) < fuzz.LONGEST_LINE
    return True


GRAPH = {
    "objects": ["sky", "boat"],
    "relationships": [[0, "above", 1]],
    "boxes": [[0, 0, 1, 1]] * 2,
}


@SETTINGS
@given(value=VALUES, at=st.integers(0, 1 << 16))
def test_a_scene_graph_with_any_value_anywhere_is_read_or_refused(value, at):
    for graph in (put_somewhere(GRAPH, value, at), value):
        assert is_clear(lambda graph=graph: parse_scene_graph(graph, VOCABULARY, "a graph"))


@pytest.mark.parametrize("file", ["instances_train2017.json", "stuff_val2017.json"])
def test_coco_files_with_any_value_anywhere_are_read_or_refused(base, tmp_path, file):
    folder = copied(base / "coco", tmp_path)
    path = folder / "annotations" / file
    whole = json.loads(path.read_text())

    @SETTINGS
    @given(value=VALUES, at=st.integers(0, 1 << 16))
    def check(value, at):
        path.write_text(json.dumps(put_somewhere(whole, value, at)))
        assert is_clear(lambda: read_coco(folder))

    check()


@pytest.mark.parametrize("file", ["objects.json", "relationships.json", "vg_splits.json"])
def test_visual_genome_files_with_any_value_anywhere_are_read_or_refused(base, tmp_path, file):
    folder = copied(base / "vg", tmp_path)
    whole = json.loads((folder / file).read_text())

    @SETTINGS
    @given(value=VALUES, at=st.integers(0, 1 << 16))
    def check(value, at):
        (folder / file).write_text(json.dumps(put_somewhere(whole, value, at)))
        assert is_clear(lambda: read_visual_genome(DataFolder(folder), fuzz.VG_RULES))

    check()


def copied(folder: Path, into: Path) -> Path:
    """The folder with links to its photos, its annotation files of its own."""
    for path in sorted(folder.rglob("*")):
        target = into / path.relative_to(folder)
        if path.is_dir():
            target.mkdir()
        elif path.suffix == ".jpg":
            target.symlink_to(path)
        else:
            target.write_bytes(path.read_bytes())
    return into


# What ten thousand cases have found in banks


@pytest.fixture
def bank(base, tmp_path):
    bench = Bench(base, tmp_path / "scratch", "bank")
    return lambda file, data: bench.put(bench.targets[0], file, data)


def refused(folder):
    with pytest.raises(BankError) as caught:
        fuzz._asked(Bank.open(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["content_digest", "derived_digest", "format"])
def test_a_manifest_whose_texts_are_none_is_refused(base, bank, name):
    value = json.loads((base / "bank/manifest.json").read_text())
    refused(bank("manifest.json", json.dumps(value | {name: {"a": ["b\n"]}}).encode()))


def test_a_manifest_whose_sizes_are_no_numbers_is_refused(base, bank):
    value = json.loads((base / "bank/manifest.json").read_text())
    value["files"]["patches.arrow"]["bytes"] = [1]
    refused(bank("manifest.json", json.dumps(value).encode()))


@pytest.mark.parametrize("file", ["manifest.json", "vocabulary.json", "index/index.json"])
def test_brackets_without_end_are_refused(base, bank, file):
    size = (base / "bank" / file).stat().st_size
    deep = b"[" * 20_000 if file == "manifest.json" else (b"[" * size)
    refused(bank(file, deep))


@pytest.mark.parametrize("file", ["ids.npy", "vectors.npy"])
def test_an_index_whose_arrays_have_no_sound_header_is_refused(base, bank, file):
    whole = (base / "bank/index" / file).read_bytes()
    refused(bank(f"index/{file}", whole.replace(b")", b"(")))


def test_vectors_that_are_no_numbers_are_refused_without_a_warning(base, bank):
    whole = (base / "bank/index/vectors.npy").read_bytes()
    signalling = b"\x01\x00\x80\x7f"  # a NaN that numpy warns of
    refused(bank("index/vectors.npy", whole[:128] + signalling * ((len(whole) - 128) // 4)))


def test_text_and_offsets_that_are_none_are_refused_and_never_followed(base, bank):
    """At thirty places of each table: nothing may crash."""
    for file in ("patches.arrow", "scenes.index.arrow", "candidates.arrow", "features.arrow"):
        whole = (base / "bank" / file).read_bytes()
        for place in range(0, len(whole), max(len(whole) // 30, 1)):
            damaged = whole[:place] + b"\xf4\xff\xff\x7f" + whole[place + 4 :]
            folder = bank(file, damaged[: len(whole)])
            assert is_clear(lambda folder=folder: fuzz._asked(Bank.open(folder)))
        bank(file, whole)
