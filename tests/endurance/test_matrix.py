"""A few cells of the matrix; all of them by `python -m tests.endurance.matrix`."""

import zipfile
from collections import Counter, deque
from dataclasses import replace

import pytest

from bank.compare import Gap, Overlap
from bank.manifest import read_manifest
from jobs.stages.cluster import Job, Pool
from tests.endurance import matrix
from tests.endurance.matrix import CELLS, RECIPE, Bench, Cell, Result

SMALL = (
    *RECIPE, "--limit", "6", "--image-size", "16", "--patch-size", "8",
    "--encoder-steps", "1", "--cooccurrence-steps", "1",
)  # fmt: skip
NAMED = {cell.name: cell for cell in CELLS}


def test_a_bank_built_otherwise_in_every_way_at_once_is_the_same_files(toy_data, tmp_path):
    bench = Bench(tmp_path, toy_data, SMALL)
    everything = NAMED["all of it at once"]
    otherwise = replace(everything, killed_at=("", 0), twice=True)  # test_build_bank kills
    results = matrix.build_all(bench, [otherwise])
    assert [r.level for r in results] == [5, 5]
    assert matrix.broken(results) == []
    assert results[0].content == read_manifest(bench.bank(CELLS[0])).content_digest


def test_photos_are_zipped_whole(toy_data, tmp_path):
    folder = matrix.zipped(toy_data, tmp_path / "zipped")
    assert not (folder / "train2017").exists()
    with zipfile.ZipFile(folder / "val2017.zip") as archive:
        names = archive.namelist()
        assert names != sorted(names)
        for name in names:
            assert archive.read(name) == (toy_data / name).read_bytes()
    assert len(names) == len(list((toy_data / "val2017").iterdir()))


@pytest.fixture
def run_otherwise(monkeypatch):
    monkeypatch.setattr(Pool, "run", Pool.run)  # to be put back
    return matrix.run_otherwise


def done(tasks):
    jobs = deque(Job(str, task) for task in tasks)
    return [done.result for done in Pool().run(jobs)]


def test_jobs_are_all_run_in_another_order(run_otherwise):
    run_otherwise(1, twice=False)
    results = done(range(20))
    assert sorted(results, key=int) == [str(n) for n in range(20)] != results


def test_jobs_are_run_twice_and_count_once(run_otherwise):
    run_otherwise(1, twice=True)
    times = Counter()

    class Task(int):
        def __str__(self):
            times[int(self)] += 1
            return super().__repr__()

    results = done(map(Task, range(20)))
    assert sorted(results, key=int) == [str(n) for n in range(20)] != results
    assert times == dict.fromkeys(range(20), 2)


def test_a_task_that_comes_out_in_two_ways_is_noticed(run_otherwise):
    run_otherwise(None, twice=True)
    results = iter("ab")

    class Task:
        def __str__(self):
            return next(results)

    with pytest.raises(RuntimeError, match="came out in two ways"):
        done([Task()])


def result(cell, content="a", derived="b"):
    gap, overlap = Gap(3, 1, 0.5, 0.25), Overlap(3, 0.8125, 0, 1)
    return Result(cell, 1.0, content * 64, derived * 64, 3, gap, Gap(3, 0, 0.0, 0.0), overlap)


def test_another_content_digest_breaks_the_promise_and_so_does_a_derived_one_among_its_like():
    base, other = CELLS[0], Cell(name="other")
    elsewhere = replace(other, instructions="others")
    assert matrix.broken([result(base), result(other), result(elsewhere, derived="c")]) == []
    (line,) = matrix.broken([result(base), result(elsewhere, content="c", derived="c")])
    assert line.startswith("other: content digest cccccccccccc, and not aaaaaaaaaaaa")
    (line,) = matrix.broken([result(base), result(other, derived="c")])
    assert line == ("other: derived digest cccccccccccc, and not bbbbbbbbbbbb as with no workers")
    by_file = [replace(elsewhere, by_file=True), replace(other, by_file=True)]
    assert len(matrix.broken([result(base), *(result(cell, derived="c") for cell in by_file)])) == 0


def test_the_table_says_how_far_derived_parts_lie_apart():
    rows = matrix.table([result(CELLS[0]), result(Cell(name="x"))]).splitlines()
    wanted = (
        "| x | `aaaaaaaaaaaa` | `bbbbbbbbbbbb` | 3 | 81.25 % | 2.5e-01 of their length | none |"
    )
    assert rows[3] == wanted
    assert rows[-1] == "level 3: the same content: scenes and names too"


def test_cells_have_names_of_their_own():
    assert len(NAMED) == len(CELLS)
