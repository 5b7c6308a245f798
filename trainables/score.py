"""One number from distances and gates: lower is better, 1 is as close as real windows are to real windows.

What each distance exceeds its floor by is measured by the floor's own scatter and added to 1 in quadrature, as errors
are; the score is the geometric mean of these, times a penalty for each gate that is not passed.
"""

import math
import statistics
from collections.abc import Mapping, Sequence

# Of the formula, and of what it is made of: scores of different versions are not comparable.
VERSION = 4
# A floor's scatter, over its median, is taken to be at least this: a few splits of a few windows may all be equal.
LEAST_SCATTER = 0.05
# A z-scored record has mean 0 and std 1; up to this much is forgiven before the score grows in proportion.
NORMALISATION_TOLERANCE = 0.2
# Excess of displacement, in standard deviations of real windows', that is forgiven.
SLOW_TOLERANCE = 1.0
# Diversity, over that of real windows, below which windows that repeat each other cost in proportion: draws of real
# windows vary by a tenth or two.
DIVERSITY_TOLERANCE = 0.8
# Coverage or diversity below this, over that of real windows, costs no more.
LEAST_SHARE = 0.1
# By how much the tolerances are wider where the score cannot be resolved.
WIDENED = 2.0


def misfit(part: float, floor: Mapping[str, float]) -> float:
    """What a distance, given over its floor, exceeds it by, in units of the excess that 5 % of real splits reach.

    Nothing below the floor: a part closer than real data to themselves must not pay for another that is far.
    """
    excess = max(part - 1, 0.0)  # in this order NaN stays NaN
    return excess / max(floor["high"] / floor["median"] - 1, LEAST_SCATTER)


def score(misfits: Sequence[float], gates: Mapping[str, float], resolvable: bool = True) -> float:
    """Geometric mean of the hypotenuses of 1 and each misfit, times by how much each gate is missed.

    Most real windows score about 1, and 1.4 where each distance is as large as in one draw of them in twenty; a larger
    misfit is always a larger score, far off in proportion. Coverage less than that of real windows by real windows
    costs in proportion, but for too few windows, where it is mostly chance.
    """
    widened = 1.0 if resolvable else WIDENED
    penalties = [
        gates["normalisation"] / (NORMALISATION_TOLERANCE * widened),
        gates["slow_motion"] / (SLOW_TOLERANCE * widened),
        DIVERSITY_TOLERANCE / widened / max(gates["diversity"], LEAST_SHARE),
        1 / max(gates["coverage"], LEAST_SHARE) if resolvable else 1.0,
    ]
    mean = statistics.geometric_mean(math.hypot(1, each) for each in misfits)
    return mean * math.prod(max(penalty, 1.0) for penalty in penalties)
