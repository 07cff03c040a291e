"""What a command prints, and where nobody reads it."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMMAND = """
    import sys
    from dataclasses import dataclass
    from pathlib import Path
    from typing import Annotated
    from pipeline.options import option, run

    @dataclass(frozen=True, kw_only=True)
    class Options:
        out: Annotated[Path, option("file to write")]

    def main(options):
        print("first line", flush=True)
        sys.stdin.read()
        for _ in range(2000):
            print("work goes on " * 10)
            print("and says so", file=sys.stderr)
        options.out.write_text("done")

    if __name__ == "__main__":
        run(main, Options, None)
"""


@pytest.fixture
def start(tmp_path):
    """A small command in a process of its own; it works once its input ends."""
    script = tmp_path / "command.py"
    script.write_text(textwrap.dedent(COMMAND), "utf-8")
    command = [sys.executable, str(script), "--out", str(tmp_path / "made")]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda **how: subprocess.Popen(
        command, stdin=subprocess.PIPE, env=environment, cwd=tmp_path, **how
    )


@pytest.mark.parametrize("stderr", [subprocess.STDOUT, subprocess.PIPE])
def test_work_goes_on_to_its_end_where_the_reader_of_its_output_has_gone(start, tmp_path, stderr):
    with start(stdout=subprocess.PIPE, stderr=stderr) as process:
        assert process.stdout.readline() == b"first line\n"
        process.stdout.close()  # as `head -n 1` does
        if stderr == subprocess.PIPE:
            process.stderr.close()
        process.stdin.close()
        assert process.wait(60) == 0
    assert (tmp_path / "made").read_text() == "done"


def test_of_a_reader_that_has_gone_nothing_is_said_where_errors_are_read(start, tmp_path):
    with (tmp_path / "errors").open("wb") as errors:
        process = start(stdout=subprocess.PIPE, stderr=errors)
        process.stdout.readline()
        process.stdout.close()
        process.stdin.close()
        assert process.wait(60) == 0
    assert set((tmp_path / "errors").read_text().splitlines()) == {"and says so"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_output_that_finds_no_room_stops_no_work_but_is_told(start, tmp_path):
    with open("/dev/full", "wb") as full, start(stdout=full, stderr=subprocess.PIPE) as process:
        _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    last = said.decode().splitlines()[-1]
    assert last == "error: the work is done, but not all it printed: No space left on device"
    assert (tmp_path / "made").read_text() == "done"


def test_a_closed_output_takes_nothing_into_files(start, tmp_path):
    with start(preexec_fn=lambda: (os.close(1), os.close(2))) as process:
        process.stdin.close()
        assert process.wait(60) == 0
    assert (tmp_path / "made").read_text() == "done"


def test_a_pipe_of_the_works_own_that_breaks_is_no_success(start, tmp_path):
    script = tmp_path / "command.py"
    script.write_text(script.read_text().replace("sys.stdin.read()", "raise BrokenPipeError"))
    with start(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        assert process.wait(60) == 1
    assert not (tmp_path / "made").exists()


def test_names_are_printed_and_found_as_written_whatever_the_locale(start, tmp_path):
    (tmp_path / "自行车-é.jpg").write_bytes(b"bicycle")
    script = tmp_path / "command.py"
    script.write_text(
        script.read_text().replace(
            "sys.stdin.read()",
            "print('自行车-é.jpg', Path('自行车-é.jpg').read_text(), '\\ud800'); return",
        ),
        "utf-8",
    )
    plain = {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **plain}
    command = [sys.executable, str(script), "--out", "made"]
    done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=60)
    assert done.stdout.decode().splitlines()[1:] == ["自行车-é.jpg bicycle \\ud800"]


QUIET = """
    from dataclasses import dataclass
    from pipeline.options import run
    from pipeline.output import log
    from pipeline.progress import progress

    @dataclass(frozen=True)
    class Options:
        pass

    def main(_):
        log.info("how it goes")
        list(progress(range(2), "work", 2))
        log.warning("note: what to know")
        print("the result")

    run(main, Options, None)
"""


@pytest.mark.parametrize("quiet", [False, True])
def test_quiet_leaves_results_and_warnings(quiet):
    command = [sys.executable, "-c", textwrap.dedent(QUIET), *(("--quiet",) if quiet else ())]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    stdout, stderr = done.stdout.splitlines(), done.stderr.splitlines()
    assert stdout == ([] if quiet else ["how it goes"]) + ["the result"]
    assert stderr[-1] == "note: what to know"
    assert len(stderr) == (1 if quiet else 2)
