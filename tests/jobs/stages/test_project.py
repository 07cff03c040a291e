import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.stages.project import MAKING, PROJECT, code_digest, search_path

LOADED = """
import json, sys
import jobs.stages.cut, jobs.stages.derive, jobs.stages.probe
print(json.dumps([m.__file__ for m in sys.modules.values() if getattr(m, "__file__", None)]))
"""


def test_the_project_is_the_folder_that_pyproject_lies_in():
    assert (PROJECT / "pyproject.toml").is_file()
    assert Path(__file__).is_relative_to(PROJECT / "tests")


def test_the_search_path_begins_with_the_project_and_keeps_what_was_there(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["/one", "", "/two"]))
    assert search_path() == os.pathsep.join([str(PROJECT), "/one", "/two"])
    monkeypatch.delenv("PYTHONPATH")
    assert search_path() == str(PROJECT)


@pytest.fixture
def copied(tmp_path):
    """The project's code in another folder."""
    for folder in ("pipeline", "bank", "model", "jobs"):
        for path in (PROJECT / folder).glob("**/*.py"):
            target = tmp_path / path.relative_to(PROJECT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    return tmp_path


def test_the_same_code_in_another_folder_has_the_same_digest(copied):
    assert code_digest(copied) == code_digest(PROJECT)


@pytest.mark.parametrize(
    "file",
    [
        "pipeline/crop.py",
        "pipeline/coco/reader.py",
        "bank/shards.py",
        "model/retrieval/cooccurrence.py",
        "jobs/stages/cutting.py",
    ],
)
@pytest.mark.parametrize("change", ["edit", "remove", "add", "rename"])
def test_a_change_of_code_that_a_bank_is_made_with_changes_the_digest(copied, file, change):
    path = copied / file
    if change == "edit":
        path.write_text(path.read_text() + "\n")
    elif change == "remove":
        path.unlink()
    elif change == "add":
        path.with_name("another.py").touch()
    else:
        path.rename(path.with_name("another.py"))
    assert code_digest(copied) != code_digest(PROJECT)


def test_other_code_does_not_change_it(copied):
    for file in ("jobs/demo.py", "jobs/inspect_bank.py"):
        (copied / file).write_text("")
    assert code_digest(copied) == code_digest(PROJECT)


def test_all_of_the_project_that_a_worker_imports_is_in_the_digest():
    done = subprocess.run([sys.executable, "-c", LOADED], cwd=PROJECT, capture_output=True)
    files = [Path(file) for file in json.loads(done.stdout)]
    ours = [f.relative_to(PROJECT) for f in files if f.is_relative_to(PROJECT)]
    ours = [f for f in ours if f.parts[0] in ("pipeline", "bank", "model", "jobs")]
    assert Path("jobs/stages/cutting.py") in ours
    assert [f for f in ours if not any(f.is_relative_to(folder) for folder in MAKING)] == []


# What a command that reads a bank takes too.
WORKERS = ("jobs.stages.cluster.Pool", "jobs.stages.workforce.Workforce")


def imported(path):
    """Names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def test_stages_import_no_command_and_only_two_commands_call_stages():
    commands = {f"jobs.{path.stem}" for path in (PROJECT / "jobs").glob("*.py")}
    for path in (PROJECT / "jobs/stages").glob("*.py"):
        names = {".".join(name.split(".")[:2]) for name in imported(path)}
        assert not names & commands, path
    callers = {
        path.relative_to(PROJECT).as_posix()
        for folder in ("pipeline", "bank", "model", "jobs")
        for path in (PROJECT / folder).glob("**/*.py")
        if path.parent != PROJECT / "jobs/stages"
        and any(name.startswith("jobs.stages") and name not in WORKERS for name in imported(path))
    }
    assert callers == {"jobs/build_bank.py", "jobs/edit_bank.py"}
