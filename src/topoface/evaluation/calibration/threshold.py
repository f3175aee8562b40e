"""The threshold of a false accept rate: chosen on some people, scored on others, with its interval."""

from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.errors import UserError
from topoface.evaluation.calibration.known_pairs import KnownPairs, halves
from topoface.evaluation.figures import Figure
from topoface.functional.error_rates import bar_interval, rate_interval
from topoface.functional.verification import allowed_false_accepts, threshold_at_far

Floats = NDArray[np.float64]

ERRORS: Final = 10  # fewer do not tell a rate
VERDICTS: Final = ("different", "not sure", "same")


class Bars(NamedTuple):
    """What is said about a score.

    Attributes:
        accept: lowest score at or above which at most the rate of the impostor pairs lies.
        reject: highest score below which at most the rate of the genuine pairs lies.
    """

    accept: Figure
    reject: Figure

    @property
    def same_from(self) -> float:
        """Said to be the same from here on: where the whole interval of ``accept`` allows it."""
        return float(np.nanmax(self.accept))

    @property
    def different_below(self) -> float:
        """Said to be different below: where the whole interval of ``reject`` allows it, and below that of ``accept``."""
        return float(np.nanmin([*self.reject, *self.accept]))

    def verdicts(self, scores: Floats) -> NDArray[np.intp]:
        """Places in ``VERDICTS``."""
        return (scores >= self.different_below).astype(np.intp) + (scores >= self.same_from)


@dataclass(frozen=True, kw_only=True)
class Threshold:
    """A threshold, and what it did to people whom it was not chosen on.

    Attributes:
        far: the false accept rate asked for.
        miss_rate: largest share of genuine pairs that may be called different: ``far``, or ten of the genuine pairs where those are more.
        bars: of all people; ``bars.accept`` is the threshold.
        false_accepts: impostor pairs of all people at or above the threshold.
        honest_far: share of the impostor pairs accepted by the threshold chosen on the other half of the people.
        honest_miss: share of the genuine pairs rejected by it.
        genuine_verdicts: shares of the genuine pairs by ``VERDICTS``, each said by the bars of the other half.
        impostor_verdicts: the same of the impostor pairs.
    """

    far: float
    miss_rate: float
    bars: Bars
    false_accepts: int
    honest_far: Figure
    honest_miss: Figure
    genuine_verdicts: tuple[float, float, float]
    impostor_verdicts: tuple[float, float, float]


def require_resolution(far: float, impostors: int, where: str) -> None:
    """Refuse a rate that so many impostor pairs cannot tell.

    Raises:
        UserError: fewer than ten false accepts would be allowed, or the rate is none.
    """
    if not 0 < far <= 0.5:
        raise UserError(f"is {far:g}", "--far", "give a rate above 0, up to 0.5")
    if allowed_false_accepts(impostors, far) < ERRORS:
        raise UserError(
            f"a FAR of {far:g} takes at least {pairs_needed(far):,} impostor pairs, there are {impostors:,}",
            where,
            f"give more pairs (all-pairs:FACES are all of a set), or ask for --far {_rounded_up(ERRORS / impostors) if impostors else 0.5:g} or more",
        )


def pairs_needed(far: float) -> int:
    """Impostor pairs of which ten may be accepted at this rate."""
    return int(np.ceil(ERRORS / far * (1 - 1e-12)))


def largest_miss_rate(far: float, genuine: int, where: str) -> float:
    """Share of so many genuine pairs that may be called different; see `Threshold.miss_rate`.

    Raises:
        UserError: ten of them would be too large a share.
    """
    if genuine < 2 * ERRORS:
        raise UserError(
            f"{genuine} genuine pairs are too few", where, f"give {2 * ERRORS} or more, better thousands"
        )
    return max(far, ERRORS / genuine)


def choose(pairs: KnownPairs, far: float, *, where: str, seed: int = 0) -> Threshold:
    """The threshold of a false accept rate, its interval, and what happens when it meets other people.

    Args:
        pairs: of all people.
        far: the rate.
        where: names the pairs in errors.
        seed: of halves.

    Raises:
        UserError: pairs or people are too few for this rate, or impostor pairs share the highest score.
    """
    impostors = int((~pairs.same).sum())
    require_resolution(far, impostors, where)
    genuine = len(pairs.same) - impostors
    miss_rate = largest_miss_rate(far, genuine, where)
    point = threshold_at_far(pairs.scores, pairs.same, far)
    if not np.isfinite(point.threshold):
        raise UserError(
            f"more than {point.allowed:,} impostor pairs share the highest score",
            where,
            "look for one person under two names, or one image twice",
        )
    half, _ = halves(pairs, seed, where)
    accepted, verdict = np.zeros(len(half), dtype=np.bool_), np.zeros(len(half), dtype=np.intp)
    for k in (0, 1):
        learned = pairs.among(half == 1 - k)
        allowed = allowed_false_accepts(int((~learned.same).sum()), far)
        if not allowed:
            raise UserError(
                f"half of the people have too few impostor pairs for a FAR of {far:g}",
                where,
                "give more people, or ask for a larger rate",
            )
        bars = _bars(learned, far, miss_rate)
        held = half == k
        accepted[held] = pairs.scores[held] >= bars.accept.value
        verdict[held] = bars.verdicts(pairs.scores[held])
    used = half >= 0

    def rate(wrong: NDArray[np.bool_], kind: NDArray[np.bool_]) -> Figure:
        tried = used & kind
        ends = rate_interval(wrong[tried], pairs.people[tried])
        return Figure(float(wrong[tried].mean())).between(*ends, int(tried.sum()))

    def by_verdict(kind: NDArray[np.bool_]) -> tuple[float, float, float]:
        share = np.bincount(verdict[used & kind], minlength=3) / (used & kind).sum()
        return float(share[0]), float(share[1]), float(share[2])

    return Threshold(
        far=far,
        miss_rate=miss_rate,
        bars=_bars(pairs, far, miss_rate),
        false_accepts=point.false_accepts,
        honest_far=rate(accepted, ~pairs.same),
        honest_miss=rate(~accepted, pairs.same),
        genuine_verdicts=by_verdict(pairs.same),
        impostor_verdicts=by_verdict(~pairs.same),
    )


def _bars(pairs: KnownPairs, far: float, miss_rate: float) -> Bars:
    accept = threshold_at_far(pairs.scores, pairs.same, far).threshold
    # Rejecting genuine pairs mirrors accepting impostor pairs; the bar itself is a score that is not rejected.
    genuine = np.sort(pairs.scores[pairs.same])
    reject = float(genuine[allowed_false_accepts(len(genuine), miss_rate)])
    impostor = pairs.among(~pairs.same)
    # The lowest score that occurs above the bar, as the threshold itself is one; or just above it, where none is.
    observed = np.append(np.unique(pairs.scores), np.inf)
    bars = np.array(bar_interval(impostor.scores, impostor.people, far))
    above = observed[np.searchsorted(observed, bars, side="right")]
    ends = np.where(np.isinf(above), np.nextafter(bars, np.inf), above)
    return Bars(
        Figure(accept, *map(float, ends)),
        Figure(reject, *reject_interval(pairs.among(pairs.same), miss_rate)),
    )


def reject_interval(genuine: KnownPairs, miss_rate: float) -> tuple[float, float]:
    """Of `Bars.reject`, from the genuine pairs."""
    low, high = bar_interval(-genuine.scores, genuine.people, miss_rate)
    return -high, -low


def _rounded_up(rate: float) -> float:
    """To two digits."""
    step = 10.0 ** (np.floor(np.log10(rate)) - 1)
    return float(np.ceil(rate / step * (1 - 1e-12)) * step)
