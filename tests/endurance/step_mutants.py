"""Faults put into the code of the training step, one at a time: which of them no test notices.

python -m tests.endurance.step_mutants                      all of them; prints the survivors
python -m tests.endurance.step_mutants --faults             the table of faults that people make
python -m tests.endurance.step_mutants --only greedy.py     one module, or faults that say so
python -m tests.endurance.step_mutants --list               what would be changed

`step_faults` holds the modules with their tests, the faults, and the survivors that are known to
change nothing; `operators` makes the rest from the syntax tree.

Nothing is written into the working tree: this process imports what is not ours once and forks a
child for each mutant, in which the mutated source is what `import` finds. The unmutated code runs
first, in the same way, twice: traced, which tells the tests that run each line, and timed. A child
then runs only tests that reach the changed statement. What runs while a fixture is set up counts
for every test of that file, what runs at import for all. Tests that need a built bank are left out,
unless --with-bank is given; then it is built once, by the unmutated code.

Exit code 1 where a mutant survived without a reason, or was not reached.
"""

import contextlib
import gc
import importlib.abc
import importlib.machinery
import importlib.util
import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, NoReturn

import pytest

from tests.endurance.operators import Mutant, Source, fault, mutants
from tests.endurance.step_faults import FAULTS, MODULES, UNCHANGED, Fault, Module, Unchanged

ROOT = Path(__file__).parents[2]
FIRST_IMPORTS = (  # heavy ones of the tests; the first run tells the others
    "torch.utils.tensorboard", "distributed", "pyarrow.compute", "webdataset", "bank.bank",
)  # fmt: skip
OURS = ("model", "jobs", "tests", "benchmarks")  # imported by each child, as mutants may be in it
BANK_FIXTURES = frozenset({"toy_bank", "toy_data"})
MEMORY = 24 << 30  # address space of a child; torch alone takes a few GB of it
NOT_REACHED = 90  # exit code: no test imported the module
NEVER_RUN = "no test runs it"
VERDICTS = ("killed", "survived", NEVER_RUN, "not reached", "changes nothing")


class StepMutantsError(Exception):
    """The tables do not fit the code, or its tests fail without any mutant."""


@dataclass(frozen=True)
class Verdict:
    mutant: Mutant
    what: str  # one of VERDICTS
    seconds: float = 0.0
    reason: str = ""  # why it changes nothing
    timed_out: bool = False


# What is changed


def read(file: str) -> Source:
    path = ROOT / file
    if not path.is_file():
        raise StepMutantsError(
            f"{file} is not there; was it renamed? tests/endurance/step_faults.py"
        )
    return Source(file, path.read_text("utf-8"))


def fault_mutants(faults: Sequence[Fault] = FAULTS) -> list[Mutant]:
    """A mutant per fault; StepMutantsError names every fault whose text is not there once."""
    made, wrong = [], []
    for entry in faults:
        try:
            made.append(fault(read(entry.file), entry.found, entry.replaced, entry.meaning))
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise StepMutantsError("\n".join(wrong))
    return made


def operator_mutants(modules: Sequence[Module] = MODULES) -> list[Mutant]:
    return [m for module in modules for m in mutants(read(module.file), module.functions)]


def known_reasons(found: Sequence[Mutant], known: Sequence[Unchanged] = UNCHANGED) -> list[str]:
    """For each mutant why it changes nothing, or ''; an entry without a mutant is an error."""
    reasons = {(u.file, u.function, u.before, u.after): u.reason for u in known}
    keys = [(m.file, m.function, m.before, m.after) for m in found]
    if stale := set(reasons) - set(keys):
        lines = [f"no such mutant any more: {key}" for key in sorted(stale)]
        raise StepMutantsError("\n".join(lines))
    return [reasons.get(key, "") for key in keys]


# Within a child


class Sources(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Lets `import` find these sources instead of the files."""

    def __init__(self, codes: Mapping[str, CodeType]) -> None:
        self.codes = {_module_name(file): (file, code) for file, code in codes.items()}
        self.executed: set[str] = set()  # files

    def find_spec(
        self, name: str, path: Any, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in self.codes:
            return None
        file = str(ROOT / self.codes[name][0])
        return importlib.util.spec_from_file_location(name, file, loader=self)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        file, code = self.codes[module.__name__]
        self.executed.add(file)
        exec(code, module.__dict__)


def _module_name(file: str) -> str:
    return file.removesuffix(".py").replace("/", ".")


class Chosen:
    """Runs the named tests only; without names all but those that need a bank."""

    def __init__(self, names: frozenset[str] | None, with_bank: bool) -> None:
        self.names, self.with_bank = names, with_bank

    def pytest_collection_modifyitems(self, config: Any, items: list[Any]) -> None:
        kept = [item for item in items if self._runs(item)]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept

    def _runs(self, item: Any) -> bool:
        if not self.with_bank and BANK_FIXTURES & set(item.fixturenames):
            return False
        return self.names is None or item.nodeid in self.names


class Banks:
    """The fixtures of a bank: made once and kept in `folder`, then given to whoever asks."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @pytest.hookimpl(tryfirst=True)
    def pytest_fixture_setup(self, fixturedef: Any, request: Any) -> Path | None:
        kept: Path = self.folder / fixturedef.argname
        if fixturedef.argname not in BANK_FIXTURES:
            return None
        if not kept.exists():
            given = {name: request.getfixturevalue(name) for name in fixturedef.argnames}
            around = sys.gettrace()
            sys.settrace(None)  # building is no test
            made = fixturedef.func(**given)
            sys.settrace(around)
            shutil.copytree(made, kept)
        fixturedef.cached_result = (kept, fixturedef.cache_key(request), None)
        return kept


class Trace:
    """Which tests run which lines. '' stands for all tests, a file's name for all of that file."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files = {str(ROOT / file): file for file in files}
        self.ran: dict[str, dict[int, set[str]]] = {file: defaultdict(set) for file in files}
        self.seconds: dict[str, float] = {}
        self.now = ""

    def __call__(self, frame: FrameType, event: str, arg: Any) -> Any:
        if frame.f_code.co_filename not in self.files:
            return None
        lines = self.ran[self.files[frame.f_code.co_filename]]
        top = frame.f_code.co_name == "<module>"

        def line(frame: FrameType, event: str, arg: Any) -> Any:
            lines[frame.f_lineno].add("" if top else self.now)
            return line

        return line(frame, event, arg)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: Any) -> Iterator[None]:
        self.now = item.nodeid.partition("::")[0]
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: Any) -> Iterator[None]:
        began, around, self.now = time.monotonic(), self.now, item.nodeid
        try:
            return (yield)
        finally:
            self.now = around
            self.seconds[item.nodeid] = time.monotonic() - began


def become(folder: Path, run: Any) -> NoReturn:
    """The rest of a forked child: its exit code is what `run` returns, 1 where it raises."""
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
        log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for ours, theirs in ((nothing, 0), (log, 1), (log, 2)):
            os.dup2(ours, theirs)
        sys.stdout = io.TextIOWrapper(io.FileIO(1, "w", closefd=False), "utf-8", write_through=True)
        sys.stderr = io.TextIOWrapper(io.FileIO(2, "w", closefd=False), "utf-8", write_through=True)
        os.environ["TMPDIR"] = str(folder)
        tempfile.tempdir = None
        status = run()
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


# The process that forks


@dataclass
class Child:
    pid: int
    folder: Path
    began: float
    limit_s: float
    timed_out: bool = False

    def ended(self) -> int | None:
        """Its exit code, negative for a signal, None while it runs; killed at its limit."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.clear()
            return os.waitstatus_to_exitcode(status)
        if not self.timed_out and time.monotonic() - self.began > self.limit_s:
            self.timed_out = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
        return None

    def clear(self) -> None:
        """What it started goes with it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)


@dataclass
class Server:
    """Forks children that run tests on changed sources."""

    folder: Path
    modules: Sequence[Module] = MODULES
    with_bank: bool = False
    ran: dict[str, dict[int, set[str]]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # test -> how long it takes
    count: int = 0

    def fork(self, run: Any, limit_s: float) -> Child:
        """run(folder) in a child, in a folder of its own."""
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            become(folder, lambda: run(folder))
        return Child(pid, folder, time.monotonic(), limit_s)

    def prepare(self) -> float:
        """Run the unmutated code twice; how long the second run took."""
        codes = {m.file: self._code(read(m.file).text, m.file) for m in self.modules}
        tests = sorted({test for module in self.modules for test in module.tests})
        for test in tests:
            if not (ROOT / test).exists():
                raise StepMutantsError(f"{test} is not there; tests/endurance/step_faults.py")
        missing = {e.file for e in FAULTS} - {m.file for m in MODULES}
        if missing:
            raise StepMutantsError(f"faults of files that are no module of the table: {missing}")

        def traced(folder: Path) -> int:
            trace, sources = Trace(list(codes)), Sources(codes)
            sys.settrace(trace)
            status = self.run_tests(sources, tests, None, folder, trace)
            sys.settrace(None)
            ran = {f: {n: sorted(t) for n, t in lines.items()} for f, lines in trace.ran.items()}
            found = {"ran": ran, "seconds": trace.seconds, "imported": sorted(sys.modules)}
            (folder / "found.json").write_text(json.dumps(found), "utf-8")
            return status

        def timed(folder: Path) -> int:
            return self.run_tests(Sources(codes), tests, None, folder)

        import_all(FIRST_IMPORTS)
        folder = self._must_pass(self.fork(traced, 1800))
        found = json.loads((folder / "found.json").read_text("utf-8"))
        self.seconds = found["seconds"]
        self.ran = {
            file: {int(n): set(tests) for n, tests in lines.items()}
            for file, lines in found["ran"].items()
        }
        import_all(found["imported"])
        began = time.monotonic()
        self._must_pass(self.fork(timed, 1800))
        return time.monotonic() - began

    def run_tests(
        self,
        sources: Sources,
        tests: Sequence[str],
        names: frozenset[str] | None,
        folder: Path,
        *plugins: Any,
    ) -> int:
        """In a child: pytest's exit code."""
        sys.meta_path.insert(0, sources)
        arguments = ["-x", "-q", "-p", "no:cacheprovider", f"--basetemp={folder / 'tmp'}"]
        ours = (Chosen(names, self.with_bank), Banks(self.folder))
        return int(pytest.main([*arguments, *tests], plugins=[*ours, *plugins]))

    def _must_pass(self, child: Child) -> Path:
        while (status := child.ended()) is None:
            time.sleep(0.01)
        if status:
            said = (child.folder / "log").read_text("utf-8", "replace")
            raise StepMutantsError(f"tests fail without any mutant (exit code {status}):\n{said}")
        return child.folder

    @staticmethod
    def _code(text: str, file: str) -> CodeType:
        return compile(text, str(ROOT / file), "exec", dont_inherit=True)

    def tests_of(self, mutant: Mutant) -> frozenset[str]:
        """The tests of its module's table that run the statement."""
        module, *_ = [m for m in self.modules if m.file == mutant.file]
        all_tests = {
            name for name in self.seconds if any(_within(name, test) for test in module.tests)
        }
        first, last = mutant.statement
        lines = self.ran.get(mutant.file, {})
        by = {name for line in range(first, last + 1) for name in lines.get(line, ())}
        if "" in by:
            return frozenset(all_tests)
        return frozenset(t for t in all_tests if t in by or t.partition("::")[0] in by)

    def start(self, mutant: Mutant, names: frozenset[str]) -> Child:
        code = self._code(mutant.source, mutant.file)
        cost: dict[str, float] = defaultdict(float)
        for name in names:
            cost[name.partition("::")[0]] += self.seconds[name]
        files = sorted(cost, key=lambda file: (cost[file], file))  # the quick ones kill most

        def run(folder: Path) -> int:
            sources = Sources({mutant.file: code})
            status = self.run_tests(sources, files, names, folder)
            return status if mutant.file in sources.executed else NOT_REACHED

        return self.fork(run, 20 + 10 * sum(self.seconds[name] for name in names))

    def judge(self, found: Sequence[Mutant], jobs: int) -> Iterator[Verdict]:
        """A verdict on each mutant, in the order in which they end."""
        waiting, running = list(reversed(found)), dict[int, tuple[Mutant, Child]]()
        while waiting or running:
            while waiting and len(running) < jobs:
                mutant = waiting.pop()
                if names := self.tests_of(mutant):
                    child = self.start(mutant, names)
                    running[child.pid] = mutant, child
                else:
                    yield Verdict(mutant, NEVER_RUN)
            for pid, (mutant, child) in list(running.items()):
                if (status := child.ended()) is not None:
                    del running[pid]
                    shutil.rmtree(child.folder, ignore_errors=True)
                    yield _verdict(mutant, child, status)
            time.sleep(0.005)


def _within(name: str, test: str) -> bool:
    file = name.partition("::")[0]
    return file == test or file.startswith(test.rstrip("/") + "/")


def _verdict(mutant: Mutant, child: Child, status: int) -> Verdict:
    what = {0: "survived", NOT_REACHED: "not reached"}.get(status, "killed")
    return Verdict(mutant, what, time.monotonic() - child.began, "", child.timed_out)


def import_all(names: Sequence[str]) -> None:
    """What the tests import and is not ours, here once instead of in every child."""
    for name in names:
        if name.partition(".")[0] not in (*OURS, "__main__", "conftest"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    if early := [name for name in sys.modules if name.partition(".")[0] in ("model", "jobs")]:
        raise StepMutantsError(f"imported before any mutant could be: {early}")
    import torch

    torch.set_num_threads(1)
    gc.collect()
    gc.freeze()  # otherwise each child walks through all of it


def endure(
    found: Sequence[Mutant],
    reasons: Sequence[str],
    modules: Sequence[Module],
    jobs: int,
    with_bank: bool = False,
) -> list[Verdict]:
    """Verdicts in the order of `found`."""
    by_mutant = dict(zip(found, reasons, strict=True))
    verdicts = {m: Verdict(m, "changes nothing", reason=r) for m, r in by_mutant.items() if r}
    with tempfile.TemporaryDirectory() as folder:
        sys.pycache_prefix = f"{folder}/bytecode"  # of rewritten tests too
        sys.dont_write_bytecode = False
        files = {m.file for m in found}
        server = Server(Path(folder), [m for m in modules if m.file in files], with_bank)
        seconds = server.prepare()
        print(f"{len(server.seconds)} tests, {seconds:.1f} s unmutated", file=sys.stderr)
        began = time.monotonic()
        left = [m for m in found if m not in verdicts]
        for i, verdict in enumerate(server.judge(left, jobs), 1):
            verdicts[verdict.mutant] = verdict
            if verdict.what != "killed":
                print(f"{verdict.what}: {verdict.mutant}", file=sys.stderr, flush=True)
            if i % 50 == 0 or i == len(left):
                passed = time.monotonic() - began
                print(f"{i} of {len(left)}, {passed:.0f} s", file=sys.stderr, flush=True)
    return [verdicts[mutant] for mutant in found]


def table(verdicts: Sequence[Verdict]) -> str:
    """How many of each verdict, by file."""
    head = ["module", "mutants", *VERDICTS, "of the killed timed out", "seconds"]
    rows = [head, ["---"] * len(head)]
    files = list(dict.fromkeys(v.mutant.file for v in verdicts))
    for file in [*files, "all"]:
        mine = [v for v in verdicts if file in ("all", v.mutant.file)]
        counts = Counter(v.what for v in mine)
        cells = [len(mine), *(counts[what] for what in VERDICTS), sum(v.timed_out for v in mine)]
        rows.append([file, *map(str, cells), f"{sum(v.seconds for v in mine):.0f}"])
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def report(verdicts: Sequence[Verdict]) -> str:
    lines = []
    for what in VERDICTS[1:]:
        if mine := [v for v in verdicts if v.what == what]:
            lines.append(f"\n{what}: {len(mine)}")
            lines += [f"{v.mutant}" + (f"\n    {v.reason}" if v.reason else "") for v in mine]
    return "\n".join([*lines, "", table(verdicts)])


def main() -> int:
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("--faults", action="store_true", help="the table of faults only")
    parser.add_argument("--operators", action="store_true", help="operator mutants only")
    parser.add_argument("--only", default="", help="files or meanings that hold this text")
    parser.add_argument("--every", type=int, default=1, help="one of so many operator mutants")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="children at a time")
    parser.add_argument("--with-bank", action="store_true", help="tests that need a bank too")
    parser.add_argument("--list", action="store_true", help="print the mutants, run nothing")
    parser.add_argument("--out", type=Path, help="a file for the report")
    options = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # of plugins no test here needs
    os.chdir(ROOT)
    try:
        faults, others = fault_mutants(), operator_mutants()
        reasons = dict(zip([*faults, *others], known_reasons([*faults, *others]), strict=True))
        found = [] if options.operators else faults
        found = found if options.faults else [*found, *others[:: options.every]]
        found = [m for m in found if options.only in f"{m.file} {m.meaning}"]
        if options.list:
            print("\n".join(map(str, found)), f"\n{len(found)} mutants")
            return 0
        verdicts = endure(
            found, [reasons[m] for m in found], MODULES, options.jobs, options.with_bank
        )
    except StepMutantsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    said = report(verdicts)
    print(said)
    if options.out:
        options.out.write_text(said + "\n", "utf-8")
    return 1 if any(v.what not in ("killed", "changes nothing") for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
