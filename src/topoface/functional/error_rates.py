"""How sure a rate of errors is, and the threshold that has it, where a few people may bring most of the errors.

Leaving out one person at a time shows what each does to the logarithm of a rate (the jackknife; J. Tukey, 1958). Couples count once, and few
people who do most of it leave Student's t few degrees of freedom, as in `influences`.
The interval of a threshold are all thresholds at which the asked rate is not contradicted (R. Woodruff, "Confidence intervals for medians
and other position measures", 1952), by the error *there*: a set without those few people is too sure of the threshold that it finds.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from topoface.functional.influences import Z95, degrees_of_freedom, normal_of_student, student_of_normal
from topoface.functional.verification import allowed_false_accepts, as_array

Floats = NDArray[np.float64]

_RUNGS = 100  # of a ladder of thresholds from a tenth to ten times the rate
_GRID = 512  # places between which an error is taken to be linear


class LeftOut(NamedTuple):
    """What leaving out people says of the rates at ``T`` thresholds.

    Attributes:
        influence: ``[people, T]``, by how much each raises the logarithm of the rate.
        error: ``[T]``, standard error of that logarithm; 0 where there is no error.
        freedom: ``[T]``, degrees of freedom of that error.
    """

    influence: Floats
    error: Floats
    freedom: Floats


def leave_one_out(
    wrong: NDArray[np.integer], pairs: ArrayLike, number: NDArray[np.integer], total: float, couples: Floats
) -> LeftOut:
    """The error of rates from what remains without each person.

    Args:
        wrong: ``[people, T]``, errors that each person is in.
        pairs: ``[people]``, pairs that each person is in.
        number: ``[T]``, errors in all.
        total: pairs in all.
        couples: ``[T]``, sum over couples of two people of the square of their errors less their share of all errors.
    """
    people, own = len(wrong), np.asarray(pairs)
    # Where nobody else makes an error, half of one is thought to remain: the logarithm of none has no end.
    without = np.log(np.maximum(number - wrong, 0.5) / np.maximum(total - own, 0.5)[:, None])
    influence = without.mean(axis=0) - without
    squares = ((wrong - number / total * own[:, None]) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        once = np.where(squares > 0, np.clip(np.maximum(squares - couples, couples) / squares, 0, 1), 0.0)
    error = np.sqrt(once * (influence**2).sum(axis=0) * (people - 1) / people)
    # Errors that fell on as many people as there are sides of pairs tell all about their error: the logarithm has it.
    return LeftOut(influence, error, degrees_of_freedom(influence, np.maximum(wrong.sum(axis=0), 1)))


def moved_places(deviates: Floats, place: float, numbers: NDArray[np.integer], left: LeftOut) -> Floats:
    """How many errors the threshold of a rate would make here, if it lay so many standard deviations off.

    Args:
        deviates: of a normal distribution; where positive, the threshold makes more errors.
        place: errors that the rate allows.
        numbers: ``[T]``, errors at some thresholds. Where none makes any, nothing is known, and the place stays.
        left: of these.

    Returns:
        The places, of the shape of ``deviates``, from 0.5 on.
    """
    ladder, first = np.unique(numbers, return_index=True)
    ladder, first = ladder[ladder > 0], first[ladder > 0]
    if not len(ladder):
        return np.full(np.shape(deviates), max(place, 0.5))
    error, freedom, steps = left.error[first], left.freedom[first], np.log(ladder)
    middle = np.log(max(place, 0.5))
    grid = np.sort(np.append(np.linspace(np.log(0.5), steps[-1] + 6 * error[-1], _GRID), middle))
    students = (grid - middle) / np.maximum(np.interp(grid, steps, error), 1e-9)
    normal = normal_of_student(students, np.interp(grid, steps, freedom))
    # Away from the place deviates only grow: where next to no errors are left, their error tells little.
    here = int(np.searchsorted(grid, middle))
    below = np.minimum.accumulate(normal[here::-1])[::-1]
    places: Floats = np.exp(
        np.interp(deviates, np.append(below[:-1], np.maximum.accumulate(normal[here:])), grid)
    )
    return places


def place_interval(place: float, numbers: NDArray[np.integer], left: LeftOut) -> Floats:
    """The ends, ``[2]``, of the 95 % interval of `moved_places`."""
    return moved_places(np.array([-Z95, Z95]), place, numbers, left)


def rate_interval(wrong: ArrayLike, identities: ArrayLike) -> tuple[float, float]:
    """95 % interval of the share of pairs that are wrong.

    Args:
        wrong: bool ``[m]``.
        identities: integers ``[m, 2]``, who is on each pair; any labels.

    Returns:
        Its ends; both 0 where no pair is wrong, about which leaving out people says nothing.
    """
    errors = as_array(wrong).astype(np.bool_)
    number = int(errors.sum())
    if not number:
        return 0.0, 0.0
    left = _of_worst(as_array(identities)[np.argsort(~errors, kind="stable")], [number])
    low, high = rate_ends(np.array([number / len(errors)]), left)
    return float(low[0]), float(high[0])


def rate_ends(rates: Floats, left: LeftOut) -> tuple[Floats, Floats]:
    """Both ends of the 95 % intervals of rates ``[T]``."""
    away = left.error * student_of_normal(Z95, left.freedom)
    return rates * np.exp(-away), np.minimum(1.0, rates * np.exp(away))


def bar_interval(scores: ArrayLike, identities: ArrayLike, rate: float) -> tuple[float, float]:
    """95 % interval of the score above which at most a share of the pairs lies: of the highest such pair that does not.

    Args:
        scores: ``[m]``, of pairs of one kind.
        identities: integers ``[m, 2]``, who is on each pair; any labels.
        rate: the share.
    """
    values = as_array(scores)
    order = np.argsort(-values, kind="stable")
    allowed = allowed_false_accepts(len(values), rate)
    around = np.geomspace(max(1, allowed) / 10, max(1, allowed) * 10, _RUNGS)
    ladder = np.unique(np.clip(np.rint(around), 1, len(values)).astype(np.int64))
    few, many = place_interval(allowed, ladder, _of_worst(as_array(identities)[order], ladder))
    last = len(values) - 1
    return float(values[order[min(int(many), last)]]), float(values[order[min(int(few), last)]])


def _of_worst(who: NDArray[np.integer], numbers: Sequence[int] | NDArray[np.int64]) -> LeftOut:
    """`leave_one_out` where the first pairs ``[m, 2]`` are the errors, ascending numbers of them."""
    names, flat = np.unique(who, return_inverse=True)
    sides = flat.reshape(-1, 2)
    two = sides[:, 0] != sides[:, 1]
    couple = np.unique(sides[two].min(axis=1) * len(names) + sides[two].max(axis=1), return_inverse=True)[1]
    before = np.append(0, np.cumsum(two))  # pairs of two people among the first
    met = np.bincount(couple)

    def of_people(part: slice) -> NDArray[np.int64]:
        everyone = np.append(sides[part, 0], sides[part, 1][two[part]])
        return np.bincount(everyone, minlength=len(names))

    wrong = np.stack([of_people(slice(number)) for number in numbers], axis=1)
    couples = [
        ((np.bincount(couple[: before[number]], minlength=len(met)) - number / len(who) * met) ** 2).sum()
        for number in numbers
    ]
    return leave_one_out(
        wrong, of_people(slice(None)), np.asarray(numbers), len(who), np.array(couples, dtype=np.float64)
    )
