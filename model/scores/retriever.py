"""A run's way of choosing patches for held-out scenes."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from bank.bank import Bank
from model.config import RetrievalConfig
from model.retrievegan.network import RetrieveGAN
from model.scores.choices import SelectionMethod, by_rule
from model.scores.scenes import Features, Scenes, distinct_patches, embed


class Retriever:
    """A network that chooses patches, with E_p of all patches that it can be offered."""

    def __init__(
        self,
        model: RetrieveGAN,
        bank: Bank,
        batches: Sequence[Scenes],
        rule: RetrievalConfig,
        *,
        noise: bool,
    ) -> None:
        self.model, self.bank, self.rule, self.noise = model, bank, rule, noise
        self.patches = distinct_patches(batches)
        learned = rule.mode == "learned"
        self.trained = embed(model, bank, self.patches) if learned else None

    @property
    def method(self) -> SelectionMethod:
        """As `jobs.sample` chooses: no crop serves two objects of a scene."""
        unlike = replace(self.rule, same_patch_allowed=False)
        return by_rule(unlike, self.trained, noise=self.noise)

    def untrained(self) -> Features:
        """E_p of the network before its first step, from the run's own seed."""
        model, device = self.model, next(self.model.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(model.config.seed)  # as the trainer does
            untrained = RetrieveGAN(model.config, self.bank.vocabulary).to(device).eval()
        return embed(untrained, self.bank, self.patches)

    def embeddings(self) -> dict[str, Features]:
        """E_p by name: of the network before its first step too."""
        named = {"untrained": self.untrained()}
        return named if self.trained is None else {"trained": self.trained, **named}
