"""What each of several processes does, for test_parallel.py.

python -m tests.model.one_of_several descent|adam OUT       updates of a small trainer
python -m tests.model.one_of_several FAULT [FLAG ...]       model.train, in which something happens
"""

import atexit
import os
import signal
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from model import loop
from model.batch import CandidateBatch, ImageBatch, SceneBatch
from model.graph.network import graph_tensors
from model.padding import padding_of
from model.parallel import processes, restarts
from model.retrieval.choice import ChoiceDraws, Draws, TruthDraws
from model.retrieval.crops import Crops
from model.retrievegan.trainer import RetrieveGANTrainer
from model.sg2im.trainer import Sg2ImTrainer
from model.train import TrainOptions, main, prepare
from pipeline.options import run
from tests.model.retrievegan.small import SCENES, VOCABULARY, small_batch, small_config, with_draws

CPU = torch.device("cpu")
STEPS = 3
THREADS_LEFT = 99


@atexit.register
def no_threads_of_gloo_are_left() -> None:
    """They would abort the process, now and then: where they run when the interpreter is gone."""
    names = [path.read_text("utf-8").strip() for path in Path("/proc/self/task").glob("*/comm")]
    if left := [name for name in names if "gloo" in name]:
        print(f"threads are left: {left}", file=sys.stderr, flush=True)
        os._exit(THREADS_LEFT)


def trainer_of(seed: int, optimiser: str) -> RetrieveGANTrainer:
    """By plain gradient descent, or by Adam: which makes a whole step of a gradient that is 0 but
    for rounding, unless what it adds to its denominator is large beside that."""
    rate = 0.1 if optimiser == "descent" else 0.01
    config = small_config(seed=seed, lr_generator=rate, lr_discriminator=rate)
    trainer = RetrieveGANTrainer(config, VOCABULARY)
    for name, adam in trainer.optimisers.items():
        if optimiser == "adam":
            adam.param_groups[0]["eps"] = 0.01
        else:
            descent = torch.optim.SGD(adam.param_groups[0]["params"], rate, fused=True)
            descent.found_inf = trainer.diverged  # type: ignore[attr-defined]
            trainer.optimisers[name] = descent
    return trainer


def learned(trainer: RetrieveGANTrainer) -> list[Tensor]:
    """The generator's weights and moments: its update is a step's last one."""
    moments = [each.values() for each in trainer.optimisers["generator"].state.values()]
    tensors = (*trainer.model.parameters(), *chain.from_iterable(moments))
    return [tensor.detach().clone() for tensor in tensors if tensor is not None]


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


def steps(optimiser: str, out: Path) -> None:
    """Steps on this process's image, and one at which the first process's weights are NaN."""
    with processes(CPU) as ranks:
        # Other weights: those of the first process are in force.
        trainer = trainer_of(ranks.rank, optimiser)
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
        before = learned(trainer)
        trainer.step(part_of(batch_at(STEPS), ranks.rank))
        results["diverged"] = trainer.diverged
        pairs = zip(before, learned(trainer), strict=True)
        same = [torch.allclose(was, now, rtol=0, atol=0, equal_nan=True) for was, now in pairs]
        results["unchanged"] = torch.tensor(all(same))
        agreed = ranks.agree(ranks.rank, -ranks.rank)
        results["agreed"] = torch.tensor(agreed)
        save_file(results | weights, out / f"rank-{ranks.rank}.safetensors")


def train_with(fault: str) -> None:
    """`python -m model.train`, in which something happens at the third step; of an
    sg2im, what each process has at the end is written beside the run, the last argument."""
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

    train = Sg2ImTrainer.step

    def keeping(trainer: Sg2ImTrainer, batch: ImageBatch) -> dict[str, Tensor]:
        values = train(trainer, batch)
        if trainer.step_number == trainer.config.steps:
            file = Path(sys.argv[-1]).with_name(f"rank-{rank}.safetensors")
            state = trainer.model.state_dict()
            save_file({name: each.contiguous() for name, each in state.items()}, file)
        return values

    RetrieveGANTrainer.step = faulty  # type: ignore[method-assign]
    Sg2ImTrainer.step = keeping  # type: ignore[method-assign]
    if fault == "disk":
        loop.checkpoint.write_json = full  # type: ignore[attr-defined]
    run(main, TrainOptions, "", prepare)


if __name__ == "__main__":
    what = sys.argv.pop(1)
    if what in ("descent", "adam"):
        steps(what, Path(sys.argv[1]))
    else:
        train_with(what)
