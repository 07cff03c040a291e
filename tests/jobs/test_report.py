"""The page: complete, self-contained, and safe whatever the names in it."""

import base64
import io
import json
import re
import shutil
from dataclasses import replace

import pytest
import torch
from PIL import Image

from bank.bank import Bank
from jobs.report import ReportOptions, main
from model.loop import save
from model.recipes import demo
from model.retrievegan.run import RetrieveGANRun
from model.trainers import trainer_for
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.scene import SceneGraph

LOG = [{"step": step, "total": 2.0 / (step + 1), "boxes": 0.1} for step in range(30)]


@pytest.fixture(scope="module")
def run(toy_bank, tmp_path_factory):
    bank = Bank.open(toy_bank)
    folder = tmp_path_factory.mktemp("runs") / "00001-toy"
    folder.mkdir()
    write_json(folder / "config.json", {"bank": str(bank.path), "train": demo()})
    save(trainer_for(demo(), bank, torch.device("cpu")), bank, folder)
    (folder / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in LOG))
    score = {"metric": "ground-truth selection", "choice": "trained", "value": 0.4321}
    (folder / "metrics.jsonl").write_text(json.dumps(score) + "\n")
    for step, colour in ((10, "red"), (30, "lime")):
        Image.new("RGB", (9, 5), colour).save(folder / f"samples-{step:06d}.png")
    return folder


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    path = tmp_path_factory.mktemp("graphs") / "a_meadow_<b>.json"
    path.write_text('{"objects": ["sky-other", "grass"], "relationships": [[0, "above", 1]]}')
    return path


@pytest.fixture(scope="module")
def page(run, graph):
    main(ReportOptions(run=run, graphs=(graph,), draws=2))
    return (run / "report.html").read_text()


def test_where_the_page_cannot_be_written_is_said_before_the_work(run, tmp_path, monkeypatch):
    monkeypatch.setattr("jobs.show.run_page.render_run", None)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write .*report\.html: .* --out"):
        main(ReportOptions(run=run, out=tmp_path / "file" / "report.html"))


def test_the_page_needs_no_other_file(page):
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) > 20
    assert all(s.startswith("data:image/") for s in sources)
    links = re.findall(r'<(\w+)[^>]*href="([^"]*)"', page)
    assert all(to.startswith("#") or (tag == "a" and to.startswith("http")) for tag, to in links)
    assert any(to.startswith("http") for _, to in links)  # licences and sources may be followed
    assert "@import" not in page
    assert "<script" not in page


def test_every_section_is_there(page):
    for name in ("graphs", "scores", "curves", "training", "bank"):
        assert f'<section id="{name}">' in page
        assert f'href="#{name}"' in page
    assert "0.432" in page
    assert "sky-other above grass" in page


def test_all_retrieval_modes_are_shown_side_by_side_with_all_draws(page):
    for mode in ("learned", "predefined", "random"):
        assert page.count(f"image composed of {mode} patches") == 2


@pytest.mark.parametrize("start", ["best", "medoid", "random"])
def test_learned_draws_that_would_be_alike_are_drawn_with_noise_which_is_said(
    toy_bank, graph, tmp_path, start
):
    bank, config = Bank.open(toy_bank), demo()
    config = replace(config, retrieval=replace(config.retrieval, start=start))
    write_json(tmp_path / "config.json", {"bank": str(bank.path), "train": config})
    save(trainer_for(config, bank, torch.device("cpu")), bank, tmp_path)
    for draws in (1, 3):
        main(ReportOptions(run=tmp_path, graphs=(graph,), draws=draws))
        page = (tmp_path / "report.html").read_text()
        made = r'<img class="made" src="([^"]+)" alt="image composed of learned patches, draw'
        assert len({*re.findall(made, page)}) == draws
        said = "drawn with noise, without which all draws would be alike" in page
        assert said == (draws > 1 and start != "random")
    how = {"best": "go best with one another", "medoid": "most central", "random": "at random"}
    assert [part in page for part in how.values()] == [other == start for other in how]


def test_patches_that_fall_short_of_the_runs_quality_are_outlined(toy_bank, page, tmp_path):
    bank, config = Bank.open(toy_bank), demo()
    config = replace(config, retrieval=replace(config.retrieval, min_coverage=0.9))
    write_json(tmp_path / "config.json", {"bank": str(bank.path), "train": config})
    save(trainer_for(config, bank, torch.device("cpu")), bank, tmp_path)
    (tmp_path / "tree.json").write_text('{"objects": ["tree", "grass"]}')
    main(ReportOptions(run=tmp_path, graphs=(tmp_path / "tree.json",), draws=2))
    strict = (tmp_path / "report.html").read_text()
    shown = re.findall(r'<img (class="below" )?src="[^"]*" alt="\w+" title="(\w+)([^"]*)"', strict)
    opened = RetrieveGANRun(trainer_for(config, bank, torch.device("cpu")).model, bank, "cpu")
    short = opened.retrieve(SceneGraph(("tree", "grass"), ())).below.tolist()
    assert sorted({*short}) == [False, True]
    marks = {name: (bool(below), said) for below, name, said in shown}
    for name, below in zip(("tree", "grass"), short, strict=True):
        said = ": no patch of the quality asked for" if below else ""
        assert marks[name] == (below, said)
    for part in ("Outlined in red", "--min-coverage 0.9"):
        assert part in strict
        assert part not in page
    assert 'class="below"' not in page


def test_names_from_files_are_escaped(page):
    assert "a meadow &lt;b&gt;" in page
    assert "a meadow <b>" not in page


def test_the_last_training_samples_are_shown(page):
    shown = re.search(r'class="training" src="data:image/png;base64,([^"]*)"', page)
    with Image.open(io.BytesIO(base64.b64decode(shown[1]))) as grid:
        assert grid.getpixel((4, 2)) == (0, 255, 0)


def test_a_run_without_log_scores_or_graphs_still_gives_a_page(run, tmp_path):
    shutil.copy(run / "config.json", tmp_path)
    shutil.copytree(run / "checkpoints", tmp_path / "checkpoints")
    main(ReportOptions(run=tmp_path))
    page = (tmp_path / "report.html").read_text()
    assert '<section id="bank">' in page
    assert '<section id="scores">' not in page
    assert '<section id="curves">' not in page


def test_the_number_of_draws_has_bounds(run):
    with pytest.raises(ValueError, match="--draws"):
        ReportOptions(run=run, draws=0)
