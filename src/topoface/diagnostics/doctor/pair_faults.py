"""Faults of a list of pairs: duplicates, people and images in several folds, labels that contradict each other."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from topoface.diagnostics.doctor.faults import Looks
from topoface.diagnostics.doctor.report import Finding, Level, some
from topoface.evaluation.pairs.protocol import PairProtocol, linked

Integers = NDArray[np.int64]
SMALL = 0.01  # a share of the pairs that hardly moves a figure
FOLDERS_ERR = 0.05  # folders that agree with more labels than this leaves are named after the people


def pair_findings(protocol: PairProtocol, looks: Looks) -> list[Finding]:
    """Duplicates, folds and labels, by decoded pixels and by who is said to be on the images."""
    classes = _classes(looks.hashes)
    members = defaultdict(list)
    for i, kind in enumerate(classes.tolist()):
        members[kind].append(i)
    known = protocol.interval_unit == "identity"
    ends = classes[protocol.pairs]
    people = protocol.identities if known else linked(int(classes.max()) + 1, ends[protocol.same])[classes]
    names = protocol.images.names

    def told(kinds: Iterable[int]) -> list[str]:
        return [" = ".join(names[i] for i in members[kind]) for kind in kinds]

    copies = [kind for kind, own in members.items() if len(own) > 1]
    two_names = [kind for kind in copies if len(set(people[members[kind]].tolist())) > 1] if known else []
    found = [
        _counted(
            "copies",
            told(copies),
            "images have several names",
            "no image has two names",
            of=len(members),
            level=_few(len(copies), len(members)),
        ),
        _counted(
            "two people",
            told(two_names),
            "images are said to show two people",
            "no image is said to show two people"
            if known
            else "the people are not named: whether one image shows two is not known",
        ),
    ]
    return found + _fold_findings(protocol, ends, people, told) + _label_findings(protocol, ends, people)


def _fold_findings(
    protocol: PairProtocol, ends: Integers, people: Integers, told: Callable[[Iterable[int]], list[str]]
) -> list[Finding]:
    folds_of_person: dict[int, set[int]] = defaultdict(set)
    folds_of_image: dict[int, set[int]] = defaultdict(set)
    name: dict[int, str] = {}
    for pair, kinds, fold in zip(
        protocol.pairs.tolist(), ends.tolist(), protocol.folds.tolist(), strict=True
    ):
        for image, kind in zip(pair, kinds, strict=True):
            person = int(people[image])
            folds_of_person[person].add(fold)
            folds_of_image[kind].add(fold)
            name.setdefault(person, protocol.images.names[image])
    shared = [person for person, folds in folds_of_person.items() if len(folds) > 1]
    by_design = 2 * len(shared) > len(folds_of_person)
    crossing = [kind for kind, folds in folds_of_image.items() if len(folds) > 1]
    level: Level = "ok" if not shared else "note" if by_design else "wrong"
    unit = (
        "people" if protocol.interval_unit == "identity" else "people (as far as genuine pairs link images)"
    )
    text = f"no one of {len(folds_of_person):,} {unit} is in two folds"
    if shared:
        who = some([f"on {name[person]}" for person in shared])
        text = f"{len(shared):,} of {len(folds_of_person):,} {unit} are in several folds ({who}): " + (
            "these folds were not made of different people; thresholds are chosen on people who are judged"
            if by_design
            else "thresholds are chosen on people who are judged"
        )
    across = Finding(
        check="folds: people",
        level=level,
        text=text,
        figures={"people": len(folds_of_person), "in_several": len(shared)},
    )
    return [
        across,
        _counted(
            "folds: images",
            told(crossing),
            "images are in several folds",
            "no image is in two folds",
            of=len(folds_of_image),
            level="note" if by_design else "wrong",
        ),
    ]


def _label_findings(protocol: PairProtocol, ends: Integers, people: Integers) -> list[Finding]:
    names = protocol.images.names

    def told(rows: Sequence[int]) -> list[str]:
        return [
            f"pair {row + 1}: {names[protocol.pairs[row, 0]]}, {names[protocol.pairs[row, 1]]}"
            for row in rows
        ]

    same_image = ends[:, 0] == ends[:, 1]
    twice = np.flatnonzero(same_image & protocol.same).tolist()
    labels: dict[tuple[int, ...], set[bool]] = defaultdict(set)
    repeated: list[int] = []
    contradicted: list[int] = []
    for row, (kinds, same) in enumerate(
        zip(np.sort(ends, axis=1).tolist(), protocol.same.tolist(), strict=True)
    ):
        seen = labels[tuple(kinds)]
        (repeated if same in seen else contradicted if seen else []).append(row)
        seen.add(same)
    left, right = people[protocol.pairs].T
    contradicted += _against_folders(protocol)
    contradicted += np.flatnonzero(
        ((left == right) != protocol.same) | (same_image & ~protocol.same)
    ).tolist()
    return [
        _counted(
            "pairs of one image",
            told(twice),
            "genuine pairs are one image twice, which any model gets right",
            "no genuine pair is one image twice",
            of=int(protocol.same.sum()),
            level=_few(len(twice), int(protocol.same.sum())),
        ),
        _counted(
            "labels",
            told(sorted(set(contradicted))),
            "pairs contradict another pair, or who is said to be on their images",
            "no pair contradicts another or the people's names",
        ),
        _counted(
            "repeated pairs",
            told(repeated),
            "pairs are listed before already, and count twice",
            "no pair is listed twice",
            of=len(protocol.pairs),
            level=_few(len(repeated), len(protocol.pairs), 5 * SMALL),
        ),
    ]


def _against_folders(protocol: PairProtocol) -> list[int]:
    """Pairs whose label is not what their images' folders say, where those of nearly all others of either kind are."""
    parts = [name.split("/")[:-1] for name in protocol.images.names]
    for depth in range(1, max(map(len, parts)) + 1):
        folders = np.unique(["/".join(own[:depth]) for own in parts], return_inverse=True)[1][protocol.pairs]
        against = (folders[:, 0] == folders[:, 1]) != protocol.same
        if max(against[kind].mean() for kind in (protocol.same, ~protocol.same)) < FOLDERS_ERR:
            return np.flatnonzero(against).tolist()
    return []


def _counted(
    check: str, examples: Sequence[str], found: str, sound: str, *, of: int = 0, level: Level = "wrong"
) -> Finding:
    """Fine if there are no examples; of ``level`` otherwise."""
    if not examples:
        return Finding(check=check, level="ok", text=sound, figures={"count": 0})
    text = f"{len(examples):,}{f' of {of:,}' if of else ''} {found} ({some(examples)})"
    return Finding(
        check=check,
        level=level,
        text=text,
        figures={"count": len(examples), "examples": list(examples[:100])},
    )


def _few(count: int, of: int, share: float = SMALL) -> Level:
    return "note" if count <= share * of else "wrong"


def _classes(hashes: Sequence[bytes | None]) -> Integers:
    """A number from 0 for each image, equal for equal pixels; one that cannot be read equals no other."""
    numbers: dict[object, int] = {}
    return np.array(
        [numbers.setdefault(key or i, len(numbers)) for i, key in enumerate(hashes)], dtype=np.int64
    )
