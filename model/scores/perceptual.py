"""LPIPS, the distance of pictures whose mean is the published diversity (DS), by extra `eval`."""

import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from model.scores.extractors import checked
from model.scores.published import library_of
from model.scores.weights import Published, Weights, filling, pinned

ALEXNET = Published(
    ("alexnet-owt-7be5be79.pth",),
    "https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
    "7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
)
# LPIPS's linear layers, in package lpips, version 0.1 of them.
HEADS_SHA256 = "df73285e35b22355a2df87cdb6b70b343713b667eddbda73e1977e0c860835c0"
PAIRS_AT_ONCE = 16


@dataclass(frozen=True)
class Lpips:
    """The distance LPIPS, v0.1 with AlexNet: Zhang et al. (2018)."""

    weights: Weights  # of AlexNet
    published: bool  # whether they are the published ones
    network: nn.Module
    device: torch.device

    @property
    def name(self) -> str:
        """By which the mean of its distances may be printed."""
        if self.published:
            return "DS"
        return f"diversity (LPIPS, weights {self.weights.sha256[:8]})"

    def describe(self) -> dict[str, Any]:
        """What a protocol card says of it."""
        return {
            "name": "LPIPS v0.1, AlexNet",
            "published": self.published,
            "weights": self.weights.path.name,
            "sha256": self.weights.sha256,
            "heads_sha256": HEADS_SHA256,
            "resizer": "none: pictures as they are, in [-1, 1]",
            "versions": {name: version(name) for name in ("torch", "torchvision", "lpips")},
        }

    def distances(self, first: NDArray[np.uint8], second: NDArray[np.uint8]) -> Tensor:
        """Pictures (n, H, W, 3) uint8, twice -> (n,) float64. ValueError where they are of another
        form."""
        batches = zip(
            *(torch.split(checked(p), PAIRS_AT_ONCE) for p in (first, second)), strict=True
        )
        with torch.no_grad():
            parts = [self.network(self._input(a), self._input(b)) for a, b in batches]
        return torch.cat(parts).flatten().double().cpu()

    def pair_distances(self, pixels: NDArray[np.uint8]) -> Tensor:
        """Pictures (n, M, H, W, 3) uint8, M of each of n scenes -> the distances of the pairs
        (0, 1), (0, 2), ..., (M - 2, M - 1): (n, M(M - 1) / 2) float64."""
        n, m = pixels.shape[:2]
        first, second = np.triu_indices(m, 1)
        pairs = (pixels[:, i].reshape(-1, *pixels.shape[2:]) for i in (first, second))
        return self.distances(*pairs).reshape(n, len(first))

    def _input(self, pictures: Tensor) -> Tensor:
        """(n, H, W, 3) uint8 -> (n, 3, H, W) in [-1, 1]."""
        return pictures.to(self.device).movedim(-1, 1).float() / 127.5 - 1


def open_lpips(weights: Path | None, device: torch.device) -> Lpips:
    """LPIPS with AlexNet's weights.

    weights  their file, or a folder that has it; None: as for `open_extractor`

    UserError where extra eval is not installed, or the file is missing.
    """
    module = library_of("lpips")
    trunk = ALEXNET.open(weights)
    pinned(Path(module.__file__ or "").parent / "weights/v0.1/alex.pth", HEADS_SHA256)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        # It asks torchvision for AlexNet by an argument that has another name now.
        warnings.filterwarnings("ignore", category=UserWarning, module="torchvision")
        network = module.LPIPS(net="alex", version="0.1", pnet_rand=True, verbose=False)
    with filling("AlexNet", trunk.path):
        state = torch.load(trunk.path, map_location="cpu", weights_only=True)
        # "slice2.3.weight" is AlexNet's "features.3.weight".
        layers = {name: f"features.{name.partition('.')[2]}" for name in network.net.state_dict()}
        network.net.load_state_dict({name: state[layer] for name, layer in layers.items()})
    network = network.eval().requires_grad_(False).to(device)
    return Lpips(trunk, trunk.sha256 == ALEXNET.sha256, network, device)
