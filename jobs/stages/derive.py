"""A bank's content -> networks, features, co-occurrence vectors, index, candidates.

Each stage is skipped where an earlier run has left its receipt.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bank.candidates import find_candidates, write_candidates
from bank.contents import Contents
from bank.errors import BankError
from bank.files import FileDigest, json_digest
from bank.index import FORMAT as INDEX_FORMAT
from bank.index import build_indexes
from bank.recipe import SEED, TRAIN, Scope
from bank.table import codes, read_vectors, vectors_to_fill
from jobs.stages.project import PROJECT, TRAINING, code_digest
from jobs.stages.receipts import WORK, Receipt, digests, find_receipt, leave_receipt
from model.frozen import SavedTraining
from model.graph import frozen_encoder
from model.graph.frozen_encoder import embed_scenes, train_graph_encoder
from model.graph.vocabularies import compare_vocabularies, listed
from model.retrieval import cooccurrence
from model.retrieval.cooccurrence import CooccurrenceNetwork, embed_patches, train_cooccurrence
from model.sg2im.published import ignored_note, is_published, load_published_graph
from model.sg2im.run import load_graph_encoder
from pipeline import codec
from pipeline.errors import UserError
from pipeline.output import log
from pipeline.progress import progress
from pipeline.scene import Vocabulary
from pipeline.wording import counted

SCENES_AT_ONCE = 256
PATCHES_AT_ONCE = 512


@dataclass(frozen=True)
class DeriveOptions:
    """What decides the part of a bank that is derived from its content."""

    graph_encoder: str  # "train" or a path
    graph_encoder_digest: str  # of that file; "train" where there is none
    encoder_steps: int | None  # of training; None: by number of scenes
    cooccurrence: str
    cooccurrence_digest: str
    cooccurrence_steps: int | None
    candidates: int
    candidate_scope: Scope


@dataclass(frozen=True)
class Derivation:
    """What every derived file is made from."""

    contents: Contents
    content_digest: str
    options: DeriveOptions

    @property
    def bank(self) -> Path:
        return self.contents.folder

    @cached_property
    def encoder_steps(self) -> int:
        """0 where the network is read from a file."""
        asked, default = self.options.encoder_steps, frozen_encoder.default_steps
        return self._steps(self.options.graph_encoder, asked, default)

    @cached_property
    def cooccurrence_steps(self) -> int:
        """0 where the network is read from a file."""
        asked, default = self.options.cooccurrence_steps, cooccurrence.default_steps
        return self._steps(self.options.cooccurrence, asked, default)

    def _steps(self, source: str, asked: int | None, default: Callable[[int], int]) -> int:
        if source != TRAIN:
            return 0
        return default(len(self.contents.scene_ids("train"))) if asked is None else asked

    def stage(
        self, name: str, inputs: Any, outputs: tuple[str, ...], make: Callable[[], None]
    ) -> Receipt:
        """Run `make`, which writes `outputs` (files or folders), unless that has been done."""
        key = self._key(inputs)
        if done := find_receipt(self.bank, name, key):
            return done
        make()
        receipt = Receipt(name, key, digests(self.bank, self._files(outputs)))
        leave_receipt(self.bank, receipt)
        return receipt

    def _key(self, inputs: Any) -> str:
        return json_digest([self.content_digest, inputs, version("torch")])

    def training(self, name: str, inputs: Any) -> SavedTraining:
        """Where a network's training is saved as it goes."""
        key = json_digest([self._key(inputs), code_digest(PROJECT, TRAINING), codec.machine()])
        return SavedTraining(self.bank / WORK / f"{name}.safetensors", key)

    def _files(self, outputs: tuple[str, ...]) -> Iterator[Path]:
        for output in outputs:
            path = self.bank / output
            yield from (p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]


def derive(derivation: Derivation) -> dict[str, FileDigest]:
    """All derived files, in order; their digests by path in the bank."""
    encoder = graph_encoder(derivation)
    network = cooccurrence_network(derivation)
    features = object_features(derivation, encoder)
    vectors = patch_vectors(derivation, network)
    index = search_index(derivation, features)
    candidates = nearest_candidates(derivation, features)
    receipts = (encoder, network, features, vectors, index, candidates)
    return {path: digest for r in receipts for path, digest in r.outputs.items()}


def graph_encoder(derivation: Derivation) -> Receipt:
    """graph_encoder.safetensors: trained on the bank's training graphs, or read from a file."""
    contents, options = derivation.contents, derivation.options
    path = derivation.bank / "graph_encoder.safetensors"
    name, inputs = "graph-encoder", [options.graph_encoder_digest, derivation.encoder_steps, SEED]

    def make() -> None:
        if options.graph_encoder == TRAIN:
            scenes = list(contents.iterate(contents.scene_ids("train"), image=False))
            network = train_graph_encoder(
                scenes,
                contents.vocabulary,
                steps=derivation.encoder_steps,
                seed=SEED,
                saved=derivation.training(name, inputs),
            )
        else:
            network = load_graph_encoder(Path(options.graph_encoder))
        network.save(path)

    return derivation.stage(name, inputs, (path.name,), make)


def cooccurrence_network(derivation: Derivation) -> Receipt:
    """cooccurrence.safetensors: trained on the bank's training photos, or read from a file."""
    contents, options = derivation.contents, derivation.options
    path = derivation.bank / "cooccurrence.safetensors"
    inputs = [options.cooccurrence_digest, derivation.cooccurrence_steps, SEED]
    name = "cooccurrence"

    def make() -> None:
        if options.cooccurrence == TRAIN:
            photos = contents.patches_of_images(contents.scene_ids("train"))
            network = train_cooccurrence(
                contents.patches.read,
                photos,
                steps=derivation.cooccurrence_steps,
                seed=SEED,
                saved=derivation.training(name, inputs),
            )
        else:
            network = CooccurrenceNetwork.load(Path(options.cooccurrence))
        network.save(path)

    return derivation.stage(name, inputs, (path.name,), make)


def check_networks(encoder: str, f_occur: str, vocabulary: Vocabulary) -> None:
    """UserError for a network file that cannot be used: before the hours of cutting."""
    if encoder != TRAIN:
        _check_names(Path(encoder), vocabulary)
    if f_occur != TRAIN:
        CooccurrenceNetwork.load(Path(f_occur))


def _check_names(path: Path, vocabulary: Vocabulary) -> None:
    """UserError for a name of the dataset that the network lacks; prints names it has besides."""
    if is_published(path) and (ignored := load_published_graph(path).ignored):
        log.info(ignored_note(path, ignored))
    difference = compare_vocabularies(load_graph_encoder(path).vocabulary, vocabulary)
    if unknown := [*difference.unknown_objects, *difference.unknown_predicates]:
        raise UserError(
            f"--graph-encoder {path} does not know {len(unknown)} of the dataset's names: "
            f"{', '.join(unknown)}; give one that was trained on them, or 'train'"
        )
    if unused := [*difference.unused_objects, *difference.unused_predicates]:
        names = counted(len(unused), "name")
        log.info(f"{path} also knows {names} that this dataset lacks: {listed(unused)}")


def object_features(derivation: Derivation, encoder: Receipt) -> Receipt:
    """features.arrow: each object's vector after the graph network has seen its scene."""
    contents = derivation.contents
    path = derivation.bank / "features.arrow"

    def make() -> None:
        network = load_graph_encoder(derivation.bank / "graph_encoder.safetensors")
        width = network.obj_embeddings.embedding_dim
        images = contents.image_ids
        starts = range(0, len(images), SCENES_AT_ONCE)
        filled = 0
        with vectors_to_fill(path, contents.patch_ids, width, "feature") as vectors:
            for start in progress(starts, "object features", len(starts), "block"):
                samples = list(
                    contents.iterate(images[start : start + SCENES_AT_ONCE], image=False)
                )
                rows = contents.patches.rows(np.concatenate([s.patch_ids for s in samples]))
                vectors[rows] = embed_scenes(network, samples)
                filled += len(np.unique(rows))
            if filled != len(vectors):
                raise BankError(
                    f"{derivation.bank} has {counted(len(vectors) - filled, 'patch')} in no scene; "
                    f"`python -m jobs.verify_bank {derivation.bank}` names all that is damaged"
                )

    return derivation.stage("features", _digests(encoder), (path.name,), make)


def patch_vectors(derivation: Derivation, network: Receipt) -> Receipt:
    """cooccurrence.arrow: F_occur of every patch, so that training never runs it."""
    contents = derivation.contents
    path = derivation.bank / "cooccurrence.arrow"

    def make() -> None:
        f_occur = CooccurrenceNetwork.load(derivation.bank / "cooccurrence.safetensors")
        ids = contents.patch_ids
        starts = range(0, len(ids), PATCHES_AT_ONCE)
        width = f_occur.sizes["features"]
        with vectors_to_fill(path, ids, width, "co_occurrence") as vectors:
            for start in progress(starts, "co-occurrence vectors", len(starts), "block"):
                some = slice(start, start + PATCHES_AT_ONCE)
                vectors[some] = embed_patches(f_occur, contents.patches.read(ids[some]))

    return derivation.stage("cooccurrence-vectors", _digests(network), (path.name,), make)


def search_index(derivation: Derivation, features: Receipt) -> Receipt:
    """index/: training patches by category, for graphs that are not in the bank."""
    contents, bank = derivation.contents, derivation.bank

    def make() -> None:
        ids, vectors = read_vectors(bank / "features.arrow", "feature")
        train = training_rows(contents)
        categories = np.array(contents.strings("category"), object)[train].tolist()
        digest = derivation.content_digest
        build_indexes(bank / "index", vectors[train], ids[train], categories, digest)

    return derivation.stage("index", [_digests(features), INDEX_FORMAT], ("index",), make)


def nearest_candidates(derivation: Derivation, features: Receipt) -> Receipt:
    """candidates.arrow: for every patch its nearest training patches of other photos.

    Equal files are one photo.
    """
    contents, options = derivation.contents, derivation.options
    path = derivation.bank / "candidates.arrow"

    def make() -> None:
        ids, vectors = read_vectors(derivation.bank / "features.arrow", "feature")
        candidates = find_candidates(
            vectors,
            ids,
            contents.photos_of_patches,
            contents.strings("category"),
            training_rows(contents),
            options.candidates,
            options.candidate_scope,
        )
        write_candidates(path, ids, candidates)

    photos = hashlib.sha256(contents.photos_of_patches.tobytes()).hexdigest()
    inputs = [_digests(features), photos, options.candidates, options.candidate_scope]
    return derivation.stage("candidates", inputs, (path.name,), make)


def training_rows(contents: Contents) -> NDArray[np.bool_]:
    """(B,) True for patches of training photos: only these become candidates."""
    names, split = codes(contents.table, "split")
    training: NDArray[np.bool_] = split == names.index("train") if "train" in names else split < 0
    return training


def _digests(receipt: Receipt) -> Mapping[str, str]:
    return {path: digest.sha256 for path, digest in receipt.outputs.items()}
