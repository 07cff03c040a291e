"""The demo from end to end in miniature; what it keeps; how it stops."""

import base64
import io
import json
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from bank.bank import Bank
from jobs.demo import (
    DemoOptions,
    check_bank_settings,
    example_graphs,
    main,
    run_state,
    train_demo,
)
from jobs.show.sheets import CELL, GAP
from model.loop import save
from model.recipes import demo, paper
from model.run_folder import writing_alone
from model.trainers import trainer_for
from pipeline.errors import UserError
from pipeline.options import write_json
from pipeline.scene_graph import read_scene_graphs
from tests.model.small_runs import edit_state

ROOT = Path(__file__).parents[2]
STEPS = 100


@pytest.fixture(scope="module")
def bank(toy_bank):
    return Bank.open(toy_bank)


@pytest.fixture
def run(bank, tmp_path):
    """A run of 50 steps."""
    folder = tmp_path / "run"
    folder.mkdir()
    write_json(folder / "config.json", {"bank": str(bank.path), "train": demo()})
    trainer = trainer_for(demo(), bank, torch.device("cpu"))
    trainer.step_number = 50
    save(trainer, bank, folder)
    return folder


def test_where_nothing_is_a_new_run_begins(bank, tmp_path):
    assert run_state(tmp_path / "demo", bank, STEPS)[0] == "new"
    assert run_state(tmp_path, bank, STEPS)[0] == "new"
    with writing_alone(tmp_path):  # as training is before it writes its config
        assert run_state(tmp_path, bank, STEPS)[0] == "new"
    assert run_state(tmp_path, bank, STEPS)[0] == "new"


def test_a_run_goes_on_until_its_steps_are_done(bank, run):
    assert run_state(run, bank, STEPS)[0] == "unfinished"
    assert run_state(run, bank, 50)[0] == "finished"


def test_a_run_of_more_steps_than_are_asked_for_says_so(bank, run):
    assert run_state(run, bank, 50)[1] == "trained already, 50 steps"
    assert run_state(run, bank, 49)[1] == "trained already, 50 steps; remove it for a run of 49"


def test_a_bank_of_other_settings_is_told_what_to_do_in_the_demo(bank):
    options = DemoOptions(bank=bank.path, network_steps=1)  # as it was built
    check_bank_settings(options)
    check_bank_settings(replace(options, bank=bank.path / "nothing"))
    for other, said in (
        (replace(options, limit=7), "without --limit"),
        (replace(options, network_steps=9), "with --network-steps 1"),
    ):
        with pytest.raises(UserError, match=f"was built {said}: .* or name another --bank"):
            check_bank_settings(other)


def test_a_run_of_another_bank_is_replaced(bank, run):
    edit_state(run, bank="0" * 64)
    state, reason = run_state(run, bank, STEPS)
    assert state == "unusable"
    assert "another bank" in reason


def test_a_run_by_other_settings_or_without_a_checkpoint_is_replaced(bank, run):
    other = replace(demo(), lr_generator=1.0)
    write_json(run / "config.json", {"bank": str(bank.path), "train": other})
    assert run_state(run, bank, STEPS)[0] == "unusable"
    write_json(run / "config.json", {"bank": str(bank.path), "train": demo()})
    shutil.rmtree(run / "checkpoints")
    state, why = run_state(run, bank, STEPS)
    assert state == "unusable"
    assert why == "it was stopped before its first checkpoint; it is replaced by a new run"


@pytest.fixture
def python_calls(tmp_path, monkeypatch):
    """Replaces Python by a script that notes its arguments and the files in the run folder."""
    notes = tmp_path / "notes"
    python = tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {notes}\nls {tmp_path}/run >> {notes} 2>&1\nexit 0\n'
    )
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    return lambda: notes.read_text() if notes.exists() else ""


def test_a_finished_run_is_not_trained_again(bank, run, python_calls):
    train_demo(DemoOptions(out=run, bank=bank.path, steps=50))
    assert python_calls() == ""


def test_an_unfinished_run_is_resumed_as_it_lies(bank, run, python_calls):
    train_demo(DemoOptions(out=run, bank=bank.path, steps=STEPS))
    command, *files = python_calls().splitlines()
    assert command == f"-m model.train --resume {run} --bank {bank.path} --steps {STEPS}"
    assert files == ["checkpoints", "config.json"]


def test_an_unusable_run_is_removed_before_a_new_one_begins(bank, run, python_calls):
    shutil.rmtree(run / "checkpoints")
    train_demo(DemoOptions(out=run, bank=bank.path, steps=STEPS))
    command, message = python_calls().splitlines()
    flags = f"--recipe demo --out {run} --bank {bank.path} --steps {STEPS}"
    assert command == f"-m model.train {flags}"
    assert "No such file" in message


def test_a_run_that_another_process_trains_is_not_removed(bank, run, python_calls):
    shutil.rmtree(run / "checkpoints")
    with writing_alone(run), pytest.raises(UserError, match=f"another training is writing {run}"):
        train_demo(DemoOptions(out=run, bank=bank.path, steps=STEPS))
    assert (run / "config.json").is_file()
    assert python_calls() == ""


def test_a_run_that_finished_while_it_was_judged_is_kept(bank, run, python_calls, monkeypatch):
    (run / "checkpoints").rename(run / "later")

    @contextmanager
    def once_another_has_finished(folder):
        (run / "later").rename(run / "checkpoints")
        with writing_alone(folder):
            yield

    monkeypatch.setattr("jobs.demo.writing_alone", once_another_has_finished)
    train_demo(DemoOptions(out=run, bank=bank.path, steps=50))
    assert run_state(run, bank, 50)[0] == "finished"
    assert python_calls() == ""


def test_what_is_not_the_demos_is_never_replaced(bank, run, tmp_path):
    write_json(run / "config.json", {"bank": str(bank.path), "train": paper()})
    with pytest.raises(UserError, match="recipe paper"):
        run_state(run, bank, STEPS)
    shutil.rmtree(run / "checkpoints")
    with pytest.raises(UserError, match="recipe paper"):
        run_state(run, bank, STEPS)
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter-1.md").write_text("once")
    with pytest.raises(UserError, match="something else than a run"):
        run_state(thesis, bank, STEPS)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"train": 3, "bank": "b"}', "\xff"])
def test_a_folder_whose_config_cannot_be_read_is_never_replaced(bank, tmp_path, text):
    (tmp_path / "config.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(UserError, match="no run that this version can read"):
        train_demo(DemoOptions(out=tmp_path, bank=bank.path))
    assert (tmp_path / "config.json").exists()


def test_the_examples_are_six_graphs_the_toy_world_understands(bank):
    graphs = [read_scene_graphs(path, bank.vocabulary) for path in example_graphs()]
    assert [len(listed) for listed in graphs] == [1] * 6
    assert any(graph.boxes for (graph,) in graphs)
    names = {json.dumps(graph.objects) for (graph,) in graphs}
    assert len(names) == 6


# From end to end


def miniature(toy_data, folder, **options):
    """A demo of a few dozen photos, one training step and one sample."""
    paths = {"data": toy_data, "bank": folder / "bank", "out": folder / "run"}
    return DemoOptions(**paths, steps=1, limit=24, network_steps=1, examples=1, draws=1, **options)


def start_demo(options, start=subprocess.Popen):
    flags = [
        part
        for name, value in vars(options).items()
        for part in ("--" + name.replace("_", "-"), str(value))
    ]
    command = [sys.executable, "-m", "jobs.demo", *flags]
    pipe = subprocess.PIPE
    return start(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


@pytest.fixture(scope="module")
def options(toy_data, tmp_path_factory):
    return miniature(toy_data, tmp_path_factory.mktemp("demo"))


@pytest.fixture(scope="module")
def finished(options):
    """What a whole demo printed; its files lie where `options` says."""
    process = start_demo(options)
    stdout, stderr = process.communicate()
    assert process.returncode == 0, stderr
    return stdout


def commands_of(stdout):
    return re.findall(r"^\$ python -m (\S+) ", stdout, re.MULTILINE)


def pictures_of(page, form):
    """All the page's pictures in that format, as pixels."""
    found = re.findall(f'src="data:image/{form};base64,([^"]*)"', page)
    return [pixels_of(io.BytesIO(base64.b64decode(text))) for text in found]


def pixels_of(file):
    with Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def holds(pictures, picture):
    return any(np.array_equal(picture, other) for other in pictures)


def test_the_demo_runs_the_commands_in_order_and_prints_each_with_its_flags(options, finished):
    assert commands_of(finished) == [
        "jobs.build_bank",
        "model.train",
        "jobs.evaluate",
        "jobs.sample",
        "jobs.report",
    ]
    assert f"$ python -m jobs.build_bank --dataset toy --data {options.data} " in finished
    for stage in ("bank", "training", "scores", "samples", "report"):
        assert f"\n== {stage}\n" in finished
        assert re.search(rf"^  {stage} +\d+ s$", finished, re.MULTILINE)


def test_each_command_is_printed_before_its_own_output(finished):
    lines = finished.splitlines()
    printed = [n for n, line in enumerate(lines) if line.startswith("$ python -m ")]
    for command, output in (
        (0, "content digest: "),
        (1, "trained to step 1"),
        (2, "| trained | "),
        (3, "image-0.png (seed 0)"),
        (4, "report.html ("),
    ):
        (at,) = (n for n, line in enumerate(lines) if output in line)
        assert sum(n < at for n in printed) == command + 1


def test_the_bank_and_the_run_are_as_small_as_was_asked_for(options, finished):
    bank = Bank.open(options.bank)
    scenes = {split: len(bank.scene_ids(split)) for split in ("train", "val", "test")}
    assert scenes == {"train": 24, "val": 12, "test": 12}
    assert len((options.out / "log.jsonl").read_text().splitlines()) == 1
    assert run_state(options.out, bank, 1)[0] == "finished"


def test_the_named_folder_holds_a_sample_and_the_credits_of_its_patches(options, finished):
    assert re.search(rf"^images, patches and credits +{options.out}/samples/$", finished, re.M)
    (folder,) = (options.out / "samples").iterdir()
    assert folder.name == "toy_beach"
    names = {"image-0.png", "patches-0.png", "sources-0.png", "credits.txt"}
    assert {path.name for path in folder.iterdir()} == names
    assert pixels_of(folder / "image-0.png").shape == (64, 64, 3)

    bank = Bank.open(options.bank)
    (graph,) = read_scene_graphs(ROOT / "examples/toy_beach.json", bank.vocabulary)
    text = (folder / "credits.txt").read_text()
    patches = re.findall(r"^  (\d+) (.+): patch (\d+) \(.*\) from (\S+); (.+)$", text, re.M)
    assert [(int(o), name) for o, name, *_ in patches] == list(enumerate(graph.objects))
    ids = [int(patch) for _, _, patch, _, _ in patches]
    cells = pixels_of(folder / "patches-0.png")[GAP : GAP + CELL]
    for o, patch in enumerate(bank.patches(np.array(ids))):
        left = GAP + o * (CELL + GAP)
        cell = Image.fromarray(patch).resize((CELL, CELL), Image.Resampling.BICUBIC)
        assert np.array_equal(cells[:, left : left + CELL], cell)
    credits = bank.credits(ids)
    for (*_, file, terms), credit in zip(patches, credits, strict=True):
        assert file == credit["file"]
        assert terms == f"licence: {credit['licence']}; {credit['source_url']}"


def test_the_scores_are_of_this_run_and_bank_and_use_the_toy_worlds_styles(options, finished):
    scores = [json.loads(s) for s in (options.out / "metrics.jsonl").read_text().splitlines()]
    metrics = {score["metric"] for score in scores}
    assert {"ground-truth selection", "compatibility", "styles over draws"} < metrics
    digest = Bank.open(options.bank).content_digest
    for score in scores:
        assert score["run"] == options.out.name
        assert (score["step"], score["num_scenes"], score["bank"]) == (1, 12, digest)


def test_the_report_holds_the_runs_pictures_and_scores(options, finished):
    assert re.search(rf"^open this in a browser +{options.out}/report.html$", finished, re.M)
    page = (options.out / "report.html").read_text()
    pictures = pictures_of(page, "png")
    assert holds(pictures, pixels_of(options.out / "samples-000001.png"))
    assert holds(pictures, pixels_of(options.out / "samples/toy_beach/image-0.png"))
    bank = Bank.open(options.bank)
    assert holds(pictures, bank.scene(int(bank.scene_ids("train")[0])).image)
    assert page.count('<article class="card">') == 1
    for line in (options.out / "metrics.jsonl").read_text().splitlines():
        score = json.loads(line)
        row = f"<td>{score['metric']}</td><td>{score['choice']}</td><td>{score['value']:.3f}</td>"
        assert row in page


def test_every_command_is_given_the_number_of_draws(finished):
    for command in ("sample", "report"):
        assert re.search(rf"^\$ python -m jobs.{command} .*--draws 1\b", finished, re.MULTILINE)


@pytest.fixture
def commands_run_here(monkeypatch):
    """A demo's commands run in this process, which has imported what they import."""

    def run_here(command):
        module, *flags = command[2:]
        monkeypatch.setattr(sys, "argv", [module, *flags])
        with pytest.raises(SystemExit) as stopped:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        return stopped.value.code, None

    monkeypatch.setattr("pipeline.commands.wait_for", run_here)
    for name in ("use_utf_8", "prepare_streams"):
        monkeypatch.setattr(f"pipeline.options.{name}", lambda: None)


@pytest.mark.usefixtures("commands_run_here")
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_a_second_demo_keeps_what_is_finished_and_goes_on_with_the_rest(options, finished, capfd):
    bank = [path for path in options.bank.rglob("*") if path.is_file()]
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bank}
    (first_step,) = (options.out / "log.jsonl").read_text().splitlines()
    for name in ("report.html", "samples/toy_beach/image-0.png"):
        (options.out / name).unlink()

    main(replace(options, steps=2))

    stdout = capfd.readouterr().out
    assert commands_of(stdout) == commands_of(finished)
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in bank} == before
    assert "1 of 2 steps are done" in stdout
    assert f"$ python -m model.train --resume {options.out} " in stdout
    steps = (options.out / "log.jsonl").read_text().splitlines()
    assert steps[0] == first_step
    assert len(steps) == 2
    page = (options.out / "report.html").read_text()
    pictures = pictures_of(page, "png")
    assert holds(pictures, pixels_of(options.out / "samples-000002.png"))
    assert holds(pictures, pixels_of(options.out / "samples/toy_beach/image-0.png"))


# How it stops


def test_a_command_that_fails_ends_the_demo_with_its_exit_code_and_its_message_alone(
    tmp_path, capfd
):
    (tmp_path / "annotations").mkdir()  # photos of another dataset: no styles.json
    with pytest.raises(SystemExit) as stopped:
        main(miniature(tmp_path, tmp_path))
    assert stopped.value.code == 1
    stdout, stderr = capfd.readouterr()
    (line,) = stderr.splitlines()
    assert line.startswith(f"error: {tmp_path} holds no toy world")
    assert commands_of(stdout) == ["jobs.build_bank"]
    assert "== training" not in stdout


def test_ctrl_c_is_one_line_and_exit_130_and_leaves_no_process(toy_data, tmp_path, start):
    process = start_demo(miniature(toy_data, tmp_path), start)
    for line in process.stdout:
        if line.startswith("$ python -m jobs.build_bank"):
            break
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: the command receives it too
    _, stderr = process.communicate()
    assert process.returncode == 130
    (line,) = stderr.splitlines()
    assert line.startswith("interrupted; what was finished is kept")
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


@pytest.mark.parametrize("name", ["steps", "limit", "network_steps", "examples", "draws"])
def test_numbers_under_one_are_refused_by_their_flag(name):
    with pytest.raises(ValueError, match=f"--{name.replace('_', '-')} must be at least 1"):
        DemoOptions(**{name: 0})
