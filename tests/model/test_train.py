"""The training command: its flags, how a run goes on, and what cannot change then."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from bank.bank import Bank
from bank.errors import BankError
from model import checkpoint
from model.config import flags_of
from model.device import choose_device
from model.loop import train
from model.offer import left_out
from model.recipes import RECIPES
from model.run_folder import CONFIG, RunError, new_run, read_run, writing_alone
from model.train import TrainOptions, after_restart, main
from pipeline.address import location
from pipeline.cache import VARIABLE
from pipeline.errors import UserError
from pipeline.options import write_json
from tests.model.small_runs import losses_of, options_of, small, trainer_of


@pytest.fixture
def stopped(bank, tmp_path):
    """A run that has its config and no more."""
    write_json(tmp_path / "config.json", {"bank": str(bank.path), "train": small()})
    return tmp_path


@pytest.mark.parametrize("recipe", RECIPES)
def test_help_shows_every_field_with_the_recipes_own_default(recipe, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")  # wider, it has two columns
    with pytest.raises(SystemExit):
        options_of("--recipe", recipe, "--help")
    shown = capsys.readouterr().out
    words = " ".join(line.strip("│ ") for line in shown.splitlines()).replace(",", "")
    parts = re.split(r"(?<=\)) (?=--)", words)  # after each default
    by_flag = {flag: part for part in parts for flag in re.findall(r"--[a-z.-]+", part)}
    for flag, value in flags_of(RECIPES[recipe]()).items():
        text = " ".join(map(str, value)) if isinstance(value, tuple) else value
        assert f"(default: {text})" in by_flag[flag]
    assert "None" not in shown


@pytest.mark.parametrize("recipe", RECIPES)
def test_without_further_flags_a_recipe_is_what_it_is(recipe):
    assert options_of("--bank", "b", "--recipe", recipe).config == RECIPES[recipe]()
    assert options_of("--bank", "b", f"--recipe={recipe}").config == RECIPES[recipe]()
    assert options_of("--bank", "b").config == RECIPES["paper"]()


def test_every_part_of_a_config_is_given_by_its_flag():
    config = options_of(
        *(
            "--bank",
            "b",
            "--losses.gt-selection",
            0,
            "--retrieval.temperature",
            0.5,
            "--retrieval.candidates",
            3,
        ),
        *("--lr-generator", 1e-5, "--batch-size", 2, "--loader-workers", 3, "--device", "cuda:1"),
        *("--retrieval.no-same-patch-allowed", "--generator.crop-channels", 8, 16),
    ).config
    paper = RECIPES["paper"]()
    changed = {flag: v for flag, v in flags_of(config).items() if v != flags_of(paper)[flag]}
    assert changed == {
        "--losses.gt-selection": 0.0,
        "--retrieval.temperature": 0.5,
        "--retrieval.candidates": 3,
        "--lr-generator": 1e-5,
        "--batch-size": 2,
        "--loader-workers": 3,
        "--device": "cuda:1",
        "--retrieval.same-patch-allowed": False,
        "--generator.crop-channels": (8, 16),
    }


@pytest.mark.parametrize(
    ("short", "flag", "value"),
    [
        (("--relaxation", "soft"), "--retrieval.relaxation", "soft"),
        (("--start=best",), "--retrieval.start", "best"),
        (("--gt-in-candidates",), "--retrieval.gt-in-candidates", True),
        (("--min-coverage", 0.5), "--retrieval.min-coverage", 0.5),
        (("--min-side=32",), "--retrieval.min-side", 32),
    ],
)
def test_a_flag_of_section_2_1_has_a_short_name(short, flag, value):
    was = flags_of(RECIPES["paper"]())
    assert flags_of(options_of("--bank", "b", *short).config) == was | {flag: value}


@pytest.mark.parametrize(
    ("recipe", "flag", "value"),
    [
        ("sg2im", "--retrieval.mode", "random"),
        ("sg2im-demo", "--retrieval.start=best", None),
        ("sg2im", "--retrieval.gt-in-candidates", None),
        ("sg2im", "--losses.gt-selection", "1"),
        ("paper", "--losses.masks", "0.1"),
        ("demo", "--eval-after", "3"),
    ],
)
def test_a_flag_of_another_kind_of_recipe_is_refused(recipe, flag, value):
    given = [flag] if value is None else [flag, value]
    with pytest.raises(
        ValueError, match=f"^{flag.split('=')[0]} does not go with recipe {recipe};"
    ):
        options_of("--bank", "b", "--recipe", recipe, *given)


def test_an_address_is_refused_as_it_was_typed():
    for given in (("--out", "https://x.y/z"), ("--out=https://x.y/z",)):
        with pytest.raises(ValueError, match=r"^(--out=)?https://x\.y/z is an address; "):
            options_of("--bank", "b", *given)


def test_a_bank_may_lie_at_an_address():
    for given in (("--bank", "https://x.y/z/"), ("--bank=https://x.y/z",)):
        assert options_of(*given).bank == location("https://x.y/z")
    with pytest.raises(UserError, match="begins with http:// or https://, not with s3:"):
        options_of("--bank", "s3://x/y")


def test_a_cache_has_a_size(capsys):
    for gb in (0.0, -1.0, "inf", "nan"):
        with pytest.raises(SystemExit, match="2"):
            options_of("--bank", "b", "--cache-gb", gb)
        assert f"--cache-gb must be above 0, not {gb}" in capsys.readouterr().err


def test_a_run_beyond_its_last_step_is_not_called_trained(bank, stopped):
    train(trainer_of(bank, small()), bank, stopped)
    with pytest.raises(UserError, match="at step 4 already, beyond --steps 2"):
        main(options_of("--resume", stopped, "--steps", 2))


def test_a_finished_run_may_be_resumed_and_stays_as_it_is(bank, stopped, capsys):
    train(trainer_of(bank, small()), bank, stopped)
    losses = losses_of(stopped)
    capsys.readouterr()
    main(options_of("--resume", stopped))
    said = capsys.readouterr().out
    assert f"{stopped} goes on from step 4 of 4\n" in said
    assert f"trained to step 4: {stopped}/" in said
    assert losses_of(stopped) == losses


def test_what_a_quality_leaves_is_said_as_training_starts(bank, tmp_path, capsys):
    flags = ("--bank", bank.path, "--recipe", "demo", "--steps", 1, "--batch-size", 2)
    main(options_of(*flags, "--out", tmp_path / "strict", "--min-coverage", 0.8))
    said = capsys.readouterr().out
    rule = replace(RECIPES["demo"]().retrieval, min_coverage=0.8)
    assert said.index(left_out(bank, rule)) < said.index("recipe demo")
    assert read_run(tmp_path / "strict")[0].retrieval.min_coverage == 0.8
    main(options_of(*flags, "--out", tmp_path / "plain"))
    assert "--min-coverage" not in capsys.readouterr().out


def test_a_bank_that_does_not_know_its_patches_quality_is_refused_first(
    bank, tmp_path, monkeypatch
):
    files = {name: f for name, f in bank.manifest.files.items() if name != "quality.arrow"}
    older = Bank(bank.path, replace(bank.manifest, files=files))
    monkeypatch.setattr(Bank, "open", lambda *_: older)
    flags = ("--bank", bank.path, "--recipe", "demo", "--out", tmp_path / "run", "--min-side", 9)
    with pytest.raises(BankError, match=r"has no quality\.arrow: .* --mode overwrite makes one$"):
        main(options_of(*flags))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "flag", "was", "asked"),
    [
        (("--batch-size", 3), "--batch-size", 4, 3),
        (("--recipe", "paper"), "--recipe", "demo", "paper"),
        (("--gt-in-candidates",), "--retrieval.gt-in-candidates", False, True),
        (("--seed", 1), "--seed", 0, 1),
        (("--losses.boxes", 2), "--losses.boxes", 10.0, 2.0),
        (("--min-coverage", 0.5), "--retrieval.min-coverage", 0.0, 0.5),
    ],
)
def test_what_a_run_learns_from_is_fixed(stopped, given, flag, was, asked):
    with pytest.raises(RunError, match=f"^{flag} is {was} in {stopped} and cannot become {asked}"):
        main(options_of("--resume", stopped, *given))


def test_a_run_goes_on_in_its_own_folder(stopped):
    with pytest.raises(ValueError, match="leave out --out"):
        TrainOptions(resume=stopped, out=stopped / "other")


def test_how_a_run_is_executed_may_change_when_it_goes_on(bank, stopped):
    train(trainer_of(bank, small(steps=2)), bank, stopped)
    main(
        options_of(
            *("--resume", stopped, "--recipe", "demo", "--batch-size", 4, "--steps", 5),
            *("--device", "cpu", "--loader-workers", 1, "--grid-every", 3, "--checkpoint-every", 9),
        )
    )
    assert [row["step"] for row in losses_of(stopped)] == [0, 1, 2, 3, 4]
    assert (stopped / "samples-000003.png").is_file()
    config, _ = read_run(stopped)
    assert replace(config, steps=4, execution=small().execution) == small()
    execution = config.execution
    assert (config.steps, execution.device, execution.loader_workers) == (5, "cpu", 1)


def test_help_beside_resume_shows_the_runs_own_values(stopped, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        options_of("--resume", stopped, "--help")
    assert "scenes per step (default: 4)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("device", "said"), [("tpu", "give auto, cpu, cuda or cuda:N"), ("cuda:99", "CUDA device")]
)
def test_a_device_that_is_not_there_is_one_line(bank, tmp_path, device, said):
    with pytest.raises(UserError, match=f"--device {device}: .*{said}"):
        main(options_of("--bank", bank.path, "--out", tmp_path / "run", "--device", device))


def test_a_bank_is_required_but_for_a_run_that_goes_on(stopped, capsys):
    with pytest.raises(SystemExit, match="2"):
        options_of("--recipe", "demo")
    assert "--bank FOLDER|URL" in capsys.readouterr().err
    assert options_of("--resume", stopped).bank is None


def test_the_bank_of_a_run_may_have_moved_but_not_changed(bank, stopped, tmp_path):
    """Before the first checkpoint too, where config.json alone says which bank it was."""
    moved = tmp_path / "moved"
    shutil.copytree(bank.path, moved)
    config = {"bank": "gone", "bank_digest": bank.content_digest, "train": small(steps=1)}
    write_json(stopped / CONFIG, config)
    main(options_of("--resume", stopped, "--bank", moved))
    stored = json.loads((stopped / CONFIG).read_text("utf-8"))
    assert (stored["bank"], stored["bank_digest"]) == (str(moved), bank.content_digest)
    shutil.rmtree(stopped / "checkpoints")
    write_json(stopped / CONFIG, config | {"bank_digest": "f" * 64})
    before = (stopped / CONFIG).read_bytes()
    with pytest.raises(RunError, match="began on a bank with content digest ffffffffffff"):
        main(options_of("--resume", stopped, "--bank", moved))
    assert (stopped / CONFIG).read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\xff", "JSON is malformed"),
        (b'{"bank": "\xff"}', "utf-8|UTF-8"),
        (b'{"bank": "b"', "truncated"),
        (b'{"bank": 3, "train": {}}', r"at `\$\.bank`"),
        (b'{"bank": "b", "train": {"recipe": "demo", "image_px": "64"}}', r"\$\.image_px"),
    ],
)
def test_a_config_that_cannot_be_read_is_one_line_that_names_file_and_field(tmp_path, text, said):
    (tmp_path / CONFIG).write_bytes(text)
    with pytest.raises(RunError, match=rf"^{tmp_path}/config\.json.*({said}).*; was it edited"):
        read_run(tmp_path)


def test_a_run_without_a_checkpoint_starts_again_with_the_same_losses(bank, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    for run in (whole, stopped):
        run.mkdir()
    config = small(steps=2)
    train(trainer_of(bank, config), bank, whole)
    (stopped / "log.jsonl").write_text('{"step": 0, "total": 0.0}\n')
    write_json(stopped / "config.json", {"bank": str(bank.path), "train": config})
    main(options_of("--resume", stopped))
    assert losses_of(stopped) == losses_of(whole)


def test_a_file_in_the_place_of_a_new_run_is_one_line(bank, tmp_path):
    (tmp_path / "run").write_text("a file")
    flags = ("--bank", bank.path, "--recipe", "demo", "--out")
    with pytest.raises(UserError, match=r"--out .*run is a file; name a folder"):
        main(options_of(*flags, tmp_path / "run"))
    with pytest.raises(UserError, match=r"cannot write .*Not a directory; mend this, or name"):
        main(options_of(*flags, tmp_path / "run/new"))


@pytest.mark.parametrize("names", [["lock"], ["lock", "config.json.0f1e2d3c.partial"]])
def test_a_folder_of_a_run_that_had_no_config_yet_takes_a_run(bank, tmp_path, names):
    """As a training leaves it that could not write its config, or was killed meanwhile."""
    for name in names:
        (tmp_path / name).touch()
    main(
        options_of(
            "--bank",
            bank.path,
            "--recipe",
            "demo",
            "--out",
            tmp_path,
            "--steps",
            1,
            "--batch-size",
            2,
        )
    )
    assert (tmp_path / "config.json").is_file()
    assert not [*tmp_path.glob("*.partial")]


def test_a_folder_of_other_things_is_no_place_for_a_run(bank, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    for folder in (tmp_path, bank.path):
        before = sorted(folder.rglob("*"))
        with pytest.raises(UserError, match=f"--out {folder} holds other files; name a folder"):
            main(options_of("--bank", bank.path, "--recipe", "demo", "--out", folder))
        assert sorted(folder.rglob("*")) == before


def test_a_run_has_one_writer(bank, stopped):
    with writing_alone(stopped), pytest.raises(RunError, match=f"is writing {stopped}; wait"):
        main(options_of("--resume", stopped))
    assert not (stopped / "log.jsonl").exists()
    with writing_alone(stopped):  # the first is done
        pass


def test_a_run_that_was_refused_before_its_first_step_begins_by_the_corrected_command(
    bank, tmp_path, monkeypatch
):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    command = ("--bank", bank.path, "--recipe", "demo", "--steps", 1, "--out", tmp_path / "run")
    command = (*command, "--batch-size", 2)
    with pytest.raises(UserError, match="--loader resident: "):
        main(options_of(*command, "--loader", "resident"))
    main(options_of(*command, "--loader", "stream"))
    assert len(losses_of(tmp_path / "run")) == 1


def test_a_new_run_does_not_begin_in_the_folder_of_another(bank, stopped):
    (stopped / "log.jsonl").write_text('{"step": 0}\n')
    with pytest.raises(UserError, match=f"holds a run already: --resume {stopped}"):
        main(options_of("--bank", bank.path, "--recipe", "demo", "--out", stopped))
    (stopped / "checkpoints/step-000002").mkdir(parents=True)
    (stopped / "config.json").unlink()
    with pytest.raises(UserError, match="holds a run already"):
        main(options_of("--bank", bank.path, "--recipe", "demo", "--out", stopped))


TRAINER = """
import os, sys, time
from pathlib import Path
from types import SimpleNamespace
from model.run_folder import writing_alone

with writing_alone(Path(sys.argv[1])):
    if os.fork() == 0:
        print("a loader's process", flush=True)
    time.sleep(60)
"""


def test_a_loaders_process_that_outlives_its_trainer_does_not_keep_the_run_locked(stopped, start):
    trainer = start([sys.executable, "-c", TRAINER, str(stopped)], stdout=subprocess.PIPE)
    trainer.stdout.readline()
    with pytest.raises(RunError, match="another training"), writing_alone(stopped):
        pass
    trainer.kill()
    trainer.wait()
    with writing_alone(stopped):
        pass


def test_two_new_runs_never_share_a_folder(tmp_path, monkeypatch):
    (tmp_path / "00007-coco").mkdir()
    mkdir = Path.mkdir

    def after_another(folder, **options):
        if folder.name == "00008-toy" and not folder.exists():
            mkdir(folder)
        mkdir(folder, **options)

    monkeypatch.setattr(Path, "mkdir", after_another)
    assert new_run(tmp_path, "toy").name == "00009-toy"


def test_a_run_that_may_not_be_written_is_one_line(bank, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o555)
    with pytest.raises(UserError, match=r"cannot write .*Permission denied"):
        main(options_of("--bank", bank.path, "--recipe", "demo", "--out", tmp_path / "run"))


def test_cuda_devices_are_counted_from_0(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    assert choose_device("cuda:1").index == 1
    with pytest.raises(UserError, match="this machine has 2 CUDA devices, from cuda:0"):
        choose_device("cuda:2")


def test_each_of_a_machines_processes_takes_its_own_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert choose_device("cuda").index is None
    monkeypatch.setenv("LOCAL_RANK", "1")  # as torchrun sets it
    assert choose_device("auto").index == 1
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UserError, match="this machine has 2 CUDA devices"):
        choose_device("auto")


def test_a_deterministic_run_asks_torch_for_it(bank, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.backends.cudnn.benchmark", True)
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    flags = ("--recipe", "demo", "--steps", 1, "--batch-size", 2, "--device", "cpu")
    try:
        main(options_of("--bank", bank.path, *flags, "--deterministic", "--out", tmp_path / "run"))
        assert torch.are_deterministic_algorithms_enabled()
        assert not torch.backends.cudnn.benchmark
        assert os.environ.pop("CUBLAS_WORKSPACE_CONFIG") == ":4096:8"
    finally:
        torch.use_deterministic_algorithms(False)


def test_a_run_scores_its_retrieval_as_it_goes(bank, tmp_path, capsys):
    flags = ("--recipe", "demo", "--steps", 2, "--batch-size", 2, "--device", "cpu")
    main(options_of("--bank", bank.path, *flags, "--eval-every", 1, "--out", tmp_path / "run"))
    assert ", the best so far\n" in capsys.readouterr().out
    scores = [row["score/val"] for row in losses_of(tmp_path / "run")]
    best = checkpoint.read_state(checkpoint.last(tmp_path / "run")).best
    assert best == (1 + int(np.argmax(scores)), max(scores))


def test_a_run_that_was_started_again_goes_on_in_its_folder(stopped, monkeypatch):
    options = options_of("--bank", "b", "--recipe", "demo", "--out", stopped)
    assert after_restart(options) == options
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    again = after_restart(options)
    assert (again.resume, again.out, again.config) == (stopped, None, options.config)
    new = options_of("--bank", "b", "--out", stopped / "new")
    assert after_restart(new) == new
