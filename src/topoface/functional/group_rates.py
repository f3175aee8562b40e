"""Error rates of groups of pairs at one threshold for all: false matches and false non-matches, and what each pair does to them.

The threshold is that of all impostor pairs together, whatever their group, since a system in use has one. It is chosen from the data, as
`verification.threshold_at_far` chooses it: an impostor pair accepted anywhere raises it for everybody.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.influences import Error, Meetings, window
from topoface.functional.verification import allowed_false_accepts

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Codes = NDArray[np.int64]


class Rates(NamedTuple):
    """Rates of one kind of error in the cells of one partition.

    Attributes:
        plain: ``[fars, cells]``, NaN where a cell has no pairs of this kind.
        cells: ``[m]``, of each pair; -1 where it has none, or is of the other kind.
        wrong: ``[fars, m]``, whether a pair is judged wrongly.
        slopes: ``[fars, cells]``, by how much a rate rises with the FAR of all impostor pairs.
        false: ``[fars, m]``, what each pair does to that FAR.
        meetings: who is on the pairs.
    """

    plain: Floats
    cells: Codes
    wrong: Bools
    slopes: Floats
    false: Floats
    meetings: Meetings

    def influence(self, far: int, weights: Mapping[int, float]) -> Floats:
        """What each pair does to a sum of rates, ``[m]``.

        Args:
            far: position of the target.
            weights: by cell; only cells that have pairs.
        """
        moved: Floats = -sum(w * self.slopes[far, cell] for cell, w in weights.items()) * self.false[far]
        for cell, weight in weights.items():
            own = self.cells == cell
            moved[own] += weight * (self.wrong[far, own] - self.plain[far, cell]) / own.sum()
        return moved

    def error(self, far: int, weights: Mapping[int, float]) -> Error:
        """Of a sum of rates; arguments as of `influence`."""
        return self.meetings.error(self.influence(far, weights))


def group_rates(
    scores: Floats,
    same: Bools,
    identities: NDArray[Any],
    partitions: Sequence[Codes],
    fars: Sequence[float],
) -> list[tuple[Rates, Rates]]:
    """False match and false non-match rate of every cell of every partition.

    Args:
        scores: ``[m]``, higher means more alike; pairs of both kinds.
        same: ``[m]``, true for genuine pairs.
        identities: integers ``[m, 2]``, who is on the two images of each pair.
        partitions: each ``[m]``, the cell of each pair from 0, or -1 for none.
        fars: targets in [0, 1]: largest false match rate of all impostor pairs together.

    Returns:
        For each partition ``(FMR, FNMR)``; as many cells as its highest number says.
    """
    meetings, impostor = Meetings(identities), -np.sort(-scores[~same])
    accepted, false, steps = [], [], []
    for far in fars:
        allowed = allowed_false_accepts(len(impostor), far)
        accepted.append(scores > (impostor[allowed] if allowed < len(impostor) else -np.inf))
        # Where no false accept is allowed, the highest impostor pair is the threshold.
        above = accepted[-1] if (accepted[-1] & ~same).any() else scores >= impostor[0]
        false.append(np.where(same, 0.0, above - above[~same].mean()) / len(impostor))
        few, many = window(allowed, len(impostor))
        strict = scores > impostor[few - 1] if few else scores > np.inf
        steps.append((strict, scores >= impostor[many - 1]))
    found = []
    for codes in partitions:
        kinds = []
        for kind, judged in ((~same, True), (same, False)):
            cells = np.where(kind, codes, -1)
            size = int(codes.max(initial=-1)) + 1

            def rates(
                acceptance: Bools, cells: Codes = cells, judged: bool = judged, size: int = size
            ) -> Floats:
                own = cells >= 0
                errors = np.bincount(cells[own], acceptance[own] == judged, size)
                with np.errstate(invalid="ignore"):
                    return np.asarray(errors / np.bincount(cells[own], minlength=size))

            slopes = [
                (rates(wide) - rates(narrow)) / (wide[~same].mean() - narrow[~same].mean())
                for narrow, wide in steps
            ]
            kinds.append(
                Rates(
                    plain=np.stack([rates(each) for each in accepted]),
                    cells=cells,
                    wrong=np.stack(accepted) == judged,
                    slopes=np.stack(slopes),
                    false=np.stack(false),
                    meetings=meetings,
                )
            )
        found.append((kinds[0], kinds[1]))
    return found
