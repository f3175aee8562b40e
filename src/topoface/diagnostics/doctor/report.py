"""What the doctor says: one finding for each thing that was looked at, in plain lines or as JSON."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

Level = Literal["ok", "note", "wrong"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        check: what was looked at, in a word or two.
        level: ``ok``; ``note``: worth knowing, and it hardly moves a figure or cannot be decided; ``wrong``: to be mended.
        text: what was found, and what to do about it.
        figures: the numbers behind it, of JSON's types.
    """

    check: str
    level: Level
    text: str
    figures: dict[str, Any] = field(default_factory=dict)


def lines(findings: Sequence[Finding]) -> list[str]:
    """A line for each finding, and the sum of them."""
    width = max((len(finding.check) for finding in findings), default=0)
    told = [
        f"{finding.level.upper() if finding.level == 'wrong' else finding.level:5}  {finding.check:{width}}  {finding.text}"
        for finding in findings
    ]
    return [*told, "", summary(findings)]


def summary(findings: Sequence[Finding]) -> str:
    """The last line."""
    wrong = [finding.check for finding in findings if finding.level == "wrong"]
    notes = sum(finding.level == "note" for finding in findings)
    noted = f" ({notes} note{'s' if notes > 1 else ''})" if notes else ""
    return f"WRONG: {', '.join(wrong)}{noted}" if wrong else f"nothing is wrong{noted}"


def to_json(findings: Sequence[Finding], facts: dict[str, Any]) -> dict[str, Any]:
    """Facts about the run, the verdict, and every finding."""
    return {
        **facts,
        "wrong": any(f.level == "wrong" for f in findings),
        "findings": [asdict(f) for f in findings],
    }


def some(names: Sequence[object], most: int = 3) -> str:
    """The first few, and whether there are more."""
    return ", ".join(map(str, names[:most])) + (" ..." if len(names) > most else "")
