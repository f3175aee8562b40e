"""TAR at many FARs of millions of scores, from one sort of each class."""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.verification import Figure, TarAtFar, resolution_warning
from topoface.functional.verification import allowed_false_accepts

TEMPLATE_FARS: Final = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)

UNKNOWN: Final = float("nan")


def points_at_fars(genuine: NDArray[Any], impostor: NDArray[Any], fars: Sequence[float]) -> list[TarAtFar]:
    """The lowest threshold whose FAR does not exceed each target, as `functional.verification.threshold_at_far` finds one.

    Args:
        genuine: finite scores ``[g]``; sorted in place.
        impostor: finite scores ``[i]``; sorted in place. No labels travel with the scores: sorting plain float32 is vectorised,
            ten times faster than the order that carries labels along.
        fars: targets in [0, 1].
    """
    genuine.sort()
    impostor.sort()
    return [_point(genuine, impostor, far) for far in fars]


def tar_at(
    target: float, threshold: float, accepted: int, genuine: int, false: int, impostors: int
) -> TarAtFar:
    """The record of a threshold from the counts of pairs that it accepts; without an interval."""
    allowed = allowed_false_accepts(impostors, target)
    return TarAtFar(
        target=target,
        tar=Figure(accepted / genuine, UNKNOWN, UNKNOWN),
        far=false / impostors,
        false_accepts=false,
        allowed=allowed,
        threshold=threshold,
        warning=resolution_warning(impostors, allowed, target),
    )


def _point(genuine: NDArray[Any], impostor: NDArray[Any], far: float) -> TarAtFar:
    allowed = allowed_false_accepts(len(impostor), far)
    place = len(impostor) - 1 - allowed
    bar = -np.inf if place < 0 else impostor[place]  # accept strictly above it
    accepted = genuine[np.searchsorted(genuine, bar, side="right") :]
    false = impostor[np.searchsorted(impostor, bar, side="right") :]
    threshold = min((float(part[0]) for part in (accepted, false) if len(part)), default=float("inf"))
    return tar_at(far, threshold, len(accepted), len(genuine), len(false), len(impostor))
