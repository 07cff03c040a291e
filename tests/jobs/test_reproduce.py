"""A claim from end to end in miniature: trainings, scores, pages; and once more."""

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.claims.claims import COMPATIBLE, LOSSES, PAPER
from jobs.claims.record import Settings, read_record
from jobs.claims.training import SCORING, TRAINING
from jobs.reproduce import BANK, PHOTOS, ReproduceOptions, main, typed
from jobs.stages.options import BuildBank
from pipeline.errors import UserError
from pipeline.options import write_json
from tests.jobs.claims.made_up import record_of


@pytest.fixture(scope="module")
def options(toy_bank, toy_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("claims")
    return ReproduceOptions(
        claim="compatible",
        bank=toy_bank,
        styles=toy_data / "styles.json",
        seeds=2,
        steps=2,
        draws=2,
        work=folder / "runs",
        out=folder / "results",
    )


@pytest.fixture(scope="module")
def finished(options):
    main(options)
    return options


def record(options):
    return json.loads((options.out / "compatible.json").read_text("utf-8"))


def runs(options):
    return sorted(path.parent for path in options.work.glob("*/*/config.json"))


def test_a_claim_is_trained_scored_and_written(finished):
    assert [run.name for run in runs(finished)] == ["seed-0", "seed-1"]
    found = record(finished)
    of = found["settings"]
    assert (of["seeds"], of["steps"], of["scenes"], of["draws"]) == (2, 2, 20, 2)
    assert [method["name"] for method in found["methods"]] == [m.name for m in COMPATIBLE.methods]
    by_name = {m["name"]: [s["compatibility"] for s in m["scores"]] for m in found["methods"]}
    assert by_name["learned"][0] != by_name["learned"][1]
    assert by_name["predefined"][0] != by_name["predefined"][1]  # of other scenes
    assert by_name["random"][0] != by_name["random"][1]  # drawn by other numbers
    assert min(by_name["global oracle"]) > max(by_name["learned"])
    (training,) = found["trainings"]
    assert training["name"] == PAPER.name
    assert len(training["seconds"]) == 2
    assert min(training["seconds"]) > 0
    page = (finished.out / "compatible.md").read_text("utf-8")
    assert training["command"] in page
    assert (finished.out / "README.md").is_file()
    assert (finished.out / "compatible.svg").is_file()


def test_a_second_call_computes_nothing_and_writes_the_same(finished, monkeypatch):
    before = {path: path.read_bytes() for path in finished.out.iterdir()}
    times = {path: path.read_bytes() for path in finished.work.glob("*/*/*_seconds.txt")}
    assert {path.name for path in times} == {TRAINING, SCORING}
    main(finished)
    assert {path: path.read_bytes() for path in finished.out.iterdir()} == before
    assert {path: path.read_bytes() for path in times} == times


def test_what_was_cut_off_comes_to_the_same_numbers(finished, tmp_path):
    before = record(finished)
    moved = replace(finished, work=tmp_path / "runs", out=tmp_path / "results")
    shutil.copytree(finished.work, moved.work)
    cut_off = runs(moved)[1]
    shutil.rmtree(cut_off / "checkpoints")
    (cut_off / "claims.json").unlink()
    main(moved)
    after = record(moved)
    assert after["methods"] == before["methods"]
    assert after["trainings"][0]["seconds"][1] > before["trainings"][0]["seconds"][1]
    assert after["trainings"][0]["seconds"][0] == before["trainings"][0]["seconds"][0]


def test_without_styles_there_is_nothing_to_measure_by(options, tmp_path):
    with pytest.raises(UserError, match=r"hidden styles of .* are not known.*by --styles FILE"):
        main(replace(options, styles=None, work=tmp_path, out=tmp_path))


def test_results_of_another_version_are_refused_before_anything_is_trained(options, tmp_path):
    (tmp_path / "losses.json").write_text("{}")
    with pytest.raises(UserError, match=r"losses.json cannot be read by this version"):
        main(replace(options, work=tmp_path / "runs", out=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_results_that_lack_what_is_compared_are_refused_before_anything_is_trained(
    options, tmp_path
):
    write_json(tmp_path / "losses.json", record_of(replace(LOSSES, methods=()), {"both": [0.5]}))
    with pytest.raises(UserError, match=r"losses.json has no scores of 'both losses'"):
        main(replace(options, work=tmp_path / "runs", out=tmp_path))
    assert not (tmp_path / "runs").exists()


def test_a_record_that_is_to_be_made_anew_hinders_no_other(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.reproduce.asked_for", lambda _: (COMPATIBLE, LOSSES))
    out = tmp_path / "results"
    shutil.copytree(finished.out, out)
    of = json.loads((out / "compatible.json").read_text("utf-8"))["settings"]
    lacking = record_of(replace(LOSSES, methods=()), {"both": [0.5]})
    write_json(out / "losses.json", replace(lacking, settings=Settings(**of)))
    asked = []

    def measured(claim, *_):
        asked.append(claim.name)
        if claim is LOSSES:
            raise KeyboardInterrupt
        return read_record(out / "compatible.json")

    monkeypatch.setattr("jobs.claims.record.measure", measured)
    with pytest.raises(KeyboardInterrupt):
        main(replace(finished, out=out))
    assert asked == ["compatible", "losses"]
    assert "| `losses` | " in (out / "README.md").read_text("utf-8")  # not measured, not refused


@pytest.mark.parametrize(
    ("otherwise", "told"),
    [
        ({"seeds": 3}, "3 seeds"),
        ({"steps": 3}, "3 steps"),
        ({"num": 10}, "10 scenes"),
        ({"draws": 3}, "3 draws"),
    ],
)
def test_what_was_measured_otherwise_is_not_replaced(finished, tmp_path, otherwise, told):
    before = (finished.out / "compatible.json").read_bytes()
    with pytest.raises(UserError, match=rf"compatible\.json is of 2 seeds.*, not of .*{told}"):
        main(replace(finished, work=tmp_path / "runs", **otherwise))
    assert not (tmp_path / "runs").exists()
    assert (finished.out / "compatible.json").read_bytes() == before


def test_as_many_candidates_are_offered_as_to_every_score(finished, tmp_path, monkeypatch):
    monkeypatch.setattr("model.scores.scenes.CANDIDATES", 5)
    with pytest.raises(UserError, match=r"not of .*, 5 candidates"):
        main(replace(finished, work=tmp_path / "runs"))


def test_pages_that_cannot_be_written_are_refused_before_anything_is_trained(options, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        main(replace(options, work=tmp_path / "runs", out=tmp_path / "file" / "results"))
    assert not (tmp_path / "runs").exists()


def test_the_command_is_told_as_it_was_typed(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["reproduce.py", "--claim", "all", "--quiet", "--out", "a b"])
    assert typed() == "python -m jobs.reproduce --claim all --out 'a b'"


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"claim": "flat-earth"}, "--claim flat-earth: give compatible, losses"),
        ({"seeds": 1}, "--seeds must be at least 2, not 1"),
        ({"draws": 1}, "--draws must be at least 2, not 1"),
        ({"num": 0}, "--num must be at least 1, not 0"),
        ({"steps": 0}, "--steps must be at least 1, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused_by_its_flag(wrong, said):
    with pytest.raises(ValueError, match=said):
        ReproduceOptions(**{"claim": "all", **wrong})


def test_the_bank_that_is_built_by_default_lies_where_build_bank_puts_it():
    assert BuildBank(dataset="toy", toy_photos=PHOTOS).bank == BANK == Path("bank/toy-7000")
