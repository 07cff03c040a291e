"""What `pip install .` would take: pyproject.toml lists packages one by one, as a built bank lies
in a folder of a package."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
FOLDERS = ("pipeline", "bank", "model", "jobs")


def test_every_folder_of_code_is_a_listed_package_and_no_other():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).glob("**/*.py")]
    found = {path.parent.relative_to(ROOT).as_posix().replace("/", ".") for path in paths}
    assert sorted(SETTINGS["packages"]) == sorted(found)


def test_data_files_are_there_and_all_are_listed():
    listed = set()
    for package, patterns in SETTINGS["package-data"].items():
        for pattern in patterns:
            files = set((ROOT / package.replace(".", "/")).glob(pattern))
            assert files, f"{package}: {pattern}"
            listed |= files
    for folder in ("pipeline/known_answers", "jobs/show/templates"):
        assert {p for p in (ROOT / folder).iterdir() if p.is_file()} <= listed
