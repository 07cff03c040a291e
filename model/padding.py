"""Objects laid end to end (O, ...) <-> padded to the longest scene of the batch (N, M, ...)."""

from typing import NamedTuple

import torch
from torch import Tensor


class Padding(NamedTuple):
    """Where each object of the flat layout stands in the padded one."""

    image: Tensor  # (O,) image of each object
    place: Tensor  # (O,) its place among its image's objects
    present: Tensor  # (N, M) True where an object stands, False where the padding is

    @property
    def num_images(self) -> int:
        return len(self.present)

    def pad(self, flat: Tensor) -> Tensor:
        """(O, ...) -> (N, M, ...), zeros where the padding is."""
        out = flat.new_zeros((*self.present.shape, *flat.shape[1:]))
        return out.index_put((self.image, self.place), flat)

    def unpad(self, padded: Tensor) -> Tensor:
        """(N, M, ...) -> (O, ...)."""
        return padded[self.image, self.place]


def padding_of(object_image: Tensor, num_images: int) -> Padding:
    """The padding of a batch; object_image (O,) is the image of each object, ascending."""
    counts = torch.bincount(object_image, minlength=num_images)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(object_image), device=object_image.device) - first[object_image]
    longest = int(counts.max()) if len(object_image) else 0
    present = torch.arange(longest, device=counts.device)[None] < counts[:, None]
    return Padding(object_image, place, present)
