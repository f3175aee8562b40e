"""``topoface topology hardness`` (figure 4 of TopoFR): the mixture over entropies, and whether h tells what is wrong."""

import math
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from topoface.diagnostics.calibration import Estimate
from topoface.diagnostics.opening import open_run
from topoface.diagnostics.page import Page, Picture, Section, Table, check_out, write_page
from topoface.diagnostics.prediction import damage_of, draw_samples, predict, run_facts
from topoface.diagnostics.topology.hardness_plots import (
    LINES,
    draw_curves,
    draw_deciles,
    draw_density,
    draw_reliability,
)
from topoface.diagnostics.topology.hardness_results import (
    Floats,
    Judged,
    Results,
    as_floats,
    judge_all,
    numbers_of,
    parameters_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLLAPSED = 0.99  # share of samples on one side of h = 1/2 from which "everything" is said


def hardness(run: str, *, samples: int, seed: int, out: Path) -> None:
    """Fit the mixture over the entropies of training samples, and judge its hardness h as the probability of an error.

    Args:
        run: a run directory; one without TopoFR is judged with TopoFR's default settings.
        samples: training images, drawn without repeats; all if there are fewer.
        seed: draws them.
        out: gets ``hardness.html``, ``hardness.json`` and the pictures.

    Raises:
        UserError: no usable run, an image that cannot be read, or a folder that cannot be written.
    """
    check_out(out)
    opened = open_run(run)
    found = predict(opened, draw_samples(opened, samples, seed), where=run)
    damage, whose = damage_of(opened)
    results = judge_all(found, damage, opened.source.identities, margin=opened.hooks.request.margin)
    kind = "with" if results.margin else "without"
    facts = run_facts(opened, run, found) | {
        "statistics": f"clean images, not mirrored, model in evaluation mode, logits {kind} margin",
        "mixture": f"{whose}: fit {damage.fit}, support {damage.support}, floor {damage.floor:g} nats; "
        f"batches of {found.batch_size}",
        "intervals": "95 %, bootstrap over identities",
        "seed": str(seed),
    }
    arguments = [run, "--samples", str(samples), "--seed", str(seed), "--out", str(out)]
    page = Page(
        name="hardness",
        title="Hardness: is it the probability of being wrong?",
        lead=_lead(results),
        sections=[
            _mixture_section(results),
            _ranking_section(results),
            _fits_section(results),
            _parameters_section(results),
        ],
        numbers=numbers_of(results),
        facts=facts,
        command="topoface topology hardness " + shlex.join(arguments),
    )
    path = write_page(out, page)
    print(page.lead)
    print(f"page: {path}")


# --- words ---------------------------------------------------------------------------------------------


def _lead(results: Results) -> str:
    found, judged = results.found, results.by_batch[results.main]
    wrong, n = int(found.wrong.sum()), len(found.wrong)
    error = judged.reliability
    limit = (
        f"its calibration error is {error.error:.3f}, where chance alone gives up to "
        f"{error.error_if_calibrated:.3f}"
    )
    verdict = (
        "h agrees with the share that is wrong"
        if error.calibrated
        else "h is not the probability of being wrong"
    )
    words = [
        f"The run classifies {wrong:,} of {n:,} training images wrongly ({wrong / n:.1%}).",
        _called_hard(judged.hardness),
        f"{verdict}: {limit}.",
    ]
    if math.isnan(judged.auc.value):
        words.append("Nothing can be ranked, for all samples are of one kind.")
        return " ".join(words)
    words.append(f"h {_ranking_in_words(judged.auc)}.")
    plain = results.auc_of["entropy without margin"]
    if results.margin and (plain.low > judged.auc.high or plain.high < judged.auc.low):
        better = "better" if plain.low > judged.auc.high else "worse"
        words.append(f"The entropy without margin ranks {better} (AUC {_estimate(plain)}).")
    return " ".join(words)


def _called_hard(hardness: Floats) -> str:
    share, mean = float((hardness > 0.5).mean()), float(hardness.mean())
    if share >= COLLAPSED:
        all_of_them = "everything" if share == 1 else f"{share:.1%} of them"
        return f"h calls {all_of_them} hard (mean h {mean:.3f}), so it singles out nobody."
    if share <= 1 - COLLAPSED:
        return f"h calls {'nothing' if share == 0 else f'only {share:.1%} of them'} hard (mean h {mean:.3f})."
    return f"h calls {share:.1%} of them hard (h > ½; mean h {mean:.3f})."


def _ranking_in_words(auc: Estimate) -> str:
    if auc.low > 0.5:
        verb = "ranks wrong above right more often than chance"
    elif auc.high < 0.5:
        verb = "ranks wrong below right"
    else:
        verb = "ranks wrong and right no better than chance"
    return f"{verb} (AUC {_estimate(auc)}; chance 0.5)"


def _estimate(value: Estimate) -> str:
    return "" if math.isnan(value.value) else f"{value.value:.3f}, {value.low:.3f} to {value.high:.3f}"


# --- sections ------------------------------------------------------------------------------------------


def _mixture_section(results: Results) -> Section:
    found, main = results.found, results.main
    judged, over_all = results.by_batch[main], results.over_all
    drawn = "ml" if main == "release" else main
    entropy = as_floats(found.entropy)
    note = (
        "" if main == drawn else " (the released fit works on standardised values and has no density in nats)"
    )
    lines = (
        f"{min(len(judged.fits), LINES)} batches, a thin line each," if len(judged.fits) > 1 else "one batch"
    )

    def density(axes: "Axes") -> None:
        draw_density(axes, entropy, found.wrong, over_all[drawn].fits[0])

    def curves(axes: "Axes") -> None:
        released = main == "release"
        draw_curves(axes, entropy, judged.hardness, over_all[main].hardness, found.batch_size, released)

    return Section(
        title="Entropies and the mixture",
        text="TopoFR takes the entropies E of the class predictions for a mixture of a half-normal (easy samples) and a "
        "uniform (hard ones); h is the posterior probability of the uniform. "
        + ("The logits carry the margin, so E knows the label. " if results.margin else "")
        + f"Training fits one mixture to each batch of {found.batch_size}; its batches are perturbed and seen by the model "
        "in training mode, those here are not.",
        pictures=[
            Picture(
                name="entropies",
                draw=density,
                caption=f"Entropies of all {len(entropy):,} samples, right and wrong stacked. Lines: the mixture fitted to "
                f"all of them by fit {drawn}{note}. Where the dark line misses the bars, two such kinds do not describe these "
                "samples.",
            ),
            Picture(
                name="hardness",
                draw=curves,
                caption=f"h over entropy: {lines} and the fit to all samples at once (fit {main}). One entropy "
                "gets as many values of h as the thin lines lie apart.",
            ),
        ],
    )


def _ranking_section(results: Results) -> Section:
    found, judged = results.found, results.by_batch[results.main]
    error = judged.reliability

    def reliable(axes: "Axes") -> None:
        draw_reliability(axes, error.bins, len(found.wrong))

    def tenths(axes: "Axes") -> None:
        draw_deciles(
            axes, {name: each.bins for name, each in results.deciles.items()}, float(found.wrong.mean())
        )

    knows = {
        "entropy": "through the margin" if results.margin else "no",
        "entropy without margin": "no",
        "1 − p": "yes",
    }
    rows = [[f"h by batch, fit {results.main}", _estimate(judged.auc), knows["entropy"]]]
    rows += [[name, _estimate(auc), knows[name]] for name, auc in results.auc_of.items()]
    return Section(
        title="Hardness as a probability",
        text="“Wrong” means that the class center with the largest cosine, without margin, is another person's.",
        pictures=[
            Picture(
                name="reliability",
                draw=reliable,
                caption="Ten bins of h (by batch). On the diagonal h would be the probability of being wrong; below it h says "
                f"“hard” too often. Bars: share of all samples in the bin. Calibration error {error.error:.3f}; calibrated "
                f"values would stay below {error.error_if_calibrated:.3f} in 95 of 100 draws.",
            ),
            Picture(
                name="tenths",
                draw=tenths,
                caption="Samples ordered by entropy, a tenth at each point. A measure of hardness should rise from left to right; "
                "on the dashed line it would say nothing.",
            ),
        ],
        table=Table(
            header=["ranks wrong above right", "AUC, 95 %", "knows the label"],
            rows=rows,
            caption="Chance is 0.5. 1 − p is a ceiling, no rival: a wrong sample has a small p nearly by definition.",
        ),
    )


def _rows(results: Results) -> dict[str, Judged]:
    """All fits by the name that the tables give them."""
    rows = {}
    for fit in results.by_batch:
        rows[f"{fit}, by batch{' (this run)' if fit == results.main else ''}"] = results.by_batch[fit]
        rows[f"{fit}, all at once"] = results.over_all[fit]
    if results.margin:
        rows[f"{results.main}, by batch, without margin"] = results.plain
    return rows


def _fits_section(results: Results) -> Section:
    rows = [
        [
            name,
            f"{judged.hardness.mean():.3f}",
            f"{(judged.hardness > 0.5).mean():.1%}",
            _estimate(judged.auc),
            f"{judged.reliability.error:.3f}",
            f"{judged.reliability.error_if_calibrated:.3f}",
        ]
        for name, judged in _rows(results).items()
    ]
    return Section(
        title="The fits side by side",
        text="The same samples, fitted as sde.fit can: by maximum likelihood (ml), by moments, by the paper's equation 7, by the "
        "released code. Where nearly all h are equal, their order rests on the last digits of float32.",
        table=Table(
            header=["fit", "mean h", "h > ½", "AUC, 95 %", "calibration error", "if calibrated, below"],
            rows=rows,
        ),
    )


def _parameters_section(results: Results) -> Section:
    rows = [
        [name, *map(_range, parameters_of(judged.fits).values())] for name, judged in _rows(results).items()
    ]
    return Section(
        title="The fitted mixtures",
        table=Table(
            header=["fit", "π, share easy", "√Σ, spread of the easy", "Ω, end of the hard"],
            rows=rows,
            caption="Mean over the batches, and their range. √Σ and Ω in nats; those of the released code in deviations of the "
            "signed entropies. π at 0.001 or 0.999 stands at its bound: one of the two parts has taken all.",
        ),
    )


def _range(values: Floats) -> str:
    middle = f"{values.mean():.3f}"
    return middle if len(values) == 1 else f"{middle} ({values.min():.3f} to {values.max():.3f})"
