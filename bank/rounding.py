"""Features rounded to a coarse step: numbers on which every machine agrees, and exact distances.

Networks run in float64 and their output is rounded to multiples of `STEP`: what is left of the
machines' different orders of summation is then smaller than a step and vanishes almost surely.
Products and sums of such numbers are exact in float64, whatever the order (`in_steps`).
"""

import numpy as np
from numpy.typing import NDArray

from bank.errors import BankError

STEP = 2.0**-12
MAX_NORM = 2.0**13  # longer vectors would make a squared distance inexact: (2 * 2**25)**2 < 2**53


def rounded(values: NDArray[np.float64]) -> NDArray[np.float32]:
    """Round to the nearest multiple of STEP (halves to even)."""
    return (np.rint(values / STEP) * STEP + 0.0).astype(np.float32)  # + 0.0: no negative zero


def in_steps(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """(n, D) features as whole numbers of steps, held in float64."""
    with np.errstate(invalid="ignore"):  # a NaN is refused below, in one line
        steps: NDArray[np.float64] = np.rint(features.astype(np.float64) / STEP)
    longest = float(np.sqrt((steps**2).sum(-1).max(initial=0.0))) * STEP
    if not longest <= MAX_NORM:  # a NaN comes here too
        raise BankError(
            f"features have a length of {longest:g}, where distances are exact up to {MAX_NORM:g}; "
            "is the graph encoder's file damaged, or its embedding unlike sg2im's?"
        )
    return steps
