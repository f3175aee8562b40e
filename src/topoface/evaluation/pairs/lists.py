"""Lists of pairs as text: LFW's pairs.txt, ``fold path path same`` lines, CSV and JSON-lines manifests."""

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass

from topoface.errors import UserError

TRUE, FALSE = ("1", "true", "yes"), ("0", "false", "no")
FORMATS = "`name n1 n2`, `name1 n1 name2 n2` (LFW, with its header line), or `[fold] path1 path2 0|1`"


@dataclass(frozen=True, kw_only=True)
class PairLine:
    """One pair as listed.

    Attributes:
        line: number in the file, from 1.
        left: image name; LFW lists leave the suffix open.
        right: image name.
        same: whether one person is said to be on both.
        fold: label of the fold, or None where the list has no folds.
        people: who is on the two images, or None where the list does not say.
    """

    line: int
    left: str
    right: str
    same: bool
    fold: str | None = None
    people: tuple[str, str] | None = None


def parse_pair_list(text: str, where: str) -> list[PairLine]:
    """Read a list of pairs in any of the known forms.

    A manifest is recognised by ``path1`` in its first line: CSV with a header, or JSON lines, with
    ``path1``, ``path2``, ``same`` and optionally ``fold``, ``identity1``, ``identity2``.

    Args:
        text: the whole list.
        where: names the file in errors.

    Raises:
        UserError: naming the line that fits no form.
    """
    first = next((line.strip() for line in text.splitlines() if line.strip()), "")
    if first.startswith("{"):
        return [_manifest_pair(record, line, where) for line, record in _json_records(text, where)]
    if "path1" in first:
        reader = csv.DictReader(io.StringIO(text.lstrip()), skipinitialspace=True)
        try:
            return [_manifest_pair(dict(record), reader.line_num, where) for record in reader]
        except csv.Error as error:
            raise UserError(
                f"is no CSV ({error})", f"{where}:{reader.line_num}", "save it as plain CSV"
            ) from error
    return _plain_pairs(text, where)


def _plain_pairs(text: str, where: str) -> list[PairLine]:
    rows = [
        (number, line.strip().split("\t") if "\t" in line.strip() else line.split())
        for number, line in enumerate(text.splitlines(), start=1)
        if line.strip()
    ]
    if rows and len(rows[0][1]) <= 2 and all(word.isdecimal() for word in rows[0][1]):
        return _lfw_pairs([int(word) for word in rows[0][1]], rows[1:], where)
    return [_path_pair(words, number, where) for number, words in rows]


def _lfw_pairs(header: list[int], rows: list[tuple[int, list[str]]], where: str) -> list[PairLine]:
    """Header ``folds n``: each fold is n genuine lines, then n impostor lines. Header ``n`` alone: no folds."""
    folds, each = header if len(header) == 2 else (1, header[0])
    if len(rows) != folds * 2 * each:
        raise UserError(
            f"{len(rows)} pairs follow a header that announces {folds} x 2 x {each}",
            f"{where}:1",
            "correct the header or restore the list",
        )
    pairs = []
    for position, (number, words) in enumerate(rows):
        fold = str(position // (2 * each)) if len(header) == 2 else None
        match words:
            case [name, n1, n2] if n1.isdecimal() and n2.isdecimal():
                left, right = (name, n1), (name, n2)
            case [name1, n1, name2, n2] if n1.isdecimal() and n2.isdecimal():
                left, right = (name1, n1), (name2, n2)
            case _:
                raise _unknown_form(words, f"{where}:{number}")
        pairs.append(
            PairLine(
                line=number,
                left=f"{left[0]}/{left[0]}_{int(left[1]):04d}",
                right=f"{right[0]}/{right[0]}_{int(right[1]):04d}",
                same=len(words) == 3,
                fold=fold,
                people=(left[0], right[0]),
            )
        )
    return pairs


def _path_pair(words: list[str], number: int, where: str) -> PairLine:
    match words:
        case [fold, left, right, ("0" | "1") as same] if fold.isdecimal():
            return PairLine(line=number, left=left, right=right, same=same == "1", fold=fold)
        case [left, right, ("0" | "1") as same]:
            return PairLine(line=number, left=left, right=right, same=same == "1")
        case _:
            raise _unknown_form(words, f"{where}:{number}")


def _unknown_form(words: list[str], where: str) -> UserError:
    return UserError(f"{' '.join(words)[:80]!r} is no pair", where, f"write {FORMATS}")


def _json_records(text: str, where: str) -> Iterator[tuple[int, dict[str, object]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            record = None
        if not isinstance(record, dict):
            raise UserError("is no JSON object", f"{where}:{number}", "write one object a line")
        yield number, record


def _manifest_pair(record: dict[str, object], number: int, where: str) -> PairLine:
    at = f"{where}:{number}"
    values = {
        key: _field(value)
        for key, value in record.items()
        if value not in (None, "") and isinstance(key, str)
    }
    missing = [key for key in ("path1", "path2", "same") if key not in values]
    if missing:
        raise UserError(f"has no {' and no '.join(missing)}", at, "give path1, path2 and same for every pair")
    if values["same"] not in TRUE + FALSE:
        raise UserError(f"same is {values['same']!r}", at, "write 1 or 0")
    same = values["same"] in TRUE
    people = (
        (values["identity1"], values["identity2"])
        if "identity1" in values and "identity2" in values
        else None
    )
    if people and (people[0] == people[1]) != same:
        raise UserError(
            f"same is {int(same)} for identities {people[0]!r} and {people[1]!r}", at, "correct one of them"
        )
    return PairLine(
        line=number,
        left=values["path1"],
        right=values["path2"],
        same=same,
        fold=values.get("fold"),
        people=people,
    )


def _field(value: object) -> str:
    text = str(value).strip()
    return text.lower() if isinstance(value, bool) or text in ("True", "False", "TRUE", "FALSE") else text
