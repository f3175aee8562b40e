"""Faces of ``topoface clusters report``: suspicious images beside typical ones, and identities beside one another."""

from dataclasses import dataclass

import numpy as np

from topoface.diagnostics.clusters.identities import Similar
from topoface.diagnostics.clusters.measured import Clusters
from topoface.diagnostics.page import Face
from topoface.diagnostics.prediction import Floats, Integers, sample_name
from topoface.evaluation.images import SourceImages
from topoface.evaluation.report.page import jpeg_of
from topoface.training.run import Run


@dataclass(frozen=True, kw_only=True)
class Album:
    """Where the faces come from.

    Attributes:
        run: its source holds them.
        clusters: who is typical.
    """

    run: Run
    clusters: Clusters

    def name(self, row: int) -> str:
        """File or record of a row of the clusters."""
        return sample_name(self.run.source, int(self.clusters.positions[row]))

    def jpeg(self, row: int) -> str:
        """Base64."""
        return jpeg_of(SourceImages(self.run.source, [int(self.clusters.positions[row])])[0])

    def beside(self, row: int | None, whose: str) -> list[tuple[str, str]]:
        """A typical face for comparison, if there is one."""
        return [] if row is None else [(self.jpeg(row), f"typical of {whose}: {self.name(row)}")]


def suspicious_faces(
    album: Album, rows: Integers, score: Floats, suspected: Integers, true: Integers | None
) -> list[Face]:
    """Each with the most typical other face of its label, and of the identity whose center is the nearest other one.

    Args:
        album: of the run.
        rows: int64 ``[k]``, to show.
        score: float64 ``[n]``.
        suspected: int64 ``[C]``, suspicious images of each label.
        true: int64 ``[n]``, labels that are known, or None.
    """
    clusters = album.clusters
    sizes, rho = clusters.sizes, clusters.cohesion

    def face(row: int) -> Face:
        label, other = int(clusters.labels[row]), int(clusters.nearest[row])
        lines = [
            f"score {score[row]:.3f} · a {_figure(clusters.own_left_out[row])} · b {_figure(clusters.other[row])}",
            f"label {label}: {suspected[label]} of {sizes[label]} images suspected, ρ̂ {_figure(rho[label])}",
            f"nearest other: {other} ({sizes[other]} images)",
        ]
        if true is not None:
            known = int(true[row])
            lines.append(f"wrong label, truly {known}" if known != label else "label as listed")
        return Face(
            jpeg=album.jpeg(row),
            name=album.name(row),
            lines=[*lines, album.name(row)],
            beside=album.beside(clusters.typical(label, besides=row), f"label {label}")
            + album.beside(clusters.typical(other), f"label {other}"),
        )

    return [face(int(row)) for row in rows]


def similar_faces(album: Album, similar: Similar, count: int) -> list[Face]:
    """Both identities of each of the first ``count`` pairs, by their most typical images."""
    clusters = album.clusters
    rho, sizes = clusters.cohesion, clusters.sizes
    found = []
    for number in range(min(count, len(similar.pairs))):
        one, two = similar.pairs[number].tolist()
        votes = similar.votes[number]
        rows = [row for row in (clusters.typical(one), clusters.typical(two)) if row is not None]
        found.append(
            Face(
                jpeg=album.jpeg(rows[0]),
                name=album.name(rows[0]),
                beside=album.beside(rows[1], f"label {two}"),
                lines=[
                    f"labels {one} and {two}: γ {similar.gamma[number]:.2f}",
                    f"nearest other is the other: {votes[0]} of {sizes[one]} images and {votes[1]} of {sizes[two]}",
                    f"ρ̂ {rho[one]:.2f} and {rho[two]:.2f}",
                    " · ".join(album.name(row) for row in rows),
                ],
            )
        )
    return found


def _figure(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.2f}"
