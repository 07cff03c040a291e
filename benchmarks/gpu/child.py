"""One configuration in a process of its own: a JSON file of what to do -> a JSON file of figures.

python -m benchmarks.gpu.child todo.json figures.json

`model` and what it builds on are imported from the checkout that is named, so that the same lines
measure two commits. A field of ExecutionConfig that a checkout does not know is left out.
"""

import hashlib
import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import fields, replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu.published import published_step
from benchmarks.gpu.timing import busy, peak_memory, seconds_of_steps, synchronisations

Step = Callable[[Any], object]

WARM_UP = 3  # passes over the batches, after which every shape has been met
PASSES = 5  # timed


def config_of(todo: dict[str, Any]) -> Any:
    """The recipe's configuration with the changes asked for."""
    from model.recipes import RECIPES

    config: Any = replace(RECIPES[todo["recipe"]](), **todo["changes"])
    if todo["candidates"]:
        config = replace(config, retrieval=replace(config.retrieval, candidates=todo["candidates"]))
    return replace(config, execution=_execution(config, todo["execution"]))


def _execution(config: Any, asked: dict[str, Any]) -> Any:
    known = {each.name for each in fields(config.execution)}
    return replace(config.execution, **{k: v for k, v in asked.items() if k in known})


class Subject:
    """A trainer and the batches it is given."""

    def __init__(self, todo: dict[str, Any], num_batches: int) -> None:
        from bank.bank import Bank
        from model.device import compute_deterministically
        from model.loader import training_batches
        from model.trainers import trainer_for
        from pipeline.memory import keep_freed_memory

        keep_freed_memory()
        if todo["execution"].get("deterministic"):
            compute_deterministically()
        self.config, self.device = config_of(todo), torch.device(todo["device"])
        bank = Bank.open(Path(todo["bank"]))
        self.trainer: Any = trainer_for(self.config, bank, self.device)
        collates = self.trainer
        if todo["filled"]:
            collates = trainer_for(self._captured(), bank, self.device)
        batches = training_batches(
            bank, collates.collate, block_shards=self.config.block_shards, seed=self.config.seed,
            batch_size=self.config.batch_size, device=self.device,
        )  # fmt: skip
        with closing(batches):
            self.batches = [*islice(batches, num_batches)]

    def _captured(self) -> Any:
        """Of a trainer whose steps are captured: it is given scenes filled up to few shapes."""
        return replace(self.config, execution=_execution(self.config, {"capture": "graph"}))

    @property
    def shapes(self) -> list[int]:
        """Rows of objects, of each batch."""
        return [len(batch.boxes) for batch in self.batches]


def time_it(todo: dict[str, Any]) -> dict[str, Any]:
    """Seconds per step, memory, and where the device's time goes."""
    subject = Subject(todo, todo["batches"])
    step: Step = subject.trainer.step
    if todo["task"] == "time published":
        step = published_step(subject.trainer, subject.config, Path(todo["sg2im"]))
    return {
        "parameters": sum(
            p.numel() for network in subject.trainer.networks.values() for p in network.parameters()
        ),
        **figures(step, subject.batches, subject.device),
    }


def figures(step: Step, batches: Sequence[Any], device: torch.device) -> dict[str, Any]:
    """Of a step over the batches: warm-up first, times after it, the profile last."""
    started = time.perf_counter()
    seconds_of_steps(step, batches[:1], device)
    first_s = time.perf_counter() - started
    seconds_of_steps(step, [*batches] * WARM_UP, device)
    seconds = seconds_of_steps(step, [*batches] * PASSES, device)
    return {
        "first_s": first_s,
        "seconds": seconds,
        "memory": peak_memory(device),
        "synchronisations": synchronisations(step, batches, device),
        **busy(step, batches, device),
    }


def train(todo: dict[str, Any]) -> dict[str, Any]:
    """Losses of all steps, and one digest of every weight, buffer and moment at the end."""
    subject = Subject(todo, todo["batches"])
    trainer, rows = subject.trainer, []
    for batch in islice(cycle(subject.batches), todo["steps"]):
        values = trainer.step(batch)
        rows.append(torch.stack([*values.values()]))
    return {
        "names": [*values],
        "losses": torch.stack(rows).tolist(),
        "digest": digest(trainer),
        "shapes": subject.shapes,
        "device": subject.device.type,
    }


def digest(trainer: Any) -> str:
    """SHA-256 of all that a checkpoint holds."""
    found = hashlib.sha256()
    for tensor in _tensors(trainer):
        found.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _tensors(trainer: Any) -> Iterable[Tensor]:
    for network in trainer.networks.values():
        yield from (tensor.reshape(-1) for tensor in network.state_dict().values())
    for optimiser in trainer.optimisers.values():
        for state in optimiser.state.values():
            yield from (state[name].reshape(-1) for name in sorted(state))


def first_step(todo: dict[str, Any]) -> dict[str, Any]:
    """The losses of the first step; its gradients go to a file. Learning rates are 0, so that the
    generator meets the discriminators of the start: Adam's first update is the gradient's sign, and
    would make much of little."""
    from safetensors.torch import save_file

    subject = Subject(todo, 1)
    trainer = subject.trainer
    if todo["round_weights"]:
        with torch.no_grad():
            for network in trainer.networks.values():
                for parameter in network.parameters():
                    parameter.copy_(parameter.bfloat16())
    names = {
        parameter: f"{network}/{name}"
        for network, module in trainer.networks.items()
        for name, parameter in module.named_parameters()
    }
    gradients: dict[str, Tensor] = {}

    def keep(optimiser: torch.optim.Optimizer, *_: object) -> None:
        for parameter in (p for group in optimiser.param_groups for p in group["params"]):
            if parameter.grad is not None:
                gradients[names[parameter]] = parameter.grad.detach().float().cpu().contiguous()

    for optimiser in trainer.optimisers.values():
        optimiser.register_step_pre_hook(keep)
    values = trainer.step(subject.batches[0])
    save_file(gradients, todo["gradients"])
    return {"losses": {name: value.item() for name, value in values.items()}}


TASKS = {
    "time": time_it,
    "time published": time_it,
    "train": train,
    "first step": first_step,
}


def main() -> None:
    todo = json.loads(Path(sys.argv[1]).read_text())
    sys.path.insert(0, todo["checkout"])
    Path(sys.argv[2]).write_text(json.dumps(TASKS[todo["task"]](todo)))


if __name__ == "__main__":
    main()
