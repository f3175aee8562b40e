"""Barcodes of images in pixel space, and of the null beside them: Gaussian points of equal covariance.

Why that null: points without any shape have bars too, and the more of them the more points there are. A Gaussian of
equal covariance keeps all that means and correlations say, the typical distance and the effective dimension among it;
what differs from it is shape. (Shuffling each pixel over the images, the other usual null, breaks the correlations:
points of ten effective dimensions become points of thousands, and any two sets of images differ from that.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.diagnostics.opening import Faces, draw_batches, progress_bar
from topoface.errors import missing_extra
from topoface.functional.distances import pixel_distances, pixel_squared_distances
from topoface.functional.draws import generator
from topoface.functional.streaming_tree import blockwise_tree, pixel_tree

Floats = NDArray[np.float64]

MOST_POINTS = {1: 2000, 2: 300}  # seconds of ripser, and some GB, at the most
DRAWS, MOST_REPEATED = 5, 2000  # samples of each size, up to this size; one of each beyond
COVARIANCE_FACES = 1000
LONGEST = 255  # grey levels that a value can differ by


@dataclass(frozen=True, kw_only=True, eq=False)
class Barcode:
    """The finite bars of some points.

    Attributes:
        n: points.
        bars: by dimension, float64 ``[m, 2]``: birth and death, in shares of the largest distance that two images
            can have. Bars of length 0 of dimension 1 and above are left out.
    """

    n: int
    bars: Sequence[Floats]

    @property
    def deaths(self) -> Floats:
        """Of H0, ``[n - 1]`` ascending."""
        return self.bars[0][:, 1]

    @property
    def spread(self) -> float:
        """Standard deviation of the H0 deaths / their mean; NaN where all points coincide."""
        return float(self.deaths.std() / self.deaths.mean()) if self.deaths.any() else math.nan

    def betti(self, dimension: int, radii: Floats) -> NDArray[np.int64]:
        """Bars alive at each length, the endless one of H0 included."""
        births, deaths = self.bars[dimension].T
        alive = np.searchsorted(np.sort(births), radii, "right") - np.searchsorted(
            np.sort(deaths), radii, "right"
        )
        return alive + (dimension == 0)

    def longest(self, dimension: int) -> float:
        """The largest death / birth, NaN without bars: a loop that lives twice as long counts at any scale alike."""
        births, deaths = self.bars[dimension].T
        return float(np.max(deaths / births)) if len(births) else math.nan


@dataclass(frozen=True, kw_only=True, eq=False)
class Comparison:
    """Samples of one size, and as many of the null.

    Attributes:
        n: points in a sample.
        highest: dimension worked out at this size.
        faces: one barcode for each draw.
        null: the same of Gaussian points.
    """

    n: int
    highest: int
    faces: Sequence[Barcode]
    null: Sequence[Barcode]


def highest_dimension(asked: int | None) -> int:
    """The homology that can be computed: what was asked, otherwise 1 with ripser and 0 without.

    Raises:
        UserError: more than 0 was asked and ripser is not installed.
    """
    present = find_spec("ripser") is not None
    if asked and not present:
        raise missing_extra("ripser", "topology", "topoface topology diagram --homology")
    return asked if asked is not None else int(present)


def dimensions_at(n: int, highest: int) -> int:
    """The highest dimension that is worked out for n points."""
    return max(d for d in range(highest + 1) if n <= MOST_POINTS.get(d, n))


def image_barcode(images: Tensor, highest: int) -> Barcode:
    """The bars of images, from exact pixel distances.

    Args:
        images: uint8 ``[n, ...]``.
        highest: dimension, lowered where there are too many images for it.
    """
    n, values = len(images), images[0].numel()
    bars = [_h0(np.sqrt(pixel_tree(images)[1].numpy()) / (LONGEST * math.sqrt(values)))]
    highest = dimensions_at(n, highest)
    if highest:
        distances = pixel_distances(pixel_squared_distances(images), values)
        bars += _ripser(distances.double().numpy(), highest)
    return Barcode(n=n, bars=bars)


def covariance_spectrum(images: Tensor) -> Floats:
    """Eigenvalues of the covariance of images, ``[n]`` ascending, in squared shares of the largest distance.

    From their distances: the Gram matrix of centred points is -1/2 J D^2 J, and has the same eigenvalues but zeros.
    """
    n, values = len(images), images[0].numel()
    squared = pixel_squared_distances(images).double() / (LONGEST**2 * values)
    centred = squared - squared.mean(0)
    gram = -(centred - centred.mean(1, keepdim=True)) / 2
    spectrum: Floats = torch.linalg.eigvalsh(gram / (n - 1)).clamp(min=0).numpy()
    return spectrum


def effective_dimension(spectrum: Floats) -> float:
    """(sum of eigenvalues)^2 / sum of their squares: d for a ball in d dimensions."""
    return float(spectrum.sum() ** 2 / (spectrum**2).sum())


def gaussian_barcode(spectrum: Floats, n: int, highest: int, rng: np.random.Generator) -> Barcode:
    """The bars of n Gaussian points. Distances do not see rotations, so the eigenvalues are all that is needed.

    Args:
        spectrum: ``[p]``, of the covariance.
        n: points.
        highest: dimension, lowered where there are too many points for it.
        rng: draws the points.
    """
    points = torch.from_numpy(rng.standard_normal((n, len(spectrum))) * np.sqrt(spectrum))
    squares = points.square().sum(1)

    def between(a: slice, b: slice) -> Tensor:
        return (squares[a, None] + squares[b] - 2 * points[a] @ points[b].T).clamp(min=0)

    bars = [_h0(blockwise_tree(n, between)[1].sqrt().numpy())]
    highest = dimensions_at(n, highest)
    if highest:
        bars += _ripser(torch.cdist(points, points).fill_diagonal_(0).numpy(), highest)
    return Barcode(n=n, bars=bars)


def compare(
    faces: Faces, sizes: Sequence[int], highest: int, seed: int
) -> tuple[NDArray[np.float64], list[Comparison]]:
    """Barcodes of samples of faces and of the null.

    Args:
        faces: to draw from.
        sizes: images in a sample, each from 2 to all faces.
        highest: dimension.
        seed: draws images and null.

    Returns:
        The eigenvalues of the covariance, as `covariance_spectrum`, and a comparison for each size.

    Raises:
        UserError: an image cannot be read.
    """
    draws = {n: DRAWS if n <= MOST_REPEATED else 1 for n in sizes}
    pool = min(COVARIANCE_FACES, len(faces))
    with progress_bar("images") as bar:
        task = bar.add_task("barcodes", total=pool + sum(2 * n * draws[n] for n in sizes))

        def read(positions: NDArray[np.int64]) -> torch.Tensor:
            images = np.empty((len(positions), *faces.images[0].shape), np.uint8)
            for row, position in enumerate(positions):
                images[row] = faces.images[int(position)]
            return torch.from_numpy(images)

        chosen = generator(seed, "covariance").choice(len(faces), pool, replace=False)
        spectrum = covariance_spectrum(read(chosen))
        bar.advance(task, pool)
        samples = []
        for n in sizes:
            real, null = [], []
            for number, positions in enumerate(draw_batches(faces, n, draws[n], seed=seed)):
                real.append(image_barcode(read(positions), highest))
                bar.advance(task, n)
                null.append(gaussian_barcode(spectrum, n, highest, generator(seed, "null", n, number)))
                bar.advance(task, n)
            samples.append(Comparison(n=n, highest=dimensions_at(n, highest), faces=real, null=null))
    return spectrum, samples


def _h0(deaths: Floats) -> Floats:
    return np.stack([np.zeros(len(deaths)), deaths], axis=1)


def _ripser(distances: Floats, highest: int) -> list[Floats]:
    from ripser import ripser

    diagrams = ripser(distances, distance_matrix=True, maxdim=highest)["dgms"][1:]
    return [bars[bars[:, 1] > bars[:, 0]].astype(np.float64) for bars in diagrams]
