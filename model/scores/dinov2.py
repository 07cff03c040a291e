"""DINOv2's ViT-L/14, the network of FD-DINOv2, read from its published file.

Oquab et al., DINOv2 (2023); Stein et al., Exposing flaws of generative model evaluation metrics
(2023), who take the distance in its features. The publisher's own network is code that torch.hub
fetches and runs.
"""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.scores.weights import Published, filling

WEIGHTS = Published(
    ("dinov2_vitl14_pretrain.pth",),
    "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
    "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
)
WIDTH, DEPTH, HEADS = 1024, 24, 16
SIDE, PATCH = 224, 14  # px
TRAINED_GRID = 37  # patches along a side of its last training, 518 px
# What the publisher adds to the grid's side before dividing by that of the training.
OFFSET = 0.1
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's pixels in [0, 1]


class DinoV2(nn.Module):
    """Pictures (n, H, W, 3) uint8 -> vectors (n, width), the class token's, and no logits."""

    mean: Tensor
    std: Tensor

    def __init__(
        self, width: int = WIDTH, depth: int = DEPTH, heads: int = HEADS, grid: int = TRAINED_GRID
    ) -> None:
        super().__init__()
        for name, values in (("mean", MEAN), ("std", STD)):
            self.register_buffer(name, torch.tensor(values)[:, None, None], persistent=False)
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, width, PATCH, PATCH)})
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + grid**2, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width, eps=1e-6)

    def forward(self, pictures: Tensor) -> tuple[Tensor, None]:
        pixels = pictures.movedim(-1, 1).float() / 255
        if pixels.shape[2:] != (SIDE, SIDE):
            pixels = F.interpolate(pixels, (SIDE, SIDE), mode="bicubic", antialias=True)
        maps = self.patch_embed["proj"]((pixels - self.mean) / self.std)  # (n, width, 16, 16)
        tokens = maps.flatten(2).mT
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1)
        return self.norm(self.blocks(tokens + self._places(maps.shape[-1])))[:, 0], None

    def _places(self, grid: int) -> Tensor:
        """(1, 1 + grid^2, width) where each token stands, from the grid of the training."""
        of_class, of_patches = self.pos_embed[:, :1], self.pos_embed[:, 1:]
        trained = round(of_patches.shape[1] ** 0.5)
        if grid == trained:
            return self.pos_embed
        square = of_patches.mT.reshape(1, -1, trained, trained)
        scale = (grid + OFFSET) / trained
        square = F.interpolate(square, scale_factor=(scale, scale), mode="bicubic")
        return torch.cat([of_class, square.flatten(2).mT], 1)


class _Block(nn.Module):
    """Attention, then two layers by token; each scaled by channel and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.attn = _Attention(width, heads)
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, 4 * width)})
        self.mlp["fc2"] = nn.Linear(4 * width, width)
        self.ls1, self.ls2 = (
            nn.ParameterDict({"gamma": nn.Parameter(torch.ones(width))}) for _ in range(2)
        )

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = tokens + self.ls1["gamma"] * self.attn(self.norm1(tokens))
        hidden = F.gelu(self.mlp["fc1"](self.norm2(tokens)))
        result: Tensor = tokens + self.ls2["gamma"] * self.mlp["fc2"](hidden)
        return result


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        n, t, width = tokens.shape
        parts = self.qkv(tokens).reshape(n, t, 3, self.heads, width // self.heads)
        mixed = F.scaled_dot_product_attention(
            *parts.permute(2, 0, 3, 1, 4)
        )  # (n, heads, tokens, width / heads)
        result: Tensor = self.proj(mixed.transpose(1, 2).flatten(2))
        return result


def read(weights: Path) -> DinoV2:
    """The network with the published weights."""
    network = DinoV2()
    with filling("DINOv2 ViT-L/14", weights):
        state = torch.load(weights, map_location="cpu", weights_only=True)
        del state["mask_token"]  # of its training alone
        network.load_state_dict(state)
    return network.eval().requires_grad_(False)
