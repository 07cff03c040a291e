import os

import pytest

from jobs.cluster import results
from pipeline.errors import UserError


def _square(x):
    return x * x, os.getpid()


def _threads(_):
    import torch

    return torch.get_num_threads()


def test_without_workers_everything_happens_here_in_order():
    assert list(results(_square, [3, 1, 2], 0)) == [(x * x, os.getpid()) for x in (3, 1, 2)]


def test_every_task_runs_on_one_thread_and_the_setting_does_not_leak():
    import torch

    before = torch.get_num_threads()
    assert list(results(_threads, [0, 0], 0)) == [1, 1]
    assert torch.get_num_threads() == before


def test_no_tasks_give_no_results():
    assert list(results(_square, [], 0)) == []


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr("jobs.cluster.JOIN_S", 1)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        list(results(_square, [1], 0, "tcp://127.0.0.1:9"))


def test_an_address_that_is_none_is_named():
    with pytest.raises(UserError, match="no Dask scheduler answers at 'nonsense://'"):
        list(results(_square, [1], 0, "nonsense://"))
