"""A run and its bank in, a table of scores out, which is also kept in the run's metrics.jsonl."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bank.bank import Bank
from bank.files import file_digest
from jobs.show.options import Evaluate
from model.config import RetrieveGANConfig
from model.device import choose_device
from model.retrieval.choice import is_drawn
from model.retrievegan.network import RetrieveGAN
from model.retrievegan.run import bank_of, load_network
from model.scores.retrieval import (
    Score,
    compatibility_scores,
    distinct_patches,
    embed,
    ground_truth_scores,
    scene_batches,
    selection_methods,
)
from pipeline.datasets import default_folder
from pipeline.errors import UserError
from pipeline.output import log
from pipeline.scene import image_of
from pipeline.wording import counted

CANDIDATES = 20  # K, if the bank stores as many
DRAWS = 4  # random starts per scene, over which compatibility is averaged
METRICS = "metrics.jsonl"
OUT_OF_RANGE = (RecursionError, OverflowError)  # JSON nested too deeply, or with an infinite number
MOST_STYLES = 1000  # in a file of styles; the toy world has twelve


def score(options: Evaluate) -> None:
    device = choose_device(options.device)
    model, bank, step = open_retrievegan(options, device)
    styles = read_styles(options.styles, bank)
    image_ids = scenes_to_score(bank, options)
    k = options.candidates or min(CANDIDATES, bank.num_candidates)
    # Where the start is not drawn, further draws would change only "random" and "learned, noise
    # on", and all rows should be of equally many draws: one.
    draws = DRAWS if is_drawn(model.config.retrieval.start) else 1
    protocol = {
        "run": options.run.resolve().name,
        "step": step,
        "split": options.split,
        "num_scenes": len(image_ids),
        "candidates": k,
        "start": model.config.retrieval.start,
        "draws": draws,
        "seed": options.seed,
        "bank": bank.content_digest,
    }
    batches = scene_batches(bank, image_ids, k, device)
    patches = distinct_patches(batches)
    embeddings = {
        name: embed(network, bank, patches)
        for name, network in embedding_networks(model, bank, device).items()
    }
    scores = ground_truth_scores(batches, embeddings, options.seed)
    if styles is not None:
        methods = selection_methods(model.config.retrieval, bank, styles, embeddings)
        scores += compatibility_scores(
            bank, batches, styles, methods, draws=draws, seed=options.seed
        )
    append_scores(options.run / METRICS, scores, protocol)
    print(format_scores(scores, protocol))
    if "trained" not in embeddings:
        log.info(f"\nretrieval is {model.config.retrieval.mode} in this run: its E_p is untrained")
    if styles is None:
        log.info(
            "\nno compatibility: the styles of this bank's photos are not known (--styles FILE)"
        )


def open_retrievegan(options: Evaluate, device: torch.device) -> tuple[RetrieveGAN, Bank, int]:
    """The run's network, its bank, and the step at which it was saved."""
    bank = bank_of(options.run, options.bank)
    model, state = load_network(options.run, bank, device, options.checkpoint)
    return model, bank, state.step


def embedding_networks(
    model: RetrieveGAN, bank: Bank, device: torch.device
) -> dict[str, RetrieveGAN]:
    """The networks whose patch embeddings are scored: the untrained one, and the run's own if its
    retrieval was trained."""
    networks = {"untrained": untrained_network(model.config, bank, device)}
    return {"trained": model, **networks} if model.config.retrieval.mode == "learned" else networks


def untrained_network(config: RetrieveGANConfig, bank: Bank, device: torch.device) -> RetrieveGAN:
    """The run's network before its first step, initialised from the run's own seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)  # as the trainer does
        return RetrieveGAN(config, bank.vocabulary).to(device).eval()


def scenes_to_score(bank: Bank, options: Evaluate) -> NDArray[np.int64]:
    """Image ids of the scenes, ascending."""
    ids = bank.scene_ids(options.split)
    if not len(ids):
        raise UserError(
            f"{bank.path} has no {options.split} scenes: build it with more photos, or score "
            f"--split {'test' if options.split == 'val' else 'val'}"
        )
    size = min(options.scenes, len(ids))
    return np.sort(np.random.default_rng(options.seed).choice(ids, size, replace=False))


def read_styles(path: Path | None, bank: Bank) -> NDArray[np.int64] | None:
    """The style of each patch's photo, in the order of `bank.patch_ids`; None where unknown."""
    if path is None:
        # Not `manifest.dataset`: in older toy banks that says coco.
        recipe = bank.manifest.recipe
        path = default_folder("toy", recipe.get("toy_format", "coco")) / "styles.json"
        toy = recipe.get("dataset") == "toy"
        if not toy or not path.is_file() or foreign_annotations(path, bank):
            return None
    elif foreign := foreign_annotations(path, bank):
        raise UserError(
            f"{foreign} is not what {bank.path} was built from, so {path} is of another toy world; "
            f"give the styles.json of the bank's own photos"
        )
    try:
        value = json.loads(path.read_text("utf-8"))["styles"]
        style_by_image = {int(image_id): int(style) for image_id, style in value.items()}
    except OSError as error:
        raise UserError(f"--styles {path} cannot be read: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, *OUT_OF_RANGE) as error:
        raise UserError(
            f'{path} is no file of styles: it should read {{"styles": {{"<image id>": 3, ...}}}}'
        ) from error
    image_ids = image_of(bank.patch_ids)
    return np.array([_style_of(int(i), style_by_image, path) for i in image_ids], np.int64)


def _style_of(image_id: int, style_by_image: Mapping[int, int], path: Path) -> int:
    style = style_by_image.get(image_id, -1)
    if not 0 <= style < MOST_STYLES:
        raise UserError(
            f"{path} has no style for photo {image_id} of the bank; give the styles.json beside "
            f"the photos that the bank was cut from"
        )
    return style


def foreign_annotations(styles: Path, bank: Bank) -> Path | None:
    """An annotation file in the folder of the styles that the bank was not built from, if any.

    Two toy worlds can have the same image ids. Without this check the styles of one would be
    accepted for the other.
    """
    for name, digest in bank.manifest.inputs.items():
        annotations = styles.parent / name
        if annotations.is_file() and file_digest(annotations).sha256 != digest:
            return annotations
    return None


def append_scores(path: Path, scores: Sequence[Score], protocol: Mapping[str, Any]) -> None:
    """Add one JSON line per score to the file, each with the protocol."""
    lines = [json.dumps({**asdict(s), **protocol}, ensure_ascii=False) + "\n" for s in scores]
    with path.open("a", encoding="utf-8") as file:
        file.write("".join(lines))


def format_scores(scores: Sequence[Score], protocol: Mapping[str, Any]) -> str:
    """A Markdown table of the scores, under a line that says how they were measured."""
    draws = protocol["draws"]
    lines = [
        f"{protocol['run']} at step {protocol['step']:,}: split {protocol['split']}, "
        f"{counted(protocol['num_scenes'], 'scene')}, K = {protocol['candidates']}, "
        f"start {protocol['start']} ({counted(draws, 'draw')} per scene and row), "
        f"seed {protocol['seed']}, bank {protocol['bank'][:12]}",
        "",
        "| score | choice | value | 95 % interval | scenes | pairs |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += [
        f"| {s.metric} | {s.choice} | {s.value:.3f} | {s.low:.3f} to {s.high:.3f} "
        f"| {s.scenes:,} | {s.pairs:,.0f} |"
        for s in scores
    ]
    return "\n".join(lines)
