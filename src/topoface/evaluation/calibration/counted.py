"""Bars of all pairs of some people, and what of other people's pairs lies above them: counted, with intervals of first order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.all_pairs.counts import points_of_all_pairs, same_pairs
from topoface.evaluation.all_pairs.people import accepted_by_person, left_out
from topoface.evaluation.calibration.known_pairs import KnownPairs
from topoface.evaluation.calibration.threshold import Bars, Threshold, reject_interval
from topoface.evaluation.figures import Figure, band_fars
from topoface.functional.bootstrap import Floats, identity_counts
from topoface.functional.error_rates import place_interval, rate_ends
from topoface.functional.verification import allowed_false_accepts

_BLOCK: Final = 1 << 22  # counts of people drawn together

Step = Callable[[str], Callable[[int, int], None]]


class People(NamedTuple):
    """Images of some of the people, and the rates wanted of them.

    Attributes:
        units: float32 ``[n, D]``.
        people: int32 ``[n]``, from 0 without gaps.
        impostors: pairs of two of them.
        genuine: drawn pairs of one of them, with their scores.
        fars: false accept rates, falling.
        misses: miss rates, one for each.
    """

    units: NDArray[np.float32]
    people: NDArray[np.int32]
    impostors: int
    genuine: KnownPairs
    fars: Sequence[float]
    misses: Sequence[float]


class Above(NamedTuple):
    """Shares of the pairs at or above the bars that other people gave.

    Attributes:
        genuine: float64 ``[3, fars]``, by ``(accept, different_below, same_from)``.
        impostor: as ``genuine``.
        genuine_drawn: float64 ``[replicates, fars]``, above ``accept``.
        impostor_ends: float64 ``[2, fars]``, the interval of the impostor pairs above ``accept``.
    """

    genuine: Floats
    impostor: Floats
    genuine_drawn: Floats
    impostor_ends: Floats


def choose_bars(
    part: People, where: str, intervals: bool, progress: Callable[[int, int], None]
) -> tuple[list[Bars], list[int]]:
    """The bars of each rate, and how many impostor pairs its threshold accepts.

    Raises:
        UserError: the pairs are too few for a rate, or share the highest score.
    """
    for far in part.fars:
        if not allowed_false_accepts(part.impostors, far):
            raise UserError(
                f"half of the people have too few impostor pairs for a FAR of {far:g}",
                where,
                "give more people, or ask for a larger rate",
            )
    along = [0.0, *band_fars(part.impostors, top=0.9)]  # what a threshold may move along
    points, curve, _ = points_of_all_pairs(part.units, part.people, [*part.fars, *along], progress=progress)
    accept, false = (np.array([point[k] for point in points[: len(part.fars)]]) for k in (0, 2))
    if not false.all():
        raise UserError(
            "more impostor pairs than a rate allows share the highest score",
            where,
            "look for one person under two names, or one image twice",
        )
    scores = np.sort(part.genuine.scores)
    reject = [float(scores[allowed_false_accepts(len(scores), miss)]) for miss in part.misses]
    if not intervals:
        return [
            Bars(Figure(float(a)), Figure(r)) for a, r in zip(accept, reject, strict=True)
        ], false.tolist()
    rungs = np.array([point[0] for point in points if point[2] <= false.max()])
    accepted, left = left_out([(accepted_by_person(part.units, part.people, rungs), part.people)])

    def within(threshold: float, place: int) -> Figure:
        few, many = place_interval(place, accepted, left)
        # The fewer pairs may be accepted, the higher the threshold. It may be one of several that accept as many.
        low, high = np.interp(np.log1p([many, few]), np.log1p(curve.false), curve.threshold)
        return Figure(threshold, min(float(low), threshold), max(float(high), threshold))

    rejects = [reject_interval(part.genuine, miss) for miss in part.misses]
    bars = [
        Bars(within(a, n), Figure(r, *ends))
        for a, n, r, ends in zip(accept.tolist(), false.tolist(), reject, rejects, strict=True)
    ]
    return bars, false.tolist()


def pairs_above(tried: list[tuple[People, list[Bars]]], replicates: int, seed: int, step: Step) -> Above:
    """What lies above the bars of other people, all parts together."""
    fars = len(tried[0][1])
    genuine, impostor = np.zeros((3, fars)), np.zeros((3, fars))
    genuine_drawn, drawn = np.zeros((replicates, fars)), np.zeros((replicates, 1))
    at_accept = []
    for number, (part, bars) in enumerate(tried):
        cuts = np.array([(bar.accept.value, bar.different_below, bar.same_from) for bar in bars]).T
        progress = step(f"half {number + 1} under the thresholds of the other")
        accepted = accepted_by_person(part.units, part.people, cuts.ravel(), progress=progress)
        genuine += accepted.genuine.sum(axis=0).reshape(3, fars)
        impostor += accepted.impostor.sum(axis=0).reshape(3, fars) / 2
        at_accept.append((accepted.at(slice(fars)), part.people))
        if replicates:
            # Other people in each half: each is drawn with a seed of its own.
            size = np.bincount(part.people)
            counts = np.concatenate(list(_counts(len(size), replicates, seed + number)))
            genuine_drawn += counts @ accepted.genuine[:, :fars]
            drawn += (counts @ (size * (size - 1) // 2))[:, None]
    pairs = [part for part, _ in tried]
    impostor /= sum(part.impostors for part in pairs)
    with np.errstate(invalid="ignore"):
        return Above(
            genuine / genuine_pairs_of(*pairs),
            impostor,
            genuine_drawn / drawn,
            np.array(rate_ends(impostor[0], left_out(at_accept)[1])),
        )


def as_thresholds(
    part: People, bars: list[Bars], false: list[int], above: Above, trials: tuple[int, int]
) -> Iterator[Threshold]:
    """The record of each rate.

    Args:
        part: all people.
        bars: theirs.
        false: impostor pairs that the thresholds accept.
        above: from `pairs_above`.
        trials: genuine and impostor pairs that were tried there.
    """
    some = len(above.genuine_drawn) > 0

    def verdicts(share: Floats) -> tuple[float, float, float]:
        _, unlike, same = map(float, share)
        return 1 - unlike, unlike - same, same

    low, high = above.impostor_ends
    for k, (far, miss) in enumerate(zip(part.fars, part.misses, strict=True)):
        honest_far = Figure(float(above.impostor[0, k]))
        yield Threshold(
            far=far,
            miss_rate=miss,
            bars=bars[k],
            false_accepts=false[k],
            honest_far=honest_far.between(float(low[k]), float(high[k]), trials[1]) if some else honest_far,
            honest_miss=Figure(float(1 - above.genuine[0, k])).within(
                1 - above.genuine_drawn[:, k] if some else None, trials[0]
            ),
            genuine_verdicts=verdicts(above.genuine[:, k]),
            impostor_verdicts=verdicts(above.impostor[:, k]),
        )


def genuine_pairs_of(*parts: People) -> int:
    """Pairs of one person."""
    return sum(same_pairs(part.people) for part in parts)


def impostor_pairs(people: NDArray[np.integer]) -> int:
    """Pairs of two people, numbered from 0."""
    return len(people) * (len(people) - 1) // 2 - same_pairs(people.astype(np.int32))


def _counts(people: int, replicates: int, seed: int) -> Iterator[Floats]:
    size = max(1, _BLOCK // people)
    for at in range(0, replicates, size):
        yield identity_counts(people, range(at, min(at + size, replicates)), seed)
