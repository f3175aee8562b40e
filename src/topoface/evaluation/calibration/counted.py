"""Bars of all pairs of some people, and what of other people's pairs lies above them: counted."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.all_pairs.counts import points_of_all_pairs, same_pairs
from topoface.evaluation.all_pairs.people import accepted_by_person, left_out
from topoface.evaluation.calibration.known_pairs import KnownPairs
from topoface.evaluation.calibration.threshold import Bars, Threshold, reject_interval
from topoface.evaluation.figures import Figure, band_fars
from topoface.functional.bootstrap import Floats
from topoface.functional.error_rates import leave_one_out, place_interval, rate_ends
from topoface.functional.verification import allowed_false_accepts

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
        missed_ends: float64 ``[2, fars]``, the interval of the genuine pairs below ``accept``.
        impostor_ends: float64 ``[2, fars]``, the interval of the impostor pairs above it.
    """

    genuine: Floats
    impostor: Floats
    missed_ends: Floats
    impostor_ends: Floats


def choose_bars(
    part: People, where: str, progress: Callable[[int, int], None]
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


def pairs_above(tried: list[tuple[People, list[Bars]]], step: Step) -> Above:
    """What lies above the bars of other people, all parts together."""
    fars = len(tried[0][1])
    genuine, impostor = np.zeros((3, fars)), np.zeros((3, fars))
    at_accept, missed, own = [], [], []
    for number, (part, bars) in enumerate(tried):
        cuts = np.array([(bar.accept.value, bar.different_below, bar.same_from) for bar in bars]).T
        progress = step(f"half {number + 1} under the thresholds of the other")
        accepted = accepted_by_person(part.units, part.people, cuts.ravel(), progress=progress)
        genuine += accepted.genuine.sum(axis=0).reshape(3, fars)
        impostor += accepted.impostor.sum(axis=0).reshape(3, fars) / 2
        at_accept.append((accepted.at(slice(fars)), part.people))
        size = np.bincount(part.people)
        own.append(size * (size - 1) // 2)
        missed.append(own[-1][:, None] - accepted.genuine[:, :fars])
    wrong, all_genuine = np.concatenate(missed), int(np.concatenate(own).sum())
    misses = leave_one_out(wrong, np.concatenate(own), wrong.sum(axis=0), all_genuine, np.zeros(fars))
    genuine /= all_genuine
    impostor /= sum(part.impostors for part, _ in tried)
    return Above(
        genuine,
        impostor,
        np.array(rate_ends(1 - genuine[0], misses)),
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

    def verdicts(share: Floats) -> tuple[float, float, float]:
        _, unlike, same = map(float, share)
        return 1 - unlike, unlike - same, same

    def honest(value: float, ends: Floats, of: int) -> Figure:
        return Figure(float(value)).between(float(ends[0]), float(ends[1]), of)

    for k, (far, miss) in enumerate(zip(part.fars, part.misses, strict=True)):
        yield Threshold(
            far=far,
            miss_rate=miss,
            bars=bars[k],
            false_accepts=false[k],
            honest_far=honest(above.impostor[0, k], above.impostor_ends[:, k], trials[1]),
            honest_miss=honest(1 - above.genuine[0, k], above.missed_ends[:, k], trials[0]),
            genuine_verdicts=verdicts(above.genuine[:, k]),
            impostor_verdicts=verdicts(above.impostor[:, k]),
        )


def genuine_pairs_of(*parts: People) -> int:
    """Pairs of one person."""
    return sum(same_pairs(part.people) for part in parts)


def impostor_pairs(people: NDArray[np.integer]) -> int:
    """Pairs of two people, numbered from 0."""
    return len(people) * (len(people) - 1) // 2 - same_pairs(people.astype(np.int32))
