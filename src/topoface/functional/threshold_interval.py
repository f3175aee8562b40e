"""How far thresholds, and shares of pairs, move when other people are drawn: the identity bootstrap for what is no ROC figure."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.bootstrap import Floats, PairWeights
from topoface.functional.verification import as_array, check_scores

Figures = Callable[[Floats], Mapping[str, Floats]]


def threshold_replicates(
    scores: ArrayLike,
    same: ArrayLike,
    identities: ArrayLike,
    *,
    accepts: float,
    rejects: float,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """The thresholds of two error rates in each replicate.

    Args:
        scores: ``[m]``, higher means more alike.
        same: ``[m]``, true for genuine pairs.
        identities: integers ``[m, 2]``, who is on the two images of each pair.
        accepts: largest share of impostor pairs at or above ``accepts``' threshold, the lowest such score.
        rejects: largest share of genuine pairs below ``rejects``' threshold, the highest such score.
        replicates: how often people are drawn.
        seed: as in `topoface.functional.bootstrap.identity_bootstrap`; the same people are drawn.

    Returns:
        ``accepts`` and ``rejects``, float64 ``[replicates]`` each; NaN where a replicate drew no impostor, or no genuine pair.
    """
    values, labels = check_scores(scores, same)
    values = values.astype(np.float64)
    observed = np.unique(values)
    falling, rising = (np.flatnonzero(kind)[order] for kind, order in _orders(values, labels))

    def figures(weights: Floats) -> dict[str, Floats]:
        bar = _bar(weights[:, falling], values[falling], accepts)
        # The lowest observed score above the bar, as the threshold itself is one; or just above it, where none is.
        place = np.searchsorted(observed, bar, side="right")
        above = np.append(observed, np.nan)[place]
        strict = np.where(place < len(observed), above, np.nextafter(bar, np.inf))
        return {
            "accepts": np.where(np.isnan(bar), np.nan, strict),
            "rejects": _bar(weights[:, rising], values[rising], rejects),
        }

    return drawn_people(figures, identities, replicates=replicates, seed=seed)


def share_replicates(
    of: Mapping[str, tuple[NDArray[np.floating] | NDArray[np.bool_], NDArray[np.bool_]]],
    identities: ArrayLike,
    *,
    replicates: int = 1000,
    seed: int = 0,
) -> dict[str, Floats]:
    """Means over some of the pairs, in each replicate.

    Args:
        of: by name, a value for each pair ``[m]``, and over which pairs ``[m]`` its mean is taken.
        identities: as in `threshold_replicates`, like the rest.
        replicates: as there.
        seed: as there.

    Returns:
        Float64 ``[replicates]`` by name; NaN where none of these pairs was drawn.
    """
    among = np.stack([pairs for _, pairs in of.values()], axis=1).astype(np.float64)
    values = np.stack([np.asarray(value, dtype=np.float64) for value, _ in of.values()], axis=1) * among

    def figures(weights: Floats) -> dict[str, Floats]:
        with np.errstate(invalid="ignore"):
            means = (weights @ values) / (weights @ among)
        return dict(zip(of, means.T, strict=True))

    return drawn_people(figures, identities, replicates=replicates, seed=seed)


def drawn_people(figures: Figures, identities: ArrayLike, *, replicates: int, seed: int) -> dict[str, Floats]:
    """Any figures of weighted pairs in each replicate, people and couples weighed as in `topoface.functional.bootstrap`.

    Args:
        figures: weights of the pairs ``[r, m]`` to figures by name, ``[r]`` each.
        identities: integers ``[m, 2]``.
        replicates: how often people are drawn; 0 gives nothing.
        seed: of the draws.
    """
    if not replicates:
        return {}
    pairs = PairWeights(as_array(identities), seed)
    whole = figures(np.ones((1, len(as_array(identities)))))
    plain = {name: float(value[0]) for name, value in whole.items()}
    return pairs.replicates(plain, figures, replicates).settled()


def _orders(values: Floats, labels: NDArray[np.bool_]) -> list[tuple[NDArray[np.bool_], NDArray[np.intp]]]:
    """Impostor pairs from the highest score down, genuine pairs from the lowest up."""
    return [(~labels, np.argsort(-values[~labels])), (labels, np.argsort(values[labels]))]


def _bar(weights: Floats, values: Floats, rate: float) -> Floats:
    """``[r]``: the first of the values ``[k]`` up to which, together, more than the rate of the weights ``[r, k]`` lies."""
    total = np.cumsum(weights, axis=1)
    over = total > rate * total[:, -1:] * (1 + 1e-12)
    # The value that breaks the rate; all equal to it are taken or left together, whichever of them it was.
    return np.where(total[:, -1] > 0, values[np.argmax(over, axis=1)], np.nan)
