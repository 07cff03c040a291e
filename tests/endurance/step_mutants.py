"""Faults put into the code of the training step, one at a time: which of them no test notices.

python -m tests.endurance.step_mutants                      all of them; prints the survivors
python -m tests.endurance.step_mutants --faults             the table of faults that people make
python -m tests.endurance.step_mutants --only greedy.py     one module, or faults that say so
python -m tests.endurance.step_mutants --list               what would be changed

`step_faults` holds the modules with their tests, the faults, and the survivors that are known to
change nothing; `operators` makes the rest from the syntax tree; `mutant_child` runs the tests.

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
import importlib
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from argparse import ArgumentParser
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from tests.endurance import mutant_child
from tests.endurance.mutant_child import NOT_REACHED, ROOT, ImportedSources, SelectedTests
from tests.endurance.operators import Mutant, Source, fault_mutant, mutants_of
from tests.endurance.step_faults import FAULTS, MODULES, UNCHANGED, Fault, Module, Unchanged

FIRST_IMPORTS = (  # heavy ones of the tests; the first run tells the others
    "torch.utils.tensorboard", "distributed", "pyarrow.compute", "webdataset", "bank.bank",
)  # fmt: skip
OURS = ("model", "jobs", "tests", "benchmarks")  # imported by each child, as mutants may be in it
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


# The mutants


def read(file: str) -> Source:
    if not (ROOT / file).is_file():
        raise StepMutantsError(f"no {file}; was it renamed? tests/endurance/step_faults.py")
    return Source(file, (ROOT / file).read_text("utf-8"))


def fault_mutants(faults: Sequence[Fault] = FAULTS) -> list[Mutant]:
    """A mutant per fault; StepMutantsError names every fault whose text is not there once."""
    mutants, errors = [], []
    for fault in faults:
        try:
            source = read(fault.file)
            mutants.append(fault_mutant(source, fault.before, fault.after, fault.meaning))
        except ValueError as error:
            errors.append(str(error))
    if errors:
        raise StepMutantsError("\n".join(errors))
    return mutants


def operator_mutants(modules: Sequence[Module] = MODULES) -> list[Mutant]:
    return [m for module in modules for m in mutants_of(read(module.file), module.functions)]


def distinct(mutants: Sequence[Mutant]) -> list[Mutant]:
    """The first of those that make the same source."""
    by_source: dict[tuple[str, str], Mutant] = {}
    for mutant in mutants:
        by_source.setdefault((mutant.file, mutant.source), mutant)
    return list(by_source.values())


def known_reasons(
    mutants: Sequence[Mutant], files: Collection[str], unchanged: Sequence[Unchanged] = UNCHANGED
) -> dict[Mutant, str]:
    """Mutant -> why it changes nothing, for those of the table. StepMutantsError names entries
    that stand twice and, on `files`, all of whose mutants are here, those without a mutant."""
    entries = [(u, (u.file, u.function, *change)) for u in unchanged for change in u.changes]
    counts = Counter(key for _, key in entries)
    keys = {m: (m.file, m.function, m.before, m.after) for m in mutants}
    errors = [f"entered {n} times: {key}" for key, n in counts.items() if n > 1]
    stale = set(counts) - set(keys.values())
    errors += [f"no such mutant any more: {key}" for key in sorted(stale) if key[0] in files]
    if errors:
        raise StepMutantsError("\n".join(errors))
    reasons = {key: entry.reason for entry, key in entries}
    return {m: reasons[key] for m, key in keys.items() if key in reasons}


# Children


@dataclass
class Child:
    pid: int
    folder: Path
    began: float
    limit_s: float
    timed_out: bool = False

    def poll(self) -> int | None:
        """Its exit code, negative for a signal, None while it runs; killed at its limit."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid:
            self.kill_group()
            return os.waitstatus_to_exitcode(status)
        if not self.timed_out and time.monotonic() - self.began > self.limit_s:
            self.timed_out = True
            self.kill_group()
        return None

    def kill_group(self) -> None:
        """The child and what it started."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def must_pass(self) -> Path:
        """Its folder, once it has ended."""
        while (status := self.poll()) is None:
            time.sleep(0.01)
        if status:
            log = (self.folder / "log").read_text("utf-8", "replace")
            raise StepMutantsError(f"tests fail without any mutant (exit code {status}):\n{log}")
        return self.folder


@dataclass
class ForkServer:
    """Forks children, each with a folder of its own in `folder`."""

    folder: Path
    with_bank: bool
    count: int = 0

    def fork(self, run: Callable[[Path], int], limit_s: float = 1800) -> Child:
        self.count += 1
        folder = self.folder / str(self.count)
        folder.mkdir()
        sys.stdout.flush()
        sys.stderr.flush()
        pid = os.fork()
        if not pid:
            mutant_child.child_main(folder, run)
        return Child(pid, folder, time.monotonic(), limit_s)

    def start(self, mutant: Mutant, tests: Mapping[str, float]) -> Child:
        """Run these tests, of which the seconds are known, on the mutant."""
        sources = ImportedSources({mutant.file: mutant.source})
        by_file: dict[str, float] = defaultdict(float)
        for name, seconds in tests.items():
            by_file[name.partition("::")[0]] += seconds
        files = sorted(by_file, key=lambda file: (by_file[file], file))  # the quick ones kill most
        selected = SelectedTests(frozenset(tests), self.with_bank)

        def run(folder: Path) -> int:
            status = mutant_child.run_tests(sources, files, folder, selected)
            return status if sources.executed else NOT_REACHED

        return self.fork(run, 20 + 10 * sum(tests.values()))


@dataclass
class Coverage:
    """What the unmutated code's runs tell: see `mutant_child.Tracer`."""

    lines: dict[str, dict[int, set[str]]]  # file -> line -> tests
    seconds: dict[str, float]  # of each test
    total_s: float  # the whole run, untraced

    @classmethod
    def measured(cls, server: ForkServer, modules: Sequence[Module]) -> Self:
        tests = sorted({test for module in modules for test in module.tests})
        if missing := [test for test in tests if not (ROOT / test).exists()]:
            raise StepMutantsError(f"no {missing}; were they renamed? step_faults.py")
        sources = ImportedSources({m.file: read(m.file).text for m in modules})
        every = SelectedTests(None, server.with_bank)
        import_all(FIRST_IMPORTS)
        child = server.fork(lambda folder: mutant_child.run_traced(sources, tests, folder, every))
        trace = json.loads((child.must_pass() / "trace.json").read_text("utf-8"))
        import_all(trace["imported"])
        began = time.monotonic()
        child = server.fork(lambda folder: mutant_child.run_tests(sources, tests, folder, every))
        child.must_pass()
        total_s = time.monotonic() - began
        lines = {
            file: {int(line): set(names) for line, names in by_line.items()}
            for file, by_line in trace["lines"].items()
        }
        return cls(lines, trace["seconds"], total_s)

    def tests_of(self, mutant: Mutant, module: Module) -> dict[str, float]:
        """Those of the module's tests that run the statement, with their seconds."""
        first, last = mutant.statement
        lines = self.lines.get(mutant.file, {})
        run_by = {name for line in range(first, last + 1) for name in lines.get(line, ())}
        tests = {}
        for name, seconds in self.seconds.items():
            file = name.partition("::")[0]
            of_module = any(f"{file}/".startswith(f"{test}/") for test in module.tests)
            if of_module and run_by & {"", file, name}:
                tests[name] = seconds
        return tests


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


def verdicts_on(
    mutants: Mapping[Mutant, Mapping[str, float]], server: ForkServer, jobs: int
) -> Iterator[Verdict]:
    """In the order in which the children end; `mutants` have their tests."""
    waiting, running = list(mutants.items())[::-1], dict[Mutant, Child]()
    while waiting or running:
        while waiting and len(running) < jobs:
            mutant, tests = waiting.pop()
            if tests:
                running[mutant] = server.start(mutant, tests)
            else:
                yield Verdict(mutant, NEVER_RUN)
        for mutant, child in list(running.items()):
            if (status := child.poll()) is not None:
                del running[mutant]
                shutil.rmtree(child.folder, ignore_errors=True)
                what = {0: "survived", NOT_REACHED: "not reached"}.get(status, "killed")
                seconds = time.monotonic() - child.began
                yield Verdict(mutant, what, seconds, timed_out=child.timed_out)
        time.sleep(0.005)


def run_mutants(
    mutants: Sequence[Mutant],
    reasons: Mapping[Mutant, str],
    modules: Sequence[Module],
    jobs: int,
    with_bank: bool = False,
) -> list[Verdict]:
    """Verdicts in the order of `mutants`; those with a reason are not run."""
    verdicts = {m: Verdict(m, "changes nothing", reason=r) for m, r in reasons.items()}
    files = {m.file for m in mutants}
    by_file = {module.file: module for module in modules if module.file in files}
    with tempfile.TemporaryDirectory() as folder:
        sys.pycache_prefix = f"{folder}/bytecode"  # of rewritten tests too
        sys.dont_write_bytecode = False
        server = ForkServer(Path(folder), with_bank)
        coverage = Coverage.measured(server, list(by_file.values()))
        print(f"{len(coverage.seconds)} tests, {coverage.total_s:.1f} s unmutated", file=sys.stderr)
        left = {m: coverage.tests_of(m, by_file[m.file]) for m in mutants if m not in reasons}
        began = time.monotonic()
        for i, verdict in enumerate(verdicts_on(left, server, jobs), 1):
            verdicts[verdict.mutant] = verdict
            if verdict.what != "killed":
                print(f"{verdict.what}: {verdict.mutant}", file=sys.stderr, flush=True)
            if i % 50 == 0 or i == len(left):
                passed = time.monotonic() - began
                print(f"{i} of {len(left)}, {passed:.0f} s", file=sys.stderr, flush=True)
    return [verdicts[mutant] for mutant in mutants]


# The report


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
    """Markdown: what was not killed, the reasons of what changes nothing, the table."""
    lines = []
    for what in VERDICTS[1:-1]:
        if mutants := [v.mutant for v in verdicts if v.what == what]:
            lines += [f"{what}: {len(mutants)}", "", *map(str, mutants), ""]
    if reasons := Counter(v.reason for v in verdicts if v.reason):
        lines += [f"{VERDICTS[-1]}: {reasons.total()}", ""]
        lines += [f"- {count}: {reason}" for reason, count in reasons.most_common()] + [""]
    return "\n".join([*lines, table(verdicts)])


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
        modules = [m for m in MODULES if options.only in m.file and not options.faults]
        faults = [m for m in fault_mutants() if options.only in f"{m.file} {m.meaning}"]
        operators = operator_mutants(modules)
        reasons = known_reasons([*faults, *operators], {m.file for m in modules})
        selected = ([] if options.operators else faults) + operators[:: options.every]
        mutants = distinct(selected)
        if not mutants:
            raise StepMutantsError(f"nothing holds {options.only!r}")
        if options.list:
            print("\n".join(map(str, mutants)), f"\n{len(mutants)} mutants")
            return 0
        reasons = {m: reasons[m] for m in mutants if m in reasons}
        verdicts = run_mutants(mutants, reasons, MODULES, options.jobs, options.with_bank)
    except StepMutantsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    text = report(verdicts)
    print(text)
    if options.out:
        options.out.write_text(text + "\n", "utf-8")
    return 1 if any(v.what not in ("killed", "changes nothing") for v in verdicts) else 0


if __name__ == "__main__":
    sys.exit(main())
