"""Runs, folders of pictures and photos in; tables of scores out, with the card of how they were
measured."""

import json
from collections.abc import Sequence
from pathlib import Path

import torch

from jobs.show.cards import asked_of, check_bank, check_same, with_facts
from jobs.show.options import Evaluate
from jobs.show.score_tables import score_tables
from jobs.show.subjects import open_runs, open_subjects
from model.config import Sg2ImConfig, Which
from model.device import choose_device
from model.run_folder import CONFIG, read_run
from model.scores.costs import Costs
from model.scores.measure import Measured, OpenedRun, Subjects, measure
from model.scores.protocol import CARD, Protocol, read_protocol
from model.sg2im.published import is_published
from pipeline.address import Location, location
from pipeline.errors import UserError
from pipeline.files import write_bytes
from pipeline.options import write_json
from pipeline.output import log
from pipeline.wording import counted

METRICS, TABLE, COSTS = "metrics.jsonl", "table.md", "costs.json"


def score(options: Evaluate) -> None:
    """Measure what is asked for; or what a card says, once more."""
    if options.out is not None:
        if (options.out / CONFIG).is_file():
            raise UserError(f"--out {options.out} is a run, which has its own scores: name another")
        options.out.mkdir(parents=True, exist_ok=True)  # before the work, not after it
    if options.protocol is not None:
        measure_again(options.protocol, options.out, options.bank)
        return
    device = choose_device(options.device)
    paths = [(path, checkpoint_of(path, options.checkpoint)) for path in options.run]
    bank, runs = open_runs(paths, options.bank, device, options.per_graph, options.start)
    costs = Costs()
    asked = asked_of(options, bank, runs)
    subjects = open_subjects(asked, bank, runs, device, costs)
    protocol = with_facts(asked, subjects)
    measured, text = measured_and_shown(protocol, subjects, costs)
    if options.out is None:
        append_to_runs(protocol, runs, measured)
    explain_missing(protocol, subjects)
    write(options.out or default_out(options, protocol), protocol, measured, text, costs)


def measure_again(path: Path, out: Path | None, place: Location | None) -> None:
    """Measure what the card says, and compare; UserError where a number is another one.

    place  of the bank, where it has moved
    """
    card = read_protocol(path)
    torch.set_num_threads(card.threads)
    device = choose_device(card.device)
    paths: list[tuple[Path, Which | int]] = [
        (Path(run.path), "last" if run.step is None else run.step) for run in card.runs
    ]
    bank, runs = open_runs(paths, place or location(card.bank), device, card.per_graph, card.start)
    check_bank(card, bank, path)
    costs = Costs()
    subjects = open_subjects(card, bank, runs, device, costs)
    protocol = with_facts(card, subjects)
    check_same(card, protocol, path)
    measured, text = measured_and_shown(protocol, subjects, costs)
    if out is not None:
        write(out, protocol, measured, text, costs)
    compare(path.parent / METRICS, measured)


def measured_and_shown(
    protocol: Protocol, subjects: Subjects, costs: Costs
) -> tuple[list[Measured], str]:
    """The scores, and their tables, which are printed."""
    found = measure(protocol, subjects, costs)
    text = score_tables(protocol, subjects.bank, found)
    print(text)
    return found.scores, text


def checkpoint_of(run: Path, which: Which) -> Which:
    """The one asked for; the last where there is no best, as sg2im is not scored in training."""
    if is_published(run) or isinstance(read_run(run)[0], Sg2ImConfig):
        return "last"
    return which


def explain_missing(protocol: Protocol, subjects: Subjects) -> None:
    """Say why rows that one may look for are not there."""
    for run in subjects.runs if "retrieval" in protocol.scores else ():
        mode = "learned" if run.retrieving is None else run.retrieving.config.retrieval.mode
        if mode != "learned":
            log.info(f"\n{run.name}: retrieval is {mode} in this run: its E_p is untrained")
    if protocol.styles is None and subjects.bank.manifest.recipe.get("dataset") == "toy":
        log.info(
            "\nno compatibility, no style agreement: the styles of this bank's photos are not "
            "known (--styles FILE)"
        )


def default_out(options: Evaluate, protocol: Protocol) -> Path:
    """A folder in the first run's, or here, that stands for the card."""
    first = next((run for run in options.run if run.is_dir()), Path())
    return first / "scores" / f"{protocol.split}-{protocol.digest[:8]}"


def write(
    out: Path, protocol: Protocol, measured: Sequence[Measured], text: str, costs: Costs
) -> None:
    """The table and its scores, then the card that says how to measure them again."""
    out.mkdir(parents=True, exist_ok=True)
    write_bytes(out / TABLE, (text + "\n").encode())
    lines = [json.dumps(each.to_json(), ensure_ascii=False) + "\n" for each in measured]
    write_bytes(out / METRICS, "".join(lines).encode())
    write_json(out / COSTS, costs.to_json())
    write_json(out / CARD, protocol)
    print(f"\n{out}/: {TABLE}, {METRICS}, {CARD}, {COSTS}")


def append_to_runs(
    protocol: Protocol, runs: Sequence[OpenedRun], measured: Sequence[Measured]
) -> None:
    """Add a line per score to the metrics.jsonl of its run, with the protocol in short."""
    for run in runs:
        folder = Path(run.source.path)
        if not folder.is_dir():
            continue
        short = {
            "run": run.name,
            "step": run.source.step,
            "split": protocol.split,
            "num_scenes": len(protocol.image_ids),
            "candidates": protocol.candidates,
            "min_coverage": protocol.min_coverage,
            "min_side": protocol.min_side,
            "start": protocol.start or "as trained",
            "draws": protocol.draws,
            "per_graph": protocol.per_graph,
            "seed": protocol.seed,
            "bank": protocol.content_digest,
            "protocol": protocol.digest[:16],
        }
        lines = [
            json.dumps({**each.to_json(), **short}, ensure_ascii=False) + "\n"
            for each in measured
            if each.run == run.name
        ]
        with (folder / METRICS).open("a", encoding="utf-8") as file:
            file.write("".join(lines))


def compare(path: Path, measured: Sequence[Measured]) -> None:
    """Say whether all numbers are those of the file to the last bit; UserError where not."""
    now = [each.to_json() for each in measured]
    try:
        before = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    except OSError:
        log.warning(f"{path} is not there: nothing to compare with")
        return
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}): nothing to compare with") from error
    differing = [a for a, b in zip(before, now, strict=False) if a != b]
    if len(before) != len(now) or differing:
        some = differing[0] if differing else {"metric": "their number", "choice": ""}
        raise UserError(
            f"{path}: {counted(len(differing), 'score')} of {len(before):,} came out otherwise, "
            f"the first {some['metric']}, {some['choice']}"
        )
    print(f"\n{counted(len(now), 'score')}, each equal to the last bit to that in {path}")
