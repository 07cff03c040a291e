"""What `pip install .` takes: pyproject.toml lists packages one by one, as a built bank lies in a
folder of a package."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

from pipeline.version import __version__

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
FOLDERS = ("pipeline", "bank", "model", "jobs")
DATA = ("pipeline/known_answers", "jobs/show/templates", "examples")


def test_every_folder_of_code_is_a_listed_package_and_no_other():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).glob("**/*.py")]
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in paths}
    assert sorted(SETTINGS["packages"]) == sorted({*found, *SETTINGS["package-dir"]})


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel's files, in a folder of their own; built from a copy, beside which nothing lies."""
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    files = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")]
    files += [path for folder in DATA for path in (ROOT / folder).iterdir() if path.is_file()]
    for file in (*files, ROOT / "pyproject.toml", ROOT / "README.md"):
        copy = source / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
    build = "import sys; from setuptools import build_meta; build_meta.build_wheel(sys.argv[1])"
    command = [sys.executable, "-c", build, str(wheels)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = wheels.iterdir()
    folder = tmp_path_factory.mktemp("installed")
    zipfile.ZipFile(wheel).extractall(folder)
    return folder


def test_a_wheel_has_all_code_and_all_data(installed):
    packed = {path.relative_to(installed) for path in installed.rglob("*") if path.is_file()}
    for folder in FOLDERS:
        code = {path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py")}
        assert code <= packed
    for folder in DATA:
        files = [path for path in (ROOT / folder).iterdir() if path.is_file()]
        names = {path.name for path in packed if path.parent.name == Path(folder).name}
        assert files
        assert {path.name for path in files} <= names


def run_installed(installed, tmp_path, *arguments):
    """What Python prints where the project is installed and no repository is near."""
    env = {**os.environ, "PYTHONPATH": str(installed)}
    command = [sys.executable, *arguments]
    return subprocess.check_output(command, cwd=tmp_path, env=env, text=True)


def test_installed_commands_find_their_data_and_their_version(installed, tmp_path):
    said = run_installed(installed, tmp_path, "-m", "jobs.demo", "--version")
    assert said == f"retrievegan {__version__}\n"
    examples = "from jobs.demo import example_graphs; print(*example_graphs(), sep='\\n')"
    paths = run_installed(installed, tmp_path, "-c", examples).splitlines()
    assert len(paths) == 6
    assert all(Path(path).is_relative_to(installed) for path in paths)
    data = "from pipeline.codec import answers_with; print(len(answers_with('pillow')))"
    assert int(run_installed(installed, tmp_path, "-c", data)) > 0
    page = "from jobs.show.page import environment; environment().get_template('report.html')"
    run_installed(installed, tmp_path, "-c", page)
