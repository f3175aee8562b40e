"""From a source of faces and a frozen encoder to a table of codes."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from topoface.codes.encoders import STORED, encoder_digest, open_image_encoder
from topoface.codes.encoding import class_sums
from topoface.codes.folder import check_absent
from topoface.codes.names import check_distinct, encoded, origin
from topoface.codes.potential import Step, spread_out
from topoface.codes.shape import choose_reed_solomon, choose_shape, message_length, parse_shape
from topoface.codes.space import evenly, measure_space, measure_treatment
from topoface.codes.statistics import ClassSums, analyse, wiener
from topoface.codes.table import CodeTable, write_table
from topoface.codes.tokenise import COUNTED, KINDS, Kind, counted_codes, tokenise
from topoface.codes.vectors import check_alpha, random_vectors, whitening
from topoface.data.source import Source
from topoface.errors import UserError, require

RANDOM = "random"
"""An encoder that looks at no image: the control."""
OF_IMAGES = ("alpha", "shrink", "max_images", "epochs", "step", "rate", "momentum")
"""Settings of `BuildSettings` that mean something only where vectors are made from images."""
Show = Callable[[str, int, int], None]
"""Called with what is being done, how much is done, and how much there is."""


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """How codes are made.

    Attributes:
        encoder: path of a frozen encoder, or ``random``.
        dimension: D of the code vectors: that of the embeddings to be trained; None takes the encoder's.
        alpha: how far they are whitened, 0 to 1; None leaves them uncentered.
        shrink: ``wiener`` trusts the few images of rare identities less.
        max_images: of one identity that are looked at.
        epochs: of spreading by the Gaussian potential.
        step: of that: ``row``, or ``sum`` as published.
        rate: of that.
        momentum: of that.
        kind: of tokeniser.
        shape: of the codes, see `parse_shape`; None chooses one.
        seed: of whatever is drawn.
    """

    encoder: str
    dimension: int | None = None
    alpha: float | None = 0.25
    shrink: Literal["none", "wiener"] = "none"
    max_images: int | None = 32
    epochs: int = 0
    step: Step = "row"
    rate: float = 0.1
    momentum: float = 0.0
    kind: Kind = "rq"
    shape: str | None = None
    seed: int = 0

    def check(self) -> None:
        """Raise UserError for a value that makes no sense."""
        require(self.kind in KINDS, "kind", self.kind, f"choose one of {', '.join(KINDS)}")
        require(self.dimension is None or self.dimension >= 2, "dimension", self.dimension, "give 2 or more")
        require(
            self.max_images is None or self.max_images >= 1, "max images", self.max_images, "give 1 or more"
        )
        require(self.epochs >= 0, "epochs", self.epochs, "give 0 or more")
        require(0 < self.rate < math.inf, "rate", self.rate, "give a number above 0")
        require(0 <= self.momentum < 1, "momentum", self.momentum, "give 0 or more, below 1")
        if self.encoder == RANDOM:
            remedy = "leave it out, and a preset that sets it: encoder random makes vectors of no image"
            defaults = BuildSettings(encoder=RANDOM)
            for name in OF_IMAGES:
                value = getattr(self, name)
                require(value == getattr(defaults, name), name.replace("_", " "), value, remedy)

    def applied(self) -> dict[str, Any]:
        """What codes are made by: all settings but those that nothing was done with."""
        left_out = OF_IMAGES if self.encoder == RANDOM else ()
        return {name: value for name, value in asdict(self).items() if name not in left_out}


PAPER = {
    "alpha": None,
    "epochs": 1000,
    "step": "sum",
    "rate": 0.1,
    "momentum": 0.9,
    "kind": "arbitrary",
    "shape": "20",
}
"""The published reading; momentum is ours."""


def build(source: Source, out: Path, settings: BuildSettings, show: Show = lambda *_: None) -> CodeTable:
    """Make codes for all identities of a source.

    Args:
        source: labelled faces; its names become the uids.
        out: folder of the table, which must not exist.
        settings: how.
        show: told of progress.

    Raises:
        UserError: see `BuildSettings.check`, `open_image_encoder`, `class_sums`, `tokenise` and `write_table`.
    """
    settings.check()
    check_absent(out)
    names = source.names  # once: a source may make them anew each time
    uids = encoded(names)
    order = np.argsort(uids, kind="stable")
    check_distinct(uids[order], source.uri)
    counts = np.bincount(source.labels, minlength=source.identities)
    _check_early(source, settings, counts)
    arrays: dict[str, NDArray[Any]] = {}
    facts: dict[str, Any] = {
        "source": source.uri,
        "fingerprint": origin(source).fingerprint(),
        **settings.applied(),
    }
    if settings.encoder == RANDOM:
        dimension = settings.dimension or 512
        vectors = random_vectors(len(order), dimension, settings.seed)
    else:
        seen = read_classes(source, settings, show, encoder=settings.encoder)
        dimension = settings.dimension or seen.sums.shape[1]
        vectors, arrays, more = code_vectors(seen, order, settings, dimension, source.uri, show)
        facts |= more
    alphabets = _shape(settings, len(order), dimension)
    made = tokenise(
        vectors,
        alphabets,
        kind=settings.kind,
        seed=settings.seed,
        progress=lambda done, total: show("levels", done, total),
    )
    facts |= {"dimension": dimension, "space": measure_space(vectors)._asdict()}
    if settings.kind == "rs":
        facts["message"] = message_length(alphabets, len(order))
    if made.books is not None:
        facts["explained"] = _explained(vectors, made.codes, made.books, alphabets)
    arrays["images"] = counts[order]  # all there are, looked at or not: what the head will see of each
    return write_table(
        out,
        codes=made.codes,
        alphabets=alphabets,
        uids=[names[int(row)] for row in order],
        vectors=vectors,
        books=made.books,
        arrays=arrays,
        meta=facts,
    )


def code_vectors(
    seen: ClassSums, order: NDArray[np.int64], settings: BuildSettings, dimension: int, where: str, show: Show
) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]], dict[str, Any]]:
    """Code vectors ``[C, D]`` in the order given, the arrays that make those of new identities, and facts.

    Raises:
        UserError: alpha is refused, or nothing can be said of rare identities.
    """
    counts, means = seen.counts[order], seen.means(order)
    check_alpha(settings.alpha, len(means), min(dimension, means.shape[1]))
    variances = analyse(seen)
    weights, arrays = None, {}
    if settings.shrink == "wiener":
        filter_ = wiener(seen)
        if filter_ is None or variances is None:
            raise UserError(
                "nobody has a second image", where, "shrink none: there is no telling signal from noise"
            )
        means = filter_(means, counts)
        weights = counts / (counts + min(variances.kappa, 1e6))
        arrays = {f"shrink_{name}": value for name, value in asdict(filter_).items()}
    turn = whitening(means, dimension, alpha=settings.alpha, seed=settings.seed, weights=weights)
    vectors = turn(means)
    if settings.epochs:
        vectors = spread_out(
            vectors,
            epochs=settings.epochs,
            rate=settings.rate,
            step=settings.step,
            momentum=settings.momentum,
            seed=settings.seed,
            progress=lambda done, total: show("epochs", done, total),
        )
    arrays |= {"center": turn.center, "matrix": turn.matrix}
    some = evenly(len(order))
    facts = {
        "treatment": measure_treatment(seen.means(order[some]), vectors[some])._asdict(),
        "encoder_sha256": encoder_digest(settings.encoder),
        "encoder_dimension": seen.sums.shape[1],
        "images": int(counts.sum()),
        "kappa": None if variances is None else variances.kappa,
    }
    return vectors, arrays, facts


def read_classes(
    source: Source,
    settings: BuildSettings,
    show: Show,
    *,
    encoder: str,
    only: NDArray[np.bool_] | None = None,
) -> ClassSums:
    """Class sums of a source, or of its labels ``only [identities]``, seen through a frozen encoder."""
    return class_sums(
        source,
        open_image_encoder(encoder, fingerprint=source.fingerprint()),
        max_images=settings.max_images,
        only=only,
        looks=not encoder.endswith(STORED),
        seed=settings.seed,
        where=encoder,
        progress=lambda done, total: show("images", done, total),
    )


def _check_early(source: Source, settings: BuildSettings, counts: NDArray[np.int64]) -> None:
    """Tell mistakes before the images, ``counts [identities]`` of each, are read, which may take hours."""
    dimension = settings.dimension or 2
    check_alpha(settings.alpha, source.identities, dimension)
    alphabets = _shape(settings, source.identities, dimension)
    if settings.kind in COUNTED:
        message = message_length(alphabets, source.identities)
        counted_codes(np.arange(0), alphabets, kind=settings.kind, seed=0, message=message)
    if not counts.all():
        name = source.names[int(counts.argmin())]
        raise UserError(f"identity {name!r} has no image", source.uri, "remove it, or give it one")


def _shape(settings: BuildSettings, identities: int, dimension: int) -> tuple[int, ...]:
    if settings.shape is not None:
        return parse_shape(settings.shape, identities)
    if settings.kind == "rs":
        return choose_reed_solomon(identities, dimension)
    return choose_shape(identities, dimension)


def _explained(
    vectors: NDArray[np.float32],
    codes: NDArray[np.integer],
    books: NDArray[np.float32],
    alphabets: tuple[int, ...],
) -> list[float]:
    """Share of the variance of the vectors that the first 1, 2, .. tokens tell."""
    center = vectors.mean(0)
    sums = np.tile(center, (len(vectors), 1))
    total = float(((vectors - center) ** 2).sum())
    shares, offset = [], 0
    for j, k in enumerate(alphabets):
        sums += books[offset + codes[:, j].astype(np.int64)]
        offset += k
        shares.append(1 - float(((vectors - sums) ** 2).sum()) / max(total, 1e-30))
    return shares
