"""SqueezeNet 1.1 without its classifier, read from a Keras file.

Iandola et al., SqueezeNet (2016); trained on ImageNet with pixels in BGR less their mean.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.pixels import to_float
from model.scores.weights import library

FILE = "squeezenet1.1_imagenet_notop_keras.h5"
SHA256 = "2d935d8c102ad1232484a77da8e6fbdf3ff4ab608974a0d8b6283115ffff204f"
SIDE = 227  # px, that of its training
WIDTH = 512
MEAN_BGR = (103.939, 116.779, 123.68)  # of ImageNet's pixels in [0, 255]
# Channels: into the module, squeezed, after each of the two convolutions that expand.
FIRES = {
    "fire2": (64, 16, 64),
    "fire3": (128, 16, 64),
    "fire4": (128, 32, 128),
    "fire5": (256, 32, 128),
    "fire6": (256, 48, 192),
    "fire7": (384, 48, 192),
    "fire8": (384, 64, 256),
    "fire9": (512, 64, 256),
}
POOLED_BEFORE = ("fire2", "fire4", "fire6")


class SqueezeNet(nn.Module):
    """Pictures (n, H, W, 3) uint8 -> vectors (n, 512), the last map's mean, and no logits."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(MEAN_BGR)[:, None, None], persistent=False)
        self.conv1 = nn.Conv2d(3, 64, 3, stride=2)
        self.fires = nn.ModuleDict({name: _Fire(*sizes) for name, sizes in FIRES.items()})

    def forward(self, pictures: Tensor) -> tuple[Tensor, None]:
        rgb = (to_float(pictures, SIDE) + 1) * 127.5
        maps = F.relu(self.conv1(rgb.flip(1) - self.mean))
        for name, fire in self.fires.items():
            maps = fire(F.max_pool2d(maps, 3, stride=2) if name in POOLED_BEFORE else maps)
        return maps.mean((2, 3)), None


class _Fire(nn.Module):
    """Few channels, then many by two convolutions side by side."""

    def __init__(self, inputs: int, squeezed: int, expanded: int) -> None:
        super().__init__()
        self.squeeze1x1 = nn.Conv2d(inputs, squeezed, 1)
        self.expand1x1 = nn.Conv2d(squeezed, expanded, 1)
        self.expand3x3 = nn.Conv2d(squeezed, expanded, 3, padding=1)

    def forward(self, inputs: Tensor) -> Tensor:
        maps = F.relu(self.squeeze1x1(inputs))
        return F.relu(torch.cat([self.expand1x1(maps), self.expand3x3(maps)], 1))


def read(weights: Path) -> SqueezeNet:
    """The network with the weights of a Keras file."""
    network = SqueezeNet()
    with library("h5py", "scores").File(weights) as file:
        _fill(network.conv1, file["conv1"])
        for name, fire in network.fires.items():
            for layer, conv in fire.named_children():
                _fill(conv, file[name][layer])
    return network.eval().requires_grad_(False)


def _fill(conv: nn.Module, group: Any) -> None:
    """A layer's group holds its kernel and bias in a group below, numbered as Keras came by it."""
    while "kernel:0" not in group:
        (group,) = group.values()
    kernel, bias = (torch.from_numpy(group[f"{name}:0"][:]) for name in ("kernel", "bias"))
    conv.load_state_dict({"weight": kernel.permute(3, 2, 0, 1), "bias": bias})  # (h, w, in, out)
