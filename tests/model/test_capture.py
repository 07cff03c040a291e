"""Which steps are captured and how they are replayed; what they compute: `pytest -m gpu`."""

from contextlib import contextmanager, nullcontext
from itertools import count
from typing import NamedTuple

import pytest
import torch

from model.capture import CapturedSteps, captures
from model.config import ExecutionConfig
from model.fixed_shapes import FixedShapes
from model.parallel import ALONE, Ranks
from model.retrievegan.layers import Norm
from model.train import main
from pipeline.errors import UserError
from tests.model.retrievegan.small import small_batch, small_config, small_trainer, with_draws
from tests.model.small_runs import options_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GRAPH = ExecutionConfig(capture="graph")


def test_steps_are_captured_on_a_gpu_unless_that_is_declined():
    assert captures("graph", GPU, None)
    assert not captures("off", GPU, None)
    assert not captures("off", CPU, "there is a reason")
    assert captures("auto", GPU, None)
    assert not captures("auto", CPU, None)
    assert not captures("auto", GPU, "there is a reason")


def test_a_capture_on_a_cpu_is_one_line_that_says_what_to_do(bank, tmp_path):
    with pytest.raises(UserError, match=r"^--capture graph, .* needs a GPU: give --capture auto$"):
        small_trainer(execution=GRAPH)
    flags = ("--bank", bank.path, "--recipe", "demo", "--device", "cpu", "--out", tmp_path / "run")
    with pytest.raises(UserError, match=r"^--capture graph, .* needs a GPU"):
        main(options_of(*flags, "--capture", "graph"))
    assert not (tmp_path / "run").exists()


def test_a_choice_that_has_not_been_tried_captured_on_a_gpu_is_refused():
    reason = small_trainer(retrieval={"start": "best"}).reason_against_capture
    said = r"^--capture graph: --start best has not been tried on a GPU .*; give --capture off$"
    with pytest.raises(UserError, match=said):
        captures("graph", GPU, reason)
    assert small_trainer(retrieval={"start": "medoid"}).reason_against_capture is None
    assert (
        small_trainer(retrieval={"start": "best", "mode": "random"}).reason_against_capture is None
    )


# How captured steps are kept and replayed, with CUDA's part pretended


class Scenes(NamedTuple):
    values: torch.Tensor
    positions: tuple[int, ...] = (0,)  # no tensor: not copied


class Noting(Ranks):
    def add_up(self, tensors):
        EVENTS.append(("add up", [tensor.data_ptr() for tensor in tensors]))


EVENTS: list = []


@pytest.fixture
def pretended(monkeypatch):
    """Graphs whose replay is noted. What is inside a capture is computed, as it is not on a GPU."""
    EVENTS.clear()

    class Graph:
        def replay(self):
            EVENTS.append("replay")

    @contextmanager
    def graph(_, pool, capture_error_mode):
        assert capture_error_mode == "thread_local"
        EVENTS.append(("capture", pool))
        yield

    class Stream:
        def wait_stream(self, _):
            pass

    pools = count()
    for name, pretence in {
        "CUDAGraph": Graph, "graph": graph, "Stream": Stream, "current_stream": Stream,
        "stream": lambda _: nullcontext(), "graph_pool_handle": lambda: next(pools),
    }.items():  # fmt: skip
        monkeypatch.setattr(torch.cuda, name, pretence)


def phases(parts):
    """Two exchanges, as a step of two updates has."""
    total = torch.stack([part.values.sum() for part in parts]).sum()
    EVENTS.append("forward")
    yield [total]
    EVENTS.append("first update")
    yield [total, total + 1]
    EVENTS.append("second update")
    return {"total": total, "half": total / 2}


@contextmanager
def noted_effect():
    EVENTS.append("without effect")
    yield
    EVENTS.append("with effect")


COMPUTED = ["forward", "first update", "second update"]
WARM_UP = ["without effect", *COMPUTED, "with effect"]


def test_alone_a_step_is_one_graph_that_is_captured_once_for_a_shape(pretended):
    steps = CapturedSteps(phases, noted_effect)
    first, second = Scenes(torch.tensor([1.0, 2.0])), Scenes(torch.tensor([3.0, 4.0]))
    values = steps.run([first], ALONE, None)
    assert [*WARM_UP, ("capture", 0), *COMPUTED, "replay"] == EVENTS
    assert {name: value.item() for name, value in values.items()} == {"total": 3, "half": 1.5}
    EVENTS.clear()
    (captured,) = steps._steps.values()
    captured.values.add_(10)  # as the next replay will
    steps.run([second], ALONE, None)
    assert EVENTS == ["replay"]
    assert captured.inputs[0].tolist() == [3, 4]  # where its graphs read
    assert first.values.tolist() == [1, 2]
    assert values["total"] == 3  # a result of its own


def test_between_graphs_processes_exchange_what_the_graph_before_has_made(pretended):
    steps, ranks = CapturedSteps(phases, noted_effect), Noting(0, 2)
    for _ in range(2):
        steps.run([Scenes(torch.ones(2))], ranks, None)
    (captured,) = steps._steps.values()
    exchanged = [
        ("add up", [tensor.data_ptr() for tensor in tensors]) for tensors in captured.exchanges
    ]
    assert [len(tensors) for tensors in captured.exchanges] == [1, 2]
    replayed = ["replay", exchanged[0], "replay", exchanged[1], "replay"]
    parts = [("capture", 0), "forward", ("capture", 0), "first update", ("capture", 0)]
    assert [*WARM_UP, *parts, "second update", *replayed, *replayed] == EVENTS


def test_another_shape_type_mode_or_number_of_processes_is_captured_anew(pretended):
    steps, batch = CapturedSteps(phases, noted_effect), Scenes(torch.ones(2))
    for parts, ranks, mode in (
        ([batch], ALONE, None),
        ([Scenes(torch.ones(3))], ALONE, None),
        ([Scenes(torch.ones(2, dtype=torch.double))], ALONE, None),
        ([batch, batch], ALONE, None),
        ([batch], ALONE, "evaluation"),
        ([batch], Noting(0, 2), None),
    ):
        for _ in range(2):
            steps.run(parts, ranks, mode)
    assert len(steps._steps) == 6
    assert EVENTS.count("without effect") == 6
    assert {event[1] for event in EVENTS if event[0] == "capture"} == {0}  # one pool of memory
    steps.forget()
    steps.run([batch], ALONE, None)
    assert ("capture", 1) in EVENTS


def test_too_little_memory_while_a_step_is_captured_is_that_error(pretended, monkeypatch):
    ends = []

    def too_large(parts):
        if EVENTS[-1][0] == "capture":
            raise torch.OutOfMemoryError("too large")
        yield [torch.zeros(())]
        return {"total": torch.zeros(())}

    @contextmanager
    def graph(*_, **__):
        EVENTS.append(("capture", 0))
        yield
        ends.append("whole")  # an error that went through would become another one

    monkeypatch.setattr(torch.cuda, "graph", graph)
    steps = CapturedSteps(too_large, noted_effect)
    with pytest.raises(torch.OutOfMemoryError, match="too large"):
        steps.run([Scenes(torch.ones(2))], ALONE, None)
    assert ends == ["whole"]
    assert not steps._steps


# On a GPU: bit for bit, in a few steps of two shapes


class Doubling(Ranks):
    """This process and one that has the same, as far as an exchange goes."""

    def add_up(self, tensors):
        for tensor in tensors:
            tensor.mul_(2)


@pytest.fixture
def plain_norms(monkeypatch):
    """Without the seconds that torch.compile takes."""
    monkeypatch.setattr(Norm, "compiles", False)


def batches():
    """Of two shapes, in turns."""
    shapes = FixedShapes(4, 6, 5), FixedShapes(6, 9, 5)
    made = [with_draws(small_batch(seed), small_config(), seed) for seed in range(3)]
    return [shapes[i % 2].scenes(batch) for i, batch in enumerate(made)]


def after_steps(count=6, parts=1, ranks=None, dry_runs=False, **execution):
    """All values of each step, and all that the trainer then holds."""
    trainer = small_trainer("cuda", execution=ExecutionConfig(**execution))
    trainer.ranks = ranks or trainer.ranks
    given, values = batches(), []
    if dry_runs:
        assert trainer.dry_run(*given[:parts]) > 0
    for step in range(count):
        made = trainer.step(*(given[(step + part) % 3] for part in range(parts)))
        assert all(value.isfinite() for value in made.values())
        values.append(torch.stack([*made.values()]))
    state = [t for network in trainer.networks.values() for t in network.state_dict().values()]
    for optimiser in trainer.optimisers.values():
        state += [t for moments in optimiser.state.values() for t in moments.values()]
    return values, state, trainer


def assert_equal(ones, others):
    for mine, theirs in zip(ones[:2], others[:2], strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert torch.equal(a.cpu(), b.cpu())


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["float32", "tf32", "bf16"])
@pytest.mark.parametrize("parts", [1, 2])
def test_captured_steps_are_those_that_are_not(deterministic, plain_norms, precision, parts):
    captured = after_steps(parts=parts, precision=precision, capture="graph")
    assert captured[2].captured is not None
    assert len(captured[2].captured._steps) == (2 if parts == 1 else 3)
    assert_equal(captured, after_steps(parts=parts, precision=precision, capture="off"))


@pytest.mark.gpu
def test_captured_steps_with_fused_norms_are_those_that_are_not(deterministic):
    captured, eager = (after_steps(4, capture=capture) for capture in ("graph", "off"))
    assert Norm.compiles
    assert_equal(captured, eager)


@pytest.mark.gpu
def test_a_captured_step_stops_where_processes_exchange(deterministic, plain_norms):
    captured = after_steps(ranks=Doubling(0, 2), capture="graph")
    for each in captured[2].captured._steps.values():
        assert len(each.graphs) == 3
    assert_equal(captured, after_steps(ranks=Doubling(0, 2), capture="off"))
    alone = after_steps(capture="graph")
    assert not torch.equal(alone[0][0], captured[0][0])


@pytest.mark.gpu
@pytest.mark.parametrize("capture", ["graph", "off"])
def test_a_dry_run_changes_nothing(deterministic, plain_norms, capture):
    after_dry_run = after_steps(dry_runs=True, capture=capture)
    assert_equal(after_dry_run, after_steps(capture=capture))


@pytest.mark.gpu
def test_a_seed_has_the_same_steps_every_time(deterministic, plain_norms):
    assert_equal(after_steps(), after_steps())


@pytest.mark.gpu
def test_losses_in_bf16_are_near_those_of_float32(gpu, plain_norms):
    rounded, exact = (after_steps(1, precision=precision) for precision in ("bf16", "float32"))
    torch.testing.assert_close(rounded[0][0], exact[0][0], rtol=0.05, atol=0.02)
