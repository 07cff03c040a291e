"""Tasks in, results out in whatever order they finish: in this process, or through Dask.

One task makes one shard (seconds, not milliseconds: Dask spends about one on each). Arguments
are names and paths, results small receipts, and only a few tasks are in flight at a time.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any, TypeVar

from pipeline.errors import UserError

Task = TypeVar("Task")
Result = TypeVar("Result")

IN_FLIGHT_PER_WORKER = 2  # one that runs, one that waits its turn
JOIN_S = 30  # how long a scheduler may take to answer


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
    with _client(workers, scheduler) as client:
        threads = sum(client.nthreads().values()) or 1
        yield from _stream(client, function, tasks, threads * IN_FLIGHT_PER_WORKER)


def _dask() -> Any:
    # Only a build with workers pays for this import, and its functions have no types.
    return importlib.import_module("distributed")


@contextmanager
def _client(workers: int, scheduler: str) -> Iterator[Any]:
    distributed = _dask()
    if scheduler:
        try:
            client = distributed.Client(scheduler, timeout=JOIN_S)
        except (OSError, ValueError) as error:
            raise UserError(
                f"no Dask scheduler answers at {scheduler!r} ({error}); start one with "
                f"`dask scheduler`, or leave --scheduler out"
            ) from error
        with client:
            _wait_for_workers(client, scheduler)
            yield client
        return
    with (
        distributed.LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            processes=True,
            dashboard_address=None,
            silence_logs="ERROR",
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        yield client


def _wait_for_workers(client: Any, scheduler: str) -> None:
    try:
        client.wait_for_workers(1, timeout=JOIN_S)
    except TimeoutError as error:
        raise UserError(
            f"the Dask scheduler at {scheduler} has no workers; start some with "
            f"`PYTHONPATH=<this folder> dask worker {scheduler} --nthreads 1`"
        ) from error


def _stream(
    client: Any, function: Callable[[Task], Result], tasks: Sequence[Task], window: int
) -> Iterator[Result]:
    distributed = _dask()

    def submit(task: Task) -> Any:
        return client.submit(_single_threaded, function, task, pure=False)

    waiting = iter(tasks)
    running = distributed.as_completed([submit(task) for task in islice(waiting, window)])
    for future in running:
        try:
            result = future.result()
        except distributed.KilledWorker as error:
            raise UserError(
                "several workers died over the same shard, mostly for want of memory; finished "
                "shards are kept: use fewer --workers or a smaller --shard-photos"
            ) from error
        except RuntimeError as error:
            if "deserialization" not in str(error):
                raise
            raise UserError(
                "the Dask scheduler or its workers cannot import this project: start both with "
                "PYTHONPATH set to its folder and the same packages as here"
            ) from error
        # Let go at once: a result that Dask still holds is computed again when its worker dies.
        future.release()
        yield result
        for task in islice(waiting, 1):
            running.add(submit(task))


def _single_threaded(function: Callable[[Task], Result], task: Task) -> Result:
    import torch

    # Patches are too small to share out: threads would spend their time waiting for each other.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return function(task)
    finally:
        torch.set_num_threads(threads)
