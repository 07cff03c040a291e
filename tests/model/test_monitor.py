"""What a run tells: its log, its curves, its lines, and which discriminator has collapsed."""

import json
import math
import os

import numpy as np
import pytest
import torch
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from model import monitor
from model.monitor import CHANCE, WATCHED, Pace, collapsed, duration, main_losses, run_log
from model.run_folder import RunError
from pipeline.output import show_log

CPU = torch.device("cpu")


def values(number=1.0, **others):
    return {"total": torch.tensor(float(number)), "gradient_norm/generator": torch.tensor(2.0)} | {
        name: torch.tensor(float(value)) for name, value in others.items()
    }


def lines_of(run):
    return [json.loads(line) for line in (run / "log.jsonl").read_text("utf-8").splitlines()]


def curves_of(run):
    curves = EventAccumulator(str(run / "tensorboard"))
    curves.Reload()
    return curves


def test_every_step_is_a_line_once_the_log_is_flushed(tmp_path):
    with run_log(tmp_path, 3) as log:
        for step in (3, 4):
            log.add(step, values(step))
        assert not lines_of(tmp_path)
        log.collect()
        log.add_to_last("score/val", 0.5)
        log.write()
        log.flush()  # nothing is written twice
    assert lines_of(tmp_path) == [
        {"step": 3, "total": 3.0, "gradient_norm/generator": 2.0},
        {"step": 4, "total": 4.0, "gradient_norm/generator": 2.0, "score/val": 0.5},
    ]
    curves = curves_of(tmp_path)
    assert [event.value for event in curves.Scalars("loss/total")] == [3.0, 4.0]
    assert [event.step for event in curves.Scalars("gradient_norm/generator")] == [3, 4]
    assert [event.step for event in curves.Scalars("score/val")] == [4]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_ends_the_log_before_its_step(tmp_path, bad):
    (tmp_path / "checkpoints/step-000002").mkdir(parents=True)
    with run_log(tmp_path, 0) as log:
        for step, number in enumerate((1.0, 2.0, bad, 3.0)):
            log.add(step, values(number))
        with pytest.raises(RunError, match=rf"^'total' is {bad} at step 3, .*, step-000002, is"):
            log.flush()
        log.write()
    assert [line["step"] for line in lines_of(tmp_path)] == [0, 1]


def test_what_a_killed_process_was_writing_goes(tmp_path):
    (tmp_path / "samples-000004.png.6b15a230.partial").write_text("half")
    with run_log(tmp_path, 0):
        pass
    assert not list(tmp_path.glob("*.partial"))


def test_a_grid_is_a_picture_in_the_folder_and_among_the_curves(tmp_path):
    grid = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    with run_log(tmp_path, 0) as log:
        log.add_grid(7, grid)
    with Image.open(tmp_path / "samples-000007.png") as picture:
        assert np.array_equal(np.asarray(picture), np.asarray(grid))
    (event,) = curves_of(tmp_path).Images("samples")
    assert (event.step, event.width, event.height) == (7, 4, 4)


def test_a_disk_that_is_full_in_the_middle_of_a_line_leaves_whole_lines_alone(tmp_path):
    class Disk:
        """A file with room for 100 bytes."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            room = 100 - self.file.tell()
            if not room:
                raise OSError(28, os.strerror(28))
            return self.file.write(data[:room])

    with run_log(tmp_path, 0) as log:
        log.file = Disk(log.file)
        log.add(0, values())
        log.flush()
        written = (tmp_path / "log.jsonl").read_text()
        for step in (1, 2):
            log.add(step, values())
        with pytest.raises(RunError, match=r"log\.jsonl: No space left on device"):
            log.flush()
    assert (tmp_path / "log.jsonl").read_text() == written


@pytest.mark.parametrize(
    ("losses", "reason"),
    [
        ([0.05] * WATCHED, "is 0.05 on average"),
        ([0.05] * (WATCHED - 1), ""),
        ([0.05] * (WATCHED - 10) + [1.2] * 10, ""),
        ([CHANCE + 0.009, CHANCE - 0.009] * (WATCHED // 2), "is that of mere chance, 1.39,"),
        ([CHANCE] * (WATCHED - 1) + [CHANCE - 0.02], ""),
        ([1.2, 1.3] * (WATCHED // 2), ""),
    ],
)
def test_a_discriminator_has_collapsed_where_it_is_certain_or_undecided_for_long(losses, reason):
    assert collapsed(losses) == reason


def test_of_a_collapsed_discriminator_is_warned_once(tmp_path, capsys):
    show_log()
    with run_log(tmp_path, 0) as log:
        for step in range(3 * WATCHED):
            log.add(step, values(discriminator_image=0.01, discriminator_object=1.2))
            if step % 30 == 0:
                log.flush()
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("the loss discriminator_image is 0.01 on average over the last 100")


class Clock:
    now = 1000.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(monitor.time, "monotonic", clock)
    monkeypatch.setattr(monitor, "memory", lambda device: 1_230_000_000)
    return clock


def test_a_line_tells_speed_waiting_memory_losses_and_what_is_left(clock):
    pace = Pace(100, 500, 12, CPU)
    clock.now += 20
    pace.tick(110)
    with pace.waiting():
        clock.now += 1
    clock.now += 9
    line = pace.line(120, pace.tick(120), "total 1.5")
    assert line == (
        "step 120 of 500: 12 images/s, 10% waiting for data, 1.23 GB of memory, total 1.5, "
        "10 min left"
    )
    last = pace.line(500, {"speed/images_per_s": 1, "speed/data_wait": 0}, "")
    assert last.endswith("1.23 GB of memory")


def test_time_before_the_start_counts_for_nothing(clock):
    pace = Pace(100, 500, 12, CPU)
    with pace.waiting():
        clock.now += 60  # as kernels are compiled
    pace.start()
    clock.now += 20
    tick = pace.tick(110)
    assert tick == {"speed/images_per_s": 6, "speed/data_wait": 0}
    assert pace.seconds == 20


def test_a_line_is_due_at_the_first_step_and_the_last_and_every_ten_seconds(clock):
    pace = Pace(5, 100, 4, CPU)
    assert [pace.is_due(step) for step in (5, 6, 99)] == [True, False, True]
    clock.now += 10
    assert pace.is_due(6)
    pace.tick(7)
    assert not pace.is_due(7)


def test_lines_of_every_so_many_steps_are_due_at_their_multiples_whatever_the_time(clock):
    pace = Pace(5, 18, 4, CPU, every=4)
    due = []
    for step in range(5, 18):
        clock.now += 60 * (step % 3)
        due += [step] * pace.is_due(step)
    assert due == [5, 7, 11, 15, 17]  # after 8, 12 and 16 steps, and at the ends


@pytest.mark.parametrize(
    ("seconds", "words"), [(12.4, "12 s"), (61, "1 min"), (3599, "60 min"), (5400, "1.5 h")]
)
def test_what_is_left_is_told_in_a_readable_unit(seconds, words):
    assert duration(seconds) == words


def test_memory_is_that_of_the_process():
    assert 1e7 < monitor.memory(CPU) < 1e12


def test_shown_losses_are_means_over_the_latest_steps():
    recent = [
        {"boxes": 9.0, "total": 100.0, "pixels": 100.0},
        *[{"boxes": 9.0, "total": 1.0, "pixels": 0.5}] * 10,
        *[{"boxes": 9.0, "total": 3.0, "pixels": 0}] * 10,
    ]
    assert main_losses(recent) == "total 2, pixels 0.25"
    assert main_losses([]) == ""
