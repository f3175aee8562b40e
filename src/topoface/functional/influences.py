"""What each pair does to a figure, and so how sure a figure is where pairs share people.

A figure moves by the influence of a pair for each unit that the pair weighs more (F. Hampel, "The influence curve and its role in robust
estimation", 1974). Its error is the root of the sum of squares of what each *person* does: people are independent of each other, pairs are not.
A couple of two people, which both bring, counts once (M. Fafchamps and F. Gubert, "The formation of risk sharing networks", 2007, eq. 2.2).
Where few people do most of it, that error is hardly known itself: Student's t has as many degrees of freedom as the spread of what
people do tells (F. Satterthwaite, "An approximate distribution of estimates of variance components", 1946).
"""

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.functional.verification import DetectionCost

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

Z95 = 1.959964
_WINDOW = 1.5  # standard deviations of a count, to either side


class Error(NamedTuple):
    """Of a figure.

    Attributes:
        size: its standard error.
        freedom: degrees of freedom of that.
    """

    size: float
    freedom: float

    @property
    def reach(self) -> float:
        """How far the 95 % interval reaches to either side."""
        return self.size * float(student_of_normal(Z95, self.freedom))

    def reach_of_one_of(self, intervals: int) -> float:
        """The same where so many intervals are to hold together (Bonferroni)."""
        z = NormalDist().inv_cdf(1 - 0.025 / intervals)
        return self.size * float(student_of_normal(z, self.freedom))

    def around(self, value: float) -> tuple[float, float]:
        """The 95 % interval of a figure that cannot fall below 0: that of its logarithm."""
        if not value > 0:
            return value, value
        return value * float(np.exp(-self.reach / value)), value * float(np.exp(self.reach / value))


class Meetings:
    """Who is on which pair.

    Args:
        identities: integers ``[m, 2]``, any labels; twice the same for a pair of one person.
    """

    def __init__(self, identities: NDArray[Any]) -> None:
        names, flat = np.unique(identities, return_inverse=True)
        self.people = len(names)
        self.left, self.right = flat.reshape(-1, 2).T
        self.two = self.left != self.right
        low, high = (ends(self.left, self.right)[self.two] for ends in (np.minimum, np.maximum))
        self.couple = np.unique(low * self.people + high, return_inverse=True)[1]

    def error(self, influence: Floats) -> Error:
        """Of a figure that pairs move by so much, ``[m]``."""
        # In whole numbers of a small step, of which sums are exact: the order of pairs does not matter.
        step = max(float(np.abs(influence).max(initial=0.0)), 1e-300) * len(influence) / 2.0**52
        whole = np.rint(influence / step)
        people: Floats = np.bincount(self.left, whole, self.people).astype(np.float64)
        people += np.bincount(self.right[self.two], whole[self.two], self.people)
        couples = step * np.bincount(self.couple, whole[self.two])
        return error_of_sums(step * people, float((couples**2).sum()))


def error_of_sums(people: Floats, couples: float) -> Error:
    """Of a figure that people move by so much.

    Args:
        people: ``[people]``, sum over the pairs of each.
        couples: sum over couples of two people of the square of what their pairs do.
    """
    number = len(people)
    off = people - people.mean()
    squares = float((off**2).sum())
    once = min(max(squares - couples, couples), squares)
    return Error(
        float(np.sqrt(once * number / max(number - 1, 1))), float(degrees_of_freedom(off[:, None])[0])
    )


def degrees_of_freedom(off: Floats, known: float | Floats = np.inf) -> Floats:
    """Of the mean square of what people do, ``[people, T]``; next to endless where nobody does anything.

    Args:
        off: what they do.
        known: how many alike would do it by chance alone, ``[T]``: their number is known, and so no fewer degrees.
    """
    second, fourth = (off**2).sum(axis=0), (off**4).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        few = np.where(second > 0, fourth / second**2, 0.0)  # 1 / n where n people do as much each
    freedom: Floats = 2 / np.maximum(few - np.maximum(1 / len(off), 1 / np.asarray(known)), 1e-9)
    return freedom


def student_of_normal(z: float, freedom: Any) -> Any:
    """Student's t as far out as a normal deviate z > 0 (D. Wallace, "Bounds on normal approximations to Student's", 1959)."""
    wide = (z * (8 * freedom + 3) / (8 * freedom + 1)) ** 2
    return np.sqrt(freedom * np.expm1(wide / freedom))


def normal_of_student(t: Floats, freedom: Floats) -> Floats:
    """Its inverse, for either sign."""
    shrink = (8 * freedom + 1) / (8 * freedom + 3)
    return np.asarray(np.sign(t) * shrink * np.sqrt(freedom * np.log1p(t**2 / freedom)))


def window(number: int, most: int) -> tuple[int, int]:
    """From how many to how many errors the rates of other errors are taken to change evenly."""
    reach = max(3, round(_WINDOW * number**0.5))
    return max(0, number - reach), min(most, number + reach)


class Ranked(NamedTuple):
    """Pairs from the highest score down.

    Attributes:
        labels: ``[m]``, true for genuine pairs.
        ends: ``[points]``, how many pairs each operating point accepts, from 0.
        tar: ``[points]``.
        far: ``[points]``.
    """

    labels: Bools
    ends: NDArray[np.intp]
    tar: Floats
    far: Floats

    def each(self, genuine: Floats, impostor: Floats) -> Floats:
        """``[m]``: what a figure owes to each pair of either kind, as means over the kind."""
        number = int(self.labels.sum())
        return np.where(self.labels, genuine / number, impostor / (len(self.labels) - number))

    def accepted(self, point: int) -> Bools:
        """``[m]``, at an operating point."""
        return np.asarray(np.arange(len(self.labels)) < self.ends[point])

    def slope(self, false: float) -> float:
        """Of TAR over FAR, where so many impostor pairs are accepted."""
        counts = np.rint(self.far * (~self.labels).sum())
        few, many = window(round(false), int(counts[-1]))
        low = int(np.searchsorted(counts, few, side="right")) - 1
        high = int(np.searchsorted(counts, many))
        return float((self.tar[high] - self.tar[low]) / (self.far[high] - self.far[low]))


def ranked(values: NDArray[Any], labels: Bools) -> Ranked:
    """Operating points: accept nothing, then everything down to the end of each run of equal scores.

    Args:
        values: ``[m]``, scores from the highest down.
        labels: ``[m]``, true for genuine pairs; both kinds.
    """
    ends = np.concatenate([[0], 1 + np.flatnonzero(np.append(values[1:] != values[:-1], True))])
    genuine, impostor = (np.append(0, np.cumsum(kind))[ends] for kind in (labels, ~labels))
    return Ranked(labels, ends, genuine / genuine[-1], impostor / impostor[-1])


def auc_influence(pairs: Ranked) -> Floats:
    """``[m]``: placement values (E. DeLong and others, "Comparing the areas under two or more correlated ROC curves", 1988)."""
    run = np.searchsorted(pairs.ends, np.arange(len(pairs.labels)), side="right")
    over, under = ((rate[run] + rate[run - 1]) / 2 for rate in (pairs.far, pairs.tar))
    area = float(np.trapezoid(pairs.tar, pairs.far))
    return pairs.each(1 - over - area, under - area)


def eer_influence(pairs: Ranked) -> Floats:
    """``[m]``: errors of either kind move the threshold, too, as far as the ROC is steep there."""
    point = int(np.argmax(pairs.far + pairs.tar >= 1))
    impostors = int((~pairs.labels).sum())
    slope = pairs.slope(float(pairs.far[point]) * impostors)
    accepted = pairs.accepted(point)
    return pairs.each(pairs.tar[point] - accepted, slope * (accepted - pairs.far[point])) / (1 + slope)


def tar_influence(pairs: Ranked, far: float) -> Floats:
    """``[m]``: a false accept more takes away the genuine pairs that lie between two false accepts."""
    impostors = int((~pairs.labels).sum())
    point = max(int(np.searchsorted(pairs.far, far, side="right")) - 1, 0)
    kept = pairs.accepted(point)
    # Where no false accept is allowed, the highest impostor pair is the threshold.
    wrong = pairs.accepted(point if pairs.far[point] > 0 else int(np.argmax(pairs.far > 0)))
    share = wrong[~pairs.labels].mean()
    return pairs.each(kept - pairs.tar[point], pairs.slope(share * impostors) * (share - wrong))


def cost_influence(pairs: Ranked, cost: DetectionCost) -> Floats:
    """``[m]``, of the lowest cost: to first order that of the threshold kept."""
    point = int(np.argmin(cost.of(pairs.far, pairs.tar)))
    accepted = pairs.accepted(point)
    every = pairs.each(pairs.tar[point] - accepted, cost.ratio * (accepted - pairs.far[point]))
    return every / min(1.0, cost.ratio)


def accuracy_influence(right: Bools, fold: NDArray[np.intp]) -> Floats:
    """``[m]``, of the mean over folds of the share of pairs that are judged right."""
    sizes = np.bincount(fold)
    mean = np.bincount(fold, right) / sizes
    off: Floats = (right - mean[fold]) / (len(sizes) * sizes[fold])
    return off


def influences(
    pairs: Ranked,
    fars: Sequence[float],
    cost: DetectionCost | None,
    folds: tuple[Bools, NDArray[np.intp]] | None,
) -> dict[str, Floats]:
    """Every figure's, by name.

    Args:
        pairs: of one list.
        fars: targets of ``tar@...``.
        cost: of ``min_dcf``; None: then there is none.
        folds: which pairs are judged right, and the fold of each; None: then there is no ``accuracy``.
    """
    found = {"auc": auc_influence(pairs), "eer": eer_influence(pairs)}
    found |= {f"tar@{far:g}": tar_influence(pairs, far) for far in fars}
    if cost is not None:
        found["min_dcf"] = cost_influence(pairs, cost)
    if folds is not None:
        found["accuracy"] = accuracy_influence(*folds)
    return found
