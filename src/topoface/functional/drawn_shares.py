"""How far shares of pairs move when other people are drawn: the identity bootstrap for what is no ROC figure."""

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.bootstrap import Floats, PairWeights
from topoface.functional.verification import as_array

Figures = Callable[[Floats], Mapping[str, Floats]]


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
        identities: integers ``[m, 2]``, who is on the two images of each pair.
        replicates: how often people are drawn; 0 gives nothing.
        seed: as in `topoface.functional.bootstrap.identity_bootstrap`; the same people are drawn.

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
