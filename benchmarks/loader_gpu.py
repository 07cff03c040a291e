"""Our loaders beside the training step on a GPU: scenes a second, and how often a step would wait.

python -m benchmarks.loader_gpu --bank bank/toy

Batches come onto the device, in the sizes of recipe `paper`, in turn from scenes and patches on the
GPU, from the folder in the cache, streamed, and from a PyTorch Dataset over memory maps with
everything looked up beforehand (benchmarks/loaders/), whose batches are pinned and copied; all but
the first without and with two worker processes. The step is timed on one batch that lies on the
device. Headspace is how many times as fast as the step a loader is. Everything lies in the page
cache. Medians over the rounds.
"""

import statistics
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

import torch

from bank.bank import Bank
from benchmarks.loaders import mapped_peer
from benchmarks.loaders.ours import write_copy
from benchmarks.loaders.scenes import SceneCopy
from model import resident
from model.config import RetrieveGANConfig
from model.loader import training_batches
from model.loop import Trainer
from model.recipes import paper
from model.trainers import trainer_for
from pipeline.errors import UserError
from pipeline.options import option, run

KINDS = (
    ("resident, on the GPU", "resident", 0.5, 0),
    ("resident, folder", "resident", 0.0, 0),
    ("resident, folder", "resident", 0.0, 2),
    ("stream", "stream", 0.5, 0),
    ("stream", "stream", 0.5, 2),
    ("Dataset over memory maps", "", 0.0, 0),
    ("Dataset over memory maps", "", 0.0, 2),
)  # title, --loader, share of the GPU's free memory, --loader-workers
WARM_UP = 5


@dataclass(frozen=True, kw_only=True)
class LoaderGpuOptions:
    bank: Annotated[Path, option("folder of a built bank")]
    batch_size: Annotated[int, option("scenes per batch")] = 16
    batches: Annotated[int, option("timed, of each kind and round")] = 200
    rounds: Annotated[int, option("each kind has its turn in each")] = 3


def main(options: LoaderGpuOptions) -> None:
    if not torch.cuda.is_available():
        raise UserError("this machine has no CUDA device")
    bank, device = Bank.open(options.bank), torch.device("cuda:0")
    config = replace(paper(), batch_size=options.batch_size)
    trainer: Trainer[Any, Any] = trainer_for(config, bank, device)
    rates: dict[tuple[str, int], list[float]] = {(title, w): [] for title, _, _, w in KINDS}
    steps = []
    with tempfile.TemporaryDirectory() as folder:
        write_copy(bank, Path(folder))
        copy = SceneCopy(Path(folder))
        for _ in range(options.rounds):
            for title, kind, share, workers in KINDS:
                resident.DEVICE_SHARE = share
                batches: Generator[Any, None, None]
                if kind:
                    batches = training_batches(
                        bank, trainer.collate, block_shards=config.block_shards, seed=0,
                        batch_size=config.batch_size, kind=kind, workers=workers, device=device,
                    )  # fmt: skip
                else:
                    batches = _of_dataset(copy, config, workers, device)
                with closing(batches):
                    rates[title, workers].append(_rate(batches, config, options.batches))
                    if kind:
                        batch = next(batches)
            steps.append(_seconds_per_step(trainer, batch))
    step_s = statistics.median(steps)
    print(f"{torch.cuda.get_device_name()}: {1e3 * step_s:.1f} ms per step of {config.batch_size}")
    print("| loader | workers | scenes/s | headspace |\n|---|---|---|---|")
    for (title, workers), of_rounds in rates.items():
        rate = statistics.median(of_rounds)
        print(f"| {title} | {workers} | {rate:,.0f} | {rate * step_s / config.batch_size:.1f} |")


def _of_dataset(
    copy: SceneCopy, config: RetrieveGANConfig, workers: int, device: torch.device
) -> Generator[Any, None, None]:
    k = config.retrieval.candidates
    while True:
        for batch in mapped_peer.batches(copy, config.batch_size, k, workers):
            yield {name: t.pin_memory().to(device, non_blocking=True) for name, t in batch.items()}


def _rate(batches: Iterator[Any], config: RetrieveGANConfig, count: int) -> float:
    """Scenes a second."""
    for _ in islice(batches, WARM_UP):
        pass
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in islice(batches, count):
        pass
    torch.cuda.synchronize()
    return count * config.batch_size / (time.perf_counter() - started)


def _seconds_per_step(trainer: Trainer[Any, Any], batch: Any, count: int = 20) -> float:
    for _ in range(WARM_UP):
        trainer.step(batch)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(count):
        trainer.step(batch)
    torch.cuda.synchronize()
    return (time.perf_counter() - started) / count


if __name__ == "__main__":
    run(main, LoaderGpuOptions, __doc__)
