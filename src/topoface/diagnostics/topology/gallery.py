"""``topoface topology gallery`` (figure 8 of TopoFR): the heaviest training faces, and where two runs disagree."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from topoface.data.source import SYNTHETIC
from topoface.diagnostics.calibration import Estimate, mcnemar, mean_over
from topoface.diagnostics.opening import open_run, short_names
from topoface.diagnostics.page import Face, Page, Picture, Section, Table, check_out, write_page
from topoface.diagnostics.prediction import (
    Integers,
    Predictions,
    Weights,
    damage_of,
    draw_samples,
    predict,
    run_facts,
    sample_name,
    weigh,
)
from topoface.diagnostics.topology.gallery_faces import SEARCHED, compared_faces
from topoface.errors import UserError
from topoface.evaluation.report.plots import COLOURS, INK
from topoface.training.run import Run

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def gallery(run: str, *, baseline: str | None, samples: int, count: int, seed: int, out: Path) -> None:
    """Show the training faces with the highest weights, and those that only one of two runs classifies rightly.

    Args:
        run: a run directory; the weights of one without TopoFR are those that TopoFR's defaults would give.
        baseline: another run on the same data, or None.
        samples: training images that are looked at, drawn without repeats; all if there are fewer.
        count: faces shown of each kind.
        seed: draws the images.
        out: gets ``gallery.html``, ``gallery.json`` and a picture.

    Raises:
        UserError: no usable run, runs of different data, an unreadable image, or a folder that cannot be written.
    """
    check_out(out)
    if count < 1:
        raise UserError(f"is {count}", "--count", "show 1 face or more")
    opened = open_run(run)
    other = None if baseline is None else open_run(baseline)
    if other is not None and other.identity()["data"] != opened.identity()["data"]:
        raise UserError(
            f"was trained on other data than {run}", f"--baseline {baseline}", "give a run on the same"
        )
    found = predict(opened, draw_samples(opened, samples, seed), where=run)
    damage, whose = damage_of(opened)
    weights = weigh(found, damage, opened.source.identities)
    order = np.argsort(-weights.omega, kind="stable")
    heaviest = order[:count]
    lead = [_about_weights(found, weights, heaviest)]
    facts = run_facts(opened, run, found)
    arguments = [
        run,
        "--samples",
        str(samples),
        "--count",
        str(count),
        "--seed",
        str(seed),
        "--out",
        str(out),
    ]
    numbers: dict[str, Any] = {"samples": len(order), "wrong": int(found.wrong.sum())}
    shown = {"heaviest": (heaviest, found.predicted)}
    contest: Section | None = None
    if other is not None and baseline is not None:
        theirs = predict(other, found.positions, where=baseline)
        names = short_names([run, baseline])
        if len(set(names)) < 2:
            names = [run, "the baseline"]
        lost, won = found.wrong & ~theirs.wrong, theirs.wrong & ~found.wrong
        contest, verdict, numbers["contest"] = _contest(found, theirs, names)
        lead.append(verdict)
        facts["baseline"] = run_facts(other, baseline, theirs)["run"]
        arguments[1:1] = ["--baseline", baseline]
        shown["only_baseline_wrong"] = (order[won[order]][:count], theirs.predicted)
        shown["only_run_wrong"] = (order[lost[order]][:count], found.predicted)
    faces = compared_faces(opened, found, weights, shown)
    sections = [_weights_section(found, weights, heaviest, faces["heaviest"])]
    if contest is not None:
        sections.append(contest)
        for key, title in (
            ("only_baseline_wrong", f"Wrong in {names[1]}, right in {names[0]}"),
            ("only_run_wrong", f"Wrong in {names[0]}, right in {names[1]}"),
        ):
            sections.append(_disagreement_section(title, faces[key], numbers["contest"][key], names))
    page = Page(
        name="gallery",
        title="The hardest training faces",
        lead=" ".join(lead),
        sections=sections,
        numbers=numbers | {key: _rows(opened, found, weights, *some) for key, some in shown.items()},
        facts=facts
        | {
            "weights": f"ω = (1 + h)^λ (1 − p), {whose}: fit {damage.fit}, λ {damage.temperature:g}, focal {damage.focal}; "
            f"batches of {found.batch_size}, clean images, model in evaluation mode",
            "seed": str(seed),
        },
        command="topoface topology gallery " + shlex.join(arguments),
        real_faces=not opened.source.uri.startswith(SYNTHETIC),
    )
    path = write_page(out, page)
    print(page.lead)
    print(f"page: {path}")


# --- words ---------------------------------------------------------------------------------------------


def _about_weights(found: Predictions, weights: Weights, heaviest: Integers) -> str:
    omega, n = weights.omega, len(weights.omega)
    least, most = float(omega[heaviest[-1]]), float(omega[heaviest[0]])
    words = (
        f"The {len(heaviest):,} heaviest of {n:,} training images weigh ω = {least:.4f} to {most:.4f} (mean of all "
        f"{omega.mean():.4f}); {found.wrong[heaviest].sum():,} of them are classified wrongly, and {found.wrong.sum():,} of "
        f"all ({found.wrong.mean():.1%})."
    )
    near = int((omega >= 0.99 * least).sum()) - len(heaviest)
    if near > 0.1 * n:
        words += f" {near:,} more weigh within 1 % of them: these are hardly singled out."
    low, high = float(weights.hardness.min()), float(weights.hardness.max())
    if high - low < 0.01:
        words += f" h is {low:.4f} to {high:.4f} for all images, so it hardly tells them apart."
    return words


def _contest(
    found: Predictions, theirs: Predictions, names: Sequence[str]
) -> tuple[Section, str, dict[str, Any]]:
    """Who gets what wrong: a section, a sentence, and the numbers."""
    mine, other = found.wrong, theirs.wrong
    only_other, only_mine = int((other & ~mine).sum()), int((mine & ~other).sum())
    p = mcnemar(only_other, only_mine)
    change = mean_over(mine.astype(np.float64) - other, found.labels)
    distinct = p < 0.05 and not change.low <= 0 <= change.high
    meaning = (
        f"fits these images {'better' if only_mine < only_other else 'worse'}"
        if distinct
        else "is not distinguishable"
    )
    verdict = (
        f"{only_other:,} images are wrong only in {names[1]}, {only_mine:,} only in {names[0]} (exact McNemar p {_p_value(p)}): "
        f"{names[0]} {meaning}. Both were trained on them, so this is no word about unseen people."
    )
    counts = {
        "both right": int((~mine & ~other).sum()),
        f"only {names[1]} wrong": only_other,
        f"only {names[0]} wrong": only_mine,
        "both wrong": int((mine & other).sum()),
    }
    section = Section(
        title=f"{names[0]} beside {names[1]}",
        text="Both directions are shown below: one alone would flatter one run.",
        table=Table(
            header=["", "images", "share"],
            rows=[[name, f"{k:,}", f"{k / len(mine):.1%}"] for name, k in counts.items()],
            caption=f"Share wrong, {names[0]} minus {names[1]}: {_points(change)} points (95 %, bootstrap over identities). McNemar's "
            "test takes images as independent, which those of one person are not; a difference is claimed only where both agree.",
        ),
    )
    numbers = {
        "only_baseline_wrong": only_other,
        "only_run_wrong": only_mine,
        "both_wrong": counts["both wrong"],
    }
    return section, verdict, numbers | {"mcnemar_p": p, "share_wrong_minus_baseline": change._asdict()}


def _p_value(p: float) -> str:
    return f"= {p:.3f}" if p >= 0.001 else "< 0.001"


def _points(change: Estimate) -> str:
    value, low, high = (f"{100 * part:+.1f}".replace("-", "−") for part in change)
    return f"{value} ({low} to {high})"


# --- sections ------------------------------------------------------------------------------------------


def _weights_section(
    found: Predictions, weights: Weights, heaviest: Integers, faces: Sequence[Face]
) -> Section:
    def draw(axes: "Axes") -> None:
        _draw_weights(axes, weights, found.wrong, float(weights.omega[heaviest[-1]]))

    return Section(
        title="The highest weights",
        text="Each face stands beside the most typical other face of its label (the closest to the label's class center, of at most "
        f"{SEARCHED} images) and, where another identity is predicted, the most typical face of that one.\n\n"
        "Label noise hides here: a face that looks like the third rather than the second may carry a wrong label, and the weight "
        "makes the model learn just that (sde.cap bounds it).",
        pictures=[
            Picture(
                name="weights",
                draw=draw,
                caption="Weights of all samples. The line marks where the faces below begin; the further it stands from the bulk, "
                "the more these are singled out.",
            )
        ],
        faces=faces,
    )


def _disagreement_section(title: str, faces: Sequence[Face], total: int, names: Sequence[str]) -> Section:
    text = f"{total:,} images" + (
        f", of which the {len(faces):,} heaviest in {names[0]}" if total > len(faces) else ""
    )
    beside = "Beside each: the most typical face of its label, and of the identity that it was taken for."
    return Section(title=title, text=f"{text}. ω, h and p are those of {names[0]}. {beside}", faces=faces)


def _draw_weights(axes: "Axes", weights: Weights, wrong: NDArray[np.bool_], begin: float) -> None:
    omega = weights.omega
    axes.hist(
        [omega[~wrong], omega[wrong]],
        bins=np.linspace(0, max(float(omega.max()), 1e-9), 41).tolist(),
        stacked=True,
        color=[COLOURS[0], COLOURS[1]],
        alpha=0.6,
        label=["right", "wrong"],
    )
    axes.axvline(begin, color=INK, linewidth=1, linestyle=(0, (3, 2)), label="shown from here")
    axes.set(xlabel="weight ω", ylabel="samples")
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=3, borderaxespad=0, handlelength=1.4)


# --- numbers -------------------------------------------------------------------------------------------


def _rows(
    run: Run, found: Predictions, weights: Weights, rows: Integers, predicted: Integers
) -> list[dict[str, Any]]:
    """The shown samples for ``gallery.json``."""
    return [
        {
            "position": int(found.positions[row]),
            "name": sample_name(run.source, int(found.positions[row])),
            "label": int(found.labels[row]),
            "predicted": int(predicted[row]),
            "omega": float(weights.omega[row]),
            "hardness": float(weights.hardness[row]),
            "probability": float(found.target_log_probability[row].double().exp()),
        }
        for row in rows
    ]
