import errno
import gc
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections import deque
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from bank.contents import content_digest
from bank.manifest import read_manifest
from jobs.stages import cluster
from jobs.stages.assemble import assemble
from jobs.stages.cluster import Job, Pool
from jobs.stages.cut import cut, plan
from jobs.stages.cutting import CropOptions
from pipeline.coco.reader import read_coco
from pipeline.errors import UserError
from pipeline.progress import progress

ROOT = Path(__file__).parents[3]
DASK = [sys.executable, "-m", "dask"]
START_S = 600  # patience of the tests, not what they take


def _square(x):
    return x * x, os.getpid()


def _threads(_):
    import torch

    return torch.get_num_threads()


def test_without_workers_everything_happens_here_in_order():
    assert list(results(_square, [3, 1, 2], 0)) == [(x * x, os.getpid()) for x in (3, 1, 2)]


def test_who_takes_results_may_put_more_jobs_into_the_queue():
    jobs = deque([Job(_square, 1)])
    done = []
    for job, (square, _), _ in Pool().run(jobs):
        done.append(square)
        if job.task < 3:
            jobs.append(Job(_square, job.task + 1))
    assert done == [1, 4, 9]


def test_workers_started_here_leave_glibc_its_own_thresholds(monkeypatch):
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    assert list(results(os.getenv, ["MALLOC_TRIM_THRESHOLD_"], 1)) == [None]


def test_a_job_may_take_all_threads_where_it_is_done_here():
    import torch

    jobs = deque([Job(_threads, 0, threads=None), Job(_threads, 0)])
    assert [done.result for done in Pool().run(jobs)] == [torch.get_num_threads(), 1]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        ("200 OK\r\n\r\n<!DOCTYPE html>\n<html>", True),
        ("200 OK\r\n\r\n<p>Dask needs bokeh", False),
        ("404 Not Found\r\n\r\n<html>", False),
    ],
)
def test_the_dashboards_address_is_told_where_there_is_one(answer, said):
    def serve():
        with server.accept()[0] as connection:
            connection.recv(1024)
            connection.sendall(f"HTTP/1.0 {answer}".encode())

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve)
        thread.start()
        address = f"http://127.0.0.1:{server.getsockname()[1]}/status"
        assert cluster._dashboard(SimpleNamespace(dashboard_link=address)) == (
            address if said else ""
        )
        thread.join()
    assert cluster._dashboard(SimpleNamespace(dashboard_link=address)) == ""  # nothing listens


def test_every_task_runs_on_one_thread_and_the_setting_does_not_leak():
    import torch

    before = torch.get_num_threads()
    assert list(results(_threads, [0, 0], 0)) == [1, 1]
    assert torch.get_num_threads() == before


def test_no_tasks_give_no_results():
    assert list(results(_square, [], 0)) == []


def test_a_scheduler_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(cluster, "JOIN_S", 0.2)
    with pytest.raises(UserError, match=r"no Dask scheduler answers at 'tcp://127\.0\.0\.1:9'"):
        list(results(_square, [1], 0, "tcp://127.0.0.1:9"))


def test_an_address_that_is_none_is_named():
    with pytest.raises(UserError, match="no Dask scheduler answers at 'nonsense://'"):
        list(results(_square, [1], 0, "nonsense://"))


@pytest.mark.parametrize("greeting", [b"", b"SSH-2.0-OpenSSH_9.2p1\r\n"], ids=["silent", "SSH"])
def test_something_else_that_listens_there_is_no_scheduler(monkeypatch, greeting):
    def greet():
        with server.accept()[0] as connection, suppress(ConnectionError):
            connection.sendall(greeting)
            connection.recv(1)  # until the other end is closed

    monkeypatch.setattr(cluster, "JOIN_S", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        threading.Thread(target=greet, daemon=True).start()
        with pytest.raises(UserError, match=f"no Dask scheduler answers at '{address}'"):
            list(results(_square, [1], 0, address))


def test_workers_that_have_no_room_to_start_are_one_line(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "file"))
    with pytest.raises(UserError, match=r"cannot start 1 workers \(.*Not a directory"):
        list(results(_square, [1], 1))


def test_work_begins_with_the_first_worker_and_ends_without_those_that_do_not_start(
    monkeypatch, tmp_path, caplog, capsys
):
    only_one_starts = f"""
import os
from pathlib import Path
first = Path({str(tmp_path / "first")!r})
if not first.exists():
    first.write_text(str(os.getpid()))
if first.read_text() != str(os.getpid()):
    os._exit(1)
"""
    monkeypatch.setattr(cluster, "LEAVE_INTERRUPTS", cluster.LEAVE_INTERRUPTS + only_one_starts)
    assert sorted(results(abs, [-1, -2, -3], 2)) == [1, 2, 3]
    assert "workers have started" not in capsys.readouterr().err  # they might still come
    (tmp_path / "first").unlink()
    monkeypatch.setattr(cluster, "LATE_S", 0)
    assert sorted(results(abs, [-1, -2, -3], 2)) == [1, 2, 3]
    said = "1 of 2 workers have started; they do all the work\n"
    assert capsys.readouterr().err.count(said) == 1
    gc.collect()  # asyncio complains of what nobody waited for
    assert "asyncio" not in {record.name for record in caplog.records}


# On a cluster: a scheduler and workers that are processes of their own


class Cluster:
    """A scheduler and two workers, each a process group."""

    def __init__(self, folder, project=ROOT):
        self.folder, self.processes, self.workers = folder, [], []
        self.env = {
            **os.environ,
            "PYTHONPATH": str(project),
            "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1",
            "DASK_DISTRIBUTED__ADMIN__TICK__LIMIT": "1h",
        }
        with socket.create_server(("127.0.0.1", 0)) as server:
            port = server.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{port}"
        listen = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        self.scheduler = self.start("scheduler", *listen)

    def start(self, *command):
        with (self.folder / f"{len(self.processes)}.log").open("w") as log:
            process = subprocess.Popen(
                [*DASK, *command],
                cwd=self.folder,
                env=self.env,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.processes.append(process)
        return process

    def add_worker(self):
        one = ["--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder)]
        self.workers.append(self.start("worker", self.address, *one))

    def close(self):
        for process in self.processes:
            kill(process)


def test_a_machine_without_loopback_network_is_one_line_at_once(monkeypatch):
    monkeypatch.setattr(cluster, "LOOPBACK", "192.0.2.1")  # an address that no machine has
    with pytest.raises(UserError, match=r"need the loopback network, .* or use --workers 0"):
        list(results(_square, [1], 1))


@pytest.mark.parametrize(
    "settings",
    [
        "distributed: [unclosed\n a: : b",
        "only a text",
        "distributed:\n  comm:\n    timeouts:\n      connect: soon\n",
    ],
    ids=["no YAML", "no settings", "no time"],
)
def test_a_configuration_of_dask_that_is_malformed_is_one_line(tmp_path, settings):
    (tmp_path / "dask.yaml").write_text(settings)
    script = """
        import os
        from jobs.stages.cluster import Pool
        from pipeline.errors import exit_code
        if __name__ == "__main__":
            job = lambda: list(Pool(1).results(len, ["task"]))
            os._exit(exit_code(job))  # Dask's exit takes 10 s
    """
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script))
    environment = {**os.environ, "DASK_CONFIG": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, path], env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: Dask cannot use its own configuration (")
    assert f"mend the YAML files in {tmp_path}" in line
    assert line.endswith("or use --workers 0")


def kill(process):
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


@pytest.fixture(scope="module")
def machines(tmp_path_factory):
    started = Cluster(tmp_path_factory.mktemp("dask"))
    yield started
    started.close()


@pytest.fixture(autouse=True)
def patience(monkeypatch):
    """Schedulers and workers come as late as a busy machine lets them."""
    monkeypatch.setattr(cluster, "JOIN_S", START_S)
    monkeypatch.setattr(cluster, "NO_WORKERS_TIMEOUT_S", START_S)


@pytest.fixture(autouse=True, scope="module")
def quick_collections():
    """Of what these tests make, not of all that has been imported."""
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def no_old_clients():
    """The garbage collector would find them in the thread of the next one, and Dask locks up."""
    yield
    gc.collect()


def results(function, tasks, workers, scheduler=""):
    with Pool(workers, scheduler) as pool:
        yield from pool.results(function, tasks)


def on(machines, function, tasks):
    return results(function, tasks, 0, machines.address)


def test_a_scheduler_without_workers_is_one_line_that_starts_some(machines, monkeypatch):
    monkeypatch.setattr(cluster, "NO_WORKERS_TIMEOUT_S", 0.1)
    passive = f"PYTHONPATH={ROOT} OMP_WAIT_POLICY=PASSIVE"
    start = f"{passive} dask worker {machines.address} --nthreads 1 --memory-limit 0"
    with pytest.raises(UserError, match=rf"at {machines.address} has no workers \(.*`{start}`"):
        list(on(machines, abs, [1]))
    machines.add_worker()
    machines.add_worker()


def test_results_come_from_workers_of_any_machine(machines):
    assert sorted(on(machines, abs, range(-20, 0))) == list(range(1, 21))


def _counted(number):
    return sum(progress(range(number), "counting", number, "number"))


def test_workers_report_how_far_a_long_task_is(machines, capfd):
    assert list(on(machines, _counted, [4])) == [6]
    assert re.search(r"^counting: 4 numbers in \d", capfd.readouterr().err, re.MULTILINE)


class Endless:
    """A long task that leaves a trace, and one that is done at once."""

    stage = "endless"

    def __init__(self, trace, steps):
        self.trace, self.steps = trace, steps


def _leave_traces(task):
    for step in progress(range(task.steps), "leaving traces", task.steps):
        task.trace.write_text(str(step))
        time.sleep(0.01)


def test_a_long_task_ends_when_nobody_waits_for_it_any_more(machines, tmp_path):
    tasks = [Endless(tmp_path / "short", 1), Endless(tmp_path / "endless", 10**9)]
    with closing(on(machines, _leave_traces, tasks)) as results:
        next(results)
        while not (tmp_path / "endless").exists():
            time.sleep(0.01)
    assert sorted(on(machines, abs, [-1, -2, -3, -4])) == [1, 2, 3, 4]  # none waits behind it
    last, deadline = "", time.monotonic() + START_S
    while (now := (tmp_path / "endless").read_text()) != last and time.monotonic() < deadline:
        last = now
        time.sleep(1)
    assert now == last


def test_jobs_that_come_up_as_others_end_run_on_workers_too(machines):
    jobs = deque([Job(abs, 1)])
    done = set()
    with Pool(scheduler=machines.address) as pool:
        for job, result, _ in pool.run(jobs):
            done.add(result)
            jobs.extend(Job(abs, 2 * job.task + n) for n in (0, 1) if result < 4)
    assert done == {1, 2, 3, 4, 5, 6, 7}


def test_a_file_that_a_worker_cannot_have_is_reported_with_number_name_and_host(machines, tmp_path):
    with pytest.raises(FileNotFoundError) as caught:
        list(on(machines, Path.read_bytes, [tmp_path / "nothing"]))
    assert caught.value.errno == errno.ENOENT
    assert caught.value.filename.startswith(f"{tmp_path}/nothing (on {socket.gethostname()} (tcp")


def test_what_a_worker_says_to_the_user_arrives_with_its_host(machines, tmp_path):
    with pytest.raises(
        UserError, match=rf"^worker on {socket.gethostname()} \(tcp:.*\): there is no bank at"
    ):
        list(on(machines, read_manifest, [tmp_path / "bank"]))


def test_a_fault_in_the_code_keeps_its_traceback(machines):
    with pytest.raises(TypeError, match="bad operand type for abs") as caught:
        list(on(machines, abs, ["text"]))
    assert "_do" in [entry.name for entry in caught.traceback]


def test_workers_that_have_another_version_of_the_project_are_refused(machines, monkeypatch):
    monkeypatch.setattr(cluster, "own_code_digest", lambda: "another")
    with pytest.raises(UserError, match=r"worker on .* is another version of this project"):
        list(on(machines, abs, [1]))


def test_workers_that_cannot_import_the_project_are_refused_with_what_to_do(machines, monkeypatch):
    not_importable = type("Task", (), {"__module__": "nowhere_to_be_found"})
    monkeypatch.setitem(sys.modules, "nowhere_to_be_found", sys)
    monkeypatch.setattr(sys, "Task", not_importable, raising=False)
    with pytest.raises(UserError, match=f"cannot import this project .*PYTHONPATH={ROOT}"):
        list(on(machines, repr, [not_importable()]))


def shards(data, out):
    """Tasks of a second or two: 28 small photos, two to a shard."""
    out.mkdir()
    dataset = read_coco(data, limit=14)
    return dataset, plan(dataset, out, 1, CropOptions(32, 16, "torch"))


def content(dataset, out, done):
    assemble(out, sorted(done), dataset.vocabulary)
    return content_digest(out)


@contextmanager
def once(folder, count, do):
    """Do something when `folder` holds so many files, if it ever does."""
    over = threading.Event()

    def watch():
        ended = False
        while len(list(folder.glob("cut-*"))) < count:
            if ended:
                return
            ended = over.wait(0.005)
        do()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.fixture(scope="module")
def reference(toy_data, tmp_path_factory):
    dataset, tasks = shards(toy_data, out := tmp_path_factory.mktemp("content") / "bank")
    return content(dataset, out, cut(tasks, Pool()))


def test_a_worker_killed_in_mid_build_costs_nothing_but_time(
    machines, toy_data, tmp_path, reference, capfd, monkeypatch
):
    monkeypatch.setattr(cluster, "POLL_S", 0.1)
    dataset, tasks = shards(toy_data, tmp_path / "bank")
    victim = machines.workers.pop()
    with (
        once(tmp_path / "bank/work/receipts", 3, lambda: kill(victim)),
        Pool(scheduler=machines.address) as pool,
    ):
        done = cut(tasks, pool)
    assert victim.returncode == -signal.SIGKILL
    assert content(dataset, tmp_path / "bank", done) == reference
    said = capfd.readouterr().err
    assert "1 of 2 workers died or left; others do their work" in said
    assert "Traceback" not in said


def test_a_task_that_kills_its_workers_ends_in_one_line(machines):
    with pytest.raises(
        UserError, match=r"2 workers died or were ended over the same task \(task\)"
    ):
        list(on(machines, os._exit, [1]))


def test_a_build_whose_workers_all_die_ends_in_one_line(machines, monkeypatch):
    monkeypatch.setattr(cluster, "POLL_S", 0.1)
    answers = on(machines, time.sleep, [0.01, *[3600] * 8])
    next(answers)
    monkeypatch.setattr(cluster, "NO_WORKERS_TIMEOUT_S", 0.5)
    for worker in machines.workers:
        kill(worker)
    with pytest.raises(UserError, match=r"has no workers .*; run the command again"):
        next(answers)
    machines.workers.clear()
    machines.add_worker()


def test_a_scheduler_killed_in_mid_build_ends_it_in_one_line(machines, capfd, monkeypatch):
    answers = on(machines, time.sleep, [0.01] * 100_000)
    next(answers)
    monkeypatch.setattr(cluster, "JOIN_S", 0.5)
    kill(machines.scheduler)
    with pytest.raises(UserError, match="was lost: it has ended or cannot be reached; run"):
        list(answers)
    assert "Traceback" not in capfd.readouterr().err


# On machines with a network between them

NETWORKS = """
mount -t tmpfs none /run
ip link add bridge type bridge
ip addr add 10.7.0.1/24 dev bridge
ip link set bridge up
for i in 2 3 4; do
  ip netns add m$i
  ip link add v$i type veth peer name eth0 netns m$i
  ip link set v$i master bridge up
  ip -n m$i addr add 10.7.0.$i/24 dev eth0
  ip -n m$i link set eth0 up
done
"""
MACHINES = """
trap 'kill -9 $started 2>/dev/null || true' EXIT
dask() {
  ip netns exec $1 $PYTHON -m dask $2 $3 $4 $5 $6 --no-dashboard >$FOLDER/$1.log 2>&1 &
  started="$started $!"
}
dask m2 scheduler --host 10.7.0.2 --port 8786
dask m4 worker tcp://10.7.0.2:8786 --no-nanny --nthreads 1
dask m3 worker tcp://10.7.0.2:8786 --no-nanny --nthreads 1
echo $! >$FOLDER/pid
"$@" --scheduler tcp://10.7.0.2:8786
"""


def namespaces(script, *command, **options):
    """Run as root of a system of its own, with the files and processes of this one."""
    return subprocess.Popen(
        ["unshare", "-Urnm", "sh", "-e", "-c", script, "sh", *command], **options
    )


def has_networks():
    try:
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        return namespaces(NETWORKS, **quiet).wait() == 0
    except OSError:
        return False


def test_machines_with_networks_of_their_own_build_the_same_content_though_one_dies(
    toy_data, toy_bank, tmp_path, reference
):
    if not has_networks():
        pytest.skip("this system lets us make no networks (`unshare -Urn`, `ip netns`)")
    bank, pid = tmp_path / "bank", tmp_path / "pid"
    given = [f"{toy_bank}/{name}.safetensors" for name in ("graph_encoder", "cooccurrence")]
    build = [sys.executable, "-m", "jobs.build_bank", "--dataset", "toy", "--data", str(toy_data)]
    build += ["--out", str(bank), "--limit", "14", "--shard-photos", "1", "--image-size", "32"]
    build += ["--patch-size", "16", "--graph-encoder", given[0], "--cooccurrence", given[1]]
    env = {**os.environ, "PYTHON": sys.executable, "FOLDER": str(tmp_path), "PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with (
        once(bank / "work/receipts", 3, lambda: os.kill(int(pid.read_text()), signal.SIGKILL)),
        namespaces(NETWORKS + MACHINES, *build, cwd=tmp_path, env=env, **pipes) as started,
    ):
        said, complained = started.communicate(timeout=START_S)
    assert started.returncode == 0, complained
    assert said.splitlines()[-1] == f"content digest: {reference}"
    assert "Traceback" not in complained
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
