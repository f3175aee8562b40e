"""Groups of several attributes at once: women of a skin tone, say, who may fare worse than either group shows."""

from collections.abc import Sequence

import numpy as np

from topoface.errors import UserError
from topoface.evaluation.groups.attributes import MOST, Grouping, Groupings


def with_intersections(found: Groupings, wanted: Sequence[Sequence[str]]) -> Groupings:
    """The groupings, and behind them one for each list of attributes: a pair belongs to the groups that it has in all of them.

    Args:
        found: the attributes of a protocol.
        wanted: names of two attributes or more each.

    Raises:
        UserError: an attribute is not there, or more than 20 groups would come out.
    """
    return Groupings((*found.groupings, *(_intersection(found, names) for names in wanted)), found.notes)


def _intersection(found: Groupings, names: Sequence[str]) -> Grouping:
    by_name = {grouping.name: grouping for grouping in found.groupings}
    where = f"--by {','.join(names)}"
    if len(set(names)) < max(len(names), 2):
        raise UserError("names one attribute", where, "name two or more different ones, with commas")
    if absent := [name for name in names if name not in by_name]:
        known = ", ".join(by_name) or "none"
        raise UserError(f"no attribute {absent[0]!r}", where, f"name some of: {known}")
    parts = [by_name[name] for name in names]
    sides, labels = parts[0].sides, parts[0].labels
    for part in parts[1:]:
        joined = np.where((sides < 0) | (part.sides < 0), -1, sides * len(part.labels) + part.sides)
        present = np.unique(joined[joined >= 0])
        labels = tuple(
            f"{labels[code // len(part.labels)]} + {part.labels[code % len(part.labels)]}" for code in present
        )
        sides = np.where(joined < 0, -1, np.searchsorted(present, joined)).astype(np.int64)
    if not labels or len(labels) > MOST:
        raise UserError(
            f"{len(labels)} groups", where, f"join attributes with up to {MOST} groups between them"
        )
    rule = "a pair belongs to the groups that it has in all of these attributes"
    return Grouping(
        name=" and ".join(names),
        rule=rule,
        labels=labels,
        sides=sides,
        unknown=max(part.unknown for part in parts),
    )
