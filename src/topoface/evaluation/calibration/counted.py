"""Bars of all pairs of some people, and what of other people's pairs lies above them: counted, with intervals of first order."""

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.all_pairs.counts import points_of_all_pairs, same_pairs
from topoface.evaluation.all_pairs.people import AcceptedByPerson, accepted_by_person, false_accepts_by_person
from topoface.evaluation.calibration.known_pairs import KnownPairs
from topoface.evaluation.calibration.threshold import Bars, Threshold
from topoface.evaluation.figures import Figure, band_fars
from topoface.functional.bootstrap import Floats, identity_counts
from topoface.functional.threshold_interval import drawn_people
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
        impostor_drawn: as ``genuine_drawn``.
    """

    genuine: Floats
    impostor: Floats
    genuine_drawn: Floats
    impostor_drawn: Floats


def choose_bars(
    part: People, where: str, replicates: int, seed: int, progress: Callable[[int, int], None]
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
    points = points_of_all_pairs(part.units, part.people, [*part.fars, *along], progress=progress).points
    accept, false = (np.array([point[k] for point in points[: len(part.fars)]]) for k in (0, 2))
    if not false.all():
        raise UserError(
            "more impostor pairs than a rate allows share the highest score",
            where,
            "look for one person under two names, or one image twice",
        )
    scores = np.sort(part.genuine.scores)
    reject = [scores[allowed_false_accepts(len(scores), miss)] for miss in part.misses]
    accepts, rejects = [None] * len(reject), [None] * len(reject)
    if replicates:
        accepted = accepted_by_person(part.units, part.people, accept)
        drawn = _false_drawn(accepted, part.people, replicates, seed)
        curve = np.array(sorted({(float(point[2]), point[0]) for point in points})).T
        at = np.log1p(curve[0])
        # The more pairs are accepted at the threshold, the higher it has to be.
        moved = np.log1p(false * false / drawn)
        rises = np.interp(moved, at, curve[1]) - np.interp(np.log1p(false), at, curve[1])
        accepts = list((accept + rises).T)
        rejects = list(_rejects_drawn(part, replicates, seed).T)
    return [
        Bars(Figure(float(a)).within(moved_a), Figure(float(r)).within(moved_r))
        for a, moved_a, r, moved_r in zip(accept, accepts, reject, rejects, strict=True)
    ], false.astype(int).tolist()


def pairs_above(tried: list[tuple[People, list[Bars]]], replicates: int, seed: int, step: Step) -> Above:
    """What lies above the bars of other people, all parts together."""
    fars = len(tried[0][1])
    genuine, impostor = np.zeros((3, fars)), np.zeros((3, fars))
    genuine_drawn, impostor_drawn, drawn = (
        np.zeros((replicates, fars)),
        np.zeros((replicates, fars)),
        np.zeros((replicates, 1)),
    )
    for number, (part, bars) in enumerate(tried):
        cuts = np.array([(bar.accept.value, bar.different_below, bar.same_from) for bar in bars]).T
        progress = step(f"half {number + 1} under the thresholds of the other")
        accepted = accepted_by_person(part.units, part.people, cuts.ravel(), progress=progress)
        genuine += accepted.genuine.sum(axis=0).reshape(3, fars)
        impostor += accepted.impostor.sum(axis=0).reshape(3, fars) / 2
        if replicates:
            # Other people in each half: each is drawn with a seed of its own.
            own, size = seed + number, np.bincount(part.people)
            at_accept = AcceptedByPerson(
                accepted.genuine[:, :fars],
                accepted.impostor[:, :fars],
                accepted.squares[:fars],
                accepted.products[:fars],
            )
            impostor_drawn += _false_drawn(at_accept, part.people, replicates, own)
            counts = np.concatenate(list(_counts(len(size), replicates, own)))
            genuine_drawn += counts @ at_accept.genuine
            drawn += (counts @ (size * (size - 1) // 2))[:, None]
    pairs = [part for part, _ in tried]
    all_genuine, all_impostor = genuine_pairs_of(*pairs), sum(part.impostors for part in pairs)
    with np.errstate(invalid="ignore"):
        return Above(
            genuine / all_genuine,
            impostor / all_impostor,
            genuine_drawn / drawn,
            impostor_drawn / all_impostor,
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

    for k, (far, miss) in enumerate(zip(part.fars, part.misses, strict=True)):
        yield Threshold(
            far=far,
            miss_rate=miss,
            bars=bars[k],
            false_accepts=false[k],
            honest_far=Figure(float(above.impostor[0, k])).within(
                above.impostor_drawn[:, k] if some else None, trials[1]
            ),
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


def _false_drawn(accepted: AcceptedByPerson, people: NDArray[np.int32], replicates: int, seed: int) -> Floats:
    """False accepts in each replicate, ``[replicates, thresholds]``, never none.

    A pair counts as the product of how often its two people are drawn. Where people accept each other in proportion to how easily each is
    accepted at all, so that a sum over pairs is the square of a sum over people, the square root is linear in these counts: exactly so here.
    """
    plain = accepted.impostor.sum(axis=0) / 2
    half = false_accepts_by_person(accepted, people) / (2 * np.maximum(plain, 1))
    roots = np.concatenate([1 + (counts - 1) @ half for counts in _counts(len(half), replicates, seed)])
    return np.asarray(plain * np.clip(roots, 0.1, None) ** 2)


def _rejects_drawn(part: People, replicates: int, seed: int) -> Floats:
    """The bar of each miss rate in each replicate, ``[replicates, misses]``."""
    order = np.argsort(part.genuine.scores, kind="stable")
    scores = part.genuine.scores[order]

    def figures(weights: Floats) -> dict[str, Floats]:
        total = np.cumsum(weights, axis=1)
        return {
            str(k): scores[np.argmax(total > miss * total[:, -1:] * (1 + 1e-12), axis=1)]
            for k, miss in enumerate(part.misses)
        }

    drawn = drawn_people(figures, part.genuine.people[order], replicates=replicates, seed=seed)
    return np.stack([drawn[str(k)] for k in range(len(part.misses))], axis=1)


def _counts(people: int, replicates: int, seed: int) -> Iterator[Floats]:
    size = max(1, _BLOCK // people)
    for at in range(0, replicates, size):
        yield identity_counts(people, range(at, min(at + size, replicates)), seed)
