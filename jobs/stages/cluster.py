"""Tasks in, results out in whatever order they finish: in this process, or through Dask.

One task makes one shard (seconds, not milliseconds: Dask spends about one on each). Arguments
are names and paths, results small receipts, and only a few tasks are in flight at a time. What
goes wrong on a worker comes out here as it would without Dask; what goes wrong with Dask itself
is one line, and its own logs are kept from the user.
"""

import functools
import importlib
import logging
import os
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from jobs.stages.project import PROJECT, code_digest
from pipeline.errors import UserError
from pipeline.output import log

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT_PER_WORKER = 2  # one that runs, one that waits its turn
JOIN_S = 30  # how long a scheduler may take to answer, and its first worker to come
LOOPBACK, LOOPBACK_S = "127.0.0.1", 10
POLL_S = 5.0  # between two polls of the workers
STARTS = 3  # of workers here: Dask replaces one that dies, but not while it starts
NO_WORKERS_TIMEOUT_S = 60.0  # how long a build waits for others once its last worker has gone
KEPT = "finished shards are kept: run the command again"
# Ctrl-C reaches all processes of a terminal; workers ignore it, and their parent ends them.
LEAVE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


def results(
    function: Callable[[Task], Result], tasks: Sequence[Task], workers: int, scheduler: str = ""
) -> Iterator[Result]:
    """function(task) for every task.

    `scheduler` is the address of a running Dask scheduler; without it `workers` processes of
    one thread are started here, or, where `workers` is 0, no Dask at all.
    """
    if not scheduler and not workers:
        yield from (_single_threaded(function, task) for task in tasks)
        return
    client = _joined(scheduler) if scheduler else _started(workers)
    with client as (connection, where):
        yield from _stream(connection, function, tasks, where)


def _dask() -> Any:
    # Only a build with workers pays for this import, and its functions have no types.
    with _reading_configuration():
        return importlib.import_module("distributed")


@contextmanager
def _reading_configuration() -> Iterator[None]:
    """UserError for what Dask raises where its own settings are malformed, when it is imported or
    when it first uses them."""
    try:
        yield
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        reason = _first_line(error).removesuffix(", original error message:").strip("'")
        raise UserError(
            f"Dask cannot use its own configuration ({reason[:200]}): mend the YAML files in "
            f"{os.environ.get('DASK_CONFIG', '~/.config/dask and /etc/dask')} and the DASK_ "
            f"variables, or use --workers 0"
        ) from error


@contextmanager
def _started(workers: int) -> Iterator[tuple[Any, str]]:
    """A client of worker processes on this machine; one that dies is replaced."""
    with ExitStack() as stack:
        try:
            _check_loopback()
            with _reading_configuration():
                cluster = stack.enter_context(_local_cluster(workers))
                client = stack.enter_context(_dask().Client(cluster))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot start {workers} workers ({_first_line(_origin(error))}); they need room "
                f"in {_temporary()} (or name another folder in TMPDIR), or use --workers 0"
            ) from error
        yield client, "the Dask scheduler of this build"


def _check_loopback() -> None:
    """UserError where processes of this machine cannot talk to each other: Dask would wait for
    ever."""
    try:
        with socket.create_server((LOOPBACK, 0)) as server:
            socket.create_connection(server.getsockname(), LOOPBACK_S).close()
    except OSError as error:
        raise UserError(
            f"workers here need the loopback network, and {LOOPBACK} does not answer "
            f"({error.strerror or error}): bring it up (`ip link set lo up`), or use --workers 0"
        ) from error


def _local_cluster(workers: int) -> Any:
    for _ in range(STARTS - 1):
        with suppress(RuntimeError):
            return _start(workers)
    return _start(workers)


def _start(workers: int) -> Any:
    return _dask().LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        processes=True,
        dashboard_address=None,
        scheduler_kwargs={"dashboard_address": "127.0.0.1:0"},  # its HTTP server's
        silence_logs="CRITICAL",
        preload=[LEAVE_INTERRUPTS],
    )


@contextmanager
def _joined(scheduler: str) -> Iterator[tuple[Any, str]]:
    """A client of a scheduler that others have started."""
    distributed = _dask()
    with ExitStack() as stack:
        stack.enter_context(distributed.utils.silence_logging_cmgr(logging.CRITICAL))
        try:
            _ping(scheduler)
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                client = stack.enter_context(distributed.Client(scheduler, timeout=JOIN_S))
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                f"no Dask scheduler answers at {scheduler!r} ({_first_line(error)}); start one "
                f"with `dask scheduler`, or leave --scheduler out"
            ) from error
        if any(w.category.__name__ == "VersionMismatchWarning" for w in warned):
            _warn(
                f"the Dask scheduler at {scheduler} or its workers have other versions of Dask's "
                f"packages than this process; where that leads to trouble, install those of "
                f"requirements.lock on all machines"
            )
        try:
            client.wait_for_workers(1, timeout=JOIN_S)
        except TimeoutError as error:
            raise UserError(
                f"the Dask scheduler at {scheduler} has no workers; start some with "
                f"`PYTHONPATH={PROJECT} dask worker {scheduler} --nthreads 1`"
            ) from error
        yield client, f"the Dask scheduler at {scheduler}"


def _ping(scheduler: str) -> None:
    """OSError where what listens is no scheduler: a client would wait for ever for its first bytes.
    Where nothing listens yet, a client tries again for a while."""
    if not scheduler.startswith("tcp://"):
        return
    place = _dask().comm.get_address_host_port(scheduler)
    try:
        connection = socket.create_connection(place, JOIN_S)
    except OSError:
        return
    with connection:
        if not connection.recv(1):
            raise OSError("it closes the connection")


class _Failed(NamedTuple):
    """A worker's result where its task failed for a reason that the user can mend."""

    error: UserError | OSError
    host: str


def _stream(
    client: Any, function: Callable[[Task], Result], tasks: Sequence[Task], where: str
) -> Iterator[Result]:
    work = functools.partial(_work, function, code_digest(PROJECT))
    waiting, running, workers = iter(tasks), set[Any](), _Workers(client, where)
    while True:
        with _reaching(where):
            room = max(workers.threads() * IN_FLIGHT_PER_WORKER - len(running), 0)
            running |= {client.submit(work, t, pure=False) for t in islice(waiting, room)}
            if room and not running:
                return
            done = _done(running)
        for future in done:
            running.remove(future)
            with _reaching(where):
                result = _result(future)
                # At once: a result that Dask still holds is made again when its worker dies.
                future.release()
            if isinstance(result, _Failed):
                raise _as_here(result, remote=client.cluster is None)
            yield result


class _Workers:
    """The workers of a scheduler, polled every few seconds: they come and go."""

    def __init__(self, client: Any, where: str) -> None:
        self.client, self.where = client, where
        self.threads_of: dict[str, int] = {}  # address -> threads
        self.polled_at = self.last_present_at = float("-inf")

    def threads(self) -> int:
        """Of all that there are; UserError once there have been none for too long."""
        now = time.monotonic()
        if now - self.polled_at >= POLL_S:
            threads_now = self.client.nthreads()
            if gone := len(self.threads_of.keys() - threads_now.keys()):
                _warn(
                    f"{gone} of {len(self.threads_of)} workers died or left; others do their work"
                )
            self.threads_of, self.polled_at = threads_now, now
            if threads_now or self.last_present_at < 0:
                self.last_present_at = now
        if not self.threads_of and now - self.last_present_at >= NO_WORKERS_TIMEOUT_S:
            raise UserError(f"{self.where} has no workers any more; {KEPT} when there are some")
        return sum(self.threads_of.values())


def _done(futures: Iterable[Any]) -> Iterable[Any]:
    """Those that have an answer, after waiting for one; none where that takes long."""
    waiting = list(futures)
    if not waiting:
        time.sleep(POLL_S)  # for a worker
        return ()
    try:
        finished = _dask().wait(waiting, timeout=POLL_S, return_when="FIRST_COMPLETED")
    except TimeoutError:
        return ()
    return list(finished.done)


def _result(future: Any) -> Any:
    try:
        return future.result()
    except _dask().KilledWorker as error:
        raise UserError(
            f"several workers died over the same shard, mostly for want of memory; {KEPT}, with "
            f"fewer --workers or a smaller --shard-photos"
        ) from error
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "deserialization" not in str(error):
            raise
        raise UserError(
            f"the Dask scheduler or its workers cannot import this project "
            f"({_first_line(error)}): start both with PYTHONPATH={PROJECT} and the same packages "
            f"as here"
        ) from error


@contextmanager
def _reaching(where: str) -> Iterator[None]:
    """UserError where the scheduler is lost; a task's own troubles come as `_Failed`."""
    distributed = _dask()
    closed = distributed.client.ClosedClientError
    try:
        yield
    except (distributed.CancelledError, closed, OSError) as error:
        raise UserError(f"{where} was lost: it has ended or cannot be reached; {KEPT}") from error


def _as_here(failed: _Failed, *, remote: bool) -> Exception:
    """The error as it would be raised in this process; of a remote one it says where."""
    error = failed.error
    if not remote:
        return error
    if isinstance(error, UserError):
        return UserError(f"worker on {failed.host}: {error}")
    error.filename = f"{error.filename} (on {failed.host})" if error.filename else failed.host
    return error


def _work(function: Callable[[Task], Result], expected_digest: str, task: Task) -> Result | _Failed:
    """On a worker."""
    host = socket.gethostname()
    try:
        if _own_code_digest() != expected_digest:
            raise UserError(
                f"its {PROJECT} is another version of this project: bring all machines to the "
                f"same and start the workers again"
            )
        return _single_threaded(function, task)
    except (UserError, OSError) as error:
        return _Failed(error, host)


@functools.cache
def _own_code_digest() -> str:
    """Of a worker, once: it does not see later edits either."""
    return code_digest(PROJECT)


def _single_threaded(function: Callable[[Task], Result], task: Task) -> Result:
    import torch

    # Patches are too small to split up: threads would spend their time waiting for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(task)
    finally:
        torch.set_num_threads(threads)


def _temporary() -> str:
    try:
        return tempfile.gettempdir()
    except OSError:
        return "a temporary folder"


def _origin(error: BaseException) -> BaseException:
    return _origin(error.__cause__) if error.__cause__ else error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _warn(line: str) -> None:
    log.warning(line)
