"""The sections of ``topoface pairs distribution``: tables, and words that follow from the numbers."""

import math
from collections.abc import Sequence
from functools import partial

import numpy as np

from topoface.diagnostics.calibration import Estimate
from topoface.diagnostics.page import Picture, Section, Table
from topoface.diagnostics.pairs.candidates import LOOKED_AT
from topoface.diagnostics.pairs.pictures import draw_densities, draw_tails
from topoface.diagnostics.pairs.results import FARS, HARDEST_KEPT, Result, change, robust_gap, wasserstein
from topoface.diagnostics.pairs.sample import WHISKER
from topoface.diagnostics.pairs.similarities import (
    BINS,
    TOP,
    Counts,
    Similarities,
    distances,
    expected_above,
    mean_of_hardest,
    middles,
    quantile,
    true_accepts,
)

# --- the lead ------------------------------------------------------------------------------------------


def lead(results: Sequence[Result]) -> str:
    """What came out, in the words of the numbers."""
    first, *others = results
    said = [_about_tails(first), _about_separation(first)]
    if first.main_far:
        same_data = (other for other in others if other.data == first.data)
        said += [_about_change(first, other, first.main_far) for other in same_data]
    return " ".join([*said, _about_suspicious(first)])


def _about_tails(result: Result) -> str:
    hardest = {name: mean_of_hardest(counts, result.share) for name, counts in result.row_views.items()}
    short = hardest["ALL"] - hardest["CL"]
    against = f"{abs(short):.3f} {'less' if short > 0 else 'more'}" if round(short, 3) else "the same"
    return (
        f"With {result.name}, the hardest {100 * result.share:g} % of all negative pairs have a mean cosine of {hardest['ALL']:.3f}; "
        f"of pairs with class centers {hardest['CL']:.3f}, {against}; of both as UNPG unites them {hardest['UN']:.3f}, "
        f"and {hardest['UN whisker']:.3f} behind its whisker."
    )


def _about_separation(result: Result) -> str:
    gap = result.robust_gap
    words = f"The 1 % quantile of genuine pairs lies {abs(gap.value):.3f} {'above' if gap.value > 0 else 'below'} the 99.9 % quantile of impostor pairs"
    if result.main_far:
        words += f"; on these training images TAR at FAR {_rate(result.main_far)} is, in %, {_percent(result.tar(result.main_far))}"
    return words + "."


def _about_suspicious(result: Result) -> str:
    measured = result.measured
    if not measured.suspicious.count:
        return f"With {result.name}, no negative pair is more alike than the median genuine pair."
    stay = sum(found.mean > measured.positive for found in result.candidates)
    return (
        f"With {result.name}, {measured.suspicious.count:,} negative pairs are more alike than the median genuine pair (the most alike: {measured.every.highest:.3f}); "
        f"of {len(result.candidates):,} pairs of identities that were looked at on more images, {stay:,} stay so on average: one person, or lookalikes."
    )


def _about_change(first: Result, other: Result, far: float) -> str:
    gained = change(first, other, partial(true_accepts, far=far))
    if gained.low <= 0 <= gained.high:
        verdict = "does not clearly differ"
    else:
        verdict = "is higher" if gained.value > 0 else "is lower"
    return f"With {other.name}, this rate {verdict} ({_points(gained)} points against {first.name}; one run each)."


# --- sections ------------------------------------------------------------------------------------------


def distribution_section(number: int, result: Result) -> Section:
    """Pictures and distances of one run."""
    m = result.measured
    noise = (
        "Batches of this run are drawn from all images alike, so ML is a random draw of ALL: its distances are what chance alone gives, and its "
        f"top {TOP:,} are less alike only because there are fewer pairs to choose from."
        if result.uniform
        else "Batches of this run hold as many images of each identity, so ML gives rare identities more weight than ALL does."
    )
    return Section(
        title=f"Where the pairs lie: {result.name}",
        text=""
        if number
        else "ALL: every pair of two identities in the sample, which decides false accepts. CL: each sample and the centers of all other classes, the negatives of a classifier. ML: "
        f"the negative pairs of {len(m.in_batches.sizes):,} batches. UN: CL and ML together, which UNPG puts into one softmax; the whisker drops pairs outside "
        f"[Q1 − {WHISKER:g} IQR, Q3 + {WHISKER:g} IQR] of their batch. Genuine: two images of one identity.",
        pictures=[
            Picture(
                name=f"density_{number}",
                draw=partial(draw_densities, measured=m),
                size=(4.7, 4.2),
                caption="Each set has area 1; the axis is logarithmic, for what matters is rare. Negatives that a loss never sees lie where ALL reaches further right than its lines. "
                "UN is drawn as one row of the softmax sees it: all other classes once, and all pairs of its batch.",
            ),
            Picture(
                name=f"tail_{number}",
                draw=partial(draw_tails, measured=m),
                size=(4.7, 4.2),
                caption="Share of each set that is at least so alike: at one height, equally rare pairs are compared, whatever the size of the set. A line right of ALL shows more hard pairs "
                "than there are, one left of it fewer. Dotted: the whisker's upper fence (median over the batches); what lies right of it gets no push. Dash-dotted: the median genuine pair.",
            ),
        ],
        table=_distance_table(result, noise),
    )


def _distance_table(result: Result, noise: str) -> Table:
    m = result.measured
    every, where = m.every, middles(BINS)
    spread = m.estimate(wasserstein, "classes", "every")
    rows = [
        [
            "ALL",
            f"{every.size:,}",
            "0",
            "0",
            _cosine(every.mean_of_top),
            "",
            _cosine(mean_of_hardest(every.counts, result.share)),
        ]
    ]

    def add(name: str, counts: Counts, top: Similarities | None, interval: str = "") -> None:
        w1, ks = distances(where, counts, every.counts)
        mean = top.mean_of_top if top else math.nan
        rows.append(
            [
                name,
                f"{top.size:,}" if top else "",
                f"{w1:.4f}{interval}",
                f"{ks:.4f}",
                _cosine(mean),
                _cosine(every.mean_of_top - mean),
                _cosine(mean_of_hardest(counts, result.share)),
            ]
        )

    add("CL", m.classes.counts, m.classes, f" ({spread.low:.4f} to {spread.high:.4f})")
    add("ML", m.in_batches.every.counts, m.in_batches.every)
    for name, filtered in (("UN", False), ("UN, whisker", True)):
        both = m.unified(filtered=filtered)
        add(name, both.counts, both)
        add(f"{name}, by row", m.row_view(filtered=filtered), None)
    return Table(
        header=[
            "",
            "pairs",
            "W1",
            "KS",
            f"top {TOP:,}",
            "ALL − it",
            f"hardest {100 * result.share:g} %",
        ],
        rows=rows,
        caption="W1 (1-Wasserstein) to ALL: by how much cosines differ on average when both sets are ordered. KS (Kolmogorov-Smirnov) to ALL: largest difference of the distribution functions. "
        f"Both are about the bulk, where nearly all pairs lie. The other columns are mean cosines of the tail: those of the top {TOP:,} depend on how many pairs a set has, those of the "
        f"hardest {100 * result.share:g} % do not. UN pools both sets as they were drawn; by row is what one row of UNPG's softmax sees, all other classes and all pairs of its batch. {noise}",
    )


def verification_section(results: Sequence[Result]) -> Section:
    """Genuine beside impostor pairs, all runs in one table."""
    fars = [far for far in FARS if all(far in result.fars for result in results)]
    columns = [
        [
            f"{m.genuine.size:,}",
            _cosine(m.genuine.lowest),
            _cosine(m.every.highest),
            f"{m.genuine.lowest - m.every.highest:+.3f}".replace("-", "−"),
            _cosine(quantile(m.genuine.counts, 0.01)),
            _cosine(quantile(m.every.counts, 0.999)),
            _signed(result.robust_gap),
            *(_percent(result.tar(far)) for far in fars),
        ]
        for result in results
        for m in [result.measured]
    ]
    first, *others = results
    comparable = [other for other in others if other.data == first.data]
    changes = [
        [
            *[""] * 6,
            _signed(change(first, other, robust_gap)),
            *(_points(change(first, other, partial(true_accepts, far=far))) for far in fars),
        ]
        for other in comparable
    ]
    missing = "" if len(comparable) == len(others) else " No difference is given for runs on other data."
    return Section(
        title="Genuine beside impostor pairs",
        text="A space would be perfect if every genuine pair were more alike than every impostor pair: inf genuine − sup impostor above 0. One wrong label or one hopeless image decides that figure, "
        "so the gap between quantiles stands beside it, and the true accept rate at the same false accept rate, which alone is fair to runs whose cosines have another scale.",
        table=Table(
            header=[
                "",
                *(result.name for result in results),
                *(f"{other.name} − {first.name}" for other in comparable),
            ],
            rows=_rows(
                [
                    "genuine pairs",
                    "inf genuine",
                    "sup impostor",
                    "gap",
                    "1 % of genuine",
                    "99.9 % of impostor",
                    "robust gap",
                    *(f"TAR at FAR {_rate(far)}, %" for far in fars),
                ],
                columns + changes,
            ),
            caption="With 95 % intervals over identities; those of differences use the same draws for both runs. These are images that the runs were trained on: the figures say how the "
            f"training space looks, not how strangers are told apart (topoface evaluate does).{missing}",
        ),
    )


def filter_section(results: Sequence[Result]) -> Section:
    """What the whisker would drop, all runs in one table."""
    columns = []
    for result in results:
        m = result.measured.in_batches
        kept, above = result.kept_above
        too_hard = 1 - m.below - m.kept.size / max(m.every.size, 1)
        columns.append(
            [
                f"{m.every.size:,}",
                _cosine(float(np.median(m.fences[:, 1]))),
                _share(m.below),
                _share(abs(too_hard)),
                *(_share(share) for share in result.kept_of_hardest.values()),
                f"{kept:,} of {above:,}",
            ]
        )
    return Section(
        title="What the whisker drops",
        text=f"UNPG's filter with r = {WHISKER:g} on the in-batch negatives above, whether or not a run used it. It knows one number, the similarity, and cannot tell the hardest true negatives from "
        "one person under two labels. The hardest 1 % and 0.1 % leave out pairs above the median genuine pair, the likeliest wrong labels: they are the hard negatives that the method is there for.",
        table=Table(
            header=["", *(result.name for result in results)],
            rows=_rows(
                [
                    "in-batch negatives",
                    "upper fence, median",
                    "dropped as too easy",
                    "dropped as too hard",
                    *(f"hardest {100 * share:g} %: kept" for share in HARDEST_KEPT),
                    "above median genuine: kept",
                ],
                columns,
            ),
            caption="Without a filter all that are counted as kept would be 100 %; with the filter positive, whose fence is the median genuine pair, 100 % of the hardest and none above. "
            "For a normal distribution the whisker drops 0.35 % at either end.",
        ),
    )


def candidate_sections(result: Result) -> list[Section]:
    """Identities, and images, that may be of one person."""
    m = result.measured
    count, size = m.suspicious.count, m.every.size
    normal, tail = expected_above(m.every.counts, m.positive)
    chance = f"Were the similarities of different people normal, {_expected(normal)} would lie there; "
    chance += (
        "the fence lies within the bulk of the negatives, so a pair above it says little by itself."
        if math.isnan(tail)
        else f"if their tail went on falling as between the 99 % and the 99.9 % quantile, {_expected(tail)}. What exceeds both is not proven wrong: relatives, people of one style, "
        "and images of one photographer are no random strangers."
    )
    text = f"{count:,} of the {size:,} negative pairs in the sample lie above {m.positive:.3f}, the median of genuine pairs (the fence of UNPG's filter positive). {chance}"
    if result.candidates:
        text += (
            f"\n\nThese pairs of images belong to {result.identity_pairs:,} pairs of identities. The {len(result.candidates):,} with most evidence in the sample (mean cosine, and number of pairs) were looked at again on up to {LOOKED_AT} "
            f"images of each, because a few images chosen for being alike say too much; below are the {len(result.faces):,} most alike then, by their most typical images. They are candidates, found by a "
            "model that was taught to tell these labels apart: whether two labels are one person needs a person to decide, and one that the model has learned to split is not listed at all."
        )
    identities = Section(
        title=f"Identities that may be one person: {result.name}", text=text, faces=result.faces
    )
    if not result.alike:
        return [identities]
    images = Section(
        title=f"Images under different labels that are most alike: {result.name}",
        text="In the sample, without regard to the other images of their labels. A cosine near 1 is most likely one photograph filed twice; a little less may be one image under a wrong label where both "
        "identities are right otherwise. By chance: how many of all negative pairs would be at least so alike if they were normal, and if their tail went on falling as between its 99 % and 99.9 % "
        "quantiles. A pair of which neither has one is hardly two strangers; among as many as chance gives, nothing sets a pair apart.",
        faces=result.alike,
    )
    return [identities, images]


# --- figures in words ----------------------------------------------------------------------------------


def _cosine(value: float) -> str:
    return f"{value:.3f}".replace("-", "−") if math.isfinite(value) else "–"


def _share(value: float) -> str:
    return f"{100 * value:.2f} %" if math.isfinite(value) else "–"


def _percent(value: Estimate) -> str:
    return f"{100 * value.value:.1f} ({100 * value.low:.1f} to {100 * value.high:.1f})"


def _rows(names: Sequence[str], columns: Sequence[Sequence[str]]) -> list[list[str]]:
    """A row a figure, a column a run: that stays narrow."""
    return [[name, *row] for name, row in zip(names, zip(*columns, strict=True), strict=True)]


def _points(value: Estimate) -> str:
    return f"{100 * value.value:+.1f} ({100 * value.low:+.1f} to {100 * value.high:+.1f})".replace("-", "−")


def _signed(value: Estimate) -> str:
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})".replace("-", "−")


def _rate(far: float) -> str:
    return f"1e{math.log10(far):.0f}"


def _expected(pairs: float) -> str:
    return f"about {pairs:,.0f}" if pairs >= 1 else "less than one"
