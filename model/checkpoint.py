"""With a run's config.json, all that it needs to go on as if it had never stopped."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from bank.bank import Bank
from model.run_folder import CONFIG, RunError

FORMAT = 1
NAME = "checkpoint.pt"


def save(
    run: Path,
    step: int,
    bank: Bank,
    networks: dict[str, nn.Module],
    optimisers: dict[str, Optimizer],
) -> None:
    """Write run/checkpoint.pt, whole or not at all.

    The place in the data and the noise of a step are functions of the seed and the step, so
    `step` carries them; the global random states are kept for whatever else may draw.
    """
    state = {
        "format": FORMAT,
        "step": step,
        "bank": bank.content_digest,
        "derived": bank.manifest.derived_digest,
        "vocabulary": bank.vocabulary.to_json(),
        "networks": {name: network.state_dict() for name, network in networks.items()},
        "optimisers": {name: optimiser.state_dict() for name, optimiser in optimisers.items()},
        "random": torch.get_rng_state(),
        "random_cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }
    partial = run / (NAME + ".partial")
    try:
        with writing(run, NAME):
            with partial.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(run / NAME)
    finally:
        with suppress(OSError):  # why it could not be written says more
            partial.unlink(missing_ok=True)


@contextmanager
def writing(run: Path, file: str) -> Iterator[None]:
    """RunError where a file of the run cannot be written: why, and what is kept."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch ends with a RuntimeError of its own
        reason = system_error(error)
        if reason is None:
            raise
        if not (run / CONFIG).is_file():
            mend = "mend this, or name another --out"
        elif (run / NAME).is_file():
            mend = f"the last checkpoint is kept: mend this and go on with --resume {run}"
        else:
            mend = f"there was no checkpoint yet: mend this and start again with --resume {run}"
        raise RunError(f"cannot write {run / file}: {reason.strerror}; {mend}") from error


def system_error(error: BaseException | None) -> OSError | None:
    """The system's own error behind what a library raises."""
    while error is not None and not (isinstance(error, OSError) and error.errno is not None):
        error = error.__cause__ or error.__context__
    return error


def load(run: Path, device: torch.device) -> dict[str, Any]:
    """The state that `save` wrote; nothing in the file is executed."""
    path = run / NAME
    if not path.is_file():
        raise RunError(
            f"{run} has no {NAME}: it was stopped before its first checkpoint; "
            f"python -m model.train --resume {run} starts it again"
        )
    try:
        state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged file
        raise RunError(f"{path} cannot be read ({type(error).__name__}): is it whole?") from error
    stored = state.get("format") if isinstance(state, dict) else None
    if stored != FORMAT:
        raise RunError(
            f"{path} has format {stored}; this version reads {FORMAT}: train the run again"
        )
    return state


def fill(
    run: Path,
    state: dict[str, Any],
    networks: dict[str, nn.Module],
    optimisers: dict[str, Optimizer],
) -> None:
    """Put a loaded state into networks and optimisers, and restore the random states."""
    try:
        for name, network in networks.items():
            network.load_state_dict(state["networks"][name])
        for name, optimiser in optimisers.items():
            optimiser.load_state_dict(state["optimisers"][name])
        if optimisers:
            torch.set_rng_state(state["random"].cpu())
            if len(state["random_cuda"]) == torch.cuda.device_count() > 0:
                torch.cuda.set_rng_state_all([each.cpu() for each in state["random_cuda"]])
    except (KeyError, RuntimeError, ValueError) as error:
        raise RunError(
            f"{run / NAME} does not fit {run / CONFIG} "
            f"({str(error).splitlines()[0]}); was the config edited?"
        ) from error


def check_bank(state: dict[str, Any], bank: Bank, run: Path) -> None:
    """A checkpoint belongs to one bank's content."""
    if state["bank"] != bank.content_digest:
        raise RunError(
            f"{run} was trained on a bank with content digest {state['bank'][:12]}..., but "
            f"{bank.path} has {bank.content_digest[:12]}...; give the bank it was trained on"
        )


def check_derived(state: dict[str, Any], bank: Bank, run: Path) -> None:
    """Going on needs the same candidates and vectors too, or the losses would be others."""
    if state["derived"] != bank.manifest.derived_digest:
        raise RunError(
            f"{run} was trained with other frozen networks or candidates than those of {bank.path} "
            f"(derived digest {state['derived'][:12]}..., not "
            f"{bank.manifest.derived_digest[:12]}...); give the bank it was trained on"
        )
