"""``topoface clusters report`` (sections 9 and 13 of our reading of JLCC): clusters of training images, and labels to doubt."""

import shlex
from pathlib import Path
from typing import Any

import numpy as np

from topoface.data.source import SYNTHETIC
from topoface.diagnostics.calibration import mean_over
from topoface.diagnostics.clusters.faces import Album
from topoface.diagnostics.clusters.findings import LEFT_OUT, Findings, agreements
from topoface.diagnostics.clusters.graph import COSINES, sweep_graph, sweep_held_out
from topoface.diagnostics.clusters.identities import SAME, similar_identities
from topoface.diagnostics.clusters.measured import draw_identities, locate
from topoface.diagnostics.clusters.scores import (
    COLLECTED,
    collected_scores,
    judge_planted,
    read_planted,
    scores_by_name,
    suspects,
)
from topoface.diagnostics.clusters.sections import (
    agreement_section,
    graph_section,
    levels_section,
    planted_section,
    similar_section,
    sizes_section,
    suspicious_section,
)
from topoface.diagnostics.opening import open_run
from topoface.diagnostics.page import Page, check_out, write_page
from topoface.diagnostics.prediction import Floats, Integers
from topoface.errors import UserError
from topoface.files import write_text
from topoface.functional.directions import unit_rows
from topoface.heads import Softmax
from topoface.training.run import Run


def report(
    run: str,
    *,
    samples: int | None,
    count: int,
    planted: str | None,
    held_out: str | None,
    seed: int,
    out: Path,
) -> None:
    """Look at a run's training images as clusters around their identities, and show which labels to doubt.

    Args:
        run: a run directory with a checkpoint.
        samples: training images to look at, in whole identities; all if None.
        count: suspicious faces, and pairs of identities, to show.
        planted: a CSV of ``index,true label`` of images whose label is known to be wrong, or None.
        held_out: images of other identities, as a recipe's ``data.train`` names them, to be clustered without labels instead of the training images.
        seed: draws identities, halves, chance and the bootstrap.
        out: gets ``clusters.html``, ``clusters.json``, ``clusters_samples.csv`` and the pictures.

    Raises:
        UserError: no usable run, an image or the CSV that cannot be read, or a folder that cannot be written.
    """
    check_out(out)
    if count < 1:
        raise UserError(f"is {count}", "--count", "show 1 face or more")
    opened = open_run(run)
    positions = draw_identities(opened, samples, seed)
    true = None if planted is None else read_planted(planted, opened.source)[positions]
    found = _find(opened, run, positions, true, held_out, seed)
    arguments = [run, "--samples", "all" if samples is None else str(samples), "--count", str(count)]
    if planted is not None:
        arguments += ["--planted", planted]
    if held_out is not None:
        arguments += ["--held-out", held_out]
    arguments += ["--seed", str(seed), "--out", str(out)]
    album = Album(run=opened, clusters=found.clusters)
    page = Page(
        name="clusters",
        title="Clusters of the training images",
        lead=_lead(found),
        sections=[
            levels_section(found),
            *([] if found.planted is None else [planted_section(found)]),
            suspicious_section(found, album, count),
            similar_section(found, album, count),
            agreement_section(found, _class_center_cosines(opened, found)),
            *([] if found.graph is None else [graph_section(found.graph)]),
            sizes_section(found),
        ],
        numbers=_numbers(found, album, count),
        facts=_facts(opened, run, found, planted, seed),
        command="topoface clusters report " + shlex.join(arguments),
        real_faces=not opened.source.uri.startswith(SYNTHETIC),
    )
    path = write_page(out, page)
    write_text(out / "clusters_samples.csv", _samples(found))
    print(page.lead)
    print(f"page: {path}")


def _find(
    run: Run, path: str, positions: Integers, true: Integers | None, held_out: str | None, seed: int
) -> Findings:
    collected = collected_scores(run, path, positions)
    clusters = locate(run, positions)
    known = clusters.company
    if not known.any():
        what = "no identity has a second image, so there are no clusters"
        raise UserError(what, run.source.uri, "train on identities of two images or more")
    scores = scores_by_name(clusters, collected)
    agreed, intervals = agreements(clusters, collected, seed)
    nearer = (clusters.other > clusters.own_left_out)[known].astype(np.float64)
    graph = (
        sweep_graph(clusters.rows, clusters.labels, run.source.uri, held_out=False, seed=seed)
        if held_out is None
        else sweep_held_out(run, held_out, seed)
    )
    return Findings(
        clusters=clusters,
        similar=similar_identities(clusters, seed),
        collected=collected,
        scores=scores,
        agreed=agreed,
        intervals=intervals,
        nearer=mean_over(nearer, clusters.labels[known], seed=seed),
        planted=None if true is None else judge_planted(true, clusters, scores, next(iter(scores)), seed),
        graph=graph,
    )


def _class_center_cosines(run: Run, found: Findings) -> Floats | None:
    """Cosine ``[c]`` between learned class center and mean of each identity; None if the head has no centers."""
    if not isinstance(run.head, Softmax):
        return None
    memory = found.clusters.memory
    cosines: Floats = (
        (unit_rows(run.head.weight.detach()) * memory.directions).sum(1)[memory.seen].double().numpy()
    )
    return cosines


# --- words and numbers -----------------------------------------------------------------------------------


def _lead(found: Findings) -> str:
    clusters, nearer, similar = found.clusters, found.nearer, found.similar
    n = int(clusters.company.sum())
    words = (
        f"{round(nearer.value * n):,} of {n:,} training images ({nearer.value:.1%}, 95 % interval {nearer.low:.1%} to {nearer.high:.1%}) are "
        f"nearer to another identity's center than to their own (freed of the image itself); BCubed F is {found.agreed[LEFT_OUT]['BCubed F']:.3f}. "
    )
    if found.main == COLLECTED:
        words += f"By the scores collected in training {int(suspects(found.score).sum()):,} of {len(found.order):,} are. "
    mutual = int(similar.mutual(clusters.sizes).sum())
    words += (
        f"{mutual:,} of {similar.compared:,} pairs of identities may be one person each: γ of {SAME:g} or more, and half of the images of both "
        "nearest to the other."
    )
    if found.planted is not None:
        wrong = int((found.planted.true != clusters.labels).sum())
        auc = found.planted.auc[found.main]
        words += (
            f" {wrong:,} labels are known to be wrong; the score ({found.main}) puts a wrong one above a right one in {auc.value:.1%} of "
            f"cases (AUC {auc.value:.3f}, 95 % interval {auc.low:.3f} to {auc.high:.3f}; chance is 0.5)."
        )
    return words


def _facts(run: Run, path: str, found: Findings, planted: str | None, seed: int) -> dict[str, str]:
    named = ", ".join(type(method).__name__ for method in run.methods) or "no method"
    labels = found.clusters.labels
    facts = {
        "run": f"{path} (step {run.step:,} of {run.total_steps:,}, epoch {run.step / run.steps_per_epoch:.1f}; {run.recipe.model.name}, "
        f"{type(run.head).__name__}, {named})",
        "training images": f"{len(labels):,} of {len(run.source):,} in {run.source.uri}, {len(np.unique(labels)):,} of "
        f"{run.source.identities:,} identities, whole ones",
        "embeddings": "clean images, not mirrored, model in evaluation mode",
        "centers": "plain means of unit embeddings, over all these images",
        "scores": found.main,
        "definitions": "our reconstruction of JLCC (arXiv 2312.04029) from its abstract, the only part that could be read",
        "intervals": "95 %, bootstrap over identities",
        "seed": str(seed),
    }
    return facts if planted is None else facts | {"labels known to be wrong": planted}


def _numbers(found: Findings, album: Album, count: int) -> dict[str, Any]:
    clusters, similar, score = found.clusters, found.similar, found.score
    rho, sizes, suspected, psi = (
        clusters.cohesion,
        clusters.sizes,
        found.suspected,
        clusters.memory.psi.tolist(),
    )
    numbers: dict[str, Any] = {
        "images": len(clusters.labels),
        "identities": len(np.unique(clusters.labels)),
        "nearer_to_another": found.nearer._asdict(),
        "agreement": found.agreed,
        "agreement_intervals": {name: each._asdict() for name, each in found.intervals.items()},
        "memorised": found.memorised,
        "score": found.main,
        "suspected": int(suspects(score).sum()),
        "similar": [
            {
                "labels": [one, two],
                "gamma": gamma,
                "nearest_other": votes,
                "images": [sizes[one], sizes[two]],
                "cohesion": [rho[one], rho[two]],
                "psi": [psi[one], psi[two]],
            }
            for (one, two), gamma, votes in zip(
                similar.pairs.tolist(), similar.gamma.tolist(), similar.votes.tolist(), strict=True
            )
        ],
        "compared": similar.compared,
        "gamma_high": similar.above,
        "halves": similar.halves,
        "suspicious": [
            {
                "position": int(clusters.positions[row]),
                "name": album.name(row),
                "label": int(clusters.labels[row]),
                "suggested": int(clusters.nearest[row]),
                "score": score[row],
                "own": clusters.own_left_out[row],
                "other": clusters.other[row],
                "images_of_label": int(sizes[clusters.labels[row]]),
                "suspected_of_label": int(suspected[clusters.labels[row]]),
            }
            for row in found.order[:count].tolist()
        ],
        "identity": [
            {"label": label, "images": int(sizes[label]), "cohesion": rho[label]}
            for label in np.unique(clusters.labels).tolist()
        ],
    }
    if found.graph is not None:
        numbers["graph"] = {
            "source": found.graph.source,
            "images": found.graph.images,
            "identities": found.graph.identities,
            "cosines": COSINES.tolist(),
            "bcubed": found.graph.curves().tolist(),
            "chosen": float(COSINES[found.graph.chosen]),
            "figures": found.graph.figures,
        }
    if found.planted is not None:
        numbers["planted"] = {
            "wrong": int((found.planted.true != clusters.labels).sum()),
            "auc": {name: auc._asdict() for name, auc in found.planted.auc.items()},
            "among_highest": found.planted.hit,
            "suggested_rightly": found.planted.suggested,
        }
    return numbers


def _samples(found: Findings) -> str:
    """Every image that has a score as CSV, the most suspicious first."""
    clusters, score = found.clusters, found.score
    lines = ["index,label,suggested,score,own,other"]
    lines += [
        f"{clusters.positions[row]},{clusters.labels[row]},{clusters.nearest[row]},{score[row]:.6f},"
        f"{clusters.own_left_out[row]:.6f},{clusters.other[row]:.6f}"
        for row in found.order
    ]
    return "\n".join(lines) + "\n"
