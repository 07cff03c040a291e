"""What a run is saved as, and which checkpoints a run cannot go on from."""

import json
import os
import resource
import shutil
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from model import checkpoint
from model.checkpoint import Best
from model.config import RetrieveGANConfig
from model.loop import restore, save
from model.recipes import demo
from model.retrievegan.run import load_network
from model.run_folder import RunError, read_config
from pipeline.options import write_json
from tests.model.small_runs import CPU, edit_state, small, trainer_of

FILES = ["discriminators.safetensors", "model.safetensors", "optimisers.safetensors", "state.json"]


@pytest.fixture(scope="module")
def trained(bank):
    """A trainer after one step, whose optimisers have moments."""
    trainer = trainer_of(bank, small())
    trainer.step(trainer.grid_batch(bank, bank.scene_ids("train")[:2]))
    return trainer


@pytest.fixture
def run(trained, bank, tmp_path):
    """Its checkpoint."""
    save(trained, bank, tmp_path)
    return tmp_path


def test_a_checkpoint_is_four_files_and_nothing_is_left_beside_it(run):
    files = [str(path.relative_to(run)) for path in sorted(run.rglob("*")) if path.is_file()]
    assert files == [f"checkpoints/step-000001/{name}" for name in FILES]


def test_a_restored_trainer_is_the_one_that_was_saved(run, trained, bank):
    again = trainer_of(bank, small(seed=1))
    restore(again, bank, run)
    assert again.step_number == 1
    for name, network in trained.networks.items():
        weights = again.networks[name].state_dict()
        assert all(torch.equal(weights[key], v) for key, v in network.state_dict().items())
    for name in trained.optimisers:
        wanted, found = (t.optimisers[name].state_dict()["state"] for t in (trained, again))
        assert wanted.keys() == found.keys() != set()
        for at, moments in wanted.items():
            assert moments.keys() == found[at].keys()
            for key, value in moments.items():
                assert torch.equal(found[at][key], value)
                assert found[at][key].stride() == value.stride()  # channels last stay last


def test_a_training_that_goes_on_holds_no_file_of_the_checkpoint(run, bank):
    """It is removed once there are newer ones."""
    again = trainer_of(bank, small())
    restore(again, bank, run)
    assert again.step_number == 1
    assert str(run) not in Path("/proc/self/maps").read_text()


def test_tensors_are_named_by_network_optimiser_and_parameter(run):
    discriminators, optimisers = (
        set(load_file(checkpoint.last(run) / file)) for file in FILES if file[0] in "do"
    )
    assert {"image_discriminator.logits.bias", "object_discriminator.hidden.weight"} <= (
        discriminators
    )
    for moment in ("exp_avg", "exp_avg_sq", "step"):
        assert f"generator/model.fuser.key.weight/{moment}" in optimisers
        assert f"discriminator/object_discriminator.hidden.weight/{moment}" in optimisers


def keeping(trained, monkeypatch, keep):
    """Let the trainer keep so many checkpoints."""
    config = trained.config
    execution = replace(config.execution, keep_checkpoints=keep)
    monkeypatch.setattr(trained, "config", replace(config, execution=execution))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_last_checkpoints_are_kept_and_the_newest_is_found(
    bank, trained, tmp_path, monkeypatch, keep
):
    keeping(trained, monkeypatch, keep)
    half = tmp_path / "checkpoints/step-000500.partial"  # of a save that was killed
    half.mkdir(parents=True)
    assert checkpoint.newest(tmp_path) is None
    copy = tmp_path / "checkpoints/step-000002-the-best"  # a user's
    copy.mkdir()
    steps = (999_997, 999_998, 999_999, 1_000_000, 1_000_000)
    for step in steps:
        monkeypatch.setattr(trained, "step_number", step)
        save(trained, bank, tmp_path)
    newest = checkpoint.last(tmp_path)
    assert newest.name == "step-1000000"
    kept = {newest.with_name(f"step-{step:06d}") for step in sorted(set(steps))[-keep:]}
    assert {*newest.parent.iterdir()} == {copy, *kept}


def test_the_checkpoint_with_the_best_score_is_kept_besides_and_known_to_a_run_that_goes_on(
    bank, trained, tmp_path, monkeypatch
):
    keeping(trained, monkeypatch, 1)
    for step, best in ((3, None), (4, (4, 0.25)), (5, (4, 0.25)), (7, (4, 0.25))):
        monkeypatch.setattr(trained, "step_number", step)
        monkeypatch.setattr(trained, "best", best and Best(*best))
        save(trained, bank, tmp_path)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == ["step-000004", "step-000007"]
    again = trainer_of(bank, small())
    restore(again, bank, tmp_path)
    assert again.best == Best(4, 0.25)


def test_a_checkpoint_of_before_there_were_scores_is_read(run, bank):
    path = checkpoint.last(run) / "state.json"
    value = json.loads(path.read_text())
    assert value.pop("best") is None
    path.write_text(json.dumps(value))
    again = trainer_of(bank, small())
    restore(again, bank, run)
    assert (again.step_number, again.best) == (1, None)


@pytest.mark.parametrize("changed", [{}, {"format": 1}])
def test_sampling_reads_the_model_and_the_state_alone(run, trained, bank, changed):
    """Of runs that can no longer go on too."""
    write_json(run / "config.json", {"bank": str(bank.path), "train": small()})
    edit_state(run, **changed)
    for name in ("discriminators.safetensors", "optimisers.safetensors"):
        (checkpoint.last(run) / name).unlink()
    model, state = load_network(run, bank, CPU)
    assert state.step == 1
    assert not model.training
    weights = trained.model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"bank": "f" * 64}, "content digest ffffffffffff"),
        ({"derived": "e" * 64}, "other frozen networks or candidates"),
        ({"scenes": "d" * 64}, "another order"),
        ({"format": 3}, "has format 3; this version reads 2"),
        ({"format": 1}, "begun by an older version, .* train the run again"),
        ({"vocabulary": {"objects": []}}, "cannot be read"),
        ({"more": 1}, "cannot be read"),
        ({"best": [1, 2]}, "cannot be read"),
    ],
)
def test_a_checkpoint_of_another_bank_or_form_is_refused(run, bank, changed, why):
    edit_state(run, **changed)
    with pytest.raises(RunError, match=why):
        restore(trainer_of(bank, small()), bank, run)


@pytest.mark.parametrize(
    "text",
    ["{}", "[]", '{"train": [], "bank": "x"}', '{"train": {"retrieval": 3}, "bank": "x"}',
     '{"train": {"retrieval": {"temperature": 0}}, "bank": "x"}', "{"],
)  # fmt: skip
def test_a_config_that_is_not_one_is_one_clear_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(RunError, match=r"config\.json"):
        read_config(tmp_path, RetrieveGANConfig)


@pytest.mark.parametrize("file", [name for name in FILES if name != "state.json"])
def test_a_checkpoint_that_does_not_fit_its_config_is_refused(run, bank, tmp_path_factory, file):
    config = small(
        retrieval=replace(demo().retrieval, width=16),
        discriminator=replace(demo().discriminator, object_hidden=16),
    )
    other, elsewhere = trainer_of(bank, config), tmp_path_factory.mktemp("other")
    other.step(other.grid_batch(bank, bank.scene_ids("train")[:2]))
    save(other, bank, elsewhere)
    (checkpoint.last(elsewhere) / file).replace(checkpoint.last(run) / file)
    with pytest.raises(RunError, match=rf"{file} does not fit .*was the config edited"):
        restore(trainer_of(bank, small()), bank, run)


@pytest.mark.parametrize(
    "name", ["generator/model.no.such.weight", "generator/model.fuser.key.bias"]
)
def test_moments_of_an_unknown_parameter_or_of_another_shape_are_refused(run, bank, name):
    path = checkpoint.last(run) / "optimisers.safetensors"
    save_file({f"{name}/exp_avg": torch.zeros(1)}, path)
    with pytest.raises(RunError, match=f"does not fit .*{name}"):
        restore(trainer_of(bank, small()), bank, run)


@pytest.mark.parametrize("file", FILES)
def test_a_checkpoint_cut_short_is_one_clear_line(run, bank, file):
    path = checkpoint.last(run) / file
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(RunError, match=rf"{file} cannot be read"):
        restore(trainer_of(bank, small()), bank, run)


def test_a_last_checkpoint_cut_short_names_the_whole_one_before_it(run, bank, trained, monkeypatch):
    (first,) = (run / "checkpoints").iterdir()
    for step in (2, 3):
        monkeypatch.setattr(trained, "step_number", step)
        save(trained, bank, run)
    shutil.copytree(checkpoint.last(run).with_name("step-000002"), first)  # it was removed
    for name, file in (("step-000002", FILES[2]), ("step-000003", FILES[0])):
        os.truncate(first.with_name(name) / file, 100)
    said = rf"cannot be read .* step-000001 is: remove {run}/checkpoints/step-000003 to use it"
    with pytest.raises(RunError, match=said):
        restore(trainer_of(bank, small()), bank, run)


class KilledError(Exception):
    """In the place of a signal: nothing is put in order after it."""


def test_a_save_that_is_killed_anywhere_leaves_a_whole_checkpoint(run, bank, trained, monkeypatch):
    """The same step's again, as at a stop before the first step, and the next one's."""
    keeping(trained, monkeypatch, 1)

    def killed(*_, **__):
        raise KilledError

    for step in (1, 2):
        monkeypatch.setattr(trained, "step_number", step)
        for name in ("os.fsync", "os.unlink", "os.rmdir", "pathlib.Path.rename"):
            with monkeypatch.context() as patch, suppress(KilledError):
                patch.setattr(name, killed)
                save(trained, bank, run)
            folders = [each for each in (run / "checkpoints").iterdir() if not each.suffix]
            assert folders
            assert all(map(checkpoint.is_whole, folders))


def test_a_whole_checkpoint_is_not_written_again_but_one_cut_short_is(run, bank, trained):
    (folder,) = (run / "checkpoints").iterdir()
    before = folder.stat().st_ino
    save(trained, bank, run)
    assert folder.stat().st_ino == before
    for file in FILES:
        os.truncate(folder / file, 100)
        assert not checkpoint.is_whole(folder)
        save(trained, bank, run)
        assert checkpoint.is_whole(folder)
    assert [*folder.parent.iterdir()] == [folder]


@contextmanager
def largest_file(size):
    """No file of this process can become larger than `size` bytes."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("room", [0, 1000, 1_000_000])
def test_a_full_disk_is_one_line_that_leaves_the_last_checkpoint_and_nothing_else(
    trained, bank, tmp_path, monkeypatch, room
):
    config = tmp_path / "config.json"
    config.write_text("{}")
    full = rf"cannot write {tmp_path}/checkpoints/step-00000\d: File too large; "
    with (
        largest_file(room),
        pytest.raises(RunError, match=f"{full}there was no checkpoint yet"),
    ):
        save(trained, bank, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [config]
    save(trained, bank, tmp_path)
    first = checkpoint.last(tmp_path)
    monkeypatch.setattr(trained, "step_number", 3)
    kept = rf"the last checkpoint is kept: mend this and go on with --resume {tmp_path}"
    with largest_file(room), pytest.raises(RunError, match=full + kept):
        save(trained, bank, tmp_path)
    assert [*first.parent.iterdir()] == [first]
    restore(trainer_of(bank, small()), bank, tmp_path)


def test_what_torch_cannot_do_for_other_reasons_stays_what_it_is(tmp_path):
    with pytest.raises(RuntimeError, match="out of memory"), checkpoint.writing(tmp_path, "file"):
        raise RuntimeError("CUDA out of memory")


def test_the_best_checkpoint_may_be_chosen_where_there_is_one(bank, trained, tmp_path, monkeypatch):
    for step, best in ((3, (3, 0.5)), (5, (3, 0.5))):
        monkeypatch.setattr(trained, "step_number", step)
        monkeypatch.setattr(trained, "best", Best(*best))
        save(trained, bank, tmp_path)
    folders = [checkpoint.chosen(tmp_path, which).name for which in ("last", "best")]
    assert folders == ["step-000005", "step-000003"]
    edit_state(tmp_path, best=None)
    with pytest.raises(RunError, match=r"no best checkpoint: .* \(model\.train --eval-every\)"):
        checkpoint.chosen(tmp_path, "best")
