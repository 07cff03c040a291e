"""Which steps are recorded, and what is asked of a batch; the recordings: `pytest -m gpu`."""

import pytest
import torch

from model.capture import records
from model.config import ExecutionConfig
from model.fixed_shapes import FixedShapes
from model.parallel import Ranks
from model.retrievegan.layers import Norm
from model.train import main
from pipeline.errors import UserError
from tests.model.retrievegan.small import small_batch, small_config, small_trainer, with_draws
from tests.model.small_runs import options_of

CPU, GPU = torch.device("cpu"), torch.device("cuda")
GRAPH = ExecutionConfig(capture="graph")


def test_steps_are_recorded_on_a_gpu_unless_that_is_declined():
    assert records("graph", GPU, None)
    assert not records("off", GPU, None)
    assert not records("off", CPU, "there is a reason")
    assert records("auto", GPU, None)
    assert not records("auto", CPU, None)
    assert not records("auto", GPU, "there is a reason")


def test_a_recording_on_a_cpu_is_one_line_that_says_what_to_do(bank, tmp_path):
    with pytest.raises(UserError, match=r"^--capture graph, .* needs a GPU: give --capture auto$"):
        small_trainer(execution=GRAPH)
    flags = ("--bank", bank.path, "--recipe", "demo", "--device", "cpu", "--out", tmp_path / "run")
    with pytest.raises(UserError, match=r"^--capture graph, .* needs a GPU"):
        main(options_of(*flags, "--capture", "graph"))
    assert not (tmp_path / "run").exists()


def test_a_choice_of_as_many_starts_as_there_are_candidates_cannot_be_recorded():
    reason = small_trainer(retrieval={"start": "best"}).reason_against_capture
    said = r"^--capture graph: --start best tries as many .*; give --capture off$"
    with pytest.raises(UserError, match=said):
        records("graph", GPU, reason)
    assert small_trainer(retrieval={"start": "medoid"}).reason_against_capture is None
    assert (
        small_trainer(retrieval={"start": "best", "mode": "random"}).reason_against_capture is None
    )


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


def after_steps(count=6, parts=1, ranks=None, rehearses=False, **execution):
    """All values of each step, and all that the trainer then holds."""
    trainer = small_trainer("cuda", execution=ExecutionConfig(**execution))
    trainer.ranks = ranks or trainer.ranks
    given, values = batches(), []
    if rehearses:
        assert trainer.rehearse(*given[:parts]) > 0
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
def test_recorded_steps_are_those_that_are_not(deterministic, plain_norms, precision, parts):
    recorded = after_steps(parts=parts, precision=precision, capture="graph")
    assert recorded[2].recorder is not None
    assert len(recorded[2].recorder._recordings) == (2 if parts == 1 else 3)
    assert_equal(recorded, after_steps(parts=parts, precision=precision, capture="off"))


@pytest.mark.gpu
def test_recorded_steps_with_fused_norms_are_those_that_are_not(deterministic):
    recorded, eager = (after_steps(4, capture=capture) for capture in ("graph", "off"))
    assert Norm.compiles
    assert_equal(recorded, eager)


@pytest.mark.gpu
def test_a_recorded_step_stops_where_processes_exchange(deterministic, plain_norms):
    recorded = after_steps(ranks=Doubling(0, 2), capture="graph")
    for recording in recorded[2].recorder._recordings.values():
        assert len(recording.graphs) == 3
    assert_equal(recorded, after_steps(ranks=Doubling(0, 2), capture="off"))
    alone = after_steps(capture="graph")
    assert not torch.equal(alone[0][0], recorded[0][0])


@pytest.mark.gpu
@pytest.mark.parametrize("capture", ["graph", "off"])
def test_a_rehearsal_changes_nothing(deterministic, plain_norms, capture):
    rehearsed = after_steps(rehearses=True, capture=capture)
    assert_equal(rehearsed, after_steps(capture=capture))


@pytest.mark.gpu
def test_a_seed_has_the_same_steps_every_time(deterministic, plain_norms):
    assert_equal(after_steps(), after_steps())


@pytest.mark.gpu
def test_losses_in_bf16_are_near_those_of_float32(gpu, plain_norms):
    rounded, exact = (after_steps(1, precision=precision) for precision in ("bf16", "float32"))
    torch.testing.assert_close(rounded[0][0], exact[0][0], rtol=0.05, atol=0.02)
