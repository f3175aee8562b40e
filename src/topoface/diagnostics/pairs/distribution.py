"""``topoface pairs distribution`` (the mismatch of UNPG, arXiv 2203.11593): sampled negatives beside all pairs.

A classifier makes negatives of samples and class centers (CL), a batch makes them of its samples (ML), UNPG unites both
(UN). None is all negative pairs (ALL), which decide how good a model is. And the hardest of all are the first place to
look for one person under two labels.
"""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from topoface.data.source import SYNTHETIC
from topoface.diagnostics.opening import open_run, short_names
from topoface.diagnostics.page import Page, check_out, write_page
from topoface.diagnostics.pairs.candidates import alike_faces, faces_of, look_again, suspicious_identities
from topoface.diagnostics.pairs.results import Result
from topoface.diagnostics.pairs.sample import GROUPS, REPLICATES, embed_sample, measure, sampled_batches
from topoface.diagnostics.pairs.sections import (
    candidate_sections,
    distribution_section,
    filter_section,
    lead,
    verification_section,
)
from topoface.diagnostics.pairs.similarities import (
    BINS,
    TOP,
    coarser,
    distances,
    expected_above,
    mean_of_hardest,
    middles,
    quantile,
)
from topoface.errors import UserError

SHORTLIST = 3  # pairs of identities that are looked at again for each that is shown
JSON_BINS = 1024


def distribution(
    runs: Sequence[str], *, samples: int, batches: int, count: int, seed: int, out: Path
) -> None:
    """Show how the similarities of sampled negatives lie beside those of all pairs, and who may be one person.

    Args:
        runs: run directories; any head with class centers.
        samples: training images, drawn without repeats; all if there are fewer.
        batches: of in-batch negatives, drawn from the sample as each run draws its own.
        count: pairs of identities shown for each run.
        seed: draws images, batches and intervals; the same images for all runs on the same data.
        out: gets ``pairs.html``, ``pairs.json`` and the pictures.

    Raises:
        UserError: no usable run, a sample without genuine or without negative pairs, an unreadable image, or a folder that
            cannot be written.
    """
    check_out(out)
    for value, option in ((batches, "--batches"), (count, "--count")):
        if value < 1:
            raise UserError(f"is {value}", option, "ask for 1 or more")
    names = short_names(runs)
    results = [
        _result(path, name, samples, batches, count, seed) for path, name in zip(runs, names, strict=True)
    ]
    arguments = [*runs, "--samples", str(samples), "--batches", str(batches), "--count", str(count)]
    arguments += ["--seed", str(seed), "--out", str(out)]
    page = Page(
        name="pairs",
        title="Sampled negatives and all pairs",
        lead=lead(results),
        sections=[
            *[distribution_section(k, result) for k, result in enumerate(results)],
            verification_section(results),
            filter_section(results),
            *[section for result in results for section in candidate_sections(result)],
        ],
        numbers={"runs": {result.name: _numbers(result) for result in results}},
        facts={f"run {result.name}": result.fact for result in results}
        | {
            "sample": "the same images for all runs on the same data; clean, not mirrored, model in evaluation mode",
            "intervals": f"95 %, identities drawn anew in {GROUPS} groups, {REPLICATES} times",
            "precision": f"cosines are counted in {BINS:,} parts; extremes and the hardest {TOP:,} are exact",
            "seed": str(seed),
        },
        command="topoface pairs distribution " + shlex.join(arguments),
        real_faces=any(result.real and result.faces for result in results),
    )
    path = write_page(out, page)
    print(page.lead)
    print(f"page: {path}")


def _result(path: str, name: str, samples: int, batches: int, count: int, seed: int) -> Result:
    run = open_run(path)
    sample = embed_sample(run, samples, seed, path)
    measured = measure(sample, sampled_batches(run, sample.labels, batches, seed), seed=seed, where=path)
    identities = suspicious_identities(sample, measured)
    shortlist = identities[: SHORTLIST * count]
    candidates = look_again(run, shortlist, measured.positive)
    methods = ", ".join(type(method).__name__ for method in run.methods) or "no method"
    sizes, sampling = measured.in_batches.sizes, run.recipe.data.sampling
    return Result(
        name=name,
        measured=measured,
        identity_pairs=len(identities),
        candidates=candidates,
        faces=faces_of(run, candidates[:count]),
        alike=alike_faces(run, sample, measured, count),
        alike_positions=sample.positions[measured.suspicious.hardest[:count]].tolist(),
        data=run.identity()["data"],
        uniform=sampling == "uniform",
        real=not run.source.uri.startswith(SYNTHETIC),
        fact=f"{path} (step {run.step:,} of {run.total_steps:,}; {run.recipe.model.name}, {type(run.head).__name__}, {methods}); "
        f"{len(sample.labels):,} images drawn of {len(run.source):,} in {run.source.uri}, {len(np.unique(sample.labels)):,} of "
        f"{run.source.identities:,} identities; {len(sizes):,} batches of {sizes.mean():.4g} images of the sample ({sampling})",
    )


def _numbers(result: Result) -> dict[str, Any]:
    """Everything that is drawn or said."""
    m, where = result.measured, middles(BINS)
    sets = {
        "all": m.every,
        "class_centers": m.classes,
        "in_batch": m.in_batches.every,
        "in_batch_kept": m.in_batches.kept,
        "unified": m.unified(filtered=False),
        "unified_whisker": m.unified(filtered=True),
        "genuine": m.genuine,
    }
    row_views = {
        "unified_row": m.row_view(filtered=False),
        "unified_whisker_row": m.row_view(filtered=True),
    }
    counts = {name: each.counts for name, each in sets.items()} | row_views
    normal, tail = expected_above(m.every.counts, m.positive)
    return {
        "sets": {
            name: dict(
                zip(
                    ("wasserstein", "kolmogorov_smirnov"), distances(where, each, m.every.counts), strict=True
                )
            )
            | {"mean_of_hardest_share": mean_of_hardest(each, result.share)}
            for name, each in counts.items()
            if each.sum()
        },
        "pairs": {name: each.size for name, each in sets.items()},
        "mean_of_top": {name: each.mean_of_top for name, each in sets.items()},
        "hardest_share": result.share,
        "density": {name: coarser(each, JSON_BINS) for name, each in counts.items()},
        "inf_genuine": m.genuine.lowest,
        "sup_impostor": m.every.highest,
        "genuine_quantile_0.01": quantile(m.genuine.counts, 0.01),
        "impostor_quantile_0.999": quantile(m.every.counts, 0.999),
        "robust_gap": result.robust_gap._asdict(),
        "tar": {f"{far:g}": result.tar(far)._asdict() for far in result.fars},
        "whisker": {
            "fences": m.in_batches.fences,
            "dropped_below": m.in_batches.below,
            "dropped": 1 - m.in_batches.kept.size / max(m.in_batches.every.size, 1),
            "kept_of_hardest": {f"{share:g}": kept for share, kept in result.kept_of_hardest.items()},
            "kept_above_and_all_above_positive": result.kept_above,
        },
        "positive_fence": m.positive,
        "suspicious_pairs": m.suspicious.count,
        "suspicious_identity_pairs": result.identity_pairs,
        "expected_normal": normal,
        "expected_tail": tail,
        "most_alike": {
            "positions": result.alike_positions,
            "cosines": m.suspicious.cosines[: len(result.alike)],
        },
        "candidates": [asdict(candidate) for candidate in result.candidates],
    }
