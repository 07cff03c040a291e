"""The whole way on a world that needs no download: photos, bank, training, scores, report.

python -m jobs.demo     bank/toy and runs/demo; minutes on two CPU cores (`make demo` sets up first)

Run it again to go on with what was interrupted; what is finished is kept.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import torch

from bank.bank import Bank
from jobs import build_bank, evaluate, report, sample
from jobs.show.samples import Asked, describe, sample_graph
from model import checkpoint, train
from model.config import TrainConfig, demo
from model.retrievegan.run import Sampler
from pipeline.errors import UserError
from pipeline.options import option, run
from pipeline.scene_graph import read_scene_graphs

EXAMPLES = Path(__file__).parents[1] / "examples"
DRAWS = 3  # samples of each example

Standing = Literal["new", "stopped", "whole", "other"]


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    out: Annotated[Path, option("run folder")] = Path("runs/demo")
    bank: Annotated[Path, option("folder of the bank")] = Path("bank/toy")
    data: Annotated[Path, option("folder of the toy world's photos")] = Path("data/toy")
    steps: Annotated[int | None, option("training steps; by default the demo recipe's")] = None

    def __post_init__(self) -> None:
        if self.steps is not None and self.steps < 1:
            raise ValueError(f"--steps must be at least 1, not {self.steps}")

    @property
    def num_steps(self) -> int:
        return self.steps or demo().steps


@dataclass
class Stopwatch:
    """How long each stage took, in s."""

    taken_s: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        print(f"\n== {name}", flush=True)
        start = time.monotonic()
        yield
        self.taken_s[name] = time.monotonic() - start

    def __str__(self) -> str:
        lines = [f"  {name:<10} {taken:6.0f} s" for name, taken in self.taken_s.items()]
        return "\n".join([*lines, f"  {'in all':<10} {sum(self.taken_s.values()):6.0f} s"])


def main(options: DemoOptions) -> None:
    watch = Stopwatch()
    with watch.stage("bank"):
        build_bank.main(build_bank.BuildBank(dataset="toy", data=options.data, out=options.bank))
    with watch.stage("training"):
        train_demo(options)
    with watch.stage("scores"):
        styles = options.data / "styles.json"
        evaluate.main(evaluate.Evaluate(run=options.out, bank=options.bank, styles=styles))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    sampler = Sampler.open(options.out, options.bank, device)
    with watch.stage("samples"):
        sample_examples(options, sampler)
    with watch.stage("report"):
        write_report(options, sampler)
    print(f"\n{watch}\n")
    print(f"images, patches and credits   {options.out}/samples/")
    print(f"open this in a browser        {options.out}/report.html")


def train_demo(options: DemoOptions) -> None:
    """Train `options.out` anew, go on with it, or leave it as it is."""
    bank = Bank.open(options.bank)
    standing, reason = standing_of(options.out, bank, options.num_steps)
    print(f"{options.out}: {reason}", flush=True)
    if standing == "whole":
        return
    if standing == "stopped":
        train.main(train.TrainOptions(resume=options.out, bank=bank.path, steps=options.num_steps))
        return
    if standing == "other":
        shutil.rmtree(options.out)
    train.main(
        train.TrainOptions(bank=bank.path, recipe="demo", steps=options.num_steps, out=options.out)
    )


def standing_of(folder: Path, bank: Bank, steps: int) -> tuple[Standing, str]:
    """What is in the demo's run folder, and in words. `other`: a run that this demo cannot use."""
    if not (folder / "config.json").is_file():
        if folder.is_dir() and any(folder.iterdir()):
            raise UserError(f"{folder} holds something else than a run: move it, or name --out")
        return "new", f"a new run of {steps:,} steps"
    config = own_config(folder)
    anew = "it is replaced by a new run"
    try:
        state = checkpoint.load(folder, torch.device("cpu"))
    except UserError as error:
        return "other", f"{error}; {anew}"
    if state["bank"] != bank.content_digest:
        return "other", f"it was trained on another bank than {bank.path} now is; {anew}"
    if replace(config, steps=steps) != replace(demo(), steps=steps):
        return "other", f"it was trained by other settings than the demo recipe's; {anew}"
    done = int(state["step"])
    if done >= steps:
        return "whole", f"trained already, {done:,} steps"
    return "stopped", f"{done:,} of {steps:,} steps are done"


def own_config(folder: Path) -> TrainConfig:
    """The config of a demo's run; UserError for any other, which the demo must not replace."""
    try:
        config, _ = checkpoint.read_config(folder)
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder}/config.json cannot be read, so whose run it is cannot be told ({error}): "
            f"move the folder, or name --out"
        ) from error
    if config.recipe != "demo":
        raise UserError(f"{folder} is a run of recipe {config.recipe}: move it, or name --out")
    return config


def example_graphs() -> tuple[Path, ...]:
    """The hand-written graphs that use the toy world's names."""
    found = tuple(sorted(EXAMPLES.glob("toy_*.json")))
    if not found:
        raise UserError(f"{EXAMPLES} has no toy_*.json: is this the whole repository?")
    return found


def sample_examples(options: DemoOptions, sampler: Sampler) -> None:
    for path in example_graphs():
        asked = sample.SampleOptions(run=options.out, graph=path, draws=DRAWS, data=options.data)
        for graph in read_scene_graphs(path, sampler.bank.vocabulary):
            ways = [sample.own_way(sampler, graph, asked)]
            sample_graph(Asked(path.stem, graph), ways, range(DRAWS), asked.folder, options.data)
            print(f"{asked.folder}/: {describe(graph)}", flush=True)


def write_report(options: DemoOptions, sampler: Sampler) -> None:
    asked = report.ReportOptions(
        run=options.out, graphs=example_graphs(), bank=options.bank, data=options.data
    )
    report.main(asked)


if __name__ == "__main__":
    run(main, DemoOptions, __doc__)
