"""Sets of pictures of held-out scenes: made by a run, the scenes' photos, crops on a canvas.

Pictures come in blocks: (n, M, H, W, 3) uint8, M of each of the n scenes of a batch.
"""

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from bank.bank import Bank
from model.config import BoxesFrom, Deprocessing, ImageFormat
from model.draws import normal_maps
from model.graph.network import graph_tensors
from model.pixels import to_float, to_uint8
from model.retrievegan.network import RetrieveGAN
from model.retrievegan.run import tidy_boxes
from model.scores.canvas import paste
from model.scores.choices import SelectionMethod
from model.scores.picture_folder import PictureFolder
from model.scores.scenes import Scenes
from model.sg2im.imagenet import denormalised
from model.sg2im.network import Sg2Im
from model.sg2im.run import WHOLE

Block = NDArray[np.uint8]
JPEG_QUALITY = 75  # Pillow's default, and so many a saved picture's
BATCHES_KEPT = 2  # whose choice of patches is kept


@dataclass(frozen=True)
class PictureSet:
    """A row of the table: pictures of some scenes."""

    name: str
    boxes: str  # where objects lie in them: "predicted" or "gt"; "" of photos
    batches: Sequence[Scenes]
    block: Callable[[int], Block]  # the pictures of the batch in that place
    # Where the pictures of a batch show its objects, (O, 4); None: that is not known.
    object_boxes: Callable[[Scenes], Tensor] | None = None

    @property
    def num_scenes(self) -> int:
        return sum(batch.num_images for batch in self.batches)


class ChosenPatches:
    """The patches that a method selects for each batch of scenes, in M draws."""

    def __init__(
        self, bank: Bank, batches: Sequence[Scenes], method: SelectionMethod, seeds: Sequence[int]
    ) -> None:
        self.bank, self.batches, self.method, self.seeds = bank, batches, method, seeds
        self.of_batch = lru_cache(BATCHES_KEPT)(self._of_batch)

    @torch.no_grad()
    def _of_batch(self, place: int) -> NDArray[np.int64]:
        scenes = self.batches[place]
        return np.stack([scenes.chosen(self.method.select(scenes, seed)) for seed in self.seeds])

    def pixels(self, place: int) -> list[Tensor]:
        """Of each draw, (O, P, P, 3) uint8 on the scenes' device."""
        device = self.batches[place].boxes.device
        return [torch.from_numpy(self.bank.patches(ids)).to(device) for ids in self.of_batch(place)]


def run_pictures(
    name: str,
    model: RetrieveGAN | Sg2Im,
    batches: Sequence[Scenes],
    seeds: Sequence[int],
    boxes_from: BoxesFrom,
    deprocessing: Deprocessing,
    chosen: ChosenPatches | None,
) -> PictureSet:
    """What a run's network makes of the scenes, with a draw for each seed.

    chosen  None of sg2im
    """
    if isinstance(model, Sg2Im):
        return sg2im_pictures(name, model, batches, seeds, boxes_from, deprocessing)
    assert chosen is not None
    return composed_pictures(name, model, chosen, boxes_from)


def composed_pictures(
    name: str, model: RetrieveGAN, chosen: ChosenPatches, boxes_from: BoxesFrom
) -> PictureSet:
    """What RetrieveGAN composes of the chosen patches."""
    vocabulary = chosen.bank.vocabulary

    @torch.no_grad()
    def object_boxes(scenes: Scenes) -> Tensor:
        if boxes_from == "gt":
            return scenes.boxes
        graph = graph_tensors(scenes.graphs, vocabulary).to(scenes.boxes.device)
        boxes = model.graph(graph.nodes, graph.triples).boxes
        return tidy_boxes(boxes[: len(scenes.boxes)])

    @torch.no_grad()
    def block(place: int) -> Block:
        scenes = chosen.batches[place]
        graph = graph_tensors(scenes.graphs, vocabulary).to(scenes.boxes.device)
        vectors, boxes = model.encode(graph), object_boxes(scenes)
        patch_px = model.config.generator.patch_px
        return _draws(
            to_uint8(
                model.generate(vectors, graph, scenes.padding, to_float(pixels, patch_px), boxes)
            )
            for pixels in chosen.pixels(place)
        )

    return PictureSet(name, boxes_from, chosen.batches, block, object_boxes)


def canvas_pictures(name: str, chosen: ChosenPatches, px: int) -> PictureSet:
    """The chosen patches in the true boxes, without a generator."""

    def block(place: int) -> Block:
        scenes = chosen.batches[place]
        return _draws(
            paste(pixels, scenes.boxes, scenes.padding, px) for pixels in chosen.pixels(place)
        )

    return PictureSet(name, "gt", chosen.batches, block, lambda scenes: scenes.boxes)


def sg2im_pictures(
    name: str,
    model: Sg2Im,
    batches: Sequence[Scenes],
    seeds: Sequence[int],
    boxes_from: BoxesFrom,
    deprocessing: Deprocessing,
) -> PictureSet:
    """What sg2im makes of the graphs, with a layout noise for each draw; masks are predicted."""

    @torch.no_grad()
    def object_boxes(scenes: Scenes) -> Tensor:
        if boxes_from == "gt":
            return scenes.boxes
        graph = graph_tensors(scenes.graphs, model.vocabulary).to(scenes.boxes.device)
        boxes: Tensor = model(graph.nodes, graph.triples).boxes
        return boxes[: len(scenes.boxes)]

    @torch.no_grad()
    def block(place: int) -> Block:
        scenes = batches[place]
        device = scenes.boxes.device
        graph = graph_tensors(scenes.graphs, model.vocabulary).to(device)
        boxes = None
        if boxes_from == "gt":
            whole = torch.tensor([WHOLE] * scenes.num_images, device=device)
            boxes = torch.cat([scenes.boxes, whole])
        shape = (model.noise, model.image_px, model.image_px)
        return _draws(
            denormalised(
                model.generate(
                    graph, normal_maps(seed, scenes.image_ids, shape, device), boxes
                ).images,
                rescale=deprocessing == "min-max",
            )
            for seed in seeds
        )

    return PictureSet(name, boxes_from, batches, block, object_boxes)


def photo_pictures(name: str, bank: Bank, batches: Sequence[Scenes], px: int) -> PictureSet:
    """The scenes' own photos, as the bank has them, resized to px."""

    def block(place: int) -> Block:
        return photos(bank, batches[place].image_ids, px)[:, None]

    return PictureSet(name, "", batches, block, lambda scenes: scenes.boxes)


def folder_pictures(
    name: str, folder: PictureFolder, boxes: BoxesFrom, batches: Sequence[Scenes], draws: int
) -> PictureSet:
    """The first draws of each scene that a folder has; made with the true boxes, they show the
    objects there."""

    def block(place: int) -> Block:
        return folder.read(batches[place].image_ids, draws)

    shown = (lambda scenes: scenes.boxes) if boxes == "gt" else None
    return PictureSet(name, boxes, batches, block, shown)


def photos(bank: Bank, image_ids: Sequence[int], px: int) -> NDArray[np.uint8]:
    """(n, px, px, 3)"""
    samples = bank.contents.iterate(image_ids)
    images = torch.from_numpy(np.stack([sample.image for sample in samples]))
    return to_uint8(to_float(images, px)).numpy()


def saved_as(pictures: PictureSet, image_format: ImageFormat) -> PictureSet:
    """The same after each was saved in a format and read again."""
    if image_format == "png":
        return pictures
    return replace(pictures, block=lambda place: through_jpeg(pictures.block(place)))


def through_jpeg(block: Block) -> Block:
    """Each picture as Pillow writes it, by its default quality, and reads it again."""
    pictures = block.reshape(-1, *block.shape[2:])
    return np.stack([_through_jpeg(picture) for picture in pictures]).reshape(block.shape)


def _through_jpeg(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(file))


def _draws(pictures: Iterable[Tensor]) -> Block:
    """Of each draw (n, H, W, 3) -> (n, M, H, W, 3)."""
    return np.stack([of_draw.numpy() for of_draw in pictures], 1)
