"""Scores as Markdown: what was measured and how, the retrieval of each run, both blocks of the
paper's Table 1."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bank.bank import Bank
from jobs.show.methods import noise_note
from model.config import MinQuality
from model.scores.intervals import Score
from model.scores.measure import STYLE_ACCURACY, Measurement
from model.scores.picture_scores import LAYOUT, STYLE
from model.scores.protocol import Protocol
from model.scores.retrieval import (
    GROUND_TRUTH,
    OWN_CATEGORY,
    REPEATED_CROP,
    STYLES_SHOWN,
    UNLIKE_CHOICES,
    Offered,
)
from pipeline.wording import counted

PER_SCENE = (REPEATED_CROP, STYLES_SHOWN, UNLIKE_CHOICES)  # a value per scene, not per pair
STAND_INS = ("efficientnet-lite0", "squeezenet")
# Smaller is better; of all others larger is.
SMALLER = ("FID", "KID", "FD-DINOv2", "Fréchet distance", "kernel distance", REPEATED_CROP)
BLOCKS = {
    "predicted": "Boxes predicted by each model",
    "gt": "True boxes given",
    "": "Photos",
}


class PaperRow(NamedTuple):
    """A row of the paper's Table 1: FID, IS and its deviation, DS and its deviation."""

    model: str
    fid: str
    inception: str
    diversity: str


# Table 1: dataset -> block -> rows, at 128x128, by a protocol that the paper does not state.
PAPER = {
    "coco": {
        "predicted": (
            PaperRow("sg2im", "136.8", "4.1 ± 0.1", "0.02 ± 0.0"),
            PaperRow("AttnGAN", "72.8", "8.4 ± 0.2", "0.14 ± 0.1"),
            PaperRow("PasteGAN", "59.8", "8.8 ± 0.3", "0.43 ± 0.1"),
            PaperRow("RetrieveGAN", "43.2", "10.6 ± 0.6", "0.34 ± 0.1"),
        ),
        "gt": (
            PaperRow("sg2im", "79.9", "8.5 ± 0.1", "0.02 ± 0.0"),
            PaperRow("layout2im", "45.3", "10.2 ± 0.6", "0.29 ± 0.1"),
            PaperRow("PasteGAN", "54.9", "9.6 ± 0.2", "0.38 ± 0.1"),
            PaperRow("RetrieveGAN", "42.7", "10.7 ± 0.1", "0.21 ± 0.1"),
        ),
        "": (PaperRow("real data", "6.8", "24.3 ± 0.3", "-"),),
    },
    "vg": {
        "predicted": (
            PaperRow("sg2im", "126.9", "5.1 ± 0.1", "0.11 ± 0.1"),
            PaperRow("AttnGAN", "114.6", "10.4 ± 0.2", "0.27 ± 0.2"),
            PaperRow("PasteGAN", "81.8", "6.7 ± 0.2", "0.30 ± 0.1"),
            PaperRow("RetrieveGAN", "70.3", "7.7 ± 0.1", "0.24 ± 0.1"),
        ),
        "gt": (
            PaperRow("sg2im", "111.9", "5.8 ± 0.1", "0.13 ± 0.1"),
            PaperRow("layout2im", "44.0", "9.3 ± 0.4", "0.29 ± 0.1"),
            PaperRow("PasteGAN", "68.1", "6.7 ± 0.1", "0.28 ± 0.1"),
            PaperRow("RetrieveGAN", "46.3", "9.1 ± 0.1", "0.23 ± 0.1"),
        ),
        "": (PaperRow("real data", "6.9", "24.1 ± 0.4", "-"),),
    },
}
PAPER_COLUMNS = ("FID", "IS", "DS")
OF_OBJECTS = (STYLE, LAYOUT, STYLE_ACCURACY)
PUBLISHED, OBJECTS = "published", "objects"  # tables that are of no stand-in


def score_tables(protocol: Protocol, bank: Bank, found: Measurement) -> str:
    """All tables of a measurement."""
    parts = [headline(protocol)]
    if found.offered is not None:
        parts.append(offer(found.offered, protocol.min_quality))
    pictured = [each for each in found.scores if is_of_pictures(each.score)]
    retrieval = [each for each in found.scores if each not in pictured]
    for run in dict.fromkeys(each.run for each in retrieval):
        parts.append(retrieval_tables(run, [each.score for each in retrieval if each.run == run]))
    if pictured:
        dataset = bank.manifest.recipe["dataset"]
        parts.append(picture_tables([each.score for each in pictured], dataset))
        noisy = [run.path for run in protocol.runs if run.noise]
        parts += [noise_note(noisy)] * bool(noisy)
    return "\n\n".join(parts)


def headline(protocol: Protocol) -> str:
    """What was measured, in short; the card has all of it."""
    runs = [f"{run.path} at step {run.step:,}" for run in protocol.runs if run.step is not None]
    alike = protocol.near_duplicates_left_out
    parts = [
        f"Split {protocol.split}, {counted(len(protocol.image_ids), 'scene')}",
        *([] if alike is None else [f"{alike:,} that look like training photos left out"]),
        " ".join(filter(None, [f"K = {protocol.candidates}", protocol.min_quality.flags])),
        *([] if protocol.start is None else [f"start {protocol.start}"]),
        f"{counted(protocol.draws, 'draw')} per scene",
        f"{counted(protocol.per_graph, 'picture')} per graph"
        + (" through JPEG" if protocol.image_format == "jpg" else ""),
        f"seed {protocol.seed}",
        f"bank {protocol.content_digest[:12]}",
        f"protocol {protocol.digest[:8]}",
    ]
    legend = (
        "In brackets 95 % intervals over scenes; ± is the standard deviation over subsets (kernel "
        "distance), splits (IS, classifier score) or pairs (DS, diversity)."
    )
    return "; ".join([", ".join(parts), *runs]) + f".\n\n{legend}"


def offer(offered: Offered, minimum: MinQuality) -> str:
    """What there was to choose from, of candidates of a quality."""
    short = (
        f" {offered.below:,} have none of {minimum.flags}, and are offered one that falls short."
    )
    return (
        f"Offered: {offered.mean_candidates:.1f} candidates per object on average, "
        f"{offered.median_candidates:g} the median; {offered.without_own_category:,} of "
        f"{counted(offered.objects, 'object')} have none of their own category."
        f"{short * minimum.asks} In ground-truth "
        f"selection chance is {offered.chance:.3f}; {offered.overlapping_pairs:,} of "
        f"{counted(offered.pairs, 'pair')} of objects are left out, since their true crops "
        "overlap, and the others count twice, with either object as the query."
    )


def is_of_pictures(score: Score) -> bool:
    return score.pictures is not None


def retrieval_tables(run: str | None, scores: Sequence[Score]) -> str:
    """Of one run: of embeddings, whose rows they share, and of ways of choosing."""
    of_embeddings = [s for s in scores if s.metric in (GROUND_TRUTH, OWN_CATEGORY)]
    of_choices = [s for s in scores if s not in of_embeddings]
    tables = [
        _retrieval_table(title, some)
        for title, some in (("embedding", of_embeddings), ("way of choosing", of_choices))
        if some
    ]
    return "\n\n".join([f"**Retrieval, {run}**", *tables])


def _retrieval_table(rows_are: str, scores: Sequence[Score]) -> str:
    metrics = list(dict.fromkeys(s.metric for s in scores))
    by_place = {(s.choice, s.metric): s for s in scores}
    heads = [head for m in metrics for head in (f"{m} {_arrow(m)}", f"{_unit(m)}")]
    lines = [[rows_are, *heads], ["---", *["---:"] * len(heads)]]
    for choice in _names(scores):
        line = [choice]
        for metric in metrics:
            score = by_place.get((choice, metric))
            line += ["-", ""] if score is None else [cell(score), f"{score.pairs or 0:,.0f}"]
        lines.append(line)
    return _markdown(lines)


def _unit(metric: str) -> str:
    return "scenes" if metric in PER_SCENE else "pairs"


def _arrow(metric: str) -> str:
    return "↓" if metric.startswith(SMALLER) else "↑"


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture_tables(scores: Sequence[Score], dataset: str) -> str:
    """A table of both blocks for what each extractor says, and one for the objects."""
    groups: dict[str, list[Score]] = {}
    for score in scores:
        groups.setdefault(group_of(score.metric), []).append(score)
    paper = PAPER.get(dataset, {})
    if paper:
        groups = {PUBLISHED: groups.pop(PUBLISHED, []), **groups}
    return "\n\n".join(
        picture_table(group, some, paper if group == PUBLISHED else {})
        for group, some in groups.items()
    )


def group_of(metric: str) -> str:
    """Which table a score stands in: `recall (squeezenet)` in that of squeezenet."""
    if metric in OF_OBJECTS:
        return OBJECTS
    _, bracket, rest = metric.partition(" (")
    return rest.removesuffix(")") if bracket else PUBLISHED


def picture_table(
    group: str, scores: Sequence[Score], paper: Mapping[str, Sequence[PaperRow]]
) -> str:
    """Blocks of rows, the paper's below ours."""
    metrics = list(dict.fromkeys(s.metric for s in scores))
    metrics = [*(m for m in PAPER_COLUMNS if paper and m not in metrics), *metrics]
    heads = [m.removesuffix(f" ({group})") for m in metrics]
    arrows = [f"{head} {_arrow(head)}" for head in heads]
    notes: list[str] = []
    rows = []
    for boxes, title in BLOCKS.items():
        of_block = [s for s in scores if s.boxes == boxes]
        block = [_row(name, of_block, metrics, notes) for name in _names(of_block)]
        block += [_paper_row(row, metrics) for row in paper.get(boxes, ())]
        if block:
            rows += [[f"*{title}*"], *block]
    paired = any(s.pairs and s.metric not in OF_OBJECTS for s in scores)
    counts = ["scenes", "pictures", *["unlike pairs"] * paired]
    lines = [["", *arrows, *counts], ["---", *["---:"] * (len(metrics) + len(counts))], *rows]
    lines = [line + [""] * (len(lines[0]) - len(line)) for line in lines]
    if paper:
        notes.append(
            "The paper's rows are of its Table 1, at 128 px, by a protocol that it does not state."
        )
    return "\n\n".join([f"**{title_of(group)}**", _markdown(lines), *dict.fromkeys(notes)])


def title_of(group: str) -> str:
    if group == PUBLISHED:
        return "Pictures, by the published networks"
    if group == OBJECTS:
        return "Objects in the pictures"
    if group in STAND_INS:
        return f"Pictures, by {group}: a stand-in, so no FID, KID, IS, DS"
    return f"Pictures, by {group}"


def _names(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(s.choice for s in scores))


def _row(name: str, scores: Sequence[Score], metrics: Sequence[str], notes: list[str]) -> list[str]:
    by_metric = {s.metric: s for s in scores if s.choice == name}
    cells = []
    for metric in metrics:
        if (score := by_metric.get(metric)) is None:
            cells.append("-")
            continue
        cells.append(cell(score) + ("*" if score.note else ""))
        if score.note:
            notes.append(f"\\* unreliable: {score.note}")
    pictures = max((s.pictures or 0 for s in by_metric.values()), default=0)
    pairs = [s.pairs for s in by_metric.values() if s.pairs and s.metric not in OF_OBJECTS]
    scenes = max((s.scenes for s in by_metric.values()), default=0)
    return [name, *cells, f"{scenes:,}", f"{pictures:,}", *(f"{n:,.0f}" for n in pairs[:1])]


def _paper_row(row: PaperRow, metrics: Sequence[str]) -> list[str]:
    values = dict(zip(PAPER_COLUMNS, row[1:], strict=True))
    return [f"*{row.model}, the paper*", *(values.get(m, "-") for m in metrics)]


def cell(score: Score) -> str:
    """The value, with what is known of how far it can be trusted."""
    digits = 1 if abs(score.value) >= 10 else 3
    text = f"{score.value:z.{digits}f}"
    if score.spread is not None:
        return f"{text} ± {score.spread:.{digits}f}"
    return text if score.low is None else f"{text} ({score.low:.3f} to {score.high:.3f})"
