"""With a run's config.json, all that it needs to go on as if it had never stopped.

checkpoints/step-000250/
  model.safetensors             the network that makes images; sampling reads no other weights
  discriminators.safetensors    <network>.<parameter>
  optimisers.safetensors        <optimiser>/<network>.<parameter>/<exp_avg, exp_avg_sq or step>
  state.json                    the step; which bank it was trained on; the best score so far

Beside the last few, the one with the best score is kept.
"""

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor, nn
from torch.optim import Optimizer

from bank.bank import Bank
from model.config import Which
from model.run_folder import CONFIG, RunError
from pipeline.files import PARTIAL, remove_folder, written_folder
from pipeline.options import write_json
from pipeline.scene import Vocabulary

FORMAT = 2
OTHER_DRAWS = 1  # of runs begun when draws were a function of the step, not of the scene's place
FOLDER = "checkpoints"
STEPS_TAKEN = "step"  # Adam's own count of its updates of a parameter
MODEL, DISCRIMINATORS, OPTIMISERS, STATE = (
    "model.safetensors", "discriminators.safetensors", "optimisers.safetensors", "state.json",
)  # fmt: skip


class Best(NamedTuple):
    """The best score of a run so far."""

    step: int  # steps taken when the network had it
    score: float


class State(NamedTuple):
    """How far a run has come, and on what it was trained."""

    format: int
    step: int  # steps taken
    bank: str  # its content digest
    derived: str  # its derived digest
    scenes: str  # SHA-256 of its scenes.index.arrow, by which the scenes are ordered
    vocabulary: Vocabulary
    best: Best | None = None  # None: nothing has been scored yet


def save(
    run: Path,
    step: int,
    bank: Bank,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, Optimizer],
    *,
    best: Best | None,
    keep: int,
) -> None:
    """Write run/checkpoints/step-..., whole or not at all, unless this step has a whole one, and
    remove all but the last `keep` and the best.

    networks  "model" and discriminators

    All that is random is a function of the seed and of a scene's place in the sequence of scenes,
    so there is no random state to keep.
    """
    folder = _folder(run, step)
    if not is_whole(folder):
        _write(folder, step, bank, networks, optimisers, best)
    for other in _checkpoints(run)[:-keep]:
        if best is None or other != _folder(run, best.step):
            with suppress(OSError):
                remove_folder(other)
    for left in folder.parent.glob(f"step-*{PARTIAL}"):  # by one that was killed
        shutil.rmtree(left, ignore_errors=True)


def _write(
    folder: Path,
    step: int,
    bank: Bank,
    networks: Mapping[str, nn.Module],
    optimisers: Mapping[str, Optimizer],
    best: Best | None,
) -> None:
    value = {
        "format": FORMAT,
        "step": step,
        "bank": bank.content_digest,
        "derived": bank.manifest.derived_digest,
        "scenes": _scene_index(bank),
        "vocabulary": bank.vocabulary.to_json(),
        "best": best and best._asdict(),
    }
    tensors = {
        MODEL: networks["model"].state_dict(),
        DISCRIMINATORS: _discriminators(networks).state_dict(),
        OPTIMISERS: {
            f"{where}/{name}": tensor
            for where, (optimiser, parameter) in _parameters(optimisers).items()
            for name, tensor in optimiser.state.get(parameter, {}).items()
        },
    }
    run = folder.parents[1]
    with writing(run, str(folder.relative_to(run))), written_folder(folder) as partial:
        for file, named in tensors.items():
            plain = {name: each.detach().cpu().contiguous() for name, each in named.items()}
            (partial / file).write_bytes(to_bytes(plain))
        write_json(partial / STATE, value)


def _folder(run: Path, step: int) -> Path:
    return run / FOLDER / f"step-{step:06d}"


@contextmanager
def writing(run: Path, file: str) -> Iterator[None]:
    """RunError where a file of the run cannot be written: why, and what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        if not (run / CONFIG).is_file():
            mend = "mend this, or name another --out"
        elif newest(run):
            mend = f"the last checkpoint is kept: mend this and go on with --resume {run}"
        else:
            mend = f"there was no checkpoint yet: mend this and start again with --resume {run}"
        raise RunError(f"cannot write {run / file}: {error.strerror}; {mend}") from error


def newest(run: Path) -> Path | None:
    """The folder of the run's last checkpoint; None before the first."""
    return next(reversed(_checkpoints(run)), None)


def _checkpoints(run: Path) -> list[Path]:
    """By rising step."""
    folders = [p for p in (run / FOLDER).glob("step-*") if p.name[5:].isdecimal()]
    return sorted(folders, key=lambda folder: int(folder.name[5:]))


def last(run: Path) -> Path:
    """The folder of the run's last checkpoint; RunError where there is none."""
    folder = newest(run)
    if folder is None:
        raise RunError(
            f"{run} has no checkpoint: it was stopped before its first; "
            f"python -m model.train --resume {run} starts it again"
        )
    return folder


def chosen(run: Path, which: Which | int) -> Path:
    """The folder of the run's last checkpoint, of the one that scored best, or of that step;
    RunError where there is none."""
    if isinstance(which, int):
        folder = _folder(run, which)
        if not is_whole(folder):
            raise RunError(f"{run} no longer has its checkpoint of step {which:,}")
        return folder
    folder = last(run)
    if which == "last":
        return folder
    best = read_state(folder).best
    if best is None:
        raise RunError(
            f"{run} has no best checkpoint: its retrieval has not been scored yet (model.train "
            f"--eval-every)"
        )
    return _folder(run, best.step)


def read_state(folder: Path) -> State:
    """What a checkpoint says of itself; no weights are read."""
    path = folder / STATE
    try:
        value = json.loads(path.read_text("utf-8"))
        stored = value["format"]
        if stored in (FORMAT, OTHER_DRAWS):
            best = value.pop("best", None)  # missing in older checkpoints
            vocabulary = Vocabulary.from_json(value.pop("vocabulary"))
            return State(**value, vocabulary=vocabulary, best=best and Best(**best))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, error) from error
    raise RunError(f"{path} has format {stored}; this version reads {FORMAT}: train the run again")


def fill_model(folder: Path, model: nn.Module) -> None:
    """Put a checkpoint's weights into the network that makes images; no other weights are read."""
    tensors = _read(folder / MODEL)
    with _fitting(folder / MODEL):
        model.load_state_dict(tensors)


def fill(
    folder: Path, networks: Mapping[str, nn.Module], optimisers: Mapping[str, Optimizer]
) -> None:
    """Put a checkpoint into the networks and optimisers of a training that goes on."""
    fill_model(folder, networks["model"])
    weights, moments = _read(folder / DISCRIMINATORS), _read(folder / OPTIMISERS)
    with _fitting(folder / DISCRIMINATORS):
        _discriminators(networks).load_state_dict(weights)
    parameters = _parameters(optimisers)
    with _fitting(folder / OPTIMISERS):
        for key, tensor in moments.items():
            where, _, name = key.rpartition("/")
            optimiser, parameter = parameters[where]
            shape = parameter.shape if name != STEPS_TAKEN else torch.Size()
            if tensor.shape != shape:
                raise ValueError(f"{key} is {[*tensor.shape]}, not {[*shape]}")
            # Laid out as the parameter is, and on its device.
            target = torch.empty_like(parameter) if shape else parameter.new_empty(())
            optimiser.state[parameter][name] = target.detach().copy_(tensor)


def _discriminators(networks: Mapping[str, nn.Module]) -> nn.Module:
    return nn.ModuleDict({name: each for name, each in networks.items() if name != "model"})


def _parameters(optimisers: Mapping[str, Optimizer]) -> dict[str, tuple[Optimizer, Tensor]]:
    """By `<optimiser>/<parameter>`. The optimisers are given their parameters with names."""
    return {
        f"{key}/{name}": (optimiser, parameter)
        for key, optimiser in optimisers.items()
        for group in optimiser.param_groups
        for name, parameter in zip(group["param_names"], group["params"], strict=True)
    }


def _read(path: Path) -> dict[str, Tensor]:
    try:
        tensors: dict[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise _unreadable(path, error) from error
    return tensors


def is_whole(folder: Path) -> bool:
    """Whether all of a checkpoint can be read; of its tensors only their sizes are looked at."""
    try:
        read_state(folder)
        for name in (MODEL, DISCRIMINATORS, OPTIMISERS):
            with safe_open(folder / name, "pt"):
                pass
    except (RunError, OSError, SafetensorError):
        return False
    return True


def _unreadable(path: Path, error: Exception) -> RunError:
    """Where it is of the last checkpoint, with the one before it that could take its place."""
    said = f"{path} cannot be read ({type(error).__name__}): is it whole?"
    folder, run = path.parent, path.parents[2]
    if folder == newest(run):
        for older in reversed(_checkpoints(run)[:-1]):
            if is_whole(older):
                return RunError(f"{said} {older.name} is: remove {folder} to use it instead")
    return RunError(said)


@contextmanager
def _fitting(path: Path) -> Iterator[None]:
    """RunError where what a file holds is not of the networks that the config describes."""
    try:
        yield
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{path} does not fit {path.parents[2] / CONFIG} "
            f"({str(error).splitlines()[0]}); was the config edited?"
        ) from error


def check_bank(state: State, bank: Bank, run: Path) -> None:
    """A checkpoint belongs to one bank's content."""
    if state.bank != bank.content_digest:
        raise RunError(
            f"{run} was trained on a bank with content digest {state.bank[:12]}..., but "
            f"{bank.path} has {bank.content_digest[:12]}...; give the bank it was trained on"
        )


def check_draws(state: State, run: Path) -> None:
    """Going on needs the same random numbers."""
    if state.format == OTHER_DRAWS:
        raise RunError(
            f"{run} was begun by an older version, which drew other random numbers, so it cannot "
            f"go on as if it had never stopped: train the run again (it can be sampled as it is)"
        )


def check_scenes(state: State, bank: Bank, run: Path) -> None:
    """Going on needs the same order of scenes."""
    if state.scenes != _scene_index(bank):
        raise RunError(
            f"{run} was trained on the scenes of {bank.path} when they lay in other shards, so "
            f"they would come in another order now; give the bank it was trained on"
        )


def _scene_index(bank: Bank) -> str:
    return bank.manifest.files["scenes.index.arrow"].sha256


def check_derived(state: State, bank: Bank, run: Path) -> None:
    """Going on needs the same candidates and vectors too, or the losses would be others."""
    if state.derived != bank.manifest.derived_digest:
        raise RunError(
            f"{run} was trained with other frozen networks or candidates than those of {bank.path} "
            f"(derived digest {state.derived[:12]}..., not "
            f"{bank.manifest.derived_digest[:12]}...); give the bank it was trained on"
        )
