"""Structure of embeddings beside that of their images, over the same batches for every model."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.diagnostics.opening import Faces, draw_batches, embed_raw, progress_bar
from topoface.errors import UserError
from topoface.functional.alignment import structure_loss, structure_report
from topoface.functional.directions import unit_rows
from topoface.functional.distances import pixel_distances, pixel_squared_distances
from topoface.functional.draws import generator
from topoface.functional.persistence import h0_edges
from topoface.models import EmbeddingModel

Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Measure:
    """A figure of a batch.

    Attributes:
        name: for axes and tables.
        percent: whether it is a share.
        of_edges: whether it is a whole number of the n - 1 edges.
    """

    name: str
    percent: bool = False
    of_edges: bool = False

    @property
    def heading(self) -> str:
        """The name with its unit."""
        return self.name + (", %" if self.percent else "")

    def shown(self, values: Floats, *, sign: bool = False) -> str:
        """Median and central 95 %, to three digits of the largest."""
        quantiles = np.quantile(values * (100 if self.percent else 1), [0.025, 0.5, 0.975])
        largest = float(np.abs(quantiles).max())
        digits = 1 if self.percent or largest == 0 else int(np.clip(2 - np.floor(np.log10(largest)), 0, 6))
        low, middle, high = (
            f"{value:{'+' if sign else ''}.{digits}f}".replace("-", "\N{MINUS SIGN}") for value in quantiles
        )
        return f"{middle} ({low} to {high})"


# Scale-free: embeddings on the unit sphere, each space divided by the mean edge of its own tree.
ALIGNMENT = {
    "paired": Measure(name="paired discrepancy per edge"),
    "overlap": Measure(name="tree overlap", percent=True, of_edges=True),
    "spearman": Measure(name="Spearman of distances"),
    "sorted": Measure(name="sorted discrepancy per edge"),
    "bottleneck": Measure(name="bottleneck distance"),
}
# As the release measures: raw embeddings, pixel distances in shares of the largest possible.
SCALE = {
    "raw_sorted": Measure(name="raw sorted discrepancy per edge"),
    "raw_paired": Measure(name="raw paired discrepancy per edge"),
    "scale_ratio": Measure(name="scale: mean edge / that of the images"),
    "norm": Measure(name="mean norm of embeddings"),
    "cosine": Measure(name="mean cosine of two embeddings"),
}
IDENTITY = {"same_identity": Measure(name="tree edges within an identity", percent=True, of_edges=True)}
MEASURES = ALIGNMENT | SCALE | IDENTITY


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Everything of one batch size.

    Attributes:
        n: images in a batch.
        by_model: of each model, float64 ``[batches]`` by key of `MEASURES`, and as ``shuffled`` the paired
            discrepancy of the same embeddings dealt out to other images of the batch: what no alignment gives.
        identities: float64 ``[batches]``, shares of edges within an identity: ``best`` that a tree can have, ``chance`` of a pair
            drawn blindly, ``pixels`` of the tree of the images.
    """

    n: int
    by_model: Mapping[str, Mapping[str, Floats]]
    identities: Mapping[str, Floats]

    @property
    def chance_overlap(self) -> float:
        """Share of edges that independent trees have in common, about."""
        return 2 / self.n

    @property
    def shuffled(self) -> dict[str, float]:
        """The median paired discrepancy of each model without any alignment; it depends on how its embeddings lie."""
        return {name: float(np.median(values["shuffled"])) for name, values in self.by_model.items()}

    def numbers(self) -> dict[str, Any]:
        """All of it, for JSON."""
        return {
            "n": self.n,
            "chance_overlap": self.chance_overlap,
            "models": {name: dict(figures) for name, figures in self.by_model.items()},
            "identity_edges": dict(self.identities),
        }


class _Embedded:
    """Embeddings of a model, each image once, made when a batch first holds it."""

    def __init__(self, name: str, model: EmbeddingModel, images: int) -> None:
        self._name, self._model = name, model
        self._row = np.full(images, -1)
        self._rows: list[Tensor] = []

    def of(self, positions: NDArray[np.int64], images: NDArray[np.uint8]) -> Tensor:
        new = np.flatnonzero(self._row[positions] < 0)
        if len(new):
            embeddings = embed_raw(self._model, images[new])
            if not embeddings.isfinite().all():
                raise UserError(
                    "gives embeddings that are not finite", self._name, "train it anew, or give another model"
                )
            self._row[positions[new]] = np.arange(len(self._rows), len(self._rows) + len(new))
            self._rows.extend(embeddings)
        return torch.stack([self._rows[row] for row in self._row[positions]])


def measure(
    faces: Faces, models: Mapping[str, EmbeddingModel], sizes: Sequence[int], batches: int, seed: int
) -> list[Measured]:
    """Every figure of every model on every batch.

    Args:
        faces: to draw from.
        models: by name.
        sizes: images in a batch, each from 2 to all faces.
        batches: of each size.
        seed: draws them.

    Raises:
        UserError: an image cannot be read, or a model's embeddings are not finite.
    """
    embedded = {name: _Embedded(name, model, len(faces)) for name, model in models.items()}
    labels = torch.from_numpy(faces.identities.astype(np.int64))
    results = []
    with progress_bar("images") as bar:
        task = bar.add_task("structure", total=batches * sum(sizes))
        for n in sizes:
            by_model: dict[str, list[dict[str, float]]] = {name: [] for name in models}
            identities = []
            for number, positions in enumerate(draw_batches(faces, n, batches, seed=seed)):
                images = faces.batch(positions)
                squared = pixel_squared_distances(torch.from_numpy(images))
                tree = h0_edges(squared)
                distances = pixel_distances(squared, images[0].size)
                who = labels[torch.from_numpy(positions)]
                shuffle = torch.from_numpy(generator(seed, "shuffled embeddings", n, number).permutation(n))
                identities.append(_identity_shares(who, tree))
                for name, model in embedded.items():
                    figures = _figures(distances, tree, model.of(positions, images), who, shuffle)
                    by_model[name].append(figures)
                bar.advance(task, n)
            columns = {name: _columns(rows) for name, rows in by_model.items()}
            results.append(Measured(n=n, by_model=columns, identities=_columns(identities)))
    return results


def _figures(
    distances: Tensor, tree: Tensor, embeddings: Tensor, who: Tensor, shuffle: Tensor
) -> dict[str, float]:
    free = structure_report(distances, embeddings, labels=who, source_edges=tree)
    raw = structure_report(distances, embeddings, norm="pixel_range", latent="raw", source_edges=tree)
    shuffled = structure_loss(
        distances,
        embeddings[shuffle],
        norm="mean_edge",
        latent="sphere",
        reduction="edges",
        source_edges=tree,
    )
    return {
        "paired": free.paired,
        "sorted": free.sorted,
        "overlap": free.overlap,
        "bottleneck": free.bottleneck,
        # embeddings that all coincide have no ranks to correlate
        "spearman": 0.0 if math.isnan(free.spearman) else free.spearman,
        "same_identity": float(free.same_identity_edges or 0),
        "raw_paired": raw.paired,
        "raw_sorted": raw.sorted,
        "scale_ratio": raw.scale_ratio,
        "norm": float(embeddings.double().norm(dim=1).mean()),
        "cosine": _mean_cosine(embeddings),
        "shuffled": float(shuffled),
    }


def _mean_cosine(embeddings: Tensor) -> float:
    """Over all pairs of different images: near 1, the embeddings all point one way, whatever their tree."""
    n = len(embeddings)
    return float((unit_rows(embeddings.double()).sum(0).square().sum() - n) / (n * (n - 1)))


def _identity_shares(who: Tensor, tree: Tensor) -> dict[str, float]:
    n = len(who)
    counts = torch.unique(who, return_counts=True)[1]
    return {
        "best": (n - len(counts)) / (n - 1),
        "chance": float((counts * (counts - 1)).sum()) / (n * (n - 1)),
        "pixels": float((who[tree[:, 0]] == who[tree[:, 1]]).double().mean()),
    }


def _columns(rows: Sequence[Mapping[str, float]]) -> dict[str, Floats]:
    return {key: np.array([row[key] for row in rows]) for key in rows[0]}
