"""What the frozen networks say of every object and patch: features.arrow, cooccurrence.arrow.

Of a bank's next version only new scenes and patches pass through the networks, where these are the
same: equal ones have their vectors already.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bank.errors import BankError
from bank.files import FileDigest, file_digest
from bank.manifest import read_manifest
from bank.shards import close_shards, rows_of
from bank.table import read_vectors, vectors_to_fill
from bank.tasks import Place, contents_at
from jobs.stages.blocks import Block, Stage, even_ranges
from model.graph.frozen_encoder import embed_scenes
from model.retrieval.cooccurrence import CooccurrenceNetwork, embed_patches
from model.sg2im.run import load_graph_encoder
from pipeline.scene import image_of, patch_id
from pipeline.wording import counted

SCENES = 1024  # of a block of features
PATCHES = 8192  # of a block of co-occurrence vectors
SCENES_AT_ONCE, PATCHES_AT_ONCE = 256, 512  # that are held in memory
PART = "vectors.float32"  # a part: the rows of its patches, end to end


class VectorStage(Stage):
    """A vector for every patch; blocks are of consecutive patches."""

    column: ClassVar[str]
    network: ClassVar[str]  # file

    def join(self, parts: Sequence[Path]) -> None:
        (name,) = self.outputs
        ids = self.contents.patch_ids
        sizes = sum((part / PART).stat().st_size for part in parts)
        width = sizes // (np.dtype(np.float32).itemsize * max(1, len(ids)))
        with vectors_to_fill(self.bank / name, ids, width, self.column) as vectors:
            start = 0
            for part in parts:
                some = np.fromfile(part / PART, np.float32).reshape(-1, width)
                vectors[start : start + len(some)] = some
                start += len(some)

    def take_over(self, needs: Mapping[str, FileDigest]) -> Place | None:
        """The earlier bank, where its vectors are of the same network, and whole."""
        earlier = self.derivation.earlier
        if earlier is None:
            return None
        manifest, (name,) = read_manifest(earlier), self.outputs
        same = (
            manifest.files.get(self.network) == needs[self.network]
            and manifest.versions.get("torch") == self.software["torch"]
            and file_digest(earlier / name) == manifest.files[name]
        )
        return Place.of(earlier, manifest) if same else None


class ObjectFeatures(VectorStage):
    """features.arrow: each object's vector after the graph network has seen its scene."""

    name, title, outputs = "features", "object features", ("features.arrow",)
    needs = ("graph-encoder",)
    column, network = "feature", "graph_encoder.safetensors"

    def ranges(self) -> Sequence[tuple[int, int]]:
        return even_ranges(len(self.contents.image_ids), SCENES)

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        network = load_graph_encoder(block.bank / ObjectFeatures.network)
        contents, some = block.contents, slice(block.start, block.stop)
        images, digests = contents.image_ids[some], contents.sample_digests[some]
        bounds = np.array([images[0], images[-1] + 1], np.int64)
        first, last = np.searchsorted(contents.patch_ids, patch_id(bounds, 0))
        ids = contents.patch_ids[first:last]
        vectors = np.empty((len(ids), network.obj_embeddings.embedding_dim), np.float32)
        is_new = np.ones(len(images), bool)
        if block.earlier:
            earlier = contents_at(block.earlier)
            is_new = ~_is_known(images, digests, earlier.image_ids, earlier.sample_digests)
            known = np.flatnonzero(~np.isin(image_of(ids), images[is_new]))
            vectors[known] = _vectors_of(block.earlier, ObjectFeatures, ids[known])
        filled = np.isin(image_of(ids), images[~is_new])
        for group in _in_groups(images[is_new], SCENES_AT_ONCE):
            samples = list(contents.iterate(group, image=False))
            rows = np.searchsorted(ids, np.concatenate([s.patch_ids for s in samples]))
            vectors[rows] = embed_scenes(network, samples)
            filled[rows] = True
        if not filled.all():
            raise BankError(
                f"{block.bank} has {counted(int((~filled).sum()), 'patch')} in no scene; "
                f"`python -m jobs.verify_bank {block.bank}` names all that is damaged"
            )
        (folder / PART).write_bytes(vectors.data)


class PatchVectors(VectorStage):
    """cooccurrence.arrow: F_occur of every patch, so that training never runs it."""

    name, title, outputs = "cooccurrence-vectors", "co-occurrence vectors", ("cooccurrence.arrow",)
    needs = ("cooccurrence",)
    column, network = "co_occurrence", "cooccurrence.safetensors"

    def ranges(self) -> Sequence[tuple[int, int]]:
        return even_ranges(len(self.contents.patch_ids), PATCHES)

    @staticmethod
    def make(block: Block, folder: Path) -> None:
        network = CooccurrenceNetwork.load(block.bank / PatchVectors.network)
        patches, some = block.contents.patches, slice(block.start, block.stop)
        ids = patches.ids[some]
        vectors = np.empty((len(ids), network.sizes["features"]), np.float32)
        is_new = np.ones(len(ids), bool)
        if block.earlier:
            earlier = contents_at(block.earlier).patches
            is_new = ~_is_known(ids, patches.digests[some], earlier.ids, earlier.digests)
            vectors[~is_new] = _vectors_of(block.earlier, PatchVectors, ids[~is_new])
        for rows in _in_groups(np.flatnonzero(is_new), PATCHES_AT_ONCE):
            vectors[rows] = embed_patches(network, patches.read(ids[rows]))
            close_shards()
        (folder / PART).write_bytes(vectors.data)


def _in_groups(values: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    return (values[start : start + size] for start in range(0, len(values), size))


def _is_known(
    keys: NDArray[np.int64],
    digests: NDArray[np.uint8],
    earlier_keys: NDArray[np.int64],
    earlier_digests: NDArray[np.uint8],
) -> NDArray[np.bool_]:
    """(n,) whether the earlier bank has the same, by key (n,) and digest (n, 32)."""
    rows = np.searchsorted(earlier_keys, keys).clip(max=len(earlier_keys) - 1)
    same = (earlier_keys[rows] == keys) & (earlier_digests[rows] == digests).all(1)
    known: NDArray[np.bool_] = same
    return known


def _vectors_of(
    earlier: Place, stage: type[VectorStage], ids: NDArray[np.int64]
) -> NDArray[np.float32]:
    (name,) = stage.outputs
    path = earlier.bank / name
    known, vectors = read_vectors(path, stage.column)
    found: NDArray[np.float32] = vectors[rows_of(known, ids, path)]
    return found
