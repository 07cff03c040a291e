"""A command in a process of its own: its flags, its exit code, how it stops."""

import os
import signal

import pytest

from pipeline.commands import run_command


@pytest.fixture
def command(tmp_path, monkeypatch):
    """Makes a module, for `python -m`, of the lines given; returns its name."""

    def write(*lines):
        (tmp_path / "small.py").write_text("\n".join(("import os, signal, sys, time", *lines)))
        return "small"

    monkeypatch.chdir(tmp_path)
    return write


def test_a_command_is_given_its_flags_as_text(command, tmp_path, capfd):
    run_command(command("print(sys.argv[1:])"), "--out", tmp_path, "--steps", 3, "a b")
    assert capfd.readouterr().out.splitlines() == [
        f"$ python -m small --out {tmp_path} --steps 3 'a b'",
        f"['--out', '{tmp_path}', '--steps', '3', 'a b']",
    ]


@pytest.mark.parametrize("code", [1, 2, 130])
def test_the_exit_code_of_a_command_is_passed_on_without_a_message(command, capfd, code):
    with pytest.raises(SystemExit) as stopped:
        run_command(command(f"sys.exit({code})"))
    assert stopped.value.code == code
    assert capfd.readouterr().err == ""


def test_a_command_that_was_killed_is_named(command, capfd):
    with pytest.raises(SystemExit) as stopped:
        run_command(command("os.kill(os.getpid(), signal.SIGKILL)"))
    assert stopped.value.code == 137
    assert capfd.readouterr().err == "error: small was ended by SIGKILL\n"


@pytest.mark.parametrize(
    ("name", "raised", "code"),
    [
        ("SIGINT", KeyboardInterrupt, None),
        ("SIGTERM", SystemExit, 143),
        ("SIGHUP", SystemExit, 129),
    ],
)
def test_a_signal_stops_the_running_command_first(
    usual_signals, command, tmp_path, capfd, name, raised, code
):
    handler = signal.getsignal(signal.Signals[name])
    small = command(
        "open('pid', 'w').write(str(os.getpid()))",
        "os.kill(os.getpid(), signal.SIGINT)",  # Ctrl-C in a terminal reaches both
        f"os.kill(os.getppid(), signal.{name})",
        "time.sleep(30)",
        "open('outlived', 'w')",
    )
    with pytest.raises(raised) as stopped:
        run_command(small)
    assert code is None or stopped.value.code == code
    assert capfd.readouterr().err == ""
    assert not (tmp_path / "outlived").exists()
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert signal.getsignal(signal.Signals[name]) == handler


def test_a_command_that_does_not_stop_is_killed_by_the_second_signal(command, tmp_path):
    small = command(
        "signal.signal(signal.SIGTERM, lambda *_: os.kill(os.getppid(), signal.SIGTERM))",
        "os.kill(os.getppid(), signal.SIGTERM)",
        "time.sleep(30)",  # goes on after the signal
        "open('outlived', 'w')",
    )
    with pytest.raises(SystemExit) as stopped:
        run_command(small)
    assert stopped.value.code == 143
    assert not (tmp_path / "outlived").exists()
