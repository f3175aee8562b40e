"""Draw protocols from one's own faces: pairs in folds, templates, and a search, as manifests that others can judge on, too.

Everything is a pure function of the source and the seed. People are kept apart where it matters: no two folds share one, and
in the search each is either enrolled, a stranger or a distractor.
"""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from topoface.data.source import Source
from topoface.errors import UserError
from topoface.evaluation.manifests.drawn_images import RECORD
from topoface.evaluation.manifests.files import Row, Table, as_csv, image_names, write_folder
from topoface.functional.draws import generator

DEFAULT_PAIRS = 6000  # as LFW
MOST_IMAGES = 5  # of one person in the gallery, of one template, and as probes: nobody should dominate
MOST_TEMPLATES = 4000  # of which all pairs are compared: 8 million


class People(NamedTuple):
    """Who is in a source.

    Attributes:
        where: the source, for errors.
        names: of the people who have images.
        images: positions of the images of each, ascending.
        sizes: how many those are, int64 ``[people]``.
    """

    where: str
    names: list[str]
    images: list[NDArray[np.int64]]
    sizes: NDArray[np.int64]


def draw_protocols(
    source: Source,
    out: Path,
    *,
    folds: int = 10,
    pairs: int | None = None,
    gallery_share: float = 0.5,
    seed: int = 0,
) -> dict[str, Any]:
    """Write ``pairs.csv``, ``templates.csv``, ``search.csv`` and what was drawn, ``protocols.json``; all or nothing.

    - Pairs: equally many of one person and of two in each fold, spread as evenly over people (and couples) as images allow.
    - Templates: everybody's images in templates of up to five, two or more where he has two images; all pairs are compared.
    - Search: of the people with two images a share is enrolled: half of the images (at most five), each a template; of the others
      up to five are probes. Everybody else is, by halves, a stranger (up to five probes) or a distractor (all images).

    Args:
        source: labelled faces.
        out: folder to be made. One that holds these very files is left as it is.
        folds: of the pairs, two or more.
        pairs: in all; None for as many as there are, up to 6,000.
        gallery_share: of the people with two images or more, in (0, 1).
        seed: of all that is drawn.

    Returns:
        What ``protocols.json`` says.

    Raises:
        UserError: there are too few people or images, ``out`` holds something else, or it cannot be written.
    """
    if folds < 2:
        raise UserError(f"is {folds}", "--folds", "give 2 or more")
    if not 0 < gallery_share < 1:
        raise UserError(f"is {gallery_share:g}", "--gallery-share", "give a share between 0 and 1")
    people = _people(source)
    tables = {
        "pairs.csv": _pairs(people, folds, pairs, seed),
        "templates.csv": _templates(people, seed),
        "search.csv": _search(people, gallery_share, seed),
    }
    place, kind, names = image_names(source, out)
    record: dict[str, Any] = {
        "images": place,
        "names": kind,
        "source": {
            "fingerprint": source.fingerprint(),
            "images": len(source),
            "people": len(people.names),
        },
        "seed": seed,
        "files": {name: table.counts for name, table in tables.items()},
    }
    files = {name: as_csv(table, names, source.uri) for name, table in tables.items()}
    files[RECORD] = (json.dumps(record, indent=1, ensure_ascii=False) + "\n").encode()
    write_folder(out, files)
    return record


def _people(source: Source) -> People:
    sizes = np.bincount(source.labels, minlength=source.identities)
    groups = np.split(np.argsort(source.labels, kind="stable"), np.cumsum(sizes)[:-1])
    present = np.flatnonzero(sizes).tolist()
    names = source.names
    return People(source.uri, [names[i] for i in present], [groups[i] for i in present], sizes[present])


def _pairs(people: People, folds: int, wanted: int | None, seed: int) -> Table:
    several = np.flatnonzero(people.sizes >= 2)
    if len(several) < folds or len(people.names) < 2 * folds:
        raise UserError(
            f"{len(people.names)} people, {len(several)} of them with two images or more",
            people.where,
            f"{folds} folds need {2 * folds} and {folds}: add people, or give fewer --folds",
        )
    rng = generator(seed, "protocols: folds")
    order = np.concatenate([rng.permutation(several), rng.permutation(np.flatnonzero(people.sizes < 2))])
    members = [np.sort(order[fold::folds]) for fold in range(folds)]
    each = _pairs_of_a_kind([people.sizes[own] for own in members], folds, wanted, people.where)
    rows: list[Row] = []
    for fold, own in enumerate(members):
        rng = generator(seed, "protocols: pairs", fold)
        rows += [
            (*people.images[who][[one, other]].tolist(), 1, fold, people.names[who], people.names[who])
            for who, one, other in _genuine(own, people.sizes[own], each, rng)
        ]
        rows += [
            (
                int(people.images[a][one]),
                int(people.images[b][other]),
                0,
                fold,
                people.names[a],
                people.names[b],
            )
            for a, one, b, other in _impostors(own, people.sizes[own], each, rng)
        ]
    counts = {"folds": folds, "genuine": folds * each, "impostor": folds * each}
    return Table("path1,path2,same,fold,identity1,identity2", 2, rows, counts)


def _pairs_of_a_kind(sizes: list[NDArray[np.int64]], folds: int, wanted: int | None, where: str) -> int:
    """How many genuine pairs each fold has, and as many impostor pairs."""
    room = min(min(int(own @ (own - 1)) // 2, int(own.sum() ** 2 - own @ own) // 2) for own in sizes)
    if wanted is None:
        return min(room, max(1, DEFAULT_PAIRS // (2 * folds)))
    if wanted < 1 or wanted % (2 * folds):
        raise UserError(
            f"is {wanted}", "--pairs", f"give a multiple of {2 * folds}: so many of both kinds in each fold"
        )
    if wanted > 2 * folds * room:
        raise UserError(
            f"{wanted:,} pairs in {folds} folds cannot be made of these images",
            where,
            f"ask for {2 * folds * room:,} at most, or for fewer folds",
        )
    return wanted // (2 * folds)


def _genuine(
    own: NDArray[np.int64], sizes: NDArray[np.int64], wanted: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, int]]:
    """Person, and two of his images."""
    room = sizes * (sizes - 1) // 2
    for who, number, most in zip(
        own.tolist(), _spread(room, wanted, rng).tolist(), room.tolist(), strict=True
    ):
        for place in np.sort(rng.choice(most, number, replace=False)).tolist() if number else ():
            yield who, *_couple(place)


def _impostors(
    own: NDArray[np.int64], sizes: NDArray[np.int64], wanted: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, int, int]]:
    """Person and image, another person and his."""
    couples = len(own) * (len(own) - 1) // 2
    if wanted <= couples:
        chosen, numbers = np.sort(rng.choice(couples, wanted, replace=False)), np.ones(wanted, np.int64)
    else:
        chosen = np.arange(couples)
        room = np.array([sizes[a] * sizes[b] for a, b in map(_couple, range(couples))])
        numbers = _spread(room, wanted, rng)
    for place, number in zip(chosen.tolist(), numbers.tolist(), strict=True):
        a, b = _couple(place)
        for pick in np.sort(rng.choice(int(sizes[a] * sizes[b]), number, replace=False)).tolist():
            yield int(own[a]), pick // int(sizes[b]), int(own[b]), pick % int(sizes[b])


def _couple(place: int) -> tuple[int, int]:
    """The ``place``-th of (0, 1), (0, 2), (1, 2), (0, 3) ..."""
    second = (1 + math.isqrt(1 + 8 * place)) // 2
    return place - second * (second - 1) // 2, second


def _spread(room: NDArray[np.int64], total: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """``total`` over places as evenly as their room allows; who gets one more is drawn."""
    low, high = 0, int(room.max())  # a level that is not too high, and one that may be
    while low < high:
        level = (low + high + 1) // 2
        low, high = (level, high) if np.minimum(room, level).sum() <= total else (low, level - 1)
    taken = np.minimum(room, low)
    more = np.flatnonzero(room > low)
    if len(more):
        taken[rng.choice(more, total - int(taken.sum()), replace=False)] += 1
    return taken


def _templates(people: People, seed: int) -> Table:
    rng = generator(seed, "protocols: templates")
    made: dict[int, list[NDArray[np.int64]]] = {}
    total = 0
    for who in rng.permutation(len(people.names)).tolist():
        images = rng.permutation(people.images[who])[: MOST_IMAGES**2]
        parts = np.array_split(images, max(-(-len(images) // MOST_IMAGES), min(2, len(images))))
        total += len(parts)
        if total > MOST_TEMPLATES:
            break
        made[who] = [np.sort(part) for part in parts]
    rows: list[Row] = [
        (image, f"{people.names[who]}#{number}", people.names[who])
        for who in sorted(made)
        for number, part in enumerate(made[who], start=1)
        for image in part.tolist()
    ]
    sizes = np.array([len(parts) for parts in made.values()])
    genuine, every = int(sizes @ (sizes - 1)) // 2, int(sizes.sum() * (sizes.sum() - 1)) // 2
    counts = {
        "templates": int(sizes.sum()),
        "people": len(made),
        "genuine": genuine,
        "impostor": every - genuine,
    }
    return Table("image,template,person", 1, rows, counts)


def _search(people: People, share: float, seed: int) -> Table:
    several = np.flatnonzero(people.sizes >= 2)
    if len(several) < 2 or len(people.names) < 4:
        raise UserError(
            f"{len(people.names)} people, {len(several)} of them with two images or more",
            people.where,
            "a search needs four people, two of them with two images: add images",
        )
    rng = generator(seed, "protocols: search")
    drawn = rng.permutation(several)
    number = min(max(2, round(share * len(several))), len(people.names) - 2)
    enrolled = np.sort(drawn[:number])
    others = rng.permutation(np.setdiff1d(np.arange(len(people.names)), enrolled))
    strangers, distractors = (np.sort(half) for half in np.array_split(others, 2))
    rows: dict[str, list[Row]] = {"gallery": [], "probe": [], "distractor": []}

    def add(role: str, who: int, places: NDArray[np.int64]) -> None:
        name = people.names[who]
        rows[role] += [
            (int(people.images[who][place]), f"{name}#{place + 1}", name, role)
            for place in np.sort(places).tolist()
        ]

    for who in enrolled.tolist():
        places = rng.permutation(int(people.sizes[who]))
        half = min(len(places) // 2, MOST_IMAGES)
        add("gallery", who, places[:half])
        add("probe", who, places[half : half + MOST_IMAGES])
    mated = len(rows["probe"])
    for who in strangers.tolist():
        add("probe", who, rng.permutation(int(people.sizes[who]))[:MOST_IMAGES])
    for who in distractors.tolist():
        add("distractor", who, np.arange(people.sizes[who]))
    counts = {
        "people in the gallery": len(enrolled),
        "gallery": len(rows["gallery"]),
        "probes with a mate": mated,
        "probes without a mate": len(rows["probe"]) - mated,
        "distractors": len(rows["distractor"]),
    }
    return Table("image,template,person,role", 1, [row for part in rows.values() for row in part], counts)
