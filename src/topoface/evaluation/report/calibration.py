"""The report's part on thresholds and probabilities of a protocol's pairs: a table, and probabilities beside what is true."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from topoface.errors import UserError
from topoface.evaluation.calibration.known_pairs import halves, known_pairs
from topoface.evaluation.calibration.probability import Quality, quality
from topoface.evaluation.calibration.threshold import ERRORS, Threshold, choose
from topoface.evaluation.pairs.verification import FARS, Verification
from topoface.evaluation.report.plots import MUTED, legend_in_columns, plain, svg
from topoface.functional.bootstrap import Floats
from topoface.functional.score_calibration import Bins
from topoface.functional.verification import allowed_false_accepts

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PRIOR = 0.5
_TICKS = (1e-4, 1e-3, 1e-2, 0.1, 0.5, 0.9, 0.99, 0.999, 0.9999)


@dataclass(frozen=True, kw_only=True, eq=False)
class CalibrationSection:
    """What is shown of one protocol.

    Attributes:
        thresholds: by model, of the smallest FAR of ``FARS`` that the pairs can tell; empty where they can tell none.
        qualities: by model.
        split: how people were split, in words.
        reliability: SVG.
    """

    thresholds: Mapping[str, Threshold]
    qualities: Mapping[str, Quality]
    split: str
    reliability: str


def calibration_section(
    judged: Mapping[str, Verification], colours: Mapping[str, str]
) -> CalibrationSection | None:
    """Thresholds and probabilities of each model on one protocol, from halves of the people; None where that cannot be told.

    Args:
        judged: by model.
        colours: by model.
    """
    thresholds, qualities, split = {}, {}, ""
    for name, v in judged.items():
        pairs = known_pairs(v.scores, v.protocol)
        impostors = int((~pairs.same).sum())
        told = [far for far in FARS if allowed_false_accepts(impostors, far) >= ERRORS]
        try:
            qualities[name] = quality(pairs, PRIOR, where=name)
            if told:
                thresholds[name] = choose(pairs, min(told), where=name)
        except UserError:  # few pairs, or scores no better than chance: there is nothing to show
            continue
        split = halves(pairs, 0, name)[1]
    if not qualities:
        return None
    plot = reliability_plot({name: q.bins for name, q in qualities.items()}, colours)
    return CalibrationSection(thresholds=thresholds, qualities=qualities, split=split, reliability=plot)


def reliability_plot(bins: Mapping[str, Bins], colours: Mapping[str, str]) -> str:
    """Share of pairs of one person over the probability said, a point a bin, larger where it holds more; on the dashed line they agree.

    Both axes are log odds: the pairs of a good model crowd at both ends. A share of none or all lies infinitely far out and is drawn, hollow,
    at the edge.
    """

    def draw(axes: "Axes") -> None:
        far_out = max(float(np.abs(_log_odds(b.probability)).max()) for b in bins.values()) + 1
        axes.plot([-far_out, far_out], [-far_out, far_out], color=MUTED, linewidth=1, linestyle=(0, (3, 2)))
        for name, (probability, share, weight) in bins.items():
            x, y = _log_odds(probability), np.clip(_log_odds(share), -far_out, far_out)
            inside = (share > 0) & (share < 1)
            axes.scatter(
                x,
                y,
                s=20 + 200 * weight,
                facecolors=[colours[name] if filled else "white" for filled in inside],
                edgecolors=colours[name],
                alpha=0.8,
                clip_on=False,
            )
            axes.scatter([], [], s=30, color=colours[name], label=plain(name))
        shown = [share for share in _TICKS if abs(_log_odds(share)) <= far_out]
        names = [f"{100 * share:g}" for share in shown]
        axes.set(xlim=(-far_out, far_out), ylim=(-far_out, far_out))
        axes.set(xlabel="probability said, %", ylabel="pairs of one person, %")
        axes.set_xticks(_log_odds(np.array(shown)), names)
        axes.set_yticks(_log_odds(np.array(shown)), names)
        legend_in_columns(axes, 1 if sum(map(len, bins)) > 36 else len(bins))

    return svg(draw)


def _log_odds(share: ArrayLike) -> Floats:
    with np.errstate(divide="ignore"):
        odds: Floats = np.log(share) - np.log1p(-np.asarray(share))
    return odds
