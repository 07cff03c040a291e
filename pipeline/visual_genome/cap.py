"""A photo's objects -> the few that make its scene.

sg2im draws them anew at every access; here they are drawn once, from the photo's id.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

from pipeline.visual_genome.rules import ObjectCap

MOST_OBJECTS = 9


def drawn_objects(
    image_id: int, num_objects: int, ends: Sequence[tuple[int, int]], cap: ObjectCap
) -> list[int]:
    """Places of those kept, rising: the ends of relationships first, then random others.

    Drawn from the raw output of Philox, which numpy promises never to change.
    """
    lot = np.random.Philox(key=image_id).random_raw(num_objects).tolist()
    related = set(chain.from_iterable(ends))
    if len(related) > MOST_OBJECTS:
        # sg2im compares with 9 but then draws 10.
        most = MOST_OBJECTS + 1 if cap == "sg2im" else MOST_OBJECTS
        return sorted(sorted(related, key=lot.__getitem__)[:most])
    others = sorted(set(range(num_objects)) - related, key=lot.__getitem__)
    return sorted([*related, *others[: MOST_OBJECTS - len(related)]])
