"""Objects laid end to end (O, ...) <-> padded to the longest scene of the batch (N, M, ...)."""

from typing import NamedTuple

import torch
from torch import Tensor

from model.rows import Places, move


class Padding(NamedTuple):
    """Where each object of the flat layout stands in the padded one, and the other way round."""

    image: Tensor  # (O,) image of each object
    place: Tensor  # (O,) its place among its image's objects
    present: Tensor  # (N, M) True where an object stands, False where the padding is
    row: Tensor  # (N, M) which of the O stands there; 0 where the padding is
    real: Tensor | None = None  # (O,) False for fillers, which stand nowhere; None: there are none

    @property
    def num_images(self) -> int:
        return len(self.present)

    def pad(self, flat: Tensor) -> Tensor:
        """(O, ...) -> (N, M, ...), zeros where the padding is."""
        rows = move(flat, self._to_padded, self._to_flat)
        return rows.reshape(*self.present.shape, *flat.shape[1:])

    def unpad(self, padded: Tensor) -> Tensor:
        """(N, M, ...) -> (O, ...), zeros for fillers."""
        return move(padded.flatten(0, 1), self._to_flat, self._to_padded)

    def twice(self) -> "Padding":
        """Of the same objects once more, in as many images again."""
        return Padding(
            torch.cat([self.image, self.image + self.num_images]),
            self.place.repeat(2),
            self.present.repeat(2, 1),
            torch.cat([self.row, self.row + len(self.image)]),
            None if self.real is None else self.real.repeat(2),
        )

    @property
    def _to_padded(self) -> Places:
        return Places(self.row.flatten(), self.present.flatten())

    @property
    def _to_flat(self) -> Places:
        return Places(self.image * self.present.shape[1] + self.place, self.real)


def padding_of(object_image: Tensor, num_images: int) -> Padding:
    """The padding of a batch; object_image (O,) is the image of each object, ascending."""
    counts = torch.bincount(object_image, minlength=num_images)
    first = counts.cumsum(0) - counts
    place = torch.arange(len(object_image), device=object_image.device) - first[object_image]
    longest = int(counts.max()) if len(object_image) else 0
    places = torch.arange(longest, device=counts.device)[None]
    present = places < counts[:, None]
    return Padding(object_image, place, present, (first[:, None] + places) * present)
