"""Which steps of a sequence are looked at."""

from __future__ import annotations

import numpy as np

_GOLDEN = 0.5 * (5**0.5 - 1)


def spread_times(num_steps: int, num_times: int, seed: int, index: int) -> list[int]:
    """Different steps of a sequence, evenly spread, for the sample of a number.

    Radii drift along a sequence far more than they differ between samples. So two samples in a row look at
    places that mirror each other, and the next two elsewhere, as evenly as a golden ratio can.
    """
    count = min(num_times, num_steps)
    start = float(np.random.default_rng((seed, 2)).random())
    place = (start + _GOLDEN * (index // 2)) % 1
    stretch = num_steps / count
    where = [int((number + place) * stretch) for number in range(count)]
    return where if index % 2 == 0 else [num_steps - 1 - time for time in reversed(where)]
