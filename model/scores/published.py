"""The Inception network of the published scores, by the libraries of extra `eval`."""

import importlib
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from model.scores.weights import Published, filling, library

EXTRA = "eval"
WEIGHTS = Published(
    (
        "weights-inception-2015-12-05-6726825d.pth",
        "pt_inception-2015-12-05-6726825d.pth",  # the same file, as pytorch-fid offers it
    ),
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
    "weights-inception-2015-12-05-6726825d.pth",
    "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
)
SIDE, WIDTH = 299, 2048


class Inception(nn.Module):
    """Pictures (n, H, W, 3) uint8 -> vectors (n, 2048), logits (n, 1008) without their bias: what
    torch-fidelity makes FID, KID, precision and recall, and IS of."""

    def __init__(self, weights: Path) -> None:
        super().__init__()
        library_of("torch_fidelity")
        module = library("torch_fidelity.feature_extractor_inceptionv3", EXTRA)
        with filling("Inception", weights):
            # Refuses what would run as it is opened; the library opens it without such a check.
            torch.load(weights, map_location="cpu", weights_only=True)
            self.network = module.FeatureExtractorInceptionV3(
                "inception-v3-compat",
                ["2048", "logits_unbiased"],
                feature_extractor_weights_path=str(weights),
            )

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        vectors, logits = self.network(pictures.movedim(-1, 1))
        return vectors, logits


def library_of(name: str) -> ModuleType:
    """A library that imports torchvision."""
    import_torchvision()
    return library(name, EXTRA)


@cache
def import_torchvision() -> Any:
    """Import torchvision, also beside a torch for the CPU.

    torchvision's package is built for CUDA. Beside a torch without CUDA its compiled part is not
    loaded, and it stops at the first operator that it finds missing, though nothing here calls one:
    so they are declared. They stay as long as what this returns.
    """
    try:
        library("torchvision", EXTRA)
    except RuntimeError as error:
        if "operator torchvision::" not in str(error):
            raise
    else:
        return None
    declared: Any = importlib.import_module("torch.library").Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        declared.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    library("torchvision", EXTRA)
    return declared
