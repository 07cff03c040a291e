"""The score by which a run in training keeps its best checkpoint."""

from collections.abc import Callable

import numpy as np
import torch
from torch import nn

from bank.bank import Bank
from model.retrievegan.network import RetrieveGAN
from model.scores.retrieval import ground_truth
from model.scores.scenes import constant, distinct_patches, embed, scene_batches
from pipeline.progress import reporting

VALIDATION_SCENES = 256  # scored while a run is trained


def validation_score(model: nn.Module, bank: Bank) -> Callable[[], float] | None:
    """What gives the ground-truth selection score of the network as it then is, on some val scenes
    and with the candidates of training: a function of its weights and the bank.

    None where there is nothing to score: retrieval is not learned, or no val scene has a pair.
    """
    if not isinstance(model, RetrieveGAN) or model.config.retrieval.mode != "learned":
        return None
    ids = bank.scene_ids("val")
    if not len(ids):
        return None
    some = np.random.default_rng(0).choice(ids, min(VALIDATION_SCENES, len(ids)), replace=False)
    device = next(model.parameters()).device
    rule = model.config.retrieval
    batches = scene_batches(bank, np.sort(some), rule.candidates, device, rule.min_quality)
    patches = distinct_patches(batches)

    def score() -> float:
        with reporting(lambda _: None):  # no bar for these seconds
            features = embed(model, bank, patches)
        pairs = [ground_truth(batch, features, 0) for batch in batches]
        return float(torch.cat([p.credit for p in pairs]).mean())

    credits = [ground_truth(batch, constant(patches), 0).credit for batch in batches]
    return score if sum(map(len, credits)) else None
