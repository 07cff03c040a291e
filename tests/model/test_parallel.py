"""Several processes train as one would, stop together, and wait for none that is gone."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch.distributed import TCPStore

from model.checkpoint import newest
from model.parallel import ALONE, Ranks
from model.train import check_parts, main
from pipeline.errors import UserError
from tests.model.one_of_several import STEPS, batch_at, trainer_of
from tests.model.small_runs import losses_of, options_of

ROOT = Path(__file__).parents[2]
CHILD = "tests.model.one_of_several"
LIMIT_S = 300
FLAGS = ("--recipe", "demo", "--batch-size", "4", "--steps", "4", "--checkpoint-every", "1",
         "--eval-every", "0", "--device", "cpu")  # fmt: skip


@pytest.fixture
def two(start):
    """Run the child as two processes; returns exit code, stdout and stderr of each."""

    def run(*arguments):
        # As torchrun does: it keeps the store, and so no other process can take the port.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        env = os.environ | {
            "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port), "TORCHELASTIC_USE_AGENT_STORE": "True",
            "OMP_NUM_THREADS": "1",
        }  # fmt: skip
        command = [sys.executable, "-m", CHILD, *map(str, arguments)]
        children = [
            start(
                command,
                cwd=ROOT,
                env=env | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(2)
        ]
        said = [child.communicate(timeout=LIMIT_S) for child in children]
        return [(child.returncode, *texts) for child, texts in zip(children, said, strict=True)]

    return run


def alone(optimiser):
    """What one process makes of the whole batches: its results, and its networks."""
    trainer = trainer_of(0, optimiser)
    results = {}
    for step in range(STEPS):
        for name, value in trainer.step(batch_at(step)).items():
            results[f"{step} {name}"] = value
    return results, trainer.networks


@pytest.mark.parametrize("optimiser", ["descent", "adam"])
def test_two_processes_have_the_losses_and_weights_of_one_with_the_whole_batch(
    two, tmp_path, optimiser
):
    """Of three objects and of two: a mean of means would be another."""
    assert [code for code, *_ in two(optimiser, tmp_path)] == [0, 0]
    first, second = (load_file(tmp_path / f"rank-{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    results, networks = alone(optimiser)
    for name, value in results.items():
        torch.testing.assert_close(first[name], value, rtol=1e-4, atol=1e-6, msg=name)
    for name, network in networks.items():
        for key, value in network.state_dict().items():
            torch.testing.assert_close(first[f"{name}.{key}"], value, rtol=1e-4, atol=1e-6)
    for each in (first, second):
        assert each["diverged"] == 1  # over what only the first process has
        assert each["unchanged"]
    assert first["agreed"].tolist() == [1, 0]


def test_all_tensors_are_added_up_in_one_exchange_in_place(monkeypatch):
    """As between two processes that have the same."""
    exchanged = []

    def all_reduce(tensor):
        exchanged.append(tensor)
        tensor.mul_(2)

    monkeypatch.setattr("torch.distributed.all_reduce", all_reduce)
    kernel = torch.randn(2, 3, 4, 4).to(memory_format=torch.channels_last)
    tensors = [torch.randn(3), kernel.clone(memory_format=torch.preserve_format)]
    before = [each.clone() for each in tensors]
    Ranks(1, 2).add_up(tensors)
    assert len(exchanged) == 1
    for tensor, was in zip(tensors, before, strict=True):
        assert torch.equal(tensor, 2 * was)
    assert tensors[1].is_contiguous(memory_format=torch.channels_last)
    ALONE.add_up(tensors)
    assert torch.equal(tensors[0], 2 * before[0])
    assert len(exchanged) == 1


def lines_of(text):
    return [line for line in text.splitlines() if line.strip()]


def test_two_processes_train_the_run_that_one_trains(two, bank, tmp_path):
    """By one path: the negatives of all pairs are of a process's own scenes."""
    flags = ("--bank", str(bank.path), *FLAGS, "--retrieval.objective", "path")
    (first, said, _), (second, *nothing) = two("as usual", *flags, "--out", tmp_path / "two")
    assert (first, second) == (0, 0)
    assert nothing == ["", ""]
    assert ", cpu, float32, 2 processes" in said
    assert said.count("trained to step 4: ") == 1
    main(options_of(*flags, "--out", tmp_path / "one"))
    runs = [losses_of(tmp_path / name) for name in ("one", "two")]
    assert [row["step"] for row in runs[1]] == [0, 1, 2, 3]
    for one, other in zip(*runs, strict=True):
        assert one.keys() == other.keys()
    for one, other in zip(*(rows[:2] for rows in runs), strict=True):  # rounding grows
        assert other == pytest.approx(one, rel=1e-3)


def test_two_processes_that_train_an_sg2im_end_with_the_same_network(two, bank, tmp_path):
    """Also its running means, which each has of its own scenes up to --eval-after."""
    sizes = ("--generator.decoder", "8", "6", "--image-px", "32", "--eval-after", "2")
    flags = ("--bank", bank.path, *FLAGS, "--recipe", "sg2im-demo", *sizes)
    results = two("as usual", *flags, "--out", tmp_path / "run")
    assert [code for code, *_ in results] == [0, 0]
    assert len(losses_of(tmp_path / "run")) == 4
    saved = load_file(tmp_path / "run/checkpoints/step-000004/model.safetensors")
    assert any("running_mean" in name for name in saved)
    for rank in range(2):
        network = load_file(tmp_path / f"rank-{rank}.safetensors")
        assert network.keys() == saved.keys()
        assert all(torch.equal(value, saved[name]) for name, value in network.items())


def test_a_signal_to_one_process_stops_all_at_the_same_step_and_saves(two, bank, tmp_path):
    flags = ("--bank", str(bank.path), *FLAGS, "--out", str(tmp_path / "run"))
    (first, _, error), (second, _, other) = two("signal", *flags)
    assert (first, second) == (143, 143)
    assert "stopped at step 3; saved: " in error
    assert "stopped at" not in other
    assert len(losses_of(tmp_path / "run")) == 3
    assert (tmp_path / "run/checkpoints/step-000003").is_dir()


def test_a_full_disk_is_one_line_and_ends_all(two, bank, tmp_path):
    flags = ("--bank", str(bank.path), *FLAGS, "--out", str(tmp_path / "run"))
    (first, _, error), (second, _, other) = two("disk", *flags)
    assert (first, second) == (1, 1)
    (line,) = lines_of(error)
    assert "step-000001: No space left on device; there was no checkpoint yet" in line
    assert lines_of(other) == []


def test_a_process_that_dies_ends_the_others_with_one_line(two, bank, tmp_path):
    flags = ("--bank", str(bank.path), *FLAGS, "--out", str(tmp_path / "run"))
    (first, _, error), (second, *_) = two("dies", *flags)
    assert (first, second) == (1, -signal.SIGKILL)
    (line,) = lines_of(error)
    assert "another process of this training has ended; --resume goes on" in line


def test_what_all_processes_find_wrong_is_told_once(two, bank, tmp_path):
    results = two("as usual", "--bank", tmp_path / "nowhere", "--recipe", "demo")
    assert [code for code, *_ in results] == [1, 1]
    assert len(lines_of(results[0][2] + results[1][2])) == 1


def test_torchrun_starts_a_run_again_over_a_process_that_died_and_it_goes_on(start, bank, tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "--max-restarts", "1", "-m", CHILD, "dies", "--bank", str(bank.path), *FLAGS,
        "--out", str(run),
    ]  # fmt: skip
    process = start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    said, _ = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 0
    assert f"{run} goes on from step 2 of 4\n" in said
    assert f"trained to step 4: {run}/" in said
    assert [row["step"] for row in losses_of(run)] == [0, 1, 2, 3]


def test_a_signal_to_torchrun_itself_saves_one_step(start, bank, tmp_path):
    run = tmp_path / "run"
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
        "-m", "model.train", "--bank", str(bank.path), *FLAGS, "--out", str(run),
        "--steps", "100000",
    ]  # fmt: skip
    process = start(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while newest(run) is None and process.poll() is None:
        time.sleep(0.1)
    process.terminate()
    _, error = process.communicate(timeout=LIMIT_S)
    assert process.returncode == 1
    (stopped,) = re.findall(r"stopped at step ([\d,]+); saved: ", error)
    steps = int(stopped.replace(",", ""))
    assert newest(run).name == f"step-{steps:06d}"
    assert [row["step"] for row in losses_of(run)] == [*range(steps)]


def test_the_batch_is_cut_into_equal_parts():
    class Three:
        size = 3

    with pytest.raises(UserError, match=r"--batch-size 4 .* give a multiple of 3"):
        check_parts(options_of("--bank", "b", "--batch-size", 4), Three())
    check_parts(options_of("--bank", "b", "--batch-size", 6), Three())


@pytest.mark.parametrize(("size", "scenes"), [(1, 8), (2, 4), (4, 2)])
def test_a_processes_part_of_the_batch_is_cut_into_equal_parts_too(size, scenes):
    flags = ("--bank", "b", "--batch-size", 8, "--accumulate")
    with pytest.raises(
        UserError,
        match=f"^--accumulate 3 does not divide the {scenes} scenes that a process ",
    ):
        check_parts(options_of(*flags, 3), Ranks(0, size))
    with pytest.raises(UserError, match=f"^--accumulate {2 * scenes} does not divide"):
        check_parts(options_of(*flags, 2 * scenes), Ranks(0, size))
    for parts in (1, 2, scenes):
        check_parts(options_of(*flags, parts), Ranks(0, size))


def test_restarts_need_a_folder_that_they_find_again(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCHELASTIC_MAX_RESTARTS", "2")
    with pytest.raises(UserError, match="--max-restarts needs --out DIR"):
        check_parts(options_of("--bank", "b"), ALONE)
    check_parts(options_of("--bank", "b", "--out", tmp_path), ALONE)
