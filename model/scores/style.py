"""Pictures of the toy world -> how often two objects of a picture show the same hidden style.

An object's style is told by a classifier: a small network that learns the styles of crops of real
training photos, cut by the objects' true boxes. How well it tells them is measured on real photos
that it has not seen: its accuracy, and the agreement of their objects, which no generated picture
can be expected to exceed. Scores alone read the styles: nothing that trains a model does.
"""

import hashlib
import json
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from bank.bank import Bank
from model.boxes import crop
from model.frozen import (
    SizedNetwork,
    repeatable,
    rng_of_step,
    training_steps,
)
from model.pixels import to_float, to_uint8
from model.scores.intervals import SceneSums, sum_by_scene
from model.scores.metrics import overlapping, pairs_of
from pipeline.cache import VARIABLE, cache_folder
from pipeline.crop import Pixels
from pipeline.errors import UserError
from pipeline.output import log
from pipeline.progress import progress

VERSION = 1  # raise when the same bank and styles are to give another classifier

CROP_PX = 32  # side to which an object is cut
WIDTH = 32  # channels of the first layer
STEPS = 1200
CROPS_PER_STEP = 128
LEARNING_RATE = 4e-3
WEIGHT_DECAY = 0.01
SEED = 0
AT_ONCE = 256  # scenes while reading, crops while classifying


class StyleClassifier(SizedNetwork):
    """A small CNN: texture, light and palette as statistics of pixels and maps, without where."""

    KIND = "toy style classifier, format 1"

    def __init__(self, num_styles: int, side: int, width: int = WIDTH) -> None:
        super().__init__(num_styles=num_styles, side=side, width=width)
        self.side = side  # px, of the pictures that crops are cut from
        self.trunk = nn.Sequential(
            *_layer(3, width, 4, stride=2),
            *_layer(width, 2 * width, 4, stride=2),
            *_layer(2 * width, 2 * width, 3, stride=1),
        )
        self.head = nn.Linear(2 * (3 + 2 * width), num_styles)

    def forward(self, crops: Tensor) -> Tensor:
        """
        crops  (B, 3, CROP_PX, CROP_PX)  in [-1, 1]

        Returns logits (B, num_styles).
        """
        maps = self.trunk(crops)  # (B, 2 * width, CROP_PX / 4, CROP_PX / 4)
        statistics = [s for some in (crops, maps) for s in (some.mean((2, 3)), some.var((2, 3)))]
        logits: Tensor = self.head(torch.cat(statistics, dim=1))
        return logits


def _layer(before: int, after: int, kernel: int, stride: int) -> tuple[nn.Module, ...]:
    convolution = nn.Conv2d(before, after, kernel, stride=stride, padding=1, bias=False)
    return convolution, nn.BatchNorm2d(after), nn.ReLU()


class StyledObjects(NamedTuple):
    """Objects of real scenes, and the hidden style of each."""

    images: Tensor  # (N, side, side, 3) uint8
    boxes: Tensor  # (O, 4)
    object_image: Tensor  # (O,)
    styles: Tensor  # (O,)


def style_classifier(bank: Bank, styles: NDArray[np.int64], side: int) -> StyleClassifier:
    """The classifier of the bank's styles in pictures of `side` px: trained once, then kept in the
    cache.

    styles  (B,)  of the photos of the bank's patches, in the order of `bank.patch_ids`
    """
    path = cache_folder() / f"toy-style-{_key(bank, styles, side)[:16]}.safetensors"
    try:
        return StyleClassifier.load(path)
    except UserError:  # not there, or damaged
        classifier = train_classifier(training_objects(bank, styles, side), STEPS)
    try:
        classifier.save(path)
    except (OSError, UserError) as error:
        log.warning(f"the style classifier is not kept in the cache (${VARIABLE}): {error}")
    return classifier


def _key(bank: Bank, styles: NDArray[np.int64], side: int) -> str:
    """A hash of what decides the classifier on one machine."""
    about = {
        "version": VERSION,
        "torch": torch.__version__,
        "bank": bank.content_digest,
        "styles": hashlib.sha256(styles.astype("<i8").tobytes()).hexdigest(),
        "sizes": (side, CROP_PX, WIDTH, STEPS, CROPS_PER_STEP),
        "rates": (LEARNING_RATE, WEIGHT_DECAY),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
    return hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()


def training_objects(bank: Bank, styles: NDArray[np.int64], side: int) -> StyledObjects:
    """Those of all training scenes, whose images are resized to `side` px; styles (B,)."""
    ids = bank.scene_ids("train")
    scenes = list(progress(bank.contents.iterate(ids), "training scenes", len(ids), "scene"))
    counts = torch.tensor([len(scene.boxes) for scene in scenes])
    rows = bank.rows(np.concatenate([scene.patch_ids for scene in scenes]))
    blocks = [scenes[start : start + AT_ONCE] for start in range(0, len(scenes), AT_ONCE)]
    images = [torch.from_numpy(np.stack([scene.image for scene in block])) for block in blocks]
    return StyledObjects(
        torch.cat([to_uint8(to_float(some, side)) for some in images]),
        torch.from_numpy(np.concatenate([scene.boxes for scene in scenes])),
        torch.arange(len(scenes)).repeat_interleave(counts),
        torch.from_numpy(styles[rows]),
    )


def train_classifier(objects: StyledObjects, steps: int) -> StyleClassifier:
    """The same every time on one machine."""
    side = objects.images.shape[1]
    with repeatable(SEED):
        network = StyleClassifier(int(objects.styles.max()) + 1, side)
        optimiser = torch.optim.AdamW(network.parameters(), weight_decay=WEIGHT_DECAY)
        for step in training_steps("style classifier", steps, network, optimiser, None):
            drawn = rng_of_step(SEED, step).integers(len(objects.styles), size=CROPS_PER_STEP)
            some = torch.from_numpy(drawn)
            images = to_float(objects.images[objects.object_image[some]], side)
            crops = _crops(images, objects.boxes[some], torch.arange(len(some)))
            loss = F.cross_entropy(network(crops), objects.styles[some])
            if not loss.isfinite():
                raise RuntimeError(f"style classifier: the loss is {loss.item()} at step {step}")
            optimiser.param_groups[0]["lr"] = LEARNING_RATE * (1 - step / steps)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
    return network.eval().requires_grad_(False)


def weights_digest(classifier: StyleClassifier) -> str:
    """SHA-256 of its weights."""
    digest = hashlib.sha256()
    for tensor in classifier.state_dict().values():
        digest.update(tensor.numpy().tobytes())
    return digest.hexdigest()


def style_agreement(
    classifier: StyleClassifier, pictures: Pixels, boxes: Tensor, object_image: Tensor
) -> SceneSums:
    """For each scene how many pairs of objects show one style, by the classifier, and how many
    pairs there are: over all of its pictures, (n,) each.

    pictures      (n, M, H, W, 3)  uint8, M draws of each of n scenes
    boxes         (O, 4)           where the objects are in the pictures
    object_image  (O,)             which scene each is of

    Pairs whose boxes overlap share pixels and therefore agree: they do not count.
    """
    first, second = pairs_of(object_image)
    counted = (first < second) & ~overlapping(boxes[first], boxes[second])
    first, second = first[counted], second[counted]
    told = classify(classifier, pictures, boxes, object_image)
    return _summed(told[:, first] == told[:, second], object_image[first], len(pictures))


def style_accuracy(
    classifier: StyleClassifier,
    pictures: Pixels,
    boxes: Tensor,
    object_image: Tensor,
    styles: Tensor,
) -> SceneSums:
    """For each scene how many objects' styles the classifier tells rightly, and how many objects
    there are, over all of its pictures.

    styles  (O,)  the true ones; the others as for `style_agreement`
    """
    told = classify(classifier, pictures, boxes, object_image)
    return _summed(told == styles, object_image, len(pictures))


@torch.no_grad()
def classify(
    classifier: StyleClassifier, pictures: Pixels, boxes: Tensor, object_image: Tensor
) -> Tensor:
    """The objects' styles in each draw, by the classifier, (M, O); the rest as for
    `style_agreement`."""
    told = []
    for draw in range(pictures.shape[1]):
        images = to_float(torch.from_numpy(pictures[:, draw]), classifier.side)
        for start in range(0, len(boxes), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            logits = classifier(_crops(images, boxes[some], object_image[some]))
            told.append(logits.argmax(1))
    return torch.cat(told).view(pictures.shape[1], len(boxes))


def _crops(images: Tensor, boxes: Tensor, box_image: Tensor) -> Tensor:
    """Out of images (N, 3, H, W): (B, 3, CROP_PX, CROP_PX)."""
    return crop(images, boxes, box_image, CROP_PX, align_corners=False)


def _summed(hits: Tensor, image: Tensor, num_images: int) -> SceneSums:
    """Hits (M, Q), of which M are of each of Q pairs or objects of the images (Q,)."""
    weights = torch.full(hits.shape[1:], len(hits))
    return sum_by_scene(hits.sum(0), weights, image, num_images)
