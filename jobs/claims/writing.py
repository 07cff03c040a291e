"""results/: a page and a plot for each claim that was measured, and one with all verdicts."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from jobs.claims.claims import CLAIMS, PAPER_HERE, Claim, Comparison
from jobs.claims.plots import Row, plot_rows
from jobs.claims.record import MethodRecord, Record
from jobs.claims.statistics import Mean, Verdict, holm, mean_of, verdict
from pipeline.files import write_bytes
from pipeline.wording import counted

OVERVIEW = "README.md"
COMPATIBILITY, DIFFERENCE = "compatibility", "difference in compatibility"


class Judged(NamedTuple):
    """What the numbers say of a claim."""

    adjusted_p: float  # by Holm over all claims
    verdict: Verdict


def judge(records: Mapping[str, Record]) -> dict[str, Judged]:
    """All measured claims; those that are not count with p = 1, so that no verdict can be lost when
    they are measured."""
    differences = {
        name: [record.difference(compared) for compared in CLAIMS[name].primary]
        for name, record in records.items()
    }
    p = {name: max((d.p for d in differences.get(name, ())), default=1.0) for name in CLAIMS}
    adjusted = holm(p)
    return {
        name: Judged(adjusted[name], verdict([d.value for d in found], adjusted[name]))
        for name, found in differences.items()
    }


def write_results(folder: Path, records: Mapping[str, Record]) -> None:
    """The pages of all measured claims anew: their verdicts depend on one another."""
    judged = judge(records)
    for name, record in records.items():
        claim = CLAIMS[name]
        plot_methods(folder / f"{name}.svg", claim, record)
        write_text(folder / f"{name}.md", claim_page(claim, record, judged[name]))
    if records:
        plot_claims(folder / "claims.svg", records, judged)
        write_text(folder / OVERVIEW, overview(records, judged))


def plot_methods(path: Path, claim: Claim, record: Record) -> None:
    shown = [record.method(method.name) for method in claim.methods if not method.aside]
    rows = [Row(each.name, mean_of(each.compatibility), each.compatibility) for each in shown]
    plot_rows(path, rows, COMPATIBILITY, record.chance, "chance")


def plot_claims(path: Path, records: Mapping[str, Record], judged: Mapping[str, Judged]) -> None:
    """The differences that were named beforehand."""
    rows = []
    for name, record in records.items():
        for compared in CLAIMS[name].primary:
            better, worse = (record.method(each).compatibility for each in compared)
            values = [a - b for a, b in zip(better, worse, strict=True)]
            told = judged[name].verdict
            label = f"{name}: {told}\n{named(compared)}"
            rows.append(Row(label, record.difference(compared), values, told == "shown"))
    plot_rows(path, rows, DIFFERENCE, 0.0, "")


def overview(records: Mapping[str, Record], judged: Mapping[str, Judged]) -> str:
    heads = ["claim", "", "difference in compatibility", "p by Holm", "verdict", "measured on"]
    lines = [heads, ["---"] * len(heads)]
    for name, claim in CLAIMS.items():
        if name not in records:
            lines.append([f"`{name}`", claim.statement, "", "", "not measured", ""])
            continue
        of_primary = [
            f"{named(compared)}: {interval(records[name].difference(compared), sign=True)}"
            for compared in claim.primary
        ]
        adjusted, told = judged[name]
        lines.append(
            [
                f"[`{name}`]({name}.md)",
                claim.statement,
                "<br>".join(of_primary),
                p_value(adjusted),
                f"**{told}**",
                str(records[name].settings),
            ]
        )
    parts = [
        "# The paper's claims, measured",
        "Written by `python -m jobs.reproduce`, on the toy world, whose photos have hidden "
        "styles: two patches go together where their styles agree. Each claim named beforehand "
        "which difference in compatibility is to lie above 0.",
        table(lines),
        "![the differences that were named beforehand](claims.svg)",
        f"{PLOTS} What is shown is blue.",
        RULE,
        WORDS,
    ]
    return "\n\n".join(parts) + "\n"


PLOTS = "In the plot a dot is a seed, the mark their mean and the bar its 95 % interval."
WORDS = (
    "What the ways of choosing and the scores are is told in the README, under *How patches are "
    "chosen* and *Scores*."
)
RULE = (
    "In brackets 95 % intervals by Student's t over seeds: each seed is a training of its own, "
    "scored on a part of the test scenes of its own, which is the same for all methods, as are the "
    "random numbers; so the spread over seeds holds that over trainings and that over scenes. A "
    "claim is *shown* where Student's two-sided p of the difference, by Holm's correction over all "
    f"{len(CLAIMS)} claims, is at most 0.05 and the difference above 0; *contrary* where it is "
    "below 0; else *not shown*. A claim that is not measured counts with p = 1. Further "
    "differences are not corrected."
)


def claim_page(claim: Claim, record: Record, judged: Judged) -> str:
    return "\n\n".join(page_parts(claim, record, judged)) + "\n"


def page_parts(claim: Claim, record: Record, judged: Judged) -> Iterator[str]:
    yield f"# `{claim.name}`: {judged.verdict}"
    yield claim.statement
    yield claim.source
    beforehand = " and ".join(f"*{named(compared)}*" for compared in claim.primary)
    both = ", each of them," if len(claim.primary) > 1 else ""
    yield (
        f"Named beforehand: the difference in compatibility {beforehand} lies{both} above 0. "
        f"By Holm's correction over {len(CLAIMS)} claims p is {p_value(judged.adjusted_p)}: "
        f"**{judged.verdict}**."
    )
    if claim.reading and str(record.settings) == claim.read_of:
        yield f"Read afterwards: {claim.reading}"
    yield "## Methods"
    yield method_table(record)
    yield f"![compatibility of each method]({claim.name}.svg)"
    yield PLOTS
    yield "## Differences in compatibility"
    yield difference_table(claim, record)
    yield RULE
    yield "## How it was measured"
    yield "\n".join(measured_how(record))
    yield training_table(record)
    yield "```\n" + "\n".join([record.command, *(t.command for t in record.trainings)]) + "\n```"


def method_table(record: Record) -> str:
    heads = ["compatibility ↑", "ground-truth selection ↑", "unlike choices", "styles shown"]
    lines = [["method", "training", *heads], ["---", "---", *["---:"] * len(heads)]]
    for method in record.methods:
        lines.append([method.name, method.training, *method_cells(method)])
    lines.append(["chance", "", f"{record.chance:.3f}", "", "", ""])
    return table(lines)


def method_cells(method: MethodRecord) -> Iterator[str]:
    truth = [scores.ground_truth for scores in method.scores if scores.ground_truth is not None]
    yield interval(mean_of(method.compatibility))
    yield interval(mean_of(truth)) if truth else ""
    yield f"{mean_of([scores.unlike_choices for scores in method.scores]).value:.3f}"
    yield f"{mean_of([scores.styles_shown for scores in method.scores]).value:.2f}"


def difference_table(claim: Claim, record: Record) -> str:
    lines = [["difference", "", "mean", "p", "by seed"], ["---", "---", "---:", "---:", "---:"]]
    for kind, comparisons in (("named beforehand", claim.primary), ("further", claim.further)):
        for compared in comparisons:
            found = record.difference(compared)
            better, worse = (record.method(each).compatibility for each in compared)
            by_seed = ", ".join(f"{a - b:+.3f}" for a, b in zip(better, worse, strict=True))
            row = [named(compared), kind, interval(found, sign=True), p_value(found.p), by_seed]
            lines.append(row)
    return table(lines)


def measured_how(record: Record) -> Iterator[str]:
    photos = "" if record.photos is None else f" of {counted(record.photos, 'toy photo')}"
    of = record.settings
    hours = sum(sum(training.seconds) for training in record.trainings) / 3600
    yield (
        f"- Bank{photos}: content digest `{of.content_digest}`, derived digest "
        f"`{record.derived_digest}`."
    )
    yield (
        f"- {counted(of.scenes, 'test scene')}, {of.candidates} candidates per object, "
        f"{of.draws} draws per scene, no patch twice in a scene."
    )
    yield (
        f"- {counted(of.seeds, 'seed')}, {counted(of.steps, 'step')} of recipe `demo` "
        f"each; scored at the last step."
    )
    yield (
        f"- {hours:.2f} hours of training and {record.scoring_seconds / 3600:.2f} of scoring "
        f"({record.machine}). What several claims use is counted in each."
    )
    yield f"- {PAPER_HERE}"
    yield (
        "- *Compatibility*: the share of pairs of patches chosen for a scene whose hidden styles "
        "agree; *unlike choices*: the share of a scene's draws that differ from those before them; "
        "*styles shown*: in how many styles a scene's draws show it."
    )


def training_table(record: Record) -> str:
    lines = [["training", "minutes, by seed"], ["---", "---:"]]
    for training in record.trainings:
        minutes = ", ".join(f"{seconds / 60:.1f}" for seconds in training.seconds)
        lines.append([training.name, minutes])
    return table(lines)


def named(compared: Comparison) -> str:
    return f"{compared.better} against {compared.worse}"


def interval(mean: Mean, *, sign: bool = False) -> str:
    shape = "+.3f" if sign else ".3f"
    return f"{mean.value:{shape}} ({mean.low:{shape}} to {mean.high:{shape}})"


def p_value(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def table(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode())
