"""The training loop: what it writes, and that an interruption costs nothing."""

import errno
import json
import multiprocessing
import os
import signal
import threading
from contextlib import nullcontext
from dataclasses import replace
from itertools import islice
from types import SimpleNamespace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.summary.writer.record_writer import RecordWriter

from model import checkpoint, loop, monitor
from model.config import ExecutionConfig
from model.loop import laid_out, restore, train
from model.monitor import Pace
from model.parallel import Ranks
from model.recipes import paper, sg2im_demo
from model.run_folder import RunError
from model.trainers import trainer_for
from pipeline.errors import Stopped, UserError
from pipeline.output import show_log
from pipeline.stopping import REQUESTS
from tests.model.small_runs import losses_of, small, trainer_of


def test_a_resumed_run_has_the_losses_of_one_that_was_never_interrupted(bank, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    train(trainer_of(bank, small()), bank, whole)
    train(trainer_of(bank, small(steps=2)), bank, cut)
    with (cut / "log.jsonl").open("a") as log:  # a step was taken after the last checkpoint
        log.write(json.dumps({"step": 2, "total": 0.0}) + '\n{"step": 3, "to')
    again = trainer_of(bank, small())
    torch.manual_seed(99)  # whatever the process drew before
    restore(again, bank, cut)
    train(again, bank, cut)
    assert losses_of(cut) == losses_of(whole)
    assert [row["step"] for row in losses_of(whole)] == [0, 1, 2, 3]
    curves = EventAccumulator(str(cut / "tensorboard"))
    curves.Reload()
    assert [event.step for event in curves.Scalars("loss/total")] == [0, 1, 2, 3]


@pytest.mark.parametrize("config", [small(), sg2im_demo()])
def test_a_step_draws_nothing_from_the_global_random_state(bank, config):
    """A checkpoint does not hold it."""
    trainer = trainer_of(bank, config)
    batch = trainer.grid_batch(bank, bank.scene_ids("train")[:2])
    states = []
    for _ in range(2):
        states.append(torch.get_rng_state())
        trainer.step(batch)
    trainer.image_grid(batch)
    states.append(torch.get_rng_state())
    assert all(torch.equal(states[0], state) for state in states)


def test_a_run_logs_every_loss_by_name_and_leaves_grid_and_curves(bank, tmp_path):
    train(trainer_of(bank, small()), bank, tmp_path)
    names = set(losses_of(tmp_path)[0])
    assert names >= {
        "boxes", "gt_selection", "cooccurrence", "reconstruction", "adversarial_image",
        "adversarial_object", "discriminator_image", "discriminator_object", "total",
    }  # fmt: skip
    assert (tmp_path / "samples-000004.png").is_file()
    assert list((tmp_path / "tensorboard").iterdir())


def test_an_image_larger_than_the_banks_is_refused_before_the_first_step(bank):
    with pytest.raises(RunError, match=r"256 px, but those of .* are of 128 px"):
        trainer_of(bank, small(image_px=256))


@pytest.mark.parametrize("name", ["log.jsonl", "tensorboard", "samples-000004.png"])
def test_a_file_of_a_run_that_cannot_be_written_is_one_line(bank, tmp_path, name):
    if name == "tensorboard":
        (tmp_path / name).write_text("a file")
    else:
        (tmp_path / name).mkdir()
    with pytest.raises(RunError, match=rf"cannot write {tmp_path}/{name}: "):
        train(trainer_of(bank, small()), bank, tmp_path)


def test_a_disk_that_is_full_at_a_steps_line_of_the_log_is_one_line(bank, tmp_path, monkeypatch):
    (tmp_path / "log.jsonl").symlink_to("/dev/full")
    monkeypatch.setattr(monitor, "_keep_log_until", lambda *_: None)  # it would read without end
    with pytest.raises(RunError, match=r"log\.jsonl: No space left on device"):
        train(trainer_of(bank, small()), bank, tmp_path)


def test_a_disk_that_is_full_for_the_curves_is_one_line_and_no_threads_traceback(
    bank, tmp_path, monkeypatch, capfd
):
    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(RecordWriter, "write", full)
    with pytest.raises(RunError, match="tensorboard: No space left on device"):
        train(trainer_of(bank, small()), bank, tmp_path)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("number", REQUESTS)
def test_a_stopped_run_is_saved_and_goes_on_as_if_it_never_had_been(
    usual_signals, bank, tmp_path, monkeypatch, number
):
    """The signal comes while a batch is loaded."""
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    whole.mkdir()
    stopped.mkdir()
    uninterrupted = trainer_of(bank, small())
    collate = uninterrupted.collate
    train(uninterrupted, bank, whole)
    loaded = []

    def interrupted(bank, source, part):
        if multiprocessing.parent_process() is not None:
            loaded.append(part)
            if len(loaded) == 2:
                os.kill(os.getppid(), number)
        return collate(bank, source, part)

    execution = replace(small().execution, loader_workers=1)
    trainer = trainer_of(bank, small(execution=execution))
    monkeypatch.setattr(type(trainer), "collate", staticmethod(interrupted))
    with pytest.raises(Stopped, match=f"^stopped at step [012]; saved: .* --resume {stopped} goes"):
        train(trainer, bank, stopped)
    again = trainer_of(bank, small())
    restore(again, bank, stopped)
    assert again.step_number == trainer.step_number
    train(again, bank, stopped)
    assert losses_of(stopped) == losses_of(whole)
    for name, network in again.networks.items():
        weights = uninterrupted.networks[name].state_dict()
        assert all(torch.equal(each, weights[key]) for key, each in network.state_dict().items())


def test_a_machine_that_dies_costs_the_steps_since_the_last_checkpoint_alone(bank, tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    config = small(execution=replace(small().execution, checkpoint_every=2))
    train(trainer_of(bank, config), bank, whole)
    trainer = trainer_of(bank, config)
    step = trainer.step

    def dies(batch):
        if trainer.step_number == 3:
            raise RuntimeError("power cut")
        return step(batch)

    trainer.step = dies
    with pytest.raises(RuntimeError, match="power cut"):
        train(trainer, bank, cut)
    again = trainer_of(bank, config)
    restore(again, bank, cut)
    assert again.step_number == 2
    train(again, bank, cut)
    assert losses_of(cut) == losses_of(whole)


def test_signals_do_after_a_training_what_they_did_before(usual_signals, bank, tmp_path):
    before = [signal.getsignal(number) for number in REQUESTS]
    train(trainer_of(bank, small(steps=1)), bank, tmp_path)
    assert [signal.getsignal(number) for number in REQUESTS] == before


def test_a_second_ctrl_c_ends_the_run_at_once(usual_signals, bank, tmp_path):
    trainer = trainer_of(bank, small())
    trainer.step = lambda _: [os.kill(os.getpid(), signal.SIGINT) for _ in range(2)]
    with pytest.raises(Stopped, match=f"^stopped at once: .* --resume {tmp_path} goes on from"):
        train(trainer, bank, tmp_path)
    assert not (tmp_path / "log.jsonl").read_text()


def test_a_step_reaches_the_disk_in_the_log_before_in_a_checkpoint(bank, tmp_path, monkeypatch):
    log, sync, synced = tmp_path / "log.jsonl", os.fsync, []

    def fsync(opened):
        if log.exists() and os.path.samestat(os.fstat(opened), log.stat()):
            kept = [path.name for path in tmp_path.glob("checkpoints/*")]
            synced.append((len(losses_of(tmp_path)), kept))
        sync(opened)

    monkeypatch.setattr(os, "fsync", fsync)
    train(trainer_of(bank, executed(checkpoint_every=2)), bank, tmp_path)
    assert synced == [(2, []), (4, ["step-000002"])]


def test_a_stop_in_the_last_step_is_a_run_that_is_done(usual_signals, bank, tmp_path):
    trainer = trainer_of(bank, small(steps=1))
    step = trainer.step
    trainer.step = lambda batch: (os.kill(os.getpid(), signal.SIGINT), step(batch))[1]
    train(trainer, bank, tmp_path)
    assert trainer.step_number == 1


def test_a_training_in_another_thread_leaves_signals_alone(bank, tmp_path):
    trainer = trainer_of(bank, small(steps=1))
    thread = threading.Thread(target=train, args=(trainer, bank, tmp_path))
    thread.start()
    thread.join()
    assert trainer.step_number == 1


@pytest.mark.parametrize(
    ("one_step_s", "said"),
    [
        (0.5, ""),
        (10.0, "about 11 hours on this CPU for 4,000 steps of recipe paper; --recipe demo takes"),
    ],
)
def test_a_training_of_hours_is_told_beforehand(capsys, one_step_s, said):
    show_log()
    loop._log_estimate(paper(), 4000, one_step_s)
    assert capsys.readouterr().out.startswith(said)


def test_an_ignored_signal_stays_ignored(bank, tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    trainer = trainer_of(bank, small(steps=2))
    step = trainer.step
    trainer.step = lambda batch: (os.kill(os.getpid(), signal.SIGINT), step(batch))[1]
    try:
        train(trainer, bank, tmp_path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert trainer.step_number == 2


def test_a_run_that_goes_on_shows_how_far_it_is_in_all_and_its_losses(bank, tmp_path, capsys):
    show_log()
    train(trainer_of(bank, small(steps=1)), bank, tmp_path)
    capsys.readouterr()
    for step in (1, 3):
        (tmp_path / f"samples-{step:06d}.png").write_text(f"of step {step}")
    again = trainer_of(bank, small(steps=2))
    restore(again, bank, tmp_path)
    train(again, bank, tmp_path)
    grids = sorted(path.name for path in tmp_path.glob("samples-*"))
    assert grids == ["samples-000001.png", "samples-000002.png"]  # not that of a step to come
    assert (tmp_path / "samples-000001.png").read_text() == "of step 1"
    total = losses_of(tmp_path)[1]["total"]
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "images/s" in line)
    assert line.startswith("step 2 of 2: ")
    assert f" GB of memory, total {total:.3g}, gt_selection " in line
    assert not line.endswith("left")


def executed(**changes):
    return small(execution=replace(small().execution, **changes))


def kept_steps(run):
    return sorted(int(path.name[5:]) for path in (run / "checkpoints").iterdir())


def test_a_run_keeps_the_checkpoint_that_scored_best_and_an_interruption_changes_none_of_it(
    bank, tmp_path
):
    scores = {1: 0.1, 2: 0.3, 3: 0.2, 4: 0.3, 5: 0.25}
    config = replace(executed(eval_every=1, checkpoint_every=10, keep_checkpoints=1), steps=5)

    def trained(run, until=None):
        run.mkdir(exist_ok=True)
        trainer = trainer_of(bank, config)
        if checkpoint.newest(run):
            restore(trainer, bank, run)

        def score():
            if trainer.step_number == until:
                raise RuntimeError("power cut")
            return scores[trainer.step_number]

        with nullcontext() if until is None else pytest.raises(RuntimeError, match="power cut"):
            train(trainer, bank, run, score)
        return trainer.best

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert trained(whole) == (2, 0.3)
    trained(cut, until=4)
    assert kept_steps(cut) == [2]
    assert trained(cut) == (2, 0.3)
    for run in (whole, cut):
        assert kept_steps(run) == [2, 5]
        assert [row["score/val"] for row in losses_of(run)] == [*scores.values()]
    assert losses_of(cut) == losses_of(whole)


def test_the_log_is_whole_up_to_each_checkpoint(bank, tmp_path, monkeypatch):
    lines = []
    save = loop.save

    def noted(trainer, bank, run):
        lines.append((trainer.step_number, [row["step"] for row in losses_of(run)]))
        save(trainer, bank, run)

    monkeypatch.setattr(loop, "save", noted)
    train(trainer_of(bank, executed(checkpoint_every=3)), bank, tmp_path)
    assert lines == [(3, [0, 1, 2]), (4, [0, 1, 2, 3])]


def test_after_a_loss_that_is_not_finite_nothing_is_saved_and_the_last_checkpoint_is_as_it_was(
    bank, tmp_path
):
    config = replace(executed(checkpoint_every=1, eval_every=1, grid_every=1), steps=9)
    trainer = trainer_of(bank, config)
    step, scored = trainer.step, []

    def diverges(batch):
        if trainer.step_number == 2:
            with torch.no_grad():
                trainer.model.graph.box_net[2].weight.fill_(torch.nan)
        return step(batch)

    trainer.step = diverges
    with pytest.raises(RunError, match=r"^'boxes' is nan at step 3, .*, step-000002, is kept: "):
        train(trainer, bank, tmp_path, lambda: scored.append(1) or float(len(scored)))
    assert kept_steps(tmp_path) == [1, 2]
    assert len(scored) == 2
    assert len(losses_of(tmp_path)) == 2
    assert not (tmp_path / "samples-000003.png").exists()


def test_a_loss_that_is_not_finite_ends_the_run_at_the_next_line_and_its_steps_change_nothing(
    bank, tmp_path, monkeypatch
):
    """Between two lines nobody looks."""
    monkeypatch.setattr(Pace, "is_due", lambda _, step: step == 4)
    trainer = trainer_of(bank, replace(executed(checkpoint_every=99, grid_every=99), steps=9))
    step, weights = trainer.step, []

    def diverges(batch):
        if trainer.step_number == 2:
            with torch.no_grad():
                trainer.model.graph.box_net[2].weight.fill_(torch.nan)
        weights.append(trainer.model.decoder.to_rgb[-1].bias.detach().clone())
        return step(batch)

    trainer.step = diverges
    with pytest.raises(RunError, match=r"at step 3, .* there was no checkpoint yet"):
        train(trainer, bank, tmp_path)
    assert trainer.step_number == 5
    assert [row["step"] for row in losses_of(tmp_path)] == [0, 1]
    assert not torch.equal(weights[1], weights[2])
    assert torch.equal(weights[2], weights[4])


def test_a_run_stopped_after_a_loss_that_was_not_finite_is_not_saved(
    usual_signals, bank, tmp_path, monkeypatch
):
    monkeypatch.setattr(Pace, "is_due", lambda *_: False)
    trainer = trainer_of(bank, executed(checkpoint_every=99))
    step = trainer.step

    def diverges(batch):
        with torch.no_grad():
            trainer.model.graph.box_net[2].weight.fill_(torch.nan)
        os.kill(os.getpid(), signal.SIGTERM)
        return step(batch)

    trainer.step = diverges
    with pytest.raises(RunError, match="at step 1"):
        train(trainer, bank, tmp_path)
    assert checkpoint.newest(tmp_path) is None


def test_a_stop_that_took_the_loaders_processes_too_costs_no_step(
    usual_signals, bank, tmp_path, monkeypatch
):
    """As where a batch system signals every process of a job."""

    def batches(*_, **options):
        yield from islice(training_batches(*_, **options), 2)
        os.kill(os.getpid(), signal.SIGTERM)
        raise RuntimeError("DataLoader worker is killed by signal: Terminated.")

    training_batches = loop.training_batches
    monkeypatch.setattr(loop, "training_batches", batches)
    with pytest.raises(Stopped, match=r"^stopped at step 2; saved: ") as stopped:
        train(trainer_of(bank, small()), bank, tmp_path)
    assert stopped.value.number == signal.SIGTERM
    assert kept_steps(tmp_path) == [2]
    assert len(losses_of(tmp_path)) == 2


def test_a_loaders_process_that_dies_by_itself_is_an_error(bank, tmp_path, monkeypatch):
    def batches(*_, **__):
        raise RuntimeError("killed")
        yield

    monkeypatch.setattr(loop, "training_batches", batches)
    with pytest.raises(RuntimeError, match="killed"):
        train(trainer_of(bank, small()), bank, tmp_path)


def test_temperature_and_data_wait_are_curves(bank, tmp_path):
    train(trainer_of(bank, small(steps=2)), bank, tmp_path)
    curves = EventAccumulator(str(tmp_path / "tensorboard"))
    curves.Reload()
    assert {event.value for event in curves.Scalars("selection/temperature")} == {1.0}
    assert [event.step for event in curves.Scalars("speed/data_wait")] == [0, 1]
    assert len(curves.Scalars("selection/entropy")) == 2


def test_a_gradient_has_the_strides_of_its_parameter():
    """torch gives others where a side is 1."""
    parameter = torch.zeros(2, 1, 100, requires_grad=True)
    given = torch.rand(10, 2, 100, generator=torch.Generator().manual_seed(0))
    torch.bmm(given.transpose(0, 1), parameter.transpose(1, 2)).sum().backward()
    before = parameter.grad.clone()
    assert parameter.grad.stride() != parameter.stride()
    assert laid_out(parameter) is parameter.grad
    assert parameter.grad.stride() == parameter.stride()
    assert torch.equal(parameter.grad, before)


def test_a_bank_whose_files_cannot_be_had_costs_no_step(bank, tmp_path, monkeypatch):
    """A server that went away, when a grid is due and no checkpoint."""
    execution = replace(small().execution, grid_every=3, checkpoint_every=50)
    trainer = trainer_of(bank, small(execution=execution))

    def gone(*_):
        raise UserError("takes no connection")

    monkeypatch.setattr(type(trainer), "grid_batch", gone)
    with pytest.raises(UserError, match="takes no connection"):
        train(trainer, bank, tmp_path)
    again = trainer_of(bank, small())
    restore(again, bank, tmp_path)
    assert again.step_number == 3
    assert [row["step"] for row in losses_of(tmp_path)] == [0, 1, 2]


def test_an_error_leaves_the_losses_of_the_steps_before_it(bank, tmp_path, monkeypatch):
    execution = replace(small().execution, grid_every=50, checkpoint_every=50)
    trainer = trainer_of(bank, small(execution=execution))
    step = trainer.step

    def fails(batch):
        if trainer.step_number == 3:
            raise RuntimeError("a fault")
        return step(batch)

    monkeypatch.setattr(trainer, "step", fails)
    with pytest.raises(RuntimeError, match="a fault"):
        train(trainer, bank, tmp_path)
    assert [row["step"] for row in losses_of(tmp_path)] == [0, 1, 2]


def test_a_run_in_parts_has_the_losses_of_one_in_whole_batches(bank, tmp_path):
    """By one path: the negatives of all pairs are of a part's own scenes."""
    runs = []
    rule = replace(small().retrieval, objective="path")
    for name, parts in (("whole", 1), ("parts", 2)):
        (tmp_path / name).mkdir()
        config = replace(executed(accumulate=parts), retrieval=rule)
        train(trainer_of(bank, config), bank, tmp_path / name)
        runs.append(losses_of(tmp_path / name))
    assert [row["step"] for row in runs[1]] == [0, 1, 2, 3]
    for whole, in_parts in zip(*(run[:2] for run in runs), strict=True):  # rounding grows
        assert in_parts == pytest.approx(whole, rel=1e-3)


def test_lines_of_every_so_many_steps(bank, tmp_path, capsys):
    show_log()
    train(trainer_of(bank, replace(executed(log_every=2), steps=5)), bank, tmp_path)
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    assert [line.split(" of ")[0] for line in lines] == ["step 1", "step 2", "step 4", "step 5"]


@pytest.fixture
def card(monkeypatch):
    """The properties of a GPU, where there may be none."""
    properties = SimpleNamespace(name="NVIDIA H100", total_memory=80e9)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: properties)


def exhausted(*_):
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB\nmore lines")


@pytest.mark.parametrize(
    ("recipe", "batch_size", "accumulate", "ranks", "advice"),
    [
        ("demo", 4, 1, 1, "--accumulate 2 computes it in 2 parts; else give a smaller --batch-size "
         "or fewer --retrieval.candidates than 3"),
        ("demo", 9, 1, 1, "--accumulate 3 computes it in 3 parts; else give"),
        ("demo", 6, 1, 2, "--accumulate 3 computes it in 3 parts; else give"),
        ("demo", 4, 4, 1, "give a smaller --batch-size or fewer"),
        ("sg2im-demo", 4, 1, 1, "--accumulate 2 computes it in 2 parts; else give a smaller "
         "--batch-size$"),
    ],
)  # fmt: skip
def test_too_little_memory_is_one_line_with_a_way_out(
    bank, tmp_path, card, recipe, batch_size, accumulate, ranks, advice
):
    config = small() if recipe == "demo" else sg2im_demo()
    config = replace(
        config, batch_size=batch_size, execution=replace(config.execution, accumulate=accumulate)
    )
    trainer = trainer_of(bank, config)
    trainer.ranks = SimpleNamespace(
        rank=0, size=ranks, leads=True, agree=lambda *numbers: numbers, lead=lambda work: work()
    )
    trainer.step = exhausted
    said = r"^NVIDIA H100 \(80 GB\) has too little free memory for a step of "
    with pytest.raises(RunError, match=f"{said}--batch-size {batch_size}: {advice}") as error:
        train(trainer, bank, tmp_path)
    assert "\n" not in str(error.value)


def test_a_batch_that_no_memory_is_left_for_is_that_line_too(bank, tmp_path, card, monkeypatch):
    def batches(*_, **__):
        yield exhausted()

    monkeypatch.setattr(loop, "training_batches", batches)
    with pytest.raises(RunError, match="too little free memory for a step"):
        train(trainer_of(bank, small()), bank, tmp_path)


@pytest.mark.gpu
@pytest.mark.parametrize("capture", ["off", "graph"])
@pytest.mark.parametrize("loader", ["resident", "stream"])
def test_a_step_that_a_gpu_has_no_room_for_is_one_line(gpu, bank, tmp_path, capture, loader):
    config = small(execution=ExecutionConfig(capture=capture, loader=loader))
    trainer = trainer_for(config, bank, gpu)
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(1e-4)
    try:
        with pytest.raises(RunError, match="too little free memory for a step of --batch-size 4"):
            train(trainer, bank, tmp_path)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


def test_the_first_line_tells_what_the_steps_will_need(bank, card, monkeypatch, capsys):
    show_log()
    monkeypatch.setattr(loop, "memory", lambda _: 9.3e9)
    trainer = trainer_of(bank, small(steps=4001))
    trainer.step_number = 1
    given = []
    trainer.dry_run = lambda *parts: given.append(parts) or 0.045
    loop._tell_needs(trainer, ["one", "other"])
    assert given == [("one", "other")]
    preparing, needs = capsys.readouterr().out.splitlines()
    assert preparing.startswith("preparing the first step")
    assert needs == (
        "a step of 4 scenes takes 45 ms and 9.3 of the 80 GB of NVIDIA H100: about 3 min for 4,000 "
        "steps"
    )
    trainer.ranks = Ranks(0, 2)
    loop._tell_needs(trainer, ["one"])
    assert "a step of 2 scenes takes" in capsys.readouterr().out  # those of this process
    trainer.ranks = Ranks(1, 2)
    loop._tell_needs(trainer, ["one"])  # all take it, one speaks
    assert len(given) == 3
    assert capsys.readouterr().out == ""
