"""Tasks in, results out in whatever order they finish: in this process, or through Dask.

A task takes seconds, not milliseconds (Dask spends about one on each): one shard, one block. Its
arguments are names and paths, its result is a small receipt, and only a few are in flight at a
time. What goes wrong in a task comes out here as it would without Dask; what goes wrong with Dask
itself is one line, and its own logs are kept from the user.
"""

import functools
import importlib
import logging
import os
import socket
import threading
import time
import urllib.request
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, NamedTuple, Self, TypeVar

from jobs.stages.project import PROJECT, own_code_digest
from pipeline.errors import UserError
from pipeline.output import log
from pipeline.progress import Bar, Report, reporting

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT_PER_THREAD = 2  # one that runs, one that waits its turn
JOIN_S = 30  # how long a scheduler may take to answer
NO_WORKERS_TIMEOUT_S = 60  # how long it may have no workers
LATE_S = 30  # after which a worker that has not started is not expected any more
POLL_S = 1  # between two looks at which workers there are
DASHBOARD_S = 5  # how long it may take to answer
MAX_GREETING = 1 << 20  # bytes
LOOPBACK, LOOPBACK_S = "127.0.0.1", 10
WORKERS_HERE = {
    "distributed.worker.multiprocessing-method": "forkserver",
    # Where it is set, to whatever, glibc gives every large array back to the system at once, and
    # F_occur takes more than twice as long.
    "distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": None,
}
ENVIRONMENT = f"PYTHONPATH={PROJECT} OMP_WAIT_POLICY=PASSIVE"  # of a worker
STARTS = 3  # of a first worker here: Dask replaces one that dies, but not while it starts
KEPT = "run the command again (a build goes on from what is finished)"
UUID = 37  # characters at the end of a job's name
# Ctrl-C reaches all processes of a terminal; workers ignore it, and their parent ends them.
LEAVE_INTERRUPTS = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


class Job(NamedTuple):
    """A task, and what is done with it."""

    function: Callable[[Any], Any]
    task: Any
    threads: int | None = 1  # where this process does it; None: as many as torch takes


NO_JOB = Job(id, None)


class Done(NamedTuple):
    """A job that is done."""

    job: Job
    result: Any
    seconds: float  # that it took where it was done


class Pool:
    """Who does the work of a command: Dask's workers, or this process.

    `scheduler` is the address of a running Dask scheduler; without it `workers` processes of one
    thread are started here, with the first job, or, where `workers` is 0, no Dask at all.
    """

    def __init__(self, workers: int = 0, scheduler: str = "") -> None:
        self.workers, self.scheduler = workers, scheduler
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        self.__dict__.pop("_client", None)
        self._stack.__exit__(*error)

    @property
    def parallel(self) -> bool:
        return bool(self.workers or self.scheduler)

    def results(
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[Result]:
        """function(task) for every task, on one thread: patches are too small to split up, threads
        would spend their time waiting for each other."""
        jobs = deque(Job(function, task) for task in tasks)
        return (done.result for done in self.run(jobs))

    def run(self, jobs: deque[Job]) -> Iterator[Done]:
        """Jobs as they are done; who takes them may put more into the queue."""
        if not self.parallel:
            while jobs:
                yield _do(jobs.popleft())
            return
        if not jobs:
            return
        remote = bool(self.scheduler)
        where = f"the Dask scheduler {f'at {self.scheduler}' if remote else 'of this command'}"
        with _heard(self._client) as topic:
            work = functools.partial(_work, own_code_digest(), topic)
            asked = 0 if remote else self.workers
            for done in _stream(self._client, work, jobs, where, asked):
                if isinstance(done.result, _Failed):
                    raise done.result.as_here(remote=remote)
                yield done

    @functools.cached_property
    def _client(self) -> Any:
        started = _joined(self.scheduler) if self.scheduler else _started(self.workers)
        client = self._stack.enter_context(started)
        if address := _dashboard(client):
            log.info(f"Dask's dashboard: {address}")
        return client


class _Failed(NamedTuple):
    """A worker's result where its task failed for a reason that the user can mend."""

    error: UserError | OSError
    host: str

    def as_here(self, *, remote: bool) -> Exception:
        """The error as it would be raised in this process; of a remote one it says where."""
        error = self.error
        if not remote:
            return error
        if isinstance(error, UserError):
            return UserError(f"worker on {self.host}: {error}")
        error.filename = f"{error.filename} (on {self.host})" if error.filename else self.host
        return error


def _stream(
    client: Any, work: Callable[[Job], Done], jobs: deque[Job], where: str, asked: int
) -> Iterator[Done]:
    """Jobs as they are done, of as many jobs at a time as there are workers for; a line says where
    fewer have started than were `asked` for."""
    running, threads = dict[Any, Job](), dict[str, int]()
    began = time.monotonic()
    with _reaching(where):
        while True:
            threads = _threads(client, threads, where)
            if time.monotonic() - began > LATE_S and 0 < len(threads) < asked:
                log.warning(f"{len(threads)} of {asked} workers have started; they do all the work")
                asked = 0
            room = IN_FLIGHT_PER_THREAD * max(sum(threads.values()), 1)
            while jobs and len(running) < room:
                job = jobs.popleft()
                running[client.submit(work, job, key=_key(job), pure=False)] = job
            if not running:
                return
            try:  # as_completed would wait for ever where no worker is left
                done, _ = _dask().wait(list(running), POLL_S, "FIRST_COMPLETED")
            except TimeoutError:
                continue
            for future in done:
                result = future.result()
                # At once: a result that Dask still holds is made again when its worker dies.
                future.release()
                yield result._replace(job=running.pop(future))


def _key(job: Job) -> str:
    """Dask's name of a job: its dashboard shows those of one stage together."""
    return f"{getattr(job.task, 'stage', 'task')}-{uuid.uuid4()}"


def _threads(client: Any, before: dict[str, int], where: str) -> dict[str, int]:
    """Worker's address -> its threads; UserError where no worker comes for too long."""
    threads: dict[str, int] = client.nthreads(callback_timeout=JOIN_S)
    if gone := len(before.keys() - threads.keys()):
        then = "others do their work" if threads else "waiting for others"
        log.warning(f"{gone} of {len(before)} workers died or left; {then}")
    if not threads:
        try:
            client.wait_for_workers(1, NO_WORKERS_TIMEOUT_S)
        except TimeoutError as error:
            address = client.scheduler.address
            worker = f"dask worker {address} --nthreads 1 --memory-limit 0"
            start = f"start some with `{ENVIRONMENT} {worker}`"
            mend = start if client.cluster is None else "use --workers 0"
            raise UserError(f"{where} has no workers ({mend}); {KEPT}") from error
    return threads


@contextmanager
def _reaching(where: str) -> Iterator[None]:
    """UserError for what goes wrong with Dask; a task's own troubles come as `_Failed`."""
    distributed = _dask()
    closed = distributed.client.ClosedClientError
    try:
        yield
    except distributed.KilledWorker as error:
        raise UserError(
            f"{error.allowed_failures + 1} workers died or were ended over the same task "
            f"({str(error.task)[:-UUID]}), mostly for want of memory; {KEPT}, with fewer workers "
            f"on a machine"
        ) from error
    except (distributed.CancelledError, closed, OSError) as error:
        raise UserError(f"{where} was lost: it has ended or cannot be reached; {KEPT}") from error
    except (ImportError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and "deserialization" not in str(error):
            raise
        raise UserError(
            f"the Dask scheduler or its workers cannot import this project "
            f"({_first_line(error).partition('. ')[0]}): start both with PYTHONPATH={PROJECT} and "
            f"the same packages as here"
        ) from error


# On a worker


def _work(expected_digest: str, topic: str, job: Job) -> Done:
    """What the leading process knows already does not go back to it."""
    worker = _dask().get_worker()
    host = f"{socket.gethostname()} ({worker.address})"
    try:
        if own_code_digest() != expected_digest:
            raise UserError(
                f"its {PROJECT} is another version of this project: bring all machines to the "
                f"same and start the workers again"
            )
        with reporting(functools.partial(_report, worker, worker.get_current_task(), topic)):
            return _do(job._replace(threads=1))._replace(job=NO_JOB)
    except (UserError, OSError) as error:
        return Done(NO_JOB, _Failed(error, host), 0.0)


def _report(worker: Any, key: str, topic: str, report: Report) -> None:
    """Tell the leading process how far a task is; UserError, which ends the task, where nobody
    waits for it: that process has ended, or Dask has given the task to another worker."""
    task = worker.state.tasks.get(key)
    if task is None or task.state == "cancelled":
        raise UserError("nobody waits for this task any more")
    worker.log_event(topic, report)


def _do(job: Job) -> Done:
    import torch

    threads, start = torch.get_num_threads(), time.monotonic()
    torch.set_num_threads(job.threads or threads)
    try:
        result = job.function(job.task)
    finally:
        torch.set_num_threads(threads)
    return Done(job, result, time.monotonic() - start)


# Clients


class _Bars:
    """Of the long tasks of workers, as these report how far they are: from another thread, and
    perhaps after the end."""

    def __init__(self) -> None:
        self._lock, self._open = threading.Lock(), True
        self._bars = dict[str, Bar]()

    def show(self, event: tuple[Any, Any]) -> None:
        report = Report(*event[1])
        with self._lock:
            if not self._open:
                return
            if report.what not in self._bars:
                self._bars[report.what] = Bar(report.what, report.total, report.unit, report.done)
            bar = self._bars[report.what]
            bar.reach(report.done)
            if report.done == report.total:
                self._bars.pop(report.what).close()

    def close(self, *, ended: bool) -> None:
        """ended: all tasks are done, though their last reports may not have come."""
        with self._lock:
            self._open = False
            for bar in self._bars.values():
                if ended:
                    bar.reach(bar.total)
                bar.close(ended=ended)


@contextmanager
def _heard(client: Any) -> Iterator[str]:
    """The topic under which workers report how far a long task is."""
    topic, bars = f"progress-{uuid.uuid4()}", _Bars()
    client.subscribe_topic(topic, bars.show)
    ended = False
    try:
        yield topic
        ended = True
    finally:
        bars.close(ended=ended)
        with suppress(OSError, ValueError, RuntimeError):  # of a client that is lost
            client.unsubscribe_topic(topic)


def _dashboard(client: Any) -> str:
    """Its address; empty where none answers, or only to say that it needs bokeh."""
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with suppress(Exception), direct.open(client.dashboard_link, timeout=DASHBOARD_S) as page:
        return str(client.dashboard_link) if b"<html" in page.read(1024) else ""
    return ""


@contextmanager
def _started(workers: int) -> Iterator[Any]:
    """A client of worker processes on this machine, once the first of them is there; one that dies
    later is replaced."""
    distributed = _dask()
    asyncio = logging.getLogger("asyncio")
    with ExitStack() as stack:
        stack.callback(asyncio.setLevel, asyncio.level)
        asyncio.setLevel(logging.CRITICAL)  # of later workers that do not start
        stack.enter_context(distributed.dask.config.set(WORKERS_HERE))
        try:
            _check_loopback()
            with _reading_configuration():
                cluster = stack.enter_context(_local_cluster(distributed))
                cluster.scale(workers)
                client = stack.enter_context(distributed.Client(cluster))
        except (OSError, RuntimeError) as error:
            raise UserError(
                f"cannot start {workers} workers ({_first_line(_origin(error))}); they need room "
                f"for temporary files (TMPDIR names another folder), or use --workers 0"
            ) from error
        yield client


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


def _local_cluster(distributed: Any) -> Any:
    """With its first worker."""
    # What takes each process seconds of its own to import is imported once, before they fork.
    distributed.utils.get_mp_context().set_forkserver_preload(["distributed", "torch"])
    start = functools.partial(
        distributed.LocalCluster,
        n_workers=1,
        threads_per_worker=1,
        processes=True,
        dashboard_address=f"{LOOPBACK}:0",
        silence_logs="CRITICAL",
        memory_limit=0,  # Dask counts mapped files, which the system takes back where it needs to
        preload=[LEAVE_INTERRUPTS],
    )
    for _ in range(STARTS - 1):
        with suppress(RuntimeError):
            return start()
    return start()


@contextmanager
def _joined(scheduler: str) -> Iterator[Any]:
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
                f"with `PYTHONPATH={PROJECT} dask scheduler`, or leave --scheduler out"
            ) from error
        if any(w.category.__name__ == "VersionMismatchWarning" for w in warned):
            log.warning(
                f"{scheduler} or its workers have other versions of Dask's packages than this "
                f"process; where that leads to trouble, install those of requirements.lock"
            )
        yield client


def _ping(scheduler: str) -> None:
    """OSError where what listens is no scheduler: a client would wait for ever for its first bytes,
    or take them for a length. Where nothing listens yet, a client tries again for a while."""
    if not scheduler.startswith("tcp://"):
        return
    place = _dask().comm.get_address_host_port(scheduler)
    try:
        connection = socket.create_connection(place, JOIN_S)
    except OSError:
        return
    with connection:
        first = connection.recv(8, socket.MSG_WAITALL)  # the length of a scheduler's greeting
        length = int.from_bytes(first, "little")
        if not 0 < length < MAX_GREETING:
            raise OSError("it is something else that listens there")


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


def _origin(error: BaseException) -> BaseException:
    return _origin(error.__cause__) if error.__cause__ else error


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
