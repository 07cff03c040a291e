"""What is found by object features: index/, for graphs that are not in the bank, and
candidates.arrow."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bank.candidates import find_candidates, write_candidates
from bank.index import FORMAT as INDEX_FORMAT
from bank.index import build_indexes
from bank.table import read_vectors
from jobs.stages.blocks import Stage, software
from jobs.stages.derivation import training_rows


class SearchIndex(Stage):
    """index/: training patches by category."""

    name, title, outputs = "index", "search index", ("index",)
    needs = ("features",)

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"format": INDEX_FORMAT}

    @property
    def software(self) -> Mapping[str, str]:
        return software("torch", "faiss")

    def ranges(self) -> Sequence[tuple[int, int]]:
        return []

    @staticmethod
    def make(block, folder):
        raise NotImplementedError

    def join(self, parts: Sequence[Path]) -> None:
        contents = self.contents
        ids, vectors = read_vectors(self.bank / "features.arrow", "feature")
        train = training_rows(contents)
        categories = np.array(contents.strings("category"), object)[train].tolist()
        digest = self.derivation.content_digest
        build_indexes(self.bank / "index", vectors[train], ids[train], categories, digest)


class NearestCandidates(Stage):
    """candidates.arrow: for every patch its nearest training patches of other photos.

    Equal files are one photo.
    """

    name, title, outputs = "candidates", "candidates", ("candidates.arrow",)
    needs = ("features",)

    @property
    def settings(self) -> Mapping[str, Any]:
        options = self.derivation.options
        photos = hashlib.sha256(self.contents.photos_of_patches.tobytes()).hexdigest()
        return {"k": options.candidates, "scope": options.candidate_scope, "photos": photos}

    def ranges(self) -> Sequence[tuple[int, int]]:
        return []

    @staticmethod
    def make(block, folder):
        raise NotImplementedError

    def join(self, parts: Sequence[Path]) -> None:
        contents, options = self.contents, self.derivation.options
        ids, vectors = read_vectors(self.bank / "features.arrow", "feature")
        candidates = find_candidates(
            vectors,
            ids,
            contents.photos_of_patches,
            contents.strings("category"),
            training_rows(contents),
            options.candidates,
            options.candidate_scope,
        )
        write_candidates(self.bank / "candidates.arrow", ids, candidates)
