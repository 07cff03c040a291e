"""Patches + boxes -> canvas, by the layers of PasteGAN's published code (Li et al. 2019)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.boxes import covered, paste, paste_weights
from model.padding import Padding
from model.precision import in_float32
from model.resizing import resized
from model.retrievegan.layers import SLOPE, norm
from model.rows import count, gather, scatter


class CropEncoder(nn.Module):
    """Patches -> maps that keep where things are within the patch."""

    def __init__(self, channels: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for into, out in zip((3, *channels[:-1]), channels, strict=True):
            layers += [nn.Conv2d(into, out, 3, stride=2, padding=1), norm(out), nn.LeakyReLU(SLOPE)]
        layers += [nn.Conv2d(channels[-1], width, 1)]
        self.layers = nn.Sequential(*layers)

    def forward(self, patches: Tensor) -> Tensor:
        """patches (O, 3, P, P) in [-1, 1] -> (O, C, h, w), halved once per layer."""
        out: Tensor = self.layers(patches)
        return out


class CropRefinement(nn.Module):
    """One layer of PasteGAN's crop refining network: messages along the graph's triples.

    Each map is first warped by a flow predicted from it, then the messages of its triples are
    averaged into it. The caller adds the result to the map (a residual).
    """

    def __init__(self, width: int, predicate_width: int, hidden: int) -> None:
        super().__init__()
        self.width = width
        self.flow = nn.Sequential(
            nn.Conv2d(width, hidden, 3, padding=1), nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, 2, 3, padding=1), nn.Tanh(),
        )  # fmt: skip
        nn.init.zeros_(self.flow[2].weight)  # type: ignore[arg-type]  # the flow starts at zero: no warp
        nn.init.zeros_(self.flow[2].bias)  # type: ignore[arg-type]
        self.message = nn.Sequential(
            nn.Conv2d(2 * width + predicate_width, hidden, 3, padding=1), nn.LeakyReLU(SLOPE),
            nn.Conv2d(hidden, 2 * width + predicate_width, 3, padding=1),
        )  # fmt: skip
        self.pooled = nn.Sequential(nn.LeakyReLU(SLOPE), nn.Conv2d(width, width, 1))
        self.own = nn.Conv2d(width, width, 1)

    def forward(
        self, maps: Tensor, predicates: Tensor, subject: Tensor, other: Tensor
    ) -> tuple[Tensor, Tensor]:
        """
        maps        (V, C, h, w)   a map per graph node
        predicates  (T, Cp, h, w)  a map per triple
        subject, other  (T,)       the nodes of each triple

        Returns the maps' updates and the refined predicate maps, same shapes.
        """
        warped = warp(maps, self.flow(maps))
        from_subject, from_other = (gather(warped, at) for at in (subject, other))
        messages = self.message(torch.cat([from_subject, predicates, from_other], 1))
        to_subject, predicates, to_other = messages.split(
            [self.width, predicates.shape[1], self.width], 1
        )
        ends = torch.cat([subject, other])
        total = scatter(torch.cat([to_subject, to_other]), ends, len(maps))
        counts = count(ends, len(maps)).clamp_min(1).to(total.dtype)
        return self.own(warped) + self.pooled(total / counts[:, None, None, None]), predicates


def warp(maps: Tensor, flow: Tensor) -> Tensor:
    """Maps (V, C, h, w) read, at each cell, bilinearly from where the flow (V, 2, h, w) points: x
    and y from the cell, in halves of the map's side; beyond its edge the map goes on as it ends.

    A product with a matrix of weights, (h * w, h * w) for each map, whose gradient is
    deterministic on CUDA; `F.grid_sample` (align_corners, border) gives the same.
    """
    h, w = maps.shape[-2:]
    x, y = flow.float().permute(0, 2, 3, 1).flatten(1, 2).unbind(-1)  # (V, h * w)
    cell = torch.arange(h * w, device=maps.device)
    at_x = _between(cell % w + x * ((w - 1) / 2), w)  # (V, h * w, w)
    at_y = _between(cell // w + y * ((h - 1) / 2), h)  # (V, h * w, h)
    weights = (at_y[..., None] * at_x[..., None, :]).flatten(2)  # (V, h * w, h * w)
    warped = weights.to(maps.dtype) @ maps.permute(0, 2, 3, 1).flatten(1, 2)  # (V, h * w, C)
    return warped.reshape(len(maps), h, w, -1).permute(0, 3, 1, 2)


def _between(at: Tensor, size: int) -> Tensor:
    """(...) places from 0 to size - 1 -> (..., size) the shares of the two cells around each."""
    at = F.hardtanh(at, 0, size - 1)  # no gradient from the edge on
    low = at.detach().floor()
    cells = torch.arange(size, device=at.device)
    share = (at - low)[..., None]
    low = low[..., None]
    return torch.where(cells == low, 1 - share, torch.where(cells == low + 1, share, 0.0))


class Nodes(NamedTuple):
    """What the canvas is made of, by graph node: objects and the images they are in."""

    vectors: Tensor  # (V, D) graph vectors: O objects, then N images
    maps: Tensor  # (V, C, h, w) refined patch maps
    in_image: Tensor  # (O, Cp, h, w) refined `__in_image__` maps, one per object


class Fuser(nn.Module):
    """PasteGAN's object-image fuser: at every cell of the canvas, attention over the objects whose
    box covers it, added to what the image's own vector gives."""

    def __init__(self, width: int, predicate_width: int, canvas: int) -> None:
        super().__init__()
        self.key = nn.Conv2d(width, canvas, 1)
        self.query = nn.Conv2d(predicate_width, canvas, 1)
        self.value = nn.Conv2d(canvas, canvas, 1)
        self.background = nn.Conv2d(width, canvas, 1)

    def forward(self, nodes: Nodes, boxes: Tensor, padding: Padding, side: int) -> Tensor:
        """boxes (O, 4) -> canvas (N, canvas, side, side)."""
        objects = len(boxes)
        h, w = nodes.maps.shape[-2:]
        vectors = nodes.vectors[:, :, None, None].expand(-1, -1, h, w)
        inputs = torch.cat([vectors, nodes.maps], 1)
        keys = self.key(inputs[:objects])
        query = self.query(nodes.in_image)
        with in_float32(boxes.device):
            score = (keys.float() * query.float()).sum(1, keepdim=True) / keys.shape[1] ** 0.5
            placed = paste(score, boxes, side, align_corners=False)
            attention = softmax_over_objects(
                padding.pad(placed[:, 0]), padding.pad(covered(boxes, side)[:, 0])
            )
        pasted = paste_together(self.value(keys), attention, boxes, padding)
        return resized(self.background(inputs[objects:]), side) + pasted


def softmax_over_objects(score: Tensor, inside: Tensor) -> Tensor:
    """Softmax of (N, M, H, W) over the objects of one image that cover a cell; 0 elsewhere.

    inside  (N, M, H, W)  1 or 0
    """
    masked = score.masked_fill(inside == 0, -torch.inf)
    highest = masked.detach().amax(1, keepdim=True)  # -inf where there is none
    weights = torch.exp((score - highest).clamp_max(0.0)) * inside
    return weights / weights.sum(1, keepdim=True).clamp_min(1e-5)


def paste_together(maps: Tensor, attention: Tensor, boxes: Tensor, padding: Padding) -> Tensor:
    """The sum, over an image's objects, of their maps pasted into their boxes times attention.

    maps       (O, C, h, w)
    attention  (N, M, side, side)  0 outside an object's box
    boxes      (O, 4)

    Returns (N, C, side, side), in channels-last. The rows come first, the columns together with
    the sum: a map of C channels for each object at the canvas's size, as `paste` makes, is nowhere.
    """
    side = attention.shape[-1]
    c, h, w = maps.shape[-3:]
    x, y = paste_weights(boxes, side, (h, w))  # (O, side, w), (O, side, h)
    x, y = padding.pad(x), padding.pad(y).to(maps.dtype)
    last = padding.pad(maps.permute(0, 2, 3, 1).flatten(2))  # (N, M, h, w * C)
    rows = (y @ last).transpose(1, 2)  # (N, side, M, w * C)
    rows = rows.reshape(*rows.shape[:2], -1, c)  # (N, side, M * w, C)
    columns = attention[..., None] * x[:, :, None]  # (N, M, side, side, w)
    columns = columns.permute(0, 2, 3, 1, 4).flatten(3)  # (N, side, side, M * w)
    canvas: Tensor = columns.to(maps.dtype) @ rows  # (N, side, side, C)
    return canvas.permute(0, 3, 1, 2)
