"""Two models on the same pairs: how every figure differs, and how far chance alone can move that."""

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.figures import COST, Figure, difference
from topoface.evaluation.pairs.verification import FARS, Verification
from topoface.functional import verification as exact
from topoface.functional.bootstrap import Floats, paired_intervals
from topoface.functional.sign_flips import flip_margin

Bools = NDArray[np.bool_]


def compare(first: Verification, second: Verification) -> dict[str, Figure]:
    """First model minus second, figure by figure, with the interval of the *difference* on the same people.

    Where fewer than ten pairs decide, it reaches at least as far as chance does in `functional.sign_flips`. No interval where one of the
    two figures has none, or is a TAR that rests on fewer than ten false accepts: there single impostor pairs move a threshold, and with it
    many genuine ones.

    Raises:
        ValueError: the two were judged on different protocols.
    """
    protocol = first.protocol
    if protocol.fingerprint != second.protocol.fingerprint:
        raise ValueError(f"{first.name} and {second.name} are different protocols; compare models on one")
    ours, theirs, replicates = first.named(), second.named(), min(first.bootstrap, second.bootstrap)
    if not replicates:
        return {name: difference(figure, theirs[name]) for name, figure in ours.items()}
    who = protocol.identities[protocol.pairs]
    intervals = paired_intervals(
        first.scores,
        second.scores,
        protocol.same,
        who,
        protocol.folds,
        fars=FARS,
        cost=COST,
        replicates=replicates,
        seed=first.seed,
    )
    couples = np.unique(np.sort(who, axis=1), axis=0, return_inverse=True)[1].reshape(-1)
    of_first, of_second = (_parts(v.scores, v) for v in (first, second))
    vague = {f"tar@{point.target:g}" for point in first.tar if point.warning}
    found = {}
    for name, figure in ours.items():
        minus = [a - b for a, b in zip(of_first[name], of_second[name], strict=True)]
        margin = max(flip_margin(parts, couples, first.seed) for parts in minus)
        found[name] = difference(figure, theirs[name], None if name in vague else intervals[name], margin)
    return found


def _parts(scores: Floats, v: Verification) -> dict[str, list[Floats]]:
    """What every pair adds to each figure, ``[m]``: they sum to it. Several where each kind of pair alone carries the whole figure."""
    same = v.protocol.same
    genuine, impostors = int(same.sum()), int((~same).sum())
    per_kind = np.where(same, 1 / genuine, 1 / impostors)

    def only(kind: Bools, values: Floats | Bools) -> Floats:
        return np.where(kind, values * per_kind, 0.0)

    _, fold, sizes = np.unique(v.protocol.folds, return_inverse=True, return_counts=True)
    right = (scores >= v.fold_thresholds[fold]) == same
    far, tar, thresholds = exact.roc(scores, same)
    wrong = (scores >= thresholds[np.argmax(far + tar >= 1)]) != same
    cost = COST.of(far, tar)
    dear = (scores >= thresholds[np.argmin(cost)]) != same
    # A pair of one kind: the share of the other kind that lies on its right side, ties one half.
    over, above = (_share_below(np.sort(scores[kind]), scores) for kind in (~same, same))
    return {
        "accuracy": [right / (len(sizes) * sizes[fold])],
        "auc": [only(same, over), only(~same, 1 - above)],
        "eer": [only(same, wrong), only(~same, wrong)],
        **{f"tar@{p.target:g}": [only(same, scores >= p.threshold)] for p in v.tar},
        "min_dcf": [(only(same, dear) + COST.ratio * only(~same, dear)) / min(1.0, COST.ratio)],
    }


def _share_below(ascending: Floats, scores: Floats) -> Floats:
    """Share of a kind's scores below each score, ties one half."""
    twice = np.searchsorted(ascending, scores) + np.searchsorted(ascending, scores, side="right")
    return twice / (2 * len(ascending))
