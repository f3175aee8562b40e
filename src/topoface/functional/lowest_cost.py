"""What the lowest of many costs says about other pairs: it was looked for on the very pairs that it is counted on.

Each pair crosses the threshold by itself, so costs near their minimum are a parabola with noise of independent steps. The minimum
of such a curve is too low by an amount that grows with the 2/3 power of the noise's variance (J. Kim and D. Pollard, "Cube root
asymptotics", 1990). A replicate adds ``v`` times that variance to a curve that has it already, and so shows only ``(1 + v)^(2/3) - 1``
of the loss. (That it does not show the loss itself: J. Abrevaya and J. Huang, "On the bootstrap of the maximum score estimator", 2005.)
Otherwise a cost at its minimum does not change with the threshold: to first order the lowest cost varies as that of the threshold kept.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.verification import DetectionCost

Floats = NDArray[np.float64]


class Choosing(NamedTuple):
    """What choosing the threshold did to a cost.

    Attributes:
        lost: by so much it is too low, below 0.
        variance: of that, and of what is known of it: half the square of the loss (0.5 to 0.6 of it for a parabola with Brownian
            noise, by simulation).
    """

    lost: float
    variance: float

    def held_out(self, folds: int) -> "Choosing":
        """Of a cost that is counted on pairs of which each fold had no say in its threshold: too high by a third of that loss.

        A minimum ``m`` below the truth grows with the 4/3 power of the noise's standard deviation, and so is the sum of a noise of
        ``-4/3 m`` and a distance to the truth of ``m / 3``. Pairs held out have the distance without the noise, chosen on ``1 - 1 /
        folds`` of the pairs; and noise of their own (variance by simulation: 1.1 to 1.4 for 2 to 10 folds).
        """
        return Choosing(-self.lost / 3 * (folds / (folds - 1)) ** (2 / 3), 1.25 * self.lost**2)


def of_choosing(plain: float, lowest: Floats, genuine: int, impostors: int, cost: DetectionCost) -> Choosing:
    """What a lowest cost lost by being looked for on the very pairs that it is counted on.

    Drawing people, a genuine pair weighs with variance 1, an impostor pair with 3; where the cost is lowest, misses and false accepts
    change equally fast in cost, so that their noise is as 1 / genuine to ratio / impostors.

    Args:
        plain: the lowest cost.
        lowest: ``[r]``, the lowest cost of each replicate, people drawn; NaN where there is none.
        genuine: pairs.
        impostors: pairs.
        cost: of which it is the lowest.
    """
    if np.isnan(lowest).all():
        return Choosing(0.0, 0.0)
    own, other = 1 / genuine, cost.ratio / impostors
    added = (own + 3 * other) / (own + other)
    shown: float = (1 + added) ** (2 / 3) - 1
    lost = float(np.nanmean(lowest) - plain) / shown
    return Choosing(lost, lost**2 / 2)


def unchosen(plain: float, drawn: Floats, choosing: Choosing) -> Floats:
    """Replicates without the loss, and moved apart by its variance.

    Args:
        plain: the lowest cost.
        drawn: replicates of the cost at the threshold that has it, settled.
        choosing: from `of_choosing`.
    """
    spread = float(np.nanvar(drawn)) if not np.isnan(drawn).all() else 0.0
    wider = np.sqrt(1 + choosing.variance / spread) if spread > 0 else 1.0
    moved: Floats = np.clip(plain - choosing.lost + wider * (drawn - plain), 0, 1)
    return moved
