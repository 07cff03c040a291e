"""What a reader returns: the photos of a dataset that its protocol keeps."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.protocol import Protocol
from pipeline.scene import AnnotatedPhoto, Vocabulary


@dataclass(frozen=True, slots=True)
class Dataset:
    """A whole dataset after its protocol's filter, sorted by image id within each split."""

    name: str
    folder: str  # where Photo.file is relative to
    vocabulary: Vocabulary
    photos: tuple[AnnotatedPhoto, ...]
    inputs: Mapping[str, str]  # annotation file (relative) -> SHA-256
    protocol: Protocol
