"""Count all pairs of a set by cosine, exactly, in memory that does not grow with the pairs.

The pairs of a million faces do not fit on a disk, and a float32 product of tiles, the fast way to all cosines, rounds each of
them a little differently from tile to tile. So the product only sorts the pairs: in a first pass it counts them in bins,
which tells between which bounds each threshold lies, given how far a product can err; in a second pass the pairs between those
bounds, one in a few hundred, are computed again in float64 and counted by cosine, to 2^-28. The thresholds are those of all exact cosines.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.all_pairs.bookmark import Bookmark
from topoface.evaluation.figures import BINS
from topoface.functional.compiled import compiled
from topoface.functional.search import exact_cosines, exact_loop, product_error, unit_table
from topoface.functional.verification import allowed_false_accepts

_TILE = 1024, 4096  # rows and columns of a product; no figure depends on them
_BINS = 1 << 14  # in a unit of cosine
GRID = 1 << 28  # steps in a unit of cosine: exact cosines are rounded to these
_FINE = GRID // _BINS  # steps in a bin
EDGE = 1.0 + 2.0**-10  # a product of unit rows stays within -EDGE..EDGE
_ALONG = 24  # thresholds to a factor of ten in false accepts
_SLACK = 2.0**-22  # by which rounding blurs the edges of bins and the grid

Tile = Callable[[int, int, NDArray[np.float32]], None]


class Along(NamedTuple):
    """Thresholds so close together that what lies between them is on a line; from the highest, at the edges of bins.

    Attributes:
        threshold: float64 ``[k]``.
        genuine: int64 ``[k]``, pairs accepted.
        false: int64 ``[k]``, impostor pairs accepted, rising from 0; but for pairs that rounding moves to the next bin.
    """

    threshold: NDArray[np.float64]
    genuine: NDArray[np.int64]
    false: NDArray[np.int64]


class AllPairCounts(NamedTuple):
    """What all pairs of a set gave.

    Attributes:
        points: ``(threshold, genuine pairs accepted, impostor pairs accepted)`` for each FAR; accepted is at or above.
        along: the same at many more thresholds.
        histogram: int64 ``[2, BINS]``, genuine and impostor pairs by cosine; to about 1e-4 at the edges of its bins.
    """

    points: list[tuple[float, int, int]]
    along: Along
    histogram: NDArray[np.int64]


def points_of_all_pairs(
    units: NDArray[np.float32],
    people: NDArray[np.int32],
    fars: Sequence[float],
    *,
    bookmark: Bookmark | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AllPairCounts:
    """Thresholds for each FAR, and what they accept.

    Args:
        units: ``[n, D]``, unit rows.
        people: ``[n]``.
        fars: targets in [0, 1].
        bookmark: keeps where the count stands, and says where one that was cut off stood.
        progress: called with tiles done and tiles in all.

    Raises:
        ValueError: rows longer than 1.
        RuntimeError: the product of two tiles is not the same each time.
    """
    units = unit_table(units)
    impostors = len(people) * (len(people) - 1) // 2 - same_pairs(people)
    tiles = _tiles(len(units))

    def each_tile(stage: int, sums: NDArray[np.int64], look: Tile) -> None:
        name, named = f"pass{stage}", {"sums": sums}
        first = bookmark.open(name, named) if bookmark else 0
        buffer = np.empty(_TILE, np.float32)
        for done, (i, j) in enumerate(tiles[first:], start=first + 1):
            left, right = units[i : i + _TILE[0]], units[j : j + _TILE[1]]
            product = buffer.reshape(-1)[: len(left) * len(right)].reshape(len(left), len(right))
            look(i, j, np.matmul(left, right.T, out=product))
            if bookmark:
                bookmark.step(name, named, done, len(tiles))
            if progress:
                progress(done + stage * len(tiles), 2 * len(tiles))

    counts = np.zeros(int(2 * EDGE * _BINS) + 2, np.int64)
    each_tile(0, counts, lambda i, j, product: _count(product, i, j, people, counts))

    # Bins that hold, or by the product's error could hold, the pair that a target's threshold stands at.
    places = [allowed_false_accepts(impostors, far) + 1 for far in fars]  # this one is the first not accepted
    reach = int(2 * (product_error(units.shape[1]) + _SLACK) * _BINS) + 1
    from_top = np.cumsum(counts[::-1])[::-1]
    homes = [int(np.flatnonzero(from_top >= place)[-1]) if place <= impostors else None for place in places]
    near = np.zeros(len(counts), np.bool_)
    for home in homes:
        if home is not None:
            near[max(0, home - reach) : home + reach + 1] = True

    # Exact cosines lie within reach of their bins. Those bins, and no others, have room for a count a step.
    around = np.convolve(near, np.ones(2 * reach + 1), "same") > 0.5
    room = np.cumsum(around) - 1
    exact = np.zeros(int(around.sum()) * _FINE, np.int64)
    each_tile(1, exact, lambda i, j, product: _recount(product, i, j, units, people, near, room, exact))

    if exact.sum() != counts[near].sum():
        raise RuntimeError("a matrix product gave other values the second time; run with one thread")
    used = np.flatnonzero(exact)
    steps = np.flatnonzero(around)[used // _FINE] * _FINE + used % _FINE
    above = np.cumsum(exact[used][::-1])[::-1]  # pairs near any threshold, at this step or higher
    found = []
    for place, home in zip(places, homes, strict=True):
        if home is None:  # everything may be accepted
            found.append((-np.inf, impostors))
            continue
        sure = int(
            counts[home:][~near[home:]].sum()
        )  # farther up than any error reaches, and in no other target's bins
        bar = np.flatnonzero(above >= place - sure)[-1]
        false = sure + (int(above[bar + 1]) if bar + 1 < len(above) else 0)
        found.append(((int(steps[bar]) + 1) / GRID - EDGE, false))
    places_along = np.geomspace(1, impostors, int(_ALONG * np.log10(impostors)) + 2)
    bins = np.unique(len(counts) - 1 - np.searchsorted(from_top[::-1], np.floor(places_along)))[::-1]
    bins = np.append(bins[0] + 1, bins)
    between = bins / _BINS - EDGE
    accepted, genuine = _accepted(units, people, np.append([threshold for threshold, _ in found], between))
    middles = (np.arange(len(counts)) + 0.5) / _BINS - EDGE
    return AllPairCounts(
        [(threshold, int(own), false) for (threshold, false), own in zip(found, accepted, strict=False)],
        Along(between, accepted[len(found) :], np.append(from_top, 0)[bins]),
        np.stack(
            [
                genuine,
                np.histogram(np.clip(middles, -1, 1), BINS, (-1, 1), weights=counts)[0].astype(np.int64),
            ]
        ),
    )


def same_pairs(people: NDArray[np.int32]) -> int:
    """Pairs of one person."""
    sizes = np.bincount(people)
    return int((sizes * (sizes - 1) // 2).sum())


def _tiles(n: int) -> list[tuple[int, int]]:
    """First row and column of every tile that holds pairs ``row < column``."""
    rows, columns = _TILE
    return [(i, j) for i in range(0, n, rows) for j in range(0, n, columns) if j + columns > i]


def _count(
    product: NDArray[np.float32], i: int, j: int, people: NDArray[np.int32], counts: NDArray[np.int64]
) -> None:
    """Count the impostor pairs of a tile by bin."""
    loops = compiled(_count_loops)
    if loops is not None:
        loops(product, i, j, people, counts, EDGE, _BINS)
    else:
        bins, impostor = _binned(product, i, j, people)
        counts += np.bincount(bins[impostor], minlength=len(counts))


def _recount(
    product: NDArray[np.float32],
    i: int,
    j: int,
    units: NDArray[np.float32],
    people: NDArray[np.int32],
    near: NDArray[np.bool_],
    room: NDArray[np.int64],
    exact: NDArray[np.int64],
) -> None:
    """Count the impostor pairs of a tile that lie in the bins asked for, by exact cosine."""
    loops = compiled(_recount_loops, exact_loop)
    if loops is not None:
        loops(product, i, j, units, people, near, room, exact, EDGE, _BINS, GRID)
    else:
        bins, impostor = _binned(product, i, j, people)
        rows, columns = np.nonzero(near[bins] & impostor)
        steps = steps_of(exact_cosines(units, units, rows + i, columns + j))
        exact += np.bincount(room[steps // _FINE] * _FINE + steps % _FINE, minlength=len(exact))


def _binned(
    product: NDArray[np.float32], i: int, j: int, people: NDArray[np.int32]
) -> tuple[NDArray[np.int32], NDArray[np.bool_]]:
    """Bin of each pair of a tile, and whether it is one of two people with ``row < column``."""
    rows, columns = product.shape
    upper = np.arange(i, i + rows)[:, None] < np.arange(j, j + columns)
    impostor = upper & (people[i : i + rows, None] != people[j : j + columns])
    return ((product + np.float32(EDGE)) * np.float32(_BINS)).astype(np.int32), impostor


def steps_of(cosines: NDArray[np.float64]) -> NDArray[np.int64]:
    """Cosines on the grid."""
    return np.floor((cosines + EDGE) * GRID + 0.5).astype(np.int64)


def _accepted(
    units: NDArray[np.float32], people: NDArray[np.int32], thresholds: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Genuine pairs at or above each threshold, and their histogram."""
    total, histogram = np.zeros(len(thresholds), np.int64), np.zeros(BINS, np.int64)
    lowest = np.where(np.isinf(thresholds), 0, np.rint((thresholds + EDGE) * GRID))
    for rows, columns in genuine_pairs(people):
        cosines = exact_cosines(units, units, rows, columns)
        steps = np.sort(steps_of(cosines))
        total += len(steps) - np.searchsorted(steps, lowest)
        histogram += np.histogram(np.clip(cosines, -1, 1), BINS, (-1, 1))[0]
    return total, histogram


def genuine_pairs(
    people: NDArray[np.int32], block: int = 1 << 20
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """All pairs of one person, about ``block`` at a time: the k-th image of each person with each later one."""
    order = np.argsort(people, kind="stable")
    sizes = np.bincount(people)
    ends = np.repeat(np.cumsum(sizes), sizes)
    later = ends - np.arange(len(order)) - 1  # images of the same person behind this one
    cuts = np.searchsorted(np.cumsum(later), np.arange(block, int(later.sum()) + block, block))
    start = 0
    for stop in np.minimum(cuts + 1, len(order)).tolist():
        own = later[start:stop]
        first = np.repeat(np.arange(start, stop), own)
        offset = np.arange(int(own.sum())) - np.repeat(np.cumsum(own) - own, own)
        yield order[first], order[first + 1 + offset]
        start = stop


def _count_loops(
    product: NDArray[np.float32],
    i: int,
    j: int,
    people: NDArray[np.int32],
    counts: NDArray[np.int64],
    edge: float,
    bins: int,
) -> None:
    """`_count` as loops to compile."""
    low, scale = np.float32(edge), np.float32(bins)
    for r in range(product.shape[0]):
        person = people[i + r]
        for c in range(max(0, i + r + 1 - j), product.shape[1]):
            if people[j + c] != person:
                counts[np.int32((product[r, c] + low) * scale)] += 1


def _recount_loops(
    product: NDArray[np.float32],
    i: int,
    j: int,
    units: NDArray[np.float32],
    people: NDArray[np.int32],
    near: NDArray[np.bool_],
    room: NDArray[np.int64],
    exact: NDArray[np.int64],
    edge: float,
    bins: int,
    grid: int,
) -> None:
    """`_recount` as loops to compile."""
    low, scale = np.float32(edge), np.float32(bins)
    for r in range(product.shape[0]):
        person = people[i + r]
        for c in range(max(0, i + r + 1 - j), product.shape[1]):
            if near[np.int32((product[r, c] + low) * scale)] and people[j + c] != person:
                cosine = exact_loop(units[i + r], units[j + c])
                step = np.int64(np.floor((cosine + edge) * grid + 0.5))
                exact[room[step // (grid // bins)] * (grid // bins) + step % (grid // bins)] += 1
