"""What a child forked by `step_mutants` runs: pytest, on sources that stand in for the files."""

import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, NoReturn

import pytest

ROOT = Path(__file__).parents[2]
BANK_FIXTURES = frozenset({"toy_bank", "toy_data"})
MEMORY = 24 << 30  # address space of a child; torch alone takes a few GB of it
NOT_REACHED = 90  # exit code: no test imported the mutated module


class ImportedSources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `import` find these texts instead of the files."""

    def __init__(self, texts: Mapping[str, str]) -> None:
        self.modules: dict[str, tuple[str, CodeType]] = {}  # name -> file, code
        for file, text in texts.items():
            code = compile(text, str(ROOT / file), "exec", dont_inherit=True)
            self.modules[file.removesuffix(".py").replace("/", ".")] = file, code
        self.executed: set[str] = set()  # files

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.modules:
            return None
        file = str(ROOT / self.modules[name][0])
        return importlib.util.spec_from_file_location(name, file, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        file, code = self.modules[module.__name__]
        self.executed.add(file)
        exec(code, module.__dict__)


class SelectedTests:
    """Runs the named tests only; without names all but those that need a bank."""

    def __init__(self, names: frozenset[str] | None, with_bank: bool) -> None:
        self.names, self.with_bank = names, with_bank

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        selected = [item for item in items if self._runs(item)]
        config.hook.pytest_deselected(items=[i for i in items if i not in set(selected)])
        items[:] = selected

    def _runs(self, item: Any) -> bool:
        if not self.with_bank and BANK_FIXTURES & set(item.fixturenames):
            return False
        return self.names is None or item.nodeid in self.names


class SharedBanks:
    """The fixtures of a bank: built once, by the unmutated code, and copied to `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Path | None:
        if fixturedef.argname not in BANK_FIXTURES:
            return None
        shared: Path = self.folder / fixturedef.argname
        if not shared.exists():
            arguments = {name: request.getfixturevalue(name) for name in fixturedef.argnames}
            tracer = sys.gettrace()
            sys.settrace(None)  # building is no test
            shutil.copytree(fixturedef.func(**arguments), shared)
            sys.settrace(tracer)
        fixturedef.cached_result = (shared, fixturedef.cache_key(request), None)
        return shared


class Tracer:
    """Which tests run which lines. '' stands for all tests, a file's name for all of that file."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = {str(ROOT / file): file for file in files}
        self.lines: dict[str, dict[int, set[str]]] = {file: defaultdict(set) for file in files}
        self.seconds: dict[str, float] = {}
        self.test = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        lines = self.lines[self.files[frame.f_code.co_filename]]
        at_import = frame.f_code.co_name == "<module>"

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            lines[frame.f_lineno].add("" if at_import else self.test)
            return line

        return line(frame, event, arg)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: Any) -> Iterator[None]:
        self.test = item.nodeid.partition("::")[0]
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        began, file, self.test = time.monotonic(), self.test, item.nodeid
        try:
            return (yield)
        finally:
            self.test = file
            self.seconds[item.nodeid] = time.monotonic() - began


def run_tests(sources: ImportedSources, tests: Sequence[str], folder: Path, *plugins: Any) -> int:
    """pytest's exit code for these files and folders; `folder` is the child's own."""
    sys.meta_path.insert(0, sources)
    arguments = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
    return int(pytest.main([*arguments, *tests], plugins=[SharedBanks(folder.parent), *plugins]))


def run_traced(sources: ImportedSources, tests: Sequence[str], folder: Path, *plugins: Any) -> int:
    """`run_tests`; leaves its trace, the tests' seconds and what was imported in trace.json."""
    tracer = Tracer([file for file, _ in sources.modules.values()])
    sys.settrace(tracer)
    status = run_tests(sources, tests, folder, tracer, *plugins)
    sys.settrace(None)
    lines = {f: {n: sorted(tests) for n, tests in of.items()} for f, of in tracer.lines.items()}
    trace = {"lines": lines, "seconds": tracer.seconds, "imported": sorted(sys.modules)}
    (folder / "trace.json").write_text(json.dumps(trace), "utf-8")
    return status


def child_main(folder: Path, run: Callable[[Path], int]) -> NoReturn:
    """The rest of a forked child: its exit code is what `run` returns, 1 where it raises."""
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        for descriptor, standard in ((os.open(os.devnull, os.O_RDONLY), 0), (log, 1), (log, 2)):
            os.dup2(descriptor, standard)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", write_through=True)
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None
        status = run(folder)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
