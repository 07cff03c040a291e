"""What each of several processes does, for test_parallel.py.

python -m tests.model.one_of_several step OUT               two updates of a small trainer
python -m tests.model.one_of_several FAULT [FLAG ...]       model.train, in which something happens
"""

import atexit
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model import loop
from model.batch import CandidateBatch, SceneBatch
from model.graph.network import graph_tensors
from model.padding import padding_of
from model.parallel import processes, restarts
from model.retrieval.choice import ChoiceDraws, Draws, TruthDraws
from model.retrieval.crops import Crops
from model.retrievegan.trainer import RetrieveGANTrainer
from model.train import TrainOptions, main, prepare
from pipeline.options import run
from tests.model.retrievegan.small import SCENES, VOCABULARY, small_batch, small_config, with_draws

CPU = torch.device("cpu")
STEPS = 2
THREADS_LEFT = 99


@atexit.register
def no_threads_of_gloo_are_left() -> None:
    """They would abort the process, now and then: where they run when the interpreter is gone."""
    names = [path.read_text("utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")]
    if left := [name for name in names if "gloo" in name]:
        print(f"threads are left: {left}", file=sys.stderr, flush=True)
        os._exit(THREADS_LEFT)


def trainer_of(seed: int) -> RetrieveGANTrainer:
    """With plain gradient descent: Adam makes a whole step of a gradient that is 0 but for
    rounding."""
    config = small_config(seed=seed, lr_generator=0.1, lr_discriminator=0.1)
    trainer = RetrieveGANTrainer(config, VOCABULARY)
    for name, adam in trainer.optimisers.items():
        descent = torch.optim.SGD(adam.param_groups[0]["params"], 0.1, fused=True)
        descent.found_inf = trainer.diverged  # type: ignore[attr-defined]
        trainer.optimisers[name] = descent
    return trainer


def batch_at(step: int) -> SceneBatch:
    return with_draws(small_batch(), small_config(), step)


def part_of(whole: SceneBatch, image: int) -> SceneBatch:
    """One of the two images of a batch, which have three objects and two."""
    of_objects = whole.graph.object_image == image

    def rows(part: Any) -> Any:
        if isinstance(part, Tensor):
            return part[of_objects if len(part) == len(of_objects) else [image]]
        return part if part is None else type(part)(*map(rows, part))

    truth, choice = whole.draws
    assert truth is not None
    candidates: CandidateBatch = rows(whole.candidates)
    crops: Crops = rows(whole.true_crops)
    draws = Draws(TruthDraws(*map(rows, truth)), ChoiceDraws(*map(rows, choice)))
    image_ids, images, _, boxes, ids, patches, cooccurrence, *_ = whole
    return SceneBatch(
        *(rows(part) for part in (image_ids, images)),
        graph_tensors([SCENES[image]], VOCABULARY),
        *(rows(part) for part in (boxes, ids, patches, cooccurrence)),
        crops,
        candidates,
        padding_of(torch.zeros(int(of_objects.sum()), dtype=torch.long), 1),
        draws,
        whole.counts,
    )


def steps(out: Path) -> None:
    """Two steps on this process's image, and one at which the first process's weights are NaN."""
    with processes(CPU) as ranks:
        # Other weights: those of the first process are in force.
        trainer = trainer_of(seed=ranks.rank)
        trainer.join(ranks)
        results = {}
        for step in range(STEPS):
            for name, value in trainer.step(part_of(batch_at(step), ranks.rank)).items():
                results[f"{step} {name}"] = value
        weights = {
            f"{name}.{key}": value.clone().contiguous()
            for name, network in trainer.networks.items()
            for key, value in network.state_dict().items()
        }
        if ranks.leads:
            with torch.no_grad():
                trainer.model.graph.box_net[2].bias.fill_(torch.nan)
        trainer.step(part_of(batch_at(STEPS), ranks.rank))
        results["diverged"] = trainer.diverged
        agreed = ranks.agree(ranks.rank, -ranks.rank)
        results["agreed"] = torch.tensor(agreed)
        save_file(results | weights, out / f"rank-{ranks.rank}.safetensors")


def train_with(fault: str) -> None:
    """`python -m model.train`, in which something happens at the third step."""
    rank, attempt = int(os.environ["RANK"]), restarts()
    step = RetrieveGANTrainer.step

    def faulty(trainer: RetrieveGANTrainer, batch: SceneBatch) -> dict[str, Tensor]:
        if trainer.step_number == 2 and rank == 1:
            if fault == "signal":
                os.kill(os.getpid(), signal.SIGTERM)
            if fault == "dies" and not attempt:
                os.kill(os.getpid(), signal.SIGKILL)
        return step(trainer, batch)

    def full(*_: object) -> None:
        raise OSError(28, os.strerror(28))

    RetrieveGANTrainer.step = faulty  # type: ignore[method-assign]
    if fault == "disk":
        loop.checkpoint.write_json = full  # type: ignore[attr-defined]
    run(main, TrainOptions, "", prepare)


if __name__ == "__main__":
    what = sys.argv.pop(1)
    if what == "step":
        steps(Path(sys.argv[1]))
    else:
        train_with(what)
