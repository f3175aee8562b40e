"""Error rates by group on the command line: judged from an attributes file or RFW's lists, and printed."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoface.cli.output import plain_console
from topoface.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from topoface.evaluation.figures import Figure
    from topoface.evaluation.groups.attributes import Groupings
    from topoface.evaluation.groups.figures import GroupedFigures, GroupJudgement, Rate

RATES = {"fmr": "FMR", "fnmr": "FNMR"}


def group_protocols(
    protocols: Sequence[Any], attributes: Path | None, by: Sequence[str] = ()
) -> "dict[str, Groupings]":
    """The groupings of each protocol that has any, by its name; ``by``: attributes to join, with commas.

    Raises:
        UserError: the attributes file cannot be used, or no protocol is a list of pairs.
    """
    from topoface.evaluation import PairProtocol
    from topoface.evaluation.groups.attributes import read_attributes
    from topoface.evaluation.groups.intersections import with_intersections
    from topoface.evaluation.groups.judging import groupings_of

    wanted = [[name.strip() for name in names.split(",")] for names in by]
    table = read_attributes(attributes) if attributes else None
    pairs = [protocol for protocol in protocols if isinstance(protocol, PairProtocol)]
    if table and not pairs:
        raise UserError("needs a list of pairs to judge groups on", "--attributes", "name one as PROTOCOL")
    found = {protocol.name: groupings_of(protocol, table) for protocol in pairs}
    grouped = {name: groupings for name, groupings in found.items() if groupings.groupings}
    if wanted and not grouped:
        raise UserError("has no attributes to join", "--by", "give a file of them as --attributes")
    return {name: with_intersections(groupings, wanted) for name, groupings in grouped.items()}


def judge_by_group(
    judged: Mapping[str, Sequence[Any]], groupings: "Mapping[str, Groupings]", bootstrap: int
) -> "dict[str, dict[str, GroupJudgement]]":
    """By model, then by protocol."""
    from topoface.evaluation.groups.comparing import beside
    from topoface.evaluation.groups.judging import judge_groups

    found: dict[str, dict[str, GroupJudgement]] = {}
    for model, results in judged.items():
        found[model] = {}
        for place, result in enumerate(results):
            if result.name not in groupings:
                continue
            own = groupings[result.name]
            judgement = judge_groups(result, own, bootstrap=bootstrap)
            if len(found) > 1:
                first = next(iter(judged))
                pair = (judged[first][place], found[first][result.name]), (result, judgement)
                judgement = beside(*pair, own, intervals=bootstrap > 0)
            found[model][result.name] = judgement
    return found


def groups_to_json(judgements: "Mapping[str, GroupJudgement]", protocol: str) -> dict[str, Any]:
    """What joins the figures of a protocol: ``groups``, or nothing."""
    return {"groups": judgements[protocol].to_json()} if protocol in judgements else {}


def print_groups(groups: "Mapping[str, Mapping[str, GroupJudgement]]") -> None:
    """For each model and protocol a table of each attribute, how far its groups are apart, and what limits that."""
    console = plain_console()
    for model, judgements in groups.items():
        for judgement in judgements.values():
            title, first = f"{model} on {judgement.protocol}", next(iter(groups))
            for attribute in judgement.attributes:
                _print_attribute(console, title, attribute, judgement.shown, first)
            _print_accuracies(console, judgement)
            for note in judgement.notes:
                _say(console, note)


def _print_attribute(
    console: "Console", title: str, attribute: "GroupedFigures", shown: int, first: str
) -> None:
    from rich.table import Table

    from topoface.evaluation.groups.figures import difference_in_words, spread_in_words

    found = attribute.tables[shown]
    table = Table(title=f"{title}, by {attribute.name}: in %, one threshold for all", title_justify="left")
    for column in (attribute.name, "rate"):
        table.add_column(column)
    for column in ("value", "95 %", "errors"):
        table.add_column(column, justify="right")
    table.add_row("all pairs", "FMR", f"{100 * found.fmr:.3g}", f"at most {100 * found.target:g}")
    table.add_row("", "FNMR", f"{100 * found.fnmr:.3g}", f"threshold {found.threshold:.4f}", end_section=True)
    for cell in found.rows:
        table.add_row(cell.name, "FMR", *_rate(cell.fmr))
        table.add_row("", "FNMR", *_rate(cell.fnmr), end_section=True)
    console.print(table)
    _say(console, f"{attribute.name}: {attribute.rule}.")
    genuine, impostors = attribute.ungrouped
    if genuine or impostors:
        _say(
            console,
            f"{attribute.name}: {genuine:,} genuine and {impostors:,} impostor pairs are in no group.",
        )
    for rate, spread in found.spreads.items():
        _say(console, f"{attribute.name}, {RATES[rate]}: {spread_in_words(spread)}")
    for warning in found.warnings:
        _say(console, f"{attribute.name}: {warning}")
    for rate, name in RATES.items():
        if text := difference_in_words(attribute, rate):
            _say(console, f"{attribute.name}, {name}: {first} minus this model, in points: {text}")


def _print_accuracies(console: "Console", judgement: "GroupJudgement") -> None:
    found = judgement.accuracies
    if found is None:
        return
    each = ", ".join(f"{name} {100 * figure.value:.2f}{_within(figure)}" for name, figure in found.of.items())
    ratio = "" if math.isnan(found.error_ratio) else f", highest error {found.error_ratio:.2f} x the lowest"
    _say(
        console,
        f"accuracy of each list at its own thresholds: {each}; mean {100 * found.mean:.2f}, std {100 * found.std:.2f}{ratio}",
    )


def _within(figure: "Figure") -> str:
    return "" if math.isnan(figure.low) else f" ({100 * figure.low:.2f} to {100 * figure.high:.2f})"


def _rate(rate: "Rate") -> tuple[str, str, str]:
    if not rate.pairs:
        return "", "", "no pair"
    value, low, high = (f"{100 * number:.3g}" for number in rate.rate)
    interval = "" if math.isnan(rate.rate.low) else f"{low} to {high}"
    return value, interval, f"{rate.errors:,} of {rate.pairs:,}"


def _say(console: "Console", text: str) -> None:
    console.print(text, soft_wrap=True)
