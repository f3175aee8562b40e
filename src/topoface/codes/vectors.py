"""Code vectors from class means: centered, partly whitened, of the embedding's dimension (sections 3.3 and 3.4)."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topoface.codes.statistics import Floats, blocks
from topoface.errors import UserError
from topoface.functional.draws import generator

EPSILON = 1e-6


@dataclass(frozen=True, kw_only=True)
class Transform:
    """h = (x - center) P, made a direction: a linear map that new identities go through unchanged.

    Attributes:
        center: ``[d]``.
        matrix: P, ``[d, D]``.
    """

    center: Floats
    matrix: Floats

    def __call__(self, rows: NDArray[np.floating]) -> NDArray[np.float32]:
        """Unit code vectors float32 ``[n, D]`` of rows ``[n, d]``; a row of zeros where a row is the center."""
        made = np.empty((len(rows), self.matrix.shape[1]), np.float32)
        for part in blocks(len(rows)):
            made[part] = unit((rows[part] - self.center) @ self.matrix)
        return made


def check_alpha(alpha: float | None, identities: int, dimension: int) -> None:
    """Refuse to whiten structure away: with C <= D identities, alpha 1 makes every cosine -1 / (C - 1).

    Raises:
        UserError: alpha lies outside [0, 1], or is above 1/2 with fewer than 20 identities a dimension.
    """
    if alpha is None:
        return
    if not 0 <= alpha <= 1:
        raise UserError(f"is {alpha:g}", "alpha", "give a number from 0 to 1, or none")
    if alpha > 0.5 and identities < 20 * dimension:
        raise UserError(
            f"is {alpha:g} with {identities:,} identities in {dimension} dimensions, which leaves no structure",
            "alpha",
            "give 0.5 or less: more needs 20 identities a dimension",
        )


def whitening(
    means: NDArray[np.floating],
    dimension: int,
    *,
    alpha: float | None,
    seed: int = 0,
    weights: NDArray[np.floating] | None = None,
    epsilon: float = EPSILON,
) -> Transform:
    """The map from class means to code vectors.

    With the covariance V diag(w) V^T of the means, P = V diag((w + epsilon max w)^(-alpha/2)) V^T: their
    covariance becomes V diag(w^(1 - alpha)) V^T, and directions move as little as possible. If d > D the V^T on the
    right is left out and only the D leading directions stay; if d < D a drawn orthonormal map follows, which keeps
    every cosine.

    Args:
        means: ``[C, d]``.
        dimension: D.
        alpha: 0 only centers, 1 whitens fully; None leaves the means where they are.
        seed: of the orthonormal map.
        weights: ``[C]``, of each mean in center and covariance; equal if None.
        epsilon: see above.

    Raises:
        UserError: the means do not differ.
    """
    count, d = means.shape
    share = np.full(count, 1 / count) if weights is None else weights / weights.sum()
    center, covariance = np.zeros(d), np.zeros((d, d))
    for part in blocks(count):
        center += share[part] @ means[part].astype(np.float64)
    for part in blocks(count):
        centered = means[part] - center
        covariance += (centered * share[part, None]).T @ centered
    spectrum, axes = np.linalg.eigh(covariance)
    spectrum, axes = spectrum[::-1].clip(min=0), axes[:, ::-1]
    if spectrum[0] <= 1e-12 * float(center @ center):  # dividing by it would make rounding errors into people
        raise UserError(
            "are the same for all identities",
            "code vectors",
            "check the images and the encoder: it tells nobody apart",
        )
    scales = (spectrum + epsilon * spectrum[0]) ** (-(alpha or 0) / 2)
    if d > dimension:
        matrix = axes[:, :dimension] * scales[:dimension]
    else:
        matrix = axes * scales @ axes.T
        if d < dimension:
            matrix = matrix @ _orthonormal(dimension, d, seed).T
    return Transform(center=np.zeros(d) if alpha is None else center, matrix=matrix)


def unit(rows: Floats) -> Floats:
    """Rows ``[n, d]`` of length 1; zeros stay zeros."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    made: Floats = rows / np.where(lengths > 0, lengths, 1)
    return made


def random_vectors(count: int, dimension: int, seed: int) -> NDArray[np.float32]:
    """Unit rows ``[count, dimension]`` that know nothing of faces: the control."""
    rows = generator(seed, "random code vectors").standard_normal((count, dimension))
    return unit(rows).astype(np.float32)


def _orthonormal(rows: int, columns: int, seed: int) -> Floats:
    """``[rows, columns]`` with orthonormal columns; their signs are fixed, which QR leaves open."""
    drawn = generator(seed, "code vector map").standard_normal((rows, columns))
    q, r = np.linalg.qr(drawn)
    made: Floats = q * np.where(np.diag(r) < 0, -1, 1)
    return made
