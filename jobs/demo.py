"""The whole way on a world that needs no download: photos, bank, training, scores, report.

python -m jobs.demo     bank/toy and runs/demo; minutes on two CPU cores (`make demo` sets up first)

Runs the other commands one after another and prints each before it starts. Run it again to go on
with what was interrupted; what is finished is kept.
"""

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from jobs.show.options import MOST_ROWS
from model.config import RunConfig
from model.recipes import demo
from model.run_folder import LOCK, read_run, writing_alone
from pipeline.commands import run_command
from pipeline.errors import UserError
from pipeline.options import option, run
from pipeline.output import log
from pipeline.wording import counted

if TYPE_CHECKING:
    from bank.bank import Bank

# In the repository, and where the project is installed.
EXAMPLES = (Path(__file__).parents[1] / "examples", Path(__file__).parent / "examples")

RunState = Literal["new", "unfinished", "finished", "unusable"]


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    out: Annotated[Path, option("run folder")] = Path("runs/demo")
    bank: Annotated[Path, option("folder of the bank")] = Path("bank/toy")
    data: Annotated[Path, option("folder of the toy world's photos")] = Path("data/toy")
    steps: Annotated[int | None, option("training steps; by default the demo recipe's")] = None
    limit: Annotated[
        int | None, option("photos taken of each of the toy world's files; by default all")
    ] = None
    network_steps: Annotated[
        int | None,
        option("training steps of each of the bank's two networks; by default by its size"),
    ] = None
    examples: Annotated[
        int | None, option("example graphs sampled and shown in the report; by default all")
    ] = None
    draws: Annotated[int, option("samples of each example graph")] = 3

    def __post_init__(self) -> None:
        for name in ("steps", "limit", "network_steps", "examples", "draws"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, not {value}")
        if self.draws > MOST_ROWS:
            raise ValueError(f"--draws must be at most {MOST_ROWS}, not {self.draws}")

    @property
    def num_steps(self) -> int:
        return self.steps or demo().steps


@dataclass
class StageTimes:
    """How long each stage took, in s."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        log.info(f"\n== {name}")
        start = time.monotonic()
        yield
        self.seconds[name] = time.monotonic() - start

    def __str__(self) -> str:
        lines = [f"  {name:<10} {seconds:6.0f} s" for name, seconds in self.seconds.items()]
        return "\n".join([*lines, f"  {'in all':<10} {sum(self.seconds.values()):6.0f} s"])


def main(options: DemoOptions) -> None:
    times = StageTimes()
    graphs = example_graphs()[: options.examples]
    check_bank_settings(options)
    with times.stage("bank"):
        run_command("jobs.build_bank", *bank_flags(options))
    with times.stage("training"):
        train_demo(options)
    run_flags = ("--run", options.out, "--bank", options.bank)
    with times.stage("scores"):
        flags = ("--styles", options.data / "styles.json", "--scores", "retrieval")
        run_command("jobs.evaluate", *run_flags, *flags)
    draws = ("--draws", options.draws, "--data", options.data)
    with times.stage("samples"):
        run_command("jobs.sample", *run_flags, "--graph", *graphs, *draws)
    with times.stage("report"):
        run_command("jobs.report", *run_flags, "--graphs", *graphs, *draws)
    log.info(f"\n{times}\n")
    print(f"images, patches and credits   {options.out}/samples/")
    print(f"open this in a browser        {options.out}/report.html")


def check_bank_settings(options: DemoOptions) -> None:
    """UserError for a finished bank that was built with other settings than are asked for."""
    from bank.manifest import is_finished, read_manifest

    recipe = read_manifest(options.bank).recipe if is_finished(options.bank) else None
    for name, flag, asked in (
        ("limit", "--limit", options.limit),
        ("encoder_steps", "--network-steps", options.network_steps),
    ):
        if recipe is not None and recipe.get(name) != asked:
            has = f"with {flag} {recipe[name]}" if recipe.get(name) else f"without {flag}"
            raise UserError(
                f"{options.bank} was built {has}: ask for the same, remove that folder, or name "
                f"another --bank"
            )


def bank_flags(options: DemoOptions) -> list[object]:
    """Of `jobs.build_bank`, with those alone that differ from its defaults."""
    flags: list[object] = ["--dataset", "toy", "--data", options.data, "--out", options.bank]
    if options.limit is not None:
        flags += ["--limit", options.limit]
    if options.network_steps is not None:
        flags += ["--encoder-steps", options.network_steps]
        flags += ["--cooccurrence-steps", options.network_steps]
    return flags


def train_demo(options: DemoOptions) -> None:
    """Train `options.out` anew, go on with it, or leave it as it is."""
    from bank.bank import Bank

    bank = Bank.open(options.bank)
    state, reason = run_state(options.out, bank, options.num_steps)
    if state == "unusable":
        with writing_alone(options.out):  # judged again: until now another may have trained it
            state, reason = run_state(options.out, bank, options.num_steps)
            if state == "unusable":
                shutil.rmtree(options.out)
    log.info(f"{options.out}: {reason}")
    if state == "finished":
        return
    flags = ("--bank", options.bank, "--steps", options.num_steps)
    if state == "unfinished":
        run_command("model.train", "--resume", options.out, *flags)
    else:
        run_command("model.train", "--recipe", "demo", "--out", options.out, *flags)


def run_state(folder: Path, bank: "Bank", steps: int) -> tuple[RunState, str]:
    """Whether the run folder's training can be kept or continued, and the reason in words.

    An unusable run is a demo's run of another bank or with other settings, or one whose checkpoint
    cannot be read.
    """
    from model import checkpoint

    if not (folder / "config.json").is_file():
        if folder.is_dir() and any(file.name != LOCK for file in folder.iterdir()):
            raise UserError(f"{folder} holds something else than a run: move it, or name --out")
        return "new", f"a new run of {counted(steps, 'step')}"
    config = demo_config(folder)
    replaced = "it is replaced by a new run"
    try:
        last = checkpoint.newest(folder)
        if last is None:
            return "unusable", f"it was stopped before its first checkpoint; {replaced}"
        state = checkpoint.read_state(last)
        if state.step < steps:
            checkpoint.check_draws(state, folder)
    except UserError as error:
        return "unusable", f"{error}; {replaced}"
    if state.bank != bank.content_digest:
        return "unusable", f"it was trained on another bank than {bank.path} now is; {replaced}"
    if replace(config, steps=steps, execution=demo().execution) != replace(demo(), steps=steps):
        reason = "it was trained by other settings than the demo recipe's"
        return "unusable", f"{reason}; {replaced}"
    if state.step >= steps:
        more = f"; remove it for a run of {steps:,}" if state.step > steps else ""
        return "finished", f"trained already, {counted(state.step, 'step')}{more}"
    return "unfinished", f"{state.step:,} of {steps:,} steps are done"


def demo_config(folder: Path) -> RunConfig:
    """The config of a demo's run; UserError for any other, which the demo must not replace."""
    try:
        config, _ = read_run(folder)
    except (UserError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder} is no run that this version can read ({error}): remove or move the folder, "
            f"or name another --out"
        ) from error
    if config.recipe != "demo":
        raise UserError(f"{folder} is a run of recipe {config.recipe}: move it, or name --out")
    return config


def example_graphs() -> tuple[Path, ...]:
    """The hand-written graphs that use the toy world's names, as a user would type the files."""
    files = sorted(file for folder in EXAMPLES for file in folder.glob("toy_*.json"))
    if not files:
        raise UserError(f"{EXAMPLES[0]} has no toy_*.json: is this the whole repository?")
    here = Path.cwd()
    return tuple(f.relative_to(here) if f.is_relative_to(here) else f for f in files)


if __name__ == "__main__":
    run(main, DemoOptions, __doc__)
