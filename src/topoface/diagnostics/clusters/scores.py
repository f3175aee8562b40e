"""Scores of suspicious images for `topoface.diagnostics.clusters.report`, and how well they find labels that are known to be wrong."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from topoface.data import Source
from topoface.diagnostics.calibration import Estimate, ranking
from topoface.diagnostics.clusters.measured import Clusters
from topoface.diagnostics.prediction import Floats, Integers
from topoface.errors import UserError
from topoface.functional.clustering import agreement
from topoface.methods import JLCC
from topoface.training.checkpoint import load_newest
from topoface.training.run import Run

COLLECTED = "collected in training"
NOW = "silhouette, own image left out"
PATIENCE = 2.0  # epochs after the start of JLCC's ramp from which its scores are worth reading


@dataclass(frozen=True, kw_only=True, eq=False)
class Collected:
    """What JLCC kept of each image while the run trained.

    Attributes:
        scores: float64 ``[n]``, running silhouette level; NaN if never visited.
        assigned: int64 ``[n]``, nearest center at the last visit; -1 if never visited.
        early: whether the run has not trained for long enough.
    """

    scores: Floats
    assigned: Integers
    early: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Planted:
    """Images whose true label is known to be another one.

    Attributes:
        true: int64 ``[n]``, the label itself where it is right.
        auc: how well each score ranks wrong labels above right ones.
        hit: share of the wrong ones among as many highest scores as there are wrong ones.
        suggested: share of the wrong ones whose nearest other center is the true identity's.
    """

    true: Integers
    auc: Mapping[str, Estimate]
    hit: float
    suggested: float


def collected_scores(run: Run, path: str, positions: Integers) -> Collected | None:
    """Scores that JLCC collected while the run trained; None if it was not on."""
    for index, method in enumerate(run.methods):
        if isinstance(method, JLCC) and method.active:
            state = load_newest(Path(path) / "checkpoints", lambda _: None)
            assert state is not None  # open_run has just read it
            start = f"{index}."
            own = {k.removeprefix(start): v for k, v in state["methods"].items() if k.startswith(start)}
            method.load_state_dict(own)
            return Collected(
                scores=method.scores[positions].double().numpy(),
                assigned=method.assigned[positions].numpy().astype(np.int64),
                early=run.step / run.steps_per_epoch < method.start_epochs + PATIENCE,
            )
    return None


def read_planted(path: str, source: Source) -> Integers:
    """True labels ``[len(source)]`` from a CSV of ``index,true label``; images that are not listed keep their label.

    Raises:
        UserError: it cannot be read, a line is no such pair, or no label differs.
    """
    true = source.labels.astype(np.int64)
    listed = set()
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            lines = list(csv.reader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise UserError(
            f"cannot be read ({reason})", f"--planted {path}", "give a CSV of index,true label"
        ) from error
    for number, line in enumerate(lines, 1):
        if not line or (number == 1 and not line[0].strip().isdecimal()):  # a heading
            continue
        where = f"--planted {path}, line {number}"
        cells = [cell.strip() for cell in line]
        if len(cells) != 2 or not all(cell.isdecimal() for cell in cells):
            raise UserError(f"is {','.join(line)!r}", where, "give two whole numbers: index,true label")
        index, label = map(int, cells)
        if index >= len(true) or label >= source.identities or index in listed:
            what = (
                "comes twice"
                if index in listed
                else f"is none of {len(true):,} images and {source.identities:,} labels"
            )
            raise UserError(f"{index},{label} {what}", where, "count both from 0, and list an image once")
        listed.add(index)
        true[index] = label
    if (true == source.labels).all():
        raise UserError(
            "no listed label differs from the training label", f"--planted {path}", "list the wrong ones"
        )
    return true


def judge_planted(
    true: Integers, clusters: Clusters, scores: Mapping[str, Floats], main: str, seed: int
) -> Planted:
    """AUC of every score, over the images that have it; hits and suggestions of the ``main`` one.

    Args:
        true: int64 ``[n]``.
        clusters: of the same images.
        scores: float64 ``[n]`` by name, higher for more suspicious; NaN where unknown.
        main: a key of them.
        seed: of the bootstrap over identities.
    """
    wrong = true != clusters.labels

    def auc(score: Floats) -> Estimate:
        known = ~np.isnan(score)
        return ranking(score[known], wrong[known], clusters.labels[known], seed=seed)

    first = most_suspicious(scores[main])[: int(wrong.sum())]
    return Planted(
        true=true,
        auc={name: auc(score) for name, score in scores.items()},
        hit=float(wrong[first].mean()) if len(first) else float("nan"),
        suggested=float((clusters.nearest == true)[wrong].mean()) if wrong.any() else float("nan"),
    )


def scores_by_name(clusters: Clusters, collected: Collected | None) -> dict[str, Floats]:
    """Every score ``[n]``, the one to rank by first."""
    by_clusters = 1 - agreement(clusters.assigned, clusters.labels).bcubed_f
    now = {
        NOW: clusters.level_left_out,
        "silhouette, own image in its center": clusters.level,
        "1 − a, own image left out": 1 - clusters.own_left_out,
        "b − a, own image left out": clusters.other - clusters.own_left_out,
        "1 − F of its clusters (BCubed)": by_clusters,
    }
    if collected is None or np.isnan(collected.scores).all():
        return now
    return {COLLECTED: collected.scores} | now


def most_suspicious(score: Floats) -> Integers:
    """Rows by falling score, those without one left out."""
    order = np.argsort(-score, kind="stable")  # NaN come last
    return order[: int((~np.isnan(score)).sum())]


def suspects(score: Floats) -> NDArray[np.bool_]:
    """``[n]``, whether another center is nearer than the own one, by a silhouette level."""
    found: NDArray[np.bool_] = score > 0.5
    return found
