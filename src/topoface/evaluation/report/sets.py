"""The report's sections on templates and on all pairs of a set: what stands in their tables, sentences and plots."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from topoface.evaluation.all_pairs.judging import AllPairs
from topoface.evaluation.figures import TEMPLATE_FARS, Figure, PairFigures
from topoface.evaluation.report import curves, plots
from topoface.evaluation.report.growth_plot import growth_plot
from topoface.evaluation.templates.results import SearchFigures, TemplateVerification

SetResult = TemplateVerification | AllPairs


class Lead(NamedTuple):
    """The first sentence on a protocol: what it says before and behind its figure, and the figure's name."""

    name: str
    verb: str
    figure: Figure | None
    rest: str


def set_sections(models: Mapping[str, Sequence[SetResult]]) -> list[dict[str, Any]]:
    """One section a protocol, by the models that were judged on it; the first is the one the others are compared with."""
    by_protocol: dict[str, dict[str, SetResult]] = {}
    for model, results in models.items():
        for result in results:
            by_protocol.setdefault(result.name, {})[model] = result
    colours = plots.colour_of(list(models))
    return [_section(name, judged, colours) for name, judged in by_protocol.items()]


def _section(name: str, judged: Mapping[str, SetResult], colours: Mapping[str, str]) -> dict[str, Any]:
    main_name, main = next(iter(judged.items()))
    pairs = {model: result.pairs for model, result in judged.items() if result.pairs is not None}
    lead = _lead(main)
    return {
        "name": name,
        "main": main_name,
        "judged": judged,
        "colours": colours,
        "lead": lead,
        "size": _size(main),
        "pairs": pairs,
        "differences": _differences(main, {m: r for m, r in judged.items() if m != main_name}, lead.name),
        "plots": _pair_plots(pairs, colours),
        "searches": [_search(number, judged, colours) for number in range(len(_searches(main)))],
    }


def _searches(result: SetResult) -> tuple[SearchFigures, ...]:
    return result.searches if isinstance(result, TemplateVerification) else ()


def _lead(result: SetResult) -> Lead:
    if result.pairs is not None:
        sound = [point for point in result.tar if not point.warning] or [result.tar[0]]
        point = sound[-1]
        rest = f"of the pairs of one person when at most 1 in {round(1 / point.target):,} pairs of two people is taken for one"
        return Lead(f"tar@{point.target:g}", "recognises", point.tar, rest)
    search = next((search for search in _searches(result) if search.ranks), None)
    if search is None:
        return Lead("", "was asked for nobody who is in a gallery", None, "")
    return Lead(
        f"{search.name} rank-1",
        "finds",
        search.ranks[1],
        f"of the people first in the {search.name if search.name == 'gallery' else f'gallery {search.name}'}",
    )


def _size(result: SetResult) -> str:
    parts = []
    if isinstance(result, TemplateVerification):
        protocol = result.protocol
        parts.append(
            f"{len(protocol.images):,} images in {len(protocol.template_ids):,} templates of {int(protocol.people.max()) + 1:,} people"
        )
    else:
        parts.append(f"{result.images:,} images of {result.identities:,} people")
    if result.pairs is not None:
        parts.append(f"{result.pairs.genuine:,} genuine and {result.pairs.impostors:,} impostor pairs")
    return "; ".join(parts)


def _differences(main: SetResult, others: Mapping[str, SetResult], figure: str) -> dict[str, Figure]:
    """The main model minus each other one, where both were judged on the same."""
    found = {}
    for model, other in others.items():
        if isinstance(main, TemplateVerification) and isinstance(other, TemplateVerification):
            same = main.fingerprint == other.fingerprint
            values = main.minus(other) if same else {}
        elif isinstance(main, AllPairs) and isinstance(other, AllPairs):
            values = main.minus(other) if main.fingerprint == other.fingerprint else {}
        else:
            values = {}
        if figure in values:
            found[model] = values[figure]
    return found


def _pair_plots(pairs: Mapping[str, PairFigures], colours: Mapping[str, str]) -> list[tuple[str, str, str]]:
    """Title, caption and SVG."""
    if not pairs:
        return []
    lines = {model: figures.curve for model, figures in pairs.items()}
    top = max(TEMPLATE_FARS)
    band = " The band is the 95 % interval." if any(c.band.size for c in lines.values()) else ""
    return [
        (
            "ROC.",
            f"Up and to the left is better.{band} In the grey zone fewer than ten false accepts decide.",
            curves.roc_plot(lines, colours, top),
        ),
        (
            "DET.",
            "The same as errors: down and to the left is better. Both axes are logarithmic.",
            curves.det_plot(lines, colours, top),
        ),
        *(
            (
                f"Scores of {model}.",
                "The less the two hills overlap, the better. Each hill shows all pairs of its kind, however many.",
                curves.histogram_plot(figures.histogram, colours[model]),
            )
            for model, figures in pairs.items()
        ),
    ]


def _search(number: int, judged: Mapping[str, SetResult], colours: Mapping[str, str]) -> dict[str, Any]:
    rows = {model: _searches(result)[number] for model, result in judged.items()}
    main = next(iter(rows.values()))
    drawn = []
    if main.ranks:
        drawn.append(
            (
                "CMC.",
                "How often the right person is among the first so many.",
                curves.cmc_plot({model: search.cmc for model, search in rows.items()}, colours),
            )
        )
    if main.tpir:
        drawn.append(
            (
                "Open-set search.",
                "People who are missed, over strangers who raise an alarm. Down and to the left is better; in the grey zone "
                "fewer than ten alarms decide.",
                curves.search_plot({model: search.det for model, search in rows.items()}, colours),
            )
        )
    if main.sizes:
        fpir = main.sharpest if main.tpir else None
        missed = "" if fpir is None else f", and missed at FPIR {fpir:g} (FNIR)"
        drawn.append(
            (
                "Larger galleries.",
                f"Mates who are not the most similar entry{missed}, as distractors join the gallery. Lower is better.",
                growth_plot({model: search.sizes for model, search in rows.items()}, colours, fpir),
            )
        )
    return {"search": main, "rows": rows, "plots": drawn, "title": _title(main)}


def _title(search: SearchFigures) -> str:
    return "Who is it? (1:N)" if search.name == "gallery" else f"Who is it? Gallery {search.name} (1:N)"
