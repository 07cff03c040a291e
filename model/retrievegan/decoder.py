"""Canvas -> image: residual blocks, then cascaded refinement (Chen and Koltun 2017)."""

from torch import Tensor, nn
from torch.nn import functional as F

from model.resizing import doubled_and_convolved, resized
from model.retrievegan.layers import SLOPE, norm


class ResidualBlock(nn.Module):
    """Pre-activation residual block."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            norm(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
            norm(channels), nn.ReLU(), nn.Conv2d(channels, channels, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


class Stage(nn.Sequential):
    """Canvas and features -> features at the canvas's size. The first convolution is over both."""

    def __init__(self, canvas: int, into: int, out: int) -> None:
        super().__init__(
            nn.Conv2d(canvas + into, out, 3, padding=1), norm(out), nn.LeakyReLU(SLOPE),
            nn.Conv2d(out, out, 3, padding=1), norm(out), nn.LeakyReLU(SLOPE),
        )  # fmt: skip

    def forward(  # type: ignore[override]  # two inputs
        self, canvas: Tensor, features: Tensor | None
    ) -> Tensor:
        """
        canvas    (N, C, h, h)
        features  (N, F, h / 2, h / 2)  of the stage before, doubled; None in the first

        Returns (N, out, h, h).
        """
        first, *others = self
        assert isinstance(first, nn.Conv2d)
        of_canvas, of_features = first.weight.tensor_split([canvas.shape[1]], 1)
        x = F.conv2d(canvas, of_canvas, first.bias, padding=1)
        if features is not None:
            x = x + doubled_and_convolved(features, of_features)
        for layer in others:
            x = layer(x)
        return x


class CascadedDecoder(nn.Module):
    """Each stage doubles the size; its input is the features so far and the canvas at that size."""

    def __init__(self, canvas: int, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(
            Stage(canvas, into, out)
            for into, out in zip((0, *channels[:-1]), channels, strict=True)
        )
        last = channels[-1]
        self.to_rgb = nn.Sequential(
            nn.Conv2d(last, last, 3, padding=1), nn.LeakyReLU(SLOPE), nn.Conv2d(last, 3, 1)
        )

    def forward(self, canvas: Tensor, side: int) -> Tensor:
        """canvas (N, C, h, w) -> image (N, 3, side, side), about [-1, 1]."""
        features: Tensor | None = None
        for i, stage in enumerate(self.stages):
            size = side >> (len(self.stages) - 1 - i)
            features = stage(resized(canvas, size), features)
        out: Tensor = self.to_rgb(features)
        return out
