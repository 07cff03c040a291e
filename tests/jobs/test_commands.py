"""What every command does before its work: it waits passively, and answers --help at once.

The children run the commands with an import hook in the place of torch, so that none loads it.
"""

import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from pipeline.arithmetic import STRICT_FOR
from pipeline.version import __version__

ROOT = Path(__file__).parents[2]
COMMANDS = (*sorted(f"jobs.{path.stem}" for path in (ROOT / "jobs").glob("*.py")), "model.train")
HEAVY = ("torch", "faiss", "dask", "distributed", "matplotlib", "pyarrow", "tensorboard", "PIL")
ARGUMENTS = {
    "jobs.build_bank": ("--dataset", "toy", "--data", "nowhere", "--out", "bank"),
    "jobs.demo": ("--out", "run", "--bank", "bank", "--data", "nowhere"),
    "jobs.edit_bank": ("bank", "--remove-photo", "1"),
    "jobs.evaluate": ("--run", "run"),
    "jobs.inspect_bank": ("bank",),
    "jobs.report": ("--run", "run"),
    "jobs.reproduce": ("--claim", "all"),
    "jobs.sample": ("--run", "run", "--graph", "graph.json"),
    "jobs.verify_bank": ("bank",),
    "model.train": ("--bank", "bank"),
}
CHILD = """
import json, os, runpy, sys

class Torch:  # a finder: it learns of the first import
    def find_spec(self, name, path=None, target=None):
        if name in HEAVY:
            loaded.append(name)
        if name == "torch":
            raise SystemExit(f"torch: {os.environ.get('OMP_WAIT_POLICY')}")

HEAVY, calls = json.loads(sys.argv[1]), json.loads(sys.argv[2])
sys.meta_path.insert(0, Torch())
before, seen = dict(os.environ), {}
for command, *arguments in calls:
    loaded = []
    sys.argv = [command, *arguments]
    try:
        runpy.run_module(command, run_name="__main__", alter_sys=True)
        end = None
    except SystemExit as error:
        end = error.code
    seen[command] = [end, loaded]
    os.environ.clear()
    os.environ.update(before)
json.dump(seen, open("seen.json", "w"))
"""


def run_all(folder, arguments, **environment):
    """command -> how it ended, and which of the heavy modules it asked for."""
    calls = [[command, *arguments[command]] for command in COMMANDS]
    env = {k: v for k, v in os.environ.items() if not k.startswith(("OMP_", "GOMP_", "KMP_"))}
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(HEAVY), json.dumps(calls)],
        cwd=folder,
        env={**env, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "seen.json").read_text()), done.stdout


def test_help_loads_no_library_that_takes_long(tmp_path):
    seen, shown = run_all(tmp_path, dict.fromkeys(COMMANDS, ("--help",)))
    assert seen == {command: [0, []] for command in COMMANDS}
    for command in COMMANDS:
        assert f"python -m {command}" in " ".join(shown.split())


def test_every_command_waits_passively_before_torch_is_loaded(tmp_path):
    seen, _ = run_all(tmp_path, ARGUMENTS)
    assert {command: end for command, (end, _) in seen.items()} == dict.fromkeys(
        COMMANDS, "torch: PASSIVE"
    )


@pytest.mark.parametrize(
    ("name", "value", "policy"),
    [
        ("OMP_WAIT_POLICY", "ACTIVE", "ACTIVE"),
        ("GOMP_SPINCOUNT", "1000", None),
        ("KMP_BLOCKTIME", "200", None),
    ],
)
def test_how_to_wait_is_as_the_user_has_decided(tmp_path, name, value, policy):
    seen, _ = run_all(tmp_path, ARGUMENTS, **{name: value})
    assert {end for end, _ in seen.values()} == {f"torch: {policy}"}


def test_every_command_says_the_version(tmp_path):
    seen, shown = run_all(tmp_path, dict.fromkeys(COMMANDS, ("--version",)))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert shown.splitlines() == [f"retrievegan {project['version']}"] * len(COMMANDS)
    assert seen == {command: [None, []] for command in COMMANDS}
    assert __version__ == project["version"]


@pytest.mark.parametrize("command", ["jobs.inspect_bank", "model.train"])
def test_a_usage_line_names_the_command_as_it_can_be_typed(command):
    asked = [sys.executable, "-m", command, "--nonsense"]
    run = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert f"python -m {command} --help" in " ".join(run.stderr.replace("│", " ").split())


WRONG = {
    "jobs.build_bank": ("--dataset", "toy", "--workers", "-1"),
    "jobs.demo": ("--steps", "0"),
    "jobs.edit_bank": ("bank", "--remove-photo"),
    "jobs.evaluate": ("--run", "run", "--seed", "-1"),
    "jobs.inspect_bank": ("bank", "--out", "https://x.y/z"),
    "jobs.report": ("--run", "run", "--draws", "0"),
    "jobs.reproduce": ("--claim", "all", "--seeds", "1"),
    "jobs.sample": ("--run", "run"),
    "jobs.verify_bank": ("bank", "--quick"),
    "model.train": ("--bank", "bank", "--steps", "0"),
}


def test_a_value_that_makes_no_sense_is_wrong_usage(tmp_path):
    seen, _ = run_all(tmp_path, WRONG)
    assert seen == {command: [2, []] for command in COMMANDS}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--steps", "0"),
        ("--recipe", "sg2im", "--losses.boxes=-1"),
        ("--eval-after", "3"),
        ("--out", "https://x.y/z"),
    ],
)
def test_wrong_usage_of_train_is_one_line_and_exit_code_2(arguments):
    asked = [sys.executable, "-m", "model.train", "--bank", "b", *arguments]
    run = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 2
    assert re.fullmatch(r"error: .*\n", run.stderr)


def test_the_version_is_asked_for_alone():
    asked = [sys.executable, "-m", "model.train", "--bank", "b", "--version"]
    run = subprocess.run(asked, cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (2, "")
    assert "Unrecognized options: --version" in run.stderr


def test_every_command_sums_in_one_order_before_its_work():
    child = """
import os
from dataclasses import dataclass
from pipeline.options import run

@dataclass(frozen=True)
class Options:
    pass

def main(_):
    import torch
    print(torch.backends.cpu.get_cpu_capability(), os.environ.get("MKL_CBWR"))

run(main, Options, None)
"""
    environment = {k: v for k, v in os.environ.items() if k != "MKL_CBWR"}
    asked = [sys.executable, "-c", child]
    shown = subprocess.check_output(asked, cwd=ROOT, env=environment, text=True)
    capability, order = shown.split()
    assert order == (f"{capability},STRICT" if capability in STRICT_FOR else "None")
