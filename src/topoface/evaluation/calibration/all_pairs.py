"""Thresholds and probabilities from every pair of a labelled set, in memory that does not grow with the pairs.

Thresholds of small rates take millions of impostor pairs: they are counted as in `evaluation.all_pairs`. The line of probabilities, and the bar below which pairs are called different, take thousands: those are
drawn evenly.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from topoface.evaluation.all_pairs.counts import genuine_pairs, same_pairs
from topoface.evaluation.all_pairs.judging import LabelledSet, unit_rows
from topoface.evaluation.calibration.counted import (
    People,
    Step,
    as_thresholds,
    choose_bars,
    genuine_pairs_of,
    impostor_pairs,
    pairs_above,
)
from topoface.evaluation.calibration.judging import (
    CONTRACT,
    Calibration,
    rates_to_tell,
    require_options,
)
from topoface.evaluation.calibration.known_pairs import KnownPairs, shuffled_halves
from topoface.evaluation.calibration.probability import fit, quality
from topoface.evaluation.calibration.threshold import largest_miss_rate
from topoface.evaluation.features import Features
from topoface.functional.draws import generator
from topoface.functional.search import exact_cosines

DRAWN: Final = 100_000  # pairs of either kind, for what thousands of pairs tell


def require_all_pairs(faces: LabelledSet, far: float, prior: float) -> None:
    """Refuse what the pairs of a set cannot tell, before anything is embedded.

    Raises:
        UserError: as `require_options`.
    """
    require_options(far, prior, impostor_pairs(np.unique(faces.labels, return_inverse=True)[1]), faces.uri)


def calibrate_all_pairs(
    features: Features,
    faces: LabelledSet,
    *,
    weights: str,
    far: float,
    prior: float,
    seed: int = 0,
    step: Step = lambda _: lambda *_: None,
) -> Calibration:
    """Thresholds, line and their quality from every pair of a set.

    Time: two float32 products of all pairs and three of those within the halves. Memory: unit rows twice, and the drawn pairs.

    Args:
        features: a row for each image; images without one are left out.
        faces: whose they are.
        weights: as in `topoface.evaluation.calibration.judging.calibrate`, like all that follows but the last.
        far: as there.
        prior: as there.
        seed: as there; also draws pairs.
        step: gives a progress callback for the title of a step.

    Raises:
        UserError: the pairs cannot tell the rate, or the scores tell nothing.
    """
    where = faces.uri
    units, present = unit_rows(features.rows)
    people = np.unique(faces.labels[present], return_inverse=True)[1].astype(np.int32)
    impostors, genuine = impostor_pairs(people), same_pairs(people)
    require_options(far, prior, impostors, where)
    fars = rates_to_tell(far, impostors)
    largest_miss_rate(far, genuine, where)  # refuses too few
    drawn = _drawn_pairs(units, people, genuine, seed)
    misses = [largest_miss_rate(rate, int(drawn.same.sum()), where) for rate in fars]
    side = shuffled_halves(int(people.max()) + 1, seed)

    def part(among: NDArray[np.bool_]) -> People:
        own = among[people]
        numbered = np.unique(people[own], return_inverse=True)[1].astype(np.int32)
        pairs = drawn.among(drawn.same & among[drawn.people[:, 0]])
        return People(units[own], numbered, impostor_pairs(numbered), pairs, fars, misses)

    whole, first, second = part(side >= 0), part(side == 0), part(side == 1)
    found = quality(drawn, prior, where=where, seed=seed)
    bars, false = choose_bars(whole, where, step("thresholds"))
    of_first, _ = choose_bars(first, where, step("thresholds of one half"))
    of_second, _ = choose_bars(second, where, step("thresholds of the other half"))
    above = pairs_above([(first, of_second), (second, of_first)], step)
    within = first.impostors + second.impostors
    return Calibration(
        weights=weights,
        date=datetime.now(UTC).date().isoformat(),
        data={
            "protocol": faces.name,
            "uri": faces.uri,
            "fingerprint": faces.fingerprint,
            "genuine": genuine,
            "impostors": impostors,
            "people": int(people.max()) + 1,
            "left_out": len(faces.labels) * (len(faces.labels) - 1) // 2 - genuine - impostors,
        },
        contract={
            **CONTRACT,
            "threshold": "lowest whose FAR on all pairs is at most the rate (exact, cosines in steps of 2^-28)",
            "honest figures": f"chosen on one half, scored on the other, both ways; halves of the people, seed {seed}, "
            f"{impostors - within:,} pairs between them left out",
            "probabilities": f"of {len(drawn.same):,} pairs drawn evenly, at most {DRAWN:,} of one person and of two; so is the bar of "
            "the miss rate",
        },
        prior=prior,
        far=far,
        thresholds=tuple(as_thresholds(whole, bars, false, above, (genuine_pairs_of(first, second), within))),
        line=fit(drawn, prior, where=where),
        quality=found.to_json(),
    )


def _drawn_pairs(
    units: NDArray[np.float32], people: NDArray[np.int32], genuine: int, seed: int
) -> KnownPairs:
    """About ``DRAWN`` pairs of either kind, or all where there are fewer."""
    rng = generator(seed, "calibration pairs")
    rows, columns = (
        np.concatenate(column) for column in zip(*_genuine(people, DRAWN / max(genuine, 1), rng), strict=True)
    )
    n = len(people)
    if n * n <= 4 * DRAWN:
        left, right = np.triu_indices(n, 1)
    else:
        left, right = np.divmod(np.unique(rng.integers(n * n, size=3 * DRAWN)), n)
    other = np.flatnonzero((left < right) & (people[left] != people[right]))
    other = np.sort(rng.choice(other, min(DRAWN, len(other)), replace=False))
    rows, columns = np.append(rows, left[other]), np.append(columns, right[other])
    same = people[rows] == people[columns]
    sides = np.stack([people[rows], people[columns]], axis=1).astype(np.int64)
    scores = exact_cosines(units, units, rows, columns)
    return KnownPairs(scores, same, sides, np.zeros(len(same), np.int64))


def _genuine(
    people: NDArray[np.int32], share: float, rng: np.random.Generator
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    for rows, columns in genuine_pairs(people):
        kept = rng.random(len(rows)) < share if share < 1 else slice(None)
        yield rows[kept], columns[kept]
