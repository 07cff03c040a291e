"""Patches + boxes -> canvas, by the layers of PasteGAN's published code (Li et al. 2019)."""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model.boxes import covered, paste
from model.retrievegan.layers import SLOPE, norm


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
        h, w = maps.shape[-2:]
        identity = maps.new_tensor([[1.0, 0, 0], [0, 1.0, 0]]).expand(len(maps), 2, 3)
        coordinates = F.affine_grid(identity, [len(maps), 1, h, w], align_corners=True)
        # On a CPU grid_sample writes outside its memory where a coordinate is no number, as it is
        # in a run that has diverged.
        warped = F.grid_sample(
            maps, (coordinates + self.flow(maps).permute(0, 2, 3, 1)).nan_to_num(),
            align_corners=True, padding_mode="border",
        )  # fmt: skip
        # index_select: the gradient of warped[subject] is summed in whatever order threads come.
        from_subject, from_other = (warped.index_select(0, at) for at in (subject, other))
        messages = self.message(torch.cat([from_subject, predicates, from_other], 1))
        to_subject, predicates, to_other = messages.split(
            [self.width, predicates.shape[1], self.width], 1
        )
        total = torch.zeros_like(warped).index_add(0, subject, to_subject)
        total = total.index_add(0, other, to_other)
        ends = torch.cat([subject, other])
        count = torch.bincount(ends, minlength=len(maps)).clamp_min(1).to(total.dtype)
        return self.own(warped) + self.pooled(total / count[:, None, None, None]), predicates


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

    def forward(self, nodes: Nodes, boxes: Tensor, object_image: Tensor, side: int) -> Tensor:
        """boxes (O, 4), object_image (O,) -> canvas (N, canvas, side, side)."""
        objects = len(object_image)
        h, w = nodes.maps.shape[-2:]
        vectors = nodes.vectors[:, :, None, None].expand(-1, -1, h, w)
        inputs = torch.cat([vectors, nodes.maps], 1)
        keys = self.key(inputs[:objects])
        score = (keys * self.query(nodes.in_image)).sum(1, keepdim=True) / keys.shape[1] ** 0.5
        maps = torch.cat([self.value(keys), score], 1)
        pasted = paste(maps, boxes, side, align_corners=False)
        values, score = pasted[:, :-1], pasted[:, -1:]
        inside = covered(boxes, side)
        attention = _softmax_by_image(score, inside, object_image, len(inputs) - objects)
        background = self.background(inputs[objects:])
        background = F.interpolate(background, size=(side, side), mode="bilinear")
        return background.index_add(0, object_image, attention * values)


def _softmax_by_image(score: Tensor, inside: Tensor, image: Tensor, images: int) -> Tensor:
    """Softmax of (O, 1, H, W) over the objects of one image that cover a cell; 0 elsewhere.

    score  (O, 1, H, W)  inside  (O, 1, H, W) 1 or 0  image  (O,)
    """
    masked = score.masked_fill(inside == 0, -torch.inf)
    empty = score.new_full((images, *score.shape[1:]), -torch.inf)
    target = image[:, None, None, None].expand_as(score)
    highest = empty.scatter_reduce(0, target, masked.detach(), "amax")
    weights = torch.exp((score - highest[image]).clamp_max(0.0)) * inside
    total = torch.zeros_like(empty).index_add(0, image, weights)
    return weights / total.index_select(0, image).clamp_min(1e-5)
