"""How far a difference of two models could lie from zero by chance where few pairs make it: flip whose favour each speaks for."""

from itertools import product

import numpy as np
from numpy.typing import NDArray

from topoface.functional.draws import generator

FEW = 10  # below this many, the bootstrap's replicates know too little
_EXACT = 12  # of so many signs all are tried, of more some thousand
_FLIPS = 2000
_BLOCK = 4096


def flip_margin(parts: NDArray[np.float64], units: NDArray[np.int64], seed: int = 0) -> float:
    """Half the length of the 95 % interval around a sum of differences; 0 where ten or more carry it.

    Two equal models are as likely to differ the one way as the other, so every sign of every part is as likely as its opposite
    (R. A. Fisher, "The design of experiments", 1935, section 21). For shares, whose parts are equally large, this is McNemar's exact
    test: five pairs that all speak for one model are no clear difference, six are. A bootstrap does not know that: it draws
    only what was seen, and a pair that speaks for the other model was not.

    Args:
        parts: float64 ``[m]``, what each pair adds to the difference.
        units: integers ``[m]``: parts of one unit flip together, for one unusual face spoils all its pairs.
        seed: of the flips, where these are too many to be tried all.
    """
    sums = np.bincount(units, weights=parts) if len(parts) else np.zeros(0)
    sums = sums[sums != 0]
    # Parts of one size count as they are; a few large ones among many small ones count as few.
    if not len(sums) or np.abs(sums).sum() ** 2 / (sums**2).sum() > FEW - 0.5:
        return 0.0
    if len(sums) <= _EXACT:
        totals = np.array(list(product((-1.0, 1.0), repeat=len(sums)))) @ sums
    else:
        totals = np.zeros(_FLIPS)
        for block, at in enumerate(range(0, len(sums), _BLOCK)):
            some = sums[at : at + _BLOCK]
            signs = generator(seed, "sign flips", block).integers(0, 2, (_FLIPS, len(some)), dtype=np.int8)
            totals += (2.0 * signs - 1) @ some
    return float(np.quantile(np.abs(totals), 0.95, method="inverted_cdf"))
