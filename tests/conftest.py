"""A small toy world and a bank built from it, once per test session; processes that do not stay."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from jobs.build_bank import BuildBank, main
from pipeline.arithmetic import fix_products
from pipeline.cache import VARIABLE
from pipeline.output import show_log
from pipeline.toy.coco import write_toy
from pipeline.waiting import wait_passively

wait_passively()  # as every command does, before torch is loaded
fix_products()
show_log()  # ... and what is logged is printed


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """What is kept in the cache goes with the session, that of processes it starts too."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, str(folder))
        yield folder


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 training and 40 other photos (20 val, 20 test); tests may read it, not change it."""
    folder = tmp_path_factory.mktemp("data") / "toy"
    write_toy(folder, train_photos=60, val_photos=40)
    return folder


@pytest.fixture(scope="session")
def toy_bank(toy_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished bank of 8 shards with hardly trained networks; not to be changed either."""
    out = tmp_path_factory.mktemp("bank") / "toy"
    main(
        BuildBank(
            dataset="toy",
            data=toy_data,
            out=out,
            shard_photos=16,
            encoder_steps=1,
            cooccurrence_steps=1,
        )
    )
    return out


@pytest.fixture
def usual_signals() -> Iterator[None]:
    """Signals do what they do in a terminal, though the tests were started with some ignored: by
    nohup, by cron, or behind `&` in a script."""
    usual = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def start(usual_signals: None) -> Iterator[Callable[..., subprocess.Popen[Any]]]:
    """`subprocess.Popen` in a group of its own, of which nothing outlives the test."""
    started: list[subprocess.Popen[Any]] = []

    def popen(command: list[str], **settings: Any) -> subprocess.Popen[Any]:
        started.append(subprocess.Popen(command, start_new_session=True, **settings))
        return started[-1]

    yield popen
    for process in started:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()  # also closes its pipes
