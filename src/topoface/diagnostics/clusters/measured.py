"""What `topoface.diagnostics.clusters.report` measures: training images among the centers of their identities."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from topoface.diagnostics.opening import progress_bar
from topoface.diagnostics.prediction import Floats, Integers, embed_training_images
from topoface.errors import UserError
from topoface.functional.center_look import look
from topoface.functional.center_losses import silhouette_level
from topoface.functional.center_memory import CenterMemory, cohesion, leave_one_out, update_memory
from topoface.functional.clustering import Agreement, agreement
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.training.run import Run

_PERMUTATIONS = 10
_IMAGES = 128  # embedded at a time
_ROWS = 1024  # held against the centers at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Clusters:
    """Training images as a model sees them (clean, not mirrored, evaluation mode), and plain means as centers.

    Attributes:
        positions: int64 ``[n]`` in the source, ascending.
        labels: int64 ``[n]``.
        rows: float32 ``[n, D]``, unit embeddings.
        memory: centers of all classes, each the mean of its images here.
        own: float64 ``[n]``, a: cosine to the own center.
        own_left_out: float64 ``[n]``, the same without the image's part in that center; NaN if it is the only image.
        other: float64 ``[n]``, b: largest cosine to another center.
        nearest: int64 ``[n]``, whose center that is.
    """

    positions: Integers
    labels: Integers
    rows: Tensor
    memory: CenterMemory
    own: Floats
    own_left_out: Floats
    other: Floats
    nearest: Integers

    @property
    def level(self) -> Floats:
        """Silhouette level ``[n]`` of ``own`` and ``other``."""
        return _silhouette(self.own, self.other)

    @property
    def level_left_out(self) -> Floats:
        """Silhouette level ``[n]`` of ``own_left_out`` and ``other``; NaN where the first is."""
        return _silhouette(self.own_left_out, self.other)

    @property
    def assigned(self) -> Integers:
        """Identity ``[n]`` of the nearest center, the own one included."""
        found: Integers = np.where(self.own >= self.other, self.labels, self.nearest)
        return found

    @property
    def assigned_left_out(self) -> Integers:
        """The same with the own center freed of the image."""
        found: Integers = np.where(self.own_left_out >= self.other, self.labels, self.nearest)
        return found

    @property
    def company(self) -> NDArray[np.bool_]:
        """Bool ``[n]``, whether there is another image of the label."""
        known: NDArray[np.bool_] = ~np.isnan(self.own_left_out)
        return known

    @property
    def sizes(self) -> Integers:
        """Images ``[C]`` of each class here."""
        return np.bincount(self.labels, minlength=len(self.memory.visits))

    @property
    def cohesion(self) -> Floats:
        """Float64 ``[C]``, see `topoface.functional.center_memory.cohesion`."""
        return as_floats(cohesion(self.memory))

    def typical(self, identity: int, *, besides: int | None = None) -> int | None:
        """Row of the image closest to its identity's center, other than row ``besides``; None if there is none."""
        rows = np.flatnonzero(self.labels == identity)
        rows = rows[rows != besides] if besides is not None else rows
        return int(rows[self.own[rows].argmax()]) if len(rows) else None


def draw_identities(run: Run, samples: int | None, seed: int) -> Integers:
    """Positions of the training images of identities drawn until they have ``samples`` images; of all if None or too few.

    Whole identities, since a center of a part of the images says less.

    Raises:
        UserError: fewer than two images are asked for.
    """
    if samples is None or samples >= len(run.source):
        return np.arange(len(run.source), dtype=np.int64)
    if samples < 2:
        raise UserError(
            f"is {samples}", "--samples", "ask for a few hundred training images or more, or for all"
        )
    order = generator(seed, "diagnostic identities").permutation(run.source.identities)
    so_far = np.bincount(run.source.labels, minlength=run.source.identities)[order].cumsum()
    count = max(2, int(np.searchsorted(so_far, samples)) + 1)
    return np.flatnonzero(np.isin(run.source.labels, order[:count])).astype(np.int64)


def locate(run: Run, positions: Integers) -> Clusters:
    """Embed training images, take the mean of each identity, and look where each image lies among the means.

    Raises:
        UserError: an image cannot be read.
    """
    return place(embed(run, positions), run.source.labels[positions], positions, run.source.identities)


@torch.no_grad()
def embed(run: Run, positions: Integers) -> Tensor:
    """Unit embeddings ``[n, D]`` of images of the run's source. UserError if one cannot be read."""
    parts = []
    with progress_bar("images") as bar:
        task = bar.add_task("embeddings", total=len(positions))
        for start in range(0, len(positions), _IMAGES):
            parts.append(unit_rows(embed_training_images(run, positions[start : start + _IMAGES])))
            bar.update(task, advance=len(parts[-1]))
    return torch.cat(parts)


def place(rows: Tensor, labels: Integers, positions: Integers, identities: int) -> Clusters:
    """The centers of unit rows ``[n, D]``, and the rows among them."""
    memory = plain_means(rows, labels, identities)
    targets = torch.from_numpy(labels)
    looks = [
        look(part, target, memory)
        for part, target in zip(torch.split(rows, _ROWS), torch.split(targets, _ROWS), strict=True)
    ]
    a = torch.cat([found.stated for found in looks])
    return Clusters(
        positions=positions,
        labels=labels,
        rows=rows,
        memory=memory,
        own=as_floats(a),
        own_left_out=as_floats(leave_one_out(a, memory.lengths[targets], memory.psi[targets])),
        other=as_floats(torch.cat([found.other for found in looks])),
        nearest=torch.cat([found.index for found in looks]).numpy(),
    )


def plain_means(rows: Tensor, labels: Integers, identities: int) -> CenterMemory:
    """A memory after one visit of all rows: the mean of each class, all samples alike."""
    memory = CenterMemory(
        directions=torch.zeros(identities, rows.shape[1]),
        lengths=torch.zeros(identities),
        psi=torch.zeros(identities),
        visits=torch.zeros(identities, dtype=torch.int64),
        last_step=torch.zeros(identities, dtype=torch.int64),
    )
    update_memory(memory, rows, torch.from_numpy(labels), beta=0.0, step=0)
    return memory


# --- agreement ---------------------------------------------------------------------------------------------


def by_chance(assigned: Integers, labels: Integers, seed: int) -> dict[str, float]:
    """Mean figures of clusters of the same sizes that know nothing of the labels."""
    drawn = [
        figures_of(agreement(generator(seed, "chance clusters", k).permutation(assigned), labels))
        for k in range(_PERMUTATIONS)
    ]
    return {name: float(np.mean([each[name] for each in drawn])) for name in drawn[0]}


def figures_of(found: Agreement) -> dict[str, float]:
    """All figures by name."""
    names = ("precision", "recall", "F")
    return {
        **{f"BCubed {name}": value for name, value in zip(names, found.bcubed, strict=True)},
        "BCubed F, mean over images": float(found.bcubed_f.mean()),
        **{f"pairs {name}": value for name, value in zip(names, found.pairs, strict=True)},
        "NMI": found.nmi,
    }


def _silhouette(own: Floats, other: Floats) -> Floats:
    return as_floats(silhouette_level(torch.from_numpy(own), torch.from_numpy(other)))


def as_floats(values: Tensor) -> Floats:
    """Float64, as statistics want it."""
    array: Floats = values.double().numpy()
    return array
