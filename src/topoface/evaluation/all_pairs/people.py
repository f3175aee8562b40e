"""Intervals over all pairs of a set: who is in the accepted pairs, counted in one more pass, and what drawing people anew changes.

All pairs cannot be weighed in every replicate. But the false accepts that each person is in say how far a threshold may be off, and in
which replicates it lies higher or lower; the genuine pairs accepted follow along the ROC.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.all_pairs.bookmark import Bookmark
from topoface.evaluation.all_pairs.counts import EDGE, GRID, Along, genuine_pairs, steps_of
from topoface.functional.bootstrap import Floats, identity_counts
from topoface.functional.compiled import compiled
from topoface.functional.error_rates import LeftOut, leave_one_out, moved_places
from topoface.functional.influences import window
from topoface.functional.search import exact_cosines, exact_loop, product_error

_TILE = 1024, 4096  # rows and columns of a product at least; a person is never cut
_BLOCK = 1 << 22  # weights drawn together


class AcceptedByPerson(NamedTuple):
    """Pairs accepted at each threshold, by person.

    Attributes:
        genuine: ``[people, thresholds]``, pairs of each person.
        impostor: ``[people, thresholds]``, pairs of each person with others.
        squares: ``[thresholds]``, sum over all couples of people of the square of their accepted pairs.
        products: ``[thresholds]``, sum over all couples of their accepted pairs times all of their pairs.
    """

    genuine: NDArray[np.int64]
    impostor: NDArray[np.int64]
    squares: Floats
    products: Floats

    def at(self, some: slice) -> "AcceptedByPerson":
        """At some of the thresholds."""
        return AcceptedByPerson(
            self.genuine[:, some], self.impostor[:, some], self.squares[some], self.products[some]
        )


def accepted_by_person(
    units: NDArray[np.float32],
    people: NDArray[np.int32],
    thresholds: NDArray[np.float64],
    *,
    bookmark: Bookmark | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> AcceptedByPerson:
    """Count the pairs at or above each threshold for every person.

    Args:
        units: ``[n, D]``, unit rows.
        people: ``[n]``, from 0 without gaps.
        thresholds: from `counts.points_of_all_pairs`.
        bookmark: as there.
        progress: called with tiles done and tiles in all.
    """
    order = np.argsort(people, kind="stable")
    units, people = units[order], people[order]
    upward = np.argsort(thresholds, kind="stable")
    bars = thresholds[upward]
    ends = np.iinfo(np.int64)
    lowest = np.rint((np.clip(bars, -2, 2) + EDGE) * GRID).astype(np.int64)
    lowest[np.isinf(bars)] = np.where(bars[np.isinf(bars)] > 0, ends.max, ends.min)
    size = np.bincount(people)
    shape = len(size), len(bars)
    found = AcceptedByPerson(
        np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(len(bars)), np.zeros(len(bars))
    )
    tiles = list(_tiles(size))
    first = bookmark.open("people", found._asdict()) if bookmark else 0
    if not first:
        for rows, columns in genuine_pairs(people):
            steps = steps_of(exact_cosines(units, units, rows, columns))
            for k, bar in enumerate(lowest):
                found.genuine[:, k] += np.bincount(people[rows[steps >= bar]], minlength=len(size))
    for done, (i, i_end, j, j_end) in enumerate(tiles[first:], start=first + 1):
        product = units[i:i_end] @ units[j:j_end].T
        _count(product, i, j, units, people, size, bars, lowest, found)
        if bookmark:
            bookmark.step("people", found._asdict(), done, len(tiles))
        if progress:
            progress(done, len(tiles))
    back = np.argsort(upward)
    genuine, impostor = found.genuine[:, back], found.impostor[:, back]
    return AcceptedByPerson(genuine, impostor, found.squares[back], found.products[back])


def drawn_tar(
    accepted: AcceptedByPerson,
    rates: tuple[NDArray[np.int64], LeftOut],
    genuine: NDArray[np.int64],
    curve: Along,
    wanted: Sequence[int],
    *,
    replicates: int,
    seed: int,
) -> Floats:
    """TAR in each replicate at some of the thresholds, ``[replicates, wanted]``.

    Who is drawn says in which replicates the threshold lies high, and which genuine pairs count. How far it moves says its own error
    (`topoface.functional.error_rates`): where few people bring the false accepts, drawing them anew moves it too little.

    Args:
        accepted: at all thresholds.
        rates: from `left_out`, of these.
        genuine: ``[people]``, all genuine pairs of each person (more than of these images, where some failed).
        curve: where the thresholds may move to.
        wanted: places of the thresholds whose TAR is wanted.
        replicates: how often the people are drawn.
        seed: of the draws.
    """
    false, left = rates
    own = accepted.genuine[:, wanted]
    pull, share = np.empty((2, replicates, len(wanted)))
    step = max(1, _BLOCK // len(genuine))
    for start in range(0, replicates, step):
        block = slice(start, min(start + step, replicates))
        counts = identity_counts(len(genuine), range(replicates)[block], seed)
        pull[block] = (counts - 1) @ left.influence[:, wanted]
        with np.errstate(invalid="ignore"):
            share[block] = (counts @ own) / (counts @ genuine)[:, None]
    at, level = np.log1p(curve.false), curve.genuine / genuine.sum()
    normal = NormalDist()
    scores = np.array([normal.inv_cdf((rank + 0.5) / replicates) for rank in range(replicates)])
    tar = np.empty_like(share)
    for k, place in enumerate(false[wanted]):
        # Where the people drawn bring more false accepts, fewer of these are left.
        deviates = np.empty(replicates)
        deviates[np.argsort(-pull[:, k], kind="stable")] = scores
        places = moved_places(deviates, place, false, left)
        moved = np.interp(np.log1p(places), at, level) - np.interp(np.log1p(max(place, 0.5)), at, level)
        tar[:, k] = share[:, k] + moved
    return np.where(np.isnan(share), np.nan, np.clip(tar, 0, 1))


def tar_influence(
    accepted: AcceptedByPerson,
    rates: tuple[NDArray[np.int64], LeftOut],
    genuine: NDArray[np.int64],
    curve: Along,
    wanted: Sequence[int],
) -> Floats:
    """What each person does to TAR at some of the thresholds, ``[people, wanted]``, couples counted once.

    By the genuine pairs, and by moving the threshold, along the ROC. Arguments as in `drawn_tar`.
    """
    false, left = rates
    every, number = genuine.sum(), len(genuine)
    at, level = np.log1p(curve.false), curve.genuine / every
    found = np.empty((number, len(wanted)))
    for k, place in enumerate(wanted):
        few, many = window(int(false[place]), int(curve.false.max()))
        rise = np.diff(np.interp(np.log1p([few, many]), at, level))[0] / np.log((many + 0.5) / (few + 0.5))
        squares = (left.influence[:, place] ** 2).sum() * (number - 1) / number
        once = left.error[place] / np.sqrt(squares) if squares > 0 else 0.0
        share = accepted.genuine[:, place].sum() / every
        own = (accepted.genuine[:, place] - share * genuine) / every
        found[:, k] = own - rise * once * left.influence[:, place]
    return found


def left_out(
    parts: Sequence[tuple[AcceptedByPerson, NDArray[np.int32]]],
) -> tuple[NDArray[np.int64], LeftOut]:
    """False accepts at each threshold, and what leaving out people says of their rates.

    Args:
        parts: accepted pairs, and who is on each image, from 0 without gaps, of sets without a common person, whose pairs are taken together.
    """
    number = np.sum([accepted.impostor.sum(axis=0) // 2 for accepted, _ in parts], axis=0)
    sizes = [np.bincount(people).astype(np.float64) for _, people in parts]
    meetings = np.concatenate([size * (size.sum() - size) for size in sizes])
    share = number / (meetings.sum() / 2)
    couples = np.zeros(len(number))
    for (accepted, _), size in zip(parts, sizes, strict=True):
        every = ((size**2).sum() ** 2 - (size**4).sum()) / 2
        couples += accepted.squares - 2 * share * accepted.products + share**2 * every
    wrong = np.concatenate([accepted.impostor for accepted, _ in parts])
    return number, leave_one_out(wrong, meetings, number, meetings.sum() / 2, couples)


def _tiles(size: NDArray[np.int64]) -> Iterator[tuple[int, int, int, int]]:
    """First and last row and column of every tile that holds pairs ``row < column``; each couple lies in one."""
    ends = np.cumsum(size)
    edges = []
    for least in _TILE:
        marks = np.unique(np.searchsorted(ends, np.arange(least, int(ends[-1]) + least, least)))
        edges.append(np.unique(np.append(0, ends[np.minimum(marks, len(ends) - 1)])).tolist())
    rows, columns = (list(pairwise(cuts)) for cuts in edges)
    return ((i, i_end, j, j_end) for i, i_end in rows for j, j_end in columns if j_end > i)


def _count(
    product: NDArray[np.float32],
    i: int,
    j: int,
    units: NDArray[np.float32],
    people: NDArray[np.int32],
    size: NDArray[np.int64],
    bars: NDArray[np.float64],
    lowest: NDArray[np.int64],
    found: AcceptedByPerson,
) -> None:
    """Add the impostor pairs of a tile that are accepted at each bar (ascending; ``lowest`` in steps)."""
    error = product_error(units.shape[1]) + 2.0**-22
    loops = compiled(_count_loops, exact_loop)
    if loops is not None:
        loops(product, i, j, units, people, size, bars, lowest, error, EDGE, GRID, *found[1:])
        return
    rows, columns = product.shape
    upper = np.arange(i, i + rows)[:, None] < np.arange(j, j + columns)
    impostor = upper & (people[i : i + rows, None] != people[j : j + columns])
    for k, bar in enumerate(bars):
        row, column = np.nonzero(impostor & (product >= bar - error))
        kept = steps_of(exact_cosines(units, units, row + i, column + j)) >= lowest[k]
        couples, times = np.unique(
            np.stack([people[row[kept] + i], people[column[kept] + j]]), axis=1, return_counts=True
        )
        for side in couples:
            np.add.at(found.impostor[:, k], side, times)
        found.squares[k] += float((times.astype(np.float64) ** 2).sum())
        found.products[k] += float((times * size[couples[0]] * size[couples[1]]).sum())


def _count_loops(
    product: NDArray[np.float32],
    i: int,
    j: int,
    units: NDArray[np.float32],
    people: NDArray[np.int32],
    size: NDArray[np.int64],
    bars: NDArray[np.float64],
    lowest: NDArray[np.int64],
    error: float,
    edge: float,
    grid: int,
    impostor: NDArray[np.int64],
    squares: NDArray[np.float64],
    products: NDArray[np.float64],
) -> None:
    """`_count` as loops to compile: row by row, with the counts of one person against those of the columns."""
    rows, columns = product.shape
    first = people[j]
    met = np.zeros((people[j + columns - 1] - first + 1, len(bars)), np.int64)
    floor = np.float32(bars[0] - error)
    r = 0
    while r < rows:
        person, some = people[i + r], False
        while r < rows and people[i + r] == person:
            for c in range(max(0, i + r + 1 - j), columns):
                value = product[r, c]
                if value >= floor and people[j + c] != person:
                    k = 0
                    while k < len(bars) and value >= bars[k] + error:
                        k += 1
                    if k < len(bars) and value >= bars[k] - error:
                        cosine = exact_loop(units[i + r], units[j + c])
                        step = np.int64(np.floor((cosine + edge) * grid + 0.5))
                        while k < len(bars) and step >= lowest[k]:
                            k += 1
                    if k > 0:
                        met[people[j + c] - first, k - 1] += 1
                        some = True
            r += 1
        if not some:
            continue
        for b in range(len(met)):
            total = 0
            for k in range(len(bars) - 1, -1, -1):
                total += met[b, k]
                met[b, k] = 0
                if total > 0:
                    impostor[person, k] += total
                    impostor[first + b, k] += total
                    squares[k] += float(total) * total
                    products[k] += float(total) * size[person] * size[first + b]
