"""What `topoface.diagnostics.pairs.distribution` measures: all pairs of a sample of training images beside those that losses draw of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from topoface.data import IdentityBalancedOrder, UniformOrder
from topoface.diagnostics.calibration import Estimate
from topoface.diagnostics.opening import progress_bar
from topoface.diagnostics.pairs.similarities import (
    Floats,
    Integers,
    Similarities,
    coarser,
    quantile,
)
from topoface.diagnostics.prediction import embed_training_images, mixture_batch
from topoface.errors import UserError
from topoface.functional.bootstrap import percentile_interval
from topoface.functional.directions import unit_rows
from topoface.functional.draws import generator
from topoface.functional.negatives import pair_bounds
from topoface.training.run import Run

WHISKER = 1.5  # the paper's
GENUINE_QUANTILE = 0.5  # of genuine similarities: the fence of the filter `positive`
GROUPS = 32  # of identities, which the intervals draw
REPLICATES = 400
COARSE = 2**12  # parts of [-1, 1] in which the replicates count
MOST_SUSPICIOUS = 20_000  # pairs above the fence that are remembered
_BLOCK = 2**21  # cosines at a time
_IMAGES = 128  # embedded at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """Training images of a run as its model sees them: clean, not mirrored, in evaluation mode.

    Attributes:
        positions: int64 ``[n]`` in the source.
        labels: int64 ``[n]``.
        rows: float32 ``[n, D]``, unit embeddings.
        centers: float32 ``[C, D]``, unit class centers.
    """

    positions: Integers
    labels: Integers
    rows: Tensor
    centers: Tensor


@dataclass(frozen=True, kw_only=True, eq=False)
class InBatches:
    """ML: pairs of two identities in batches.

    Attributes:
        every: all of them.
        kept: those that the whisker of their batch keeps.
        below: share that it drops as too easy.
        fences: float64 ``[batches, 2]``, lowest and highest cosine that it keeps.
        sizes: int64 ``[batches]``, images.
    """

    every: Similarities
    kept: Similarities
    below: float
    fences: Floats
    sizes: Integers


@dataclass(frozen=True, kw_only=True, eq=False)
class Suspicious:
    """Pairs of two identities that are more alike than most genuine pairs.

    Attributes:
        count: all of them.
        hardest: int64 ``[at most MOST_SUSPICIOUS, 2]``, positions in the sample of the hardest, these first.
        cosines: float64, theirs.
    """

    count: int
    hardest: Integers
    cosines: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Similarities of a sample's pairs.

    Attributes:
        samples: n.
        genuine: of one identity, each pair once.
        every: ALL: of two identities, each pair once.
        classes: CL: sample to the center of another class.
        in_batches: ML.
        positive: the fence of UNPG's filter of that name, the median of ``genuine``.
        suspicious: those of ``every`` above it.
        replicates: counts float64 ``[REPLICATES, COARSE]`` of ``genuine``, ``every`` and ``classes``, with identities drawn
            anew in ``GROUPS`` groups.
    """

    samples: int
    genuine: Similarities
    every: Similarities
    classes: Similarities
    in_batches: InBatches
    positive: float
    suspicious: Suspicious
    replicates: Mapping[str, Floats]

    def unified(self, *, filtered: bool) -> Similarities:
        """UN: CL and (kept) ML, each pair once."""
        return self.classes + (self.in_batches.kept if filtered else self.in_batches.every)

    def row_view(self, *, filtered: bool) -> Floats:
        """UN as one row of UNPG's softmax sees it, ``[BINS]``: the other classes, and all (kept) pairs of a batch."""
        pairs = self.in_batches.kept if filtered else self.in_batches.every
        return self.classes.counts / self.samples + pairs.counts / len(self.in_batches.fences)

    def estimate(self, figure: Callable[..., float], *names: str) -> Estimate:
        """A figure of the counts of some of the sets (see ``replicates``), with its 95 % interval."""
        sets = {"genuine": self.genuine, "every": self.every, "classes": self.classes}
        return Estimate(
            figure(*(sets[name].counts for name in names)),
            *percentile_interval(self.replicated(figure, *names)),
        )

    def replicated(self, figure: Callable[..., float], *names: str) -> Floats:
        """The figure in each replicate; alike drawn for all runs on the same data."""
        rows = zip(*(self.replicates[name] for name in names), strict=True)
        return np.array([figure(*row) for row in rows])


@torch.no_grad()
def embed_sample(run: Run, samples: int, seed: int, where: str) -> Sample:
    """Draw ``samples`` training images without repeats (all if there are fewer) and embed them.

    Raises:
        UserError: fewer than two are asked for, an image cannot be read, an embedding is not finite, or the head has no
            class centers.
    """
    if samples < 2:
        raise UserError(f"is {samples}", "--samples", "ask for a few hundred training images or more")
    drawn = generator(seed, "diagnostic samples").permutation(len(run.source))[:samples]
    positions = np.sort(drawn.astype(np.int64))
    parts = []
    with progress_bar("images") as bar:
        task = bar.add_task(f"embeddings of {where}", total=len(positions))
        for start in range(0, len(positions), _IMAGES):
            parts.append(embed_training_images(run, positions[start : start + _IMAGES]))
            bar.update(task, advance=len(parts[-1]))
    embeddings = torch.cat(parts)
    if not embeddings.isfinite().all():
        raise UserError("its embeddings are not finite", where, "give a run that has not diverged")
    labels = run.source.labels[positions]
    run.head.eval()
    centers = run.head(embeddings[:2], torch.from_numpy(labels[:2])).class_centers
    if centers is None:
        what = f"its head {type(run.head).__name__} has no class centers"
        raise UserError(what, where, "give a run with ArcFace, CosFace or another softmax head")
    return Sample(positions=positions, labels=labels, rows=unit_rows(embeddings), centers=unit_rows(centers))


def sampled_batches(run: Run, labels: Integers, count: int, seed: int) -> Iterator[Integers]:
    """Positions ``[at most the run's batch]`` in a sample with ``labels``, drawn as the run draws its batches.

    An image that comes twice is taken once: it would repeat its pairs.
    """
    size = min(mixture_batch(run), len(labels))
    order: UniformOrder | IdentityBalancedOrder = UniformOrder(len(labels), size, seed)
    if run.recipe.data.sampling != "uniform":
        images = min(run.recipe.data.images_per_identity, size)
        identities = min(size // images, len(np.unique(labels)))
        order = IdentityBalancedOrder(labels, identities, images, seed)
    return (np.unique(order.indices(step)) for step in range(count))


@torch.no_grad()
def measure(sample: Sample, batches: Iterable[Integers], *, seed: int, where: str) -> Measured:
    """Similarities of all pairs of a sample and of what losses see of them, in blocks.

    Args:
        sample: from `embed_sample`.
        batches: positions in the sample; one at least.
        seed: of the intervals.
        where: names the run in messages.

    Raises:
        UserError: the sample has no genuine pair, or one identity only.
    """
    identities, inverse, images = np.unique(sample.labels, return_inverse=True, return_counts=True)
    if len(identities) < 2 or images.max() < 2:
        kind = "two images of one identity" if len(identities) > 1 else "two identities"
        raise UserError(f"has no {kind} among {len(inverse)} images", where, "ask for more --samples")
    group = (generator(seed, "pair groups").permutation(len(identities)) % GROUPS)[inverse]
    groups = [np.flatnonzero(group == g) for g in np.unique(group)]  # an identity lies in one of them
    weights = generator(seed, "pair bootstrap").multinomial(
        len(groups), [1 / len(groups)] * len(groups), size=REPLICATES
    )
    genuine, genuine_table = _genuine_pairs(sample, groups)
    positive = quantile(genuine.counts, GENUINE_QUANTILE)
    every, every_table, suspicious = _negative_pairs(sample, groups, positive)
    classes, classes_table = _class_negatives(sample, groups)
    # a pair weighs as the product of its groups; within one, as the group
    pairs = [(g, h) for g in range(len(groups)) for h in range(g, len(groups))]
    pair_weights = np.stack([weights[:, g] * (weights[:, h] if g < h else 1) for g, h in pairs], axis=1)
    return Measured(
        samples=len(sample.labels),
        genuine=genuine,
        every=every,
        classes=classes,
        in_batches=_batch_negatives(sample, batches),
        positive=positive,
        suspicious=suspicious,
        replicates={
            "genuine": weights @ genuine_table,
            "every": pair_weights @ every_table,
            "classes": weights @ classes_table,
        },
    )


def _genuine_pairs(sample: Sample, groups: Sequence[Integers]) -> tuple[Similarities, Floats]:
    """Pairs of one identity, and their coarse counts ``[groups, COARSE]``."""
    found, table = Similarities(), np.zeros((len(groups), COARSE))
    for g, part in enumerate(groups):
        for _, cosines, same, once in _blocks(sample, part, part):
            table[g] += coarser(found.add(cosines[same & once]), COARSE)
    return found, table


def _negative_pairs(
    sample: Sample, groups: Sequence[Integers], fence: float
) -> tuple[Similarities, Floats, Suspicious]:
    """Pairs of two identities, their coarse counts by pair of groups ``[pairs, COARSE]``, and those above the fence."""
    found, rows = Similarities(), []
    count, at, values = 0, np.empty((0, 2), dtype=np.int64), np.empty(0)
    with progress_bar("blocks") as bar:
        task = bar.add_task("pairs", total=len(groups) * (len(groups) + 1) // 2)
        for g, left in enumerate(groups):
            for right in groups[g:]:
                row = np.zeros(COARSE)
                for part, cosines, same, once in _blocks(sample, left, right):
                    negative = ~same & once
                    row += coarser(found.add(cosines[negative]), COARSE)
                    i, j = (negative & (cosines > fence)).nonzero().numpy().T
                    count += len(i)
                    at = np.concatenate([at, np.stack([part[i], right[j]], axis=1)])
                    values = np.concatenate([values, cosines[i, j].numpy()])
                    hardest = np.lexsort((at[:, 1], at[:, 0], -values))[:MOST_SUSPICIOUS]
                    at, values = at[hardest], values[hardest]
                rows.append(row)
                bar.update(task, advance=1)
    return found, np.stack(rows), Suspicious(count=count, hardest=at, cosines=values)


def _class_negatives(sample: Sample, groups: Sequence[Integers]) -> tuple[Similarities, Floats]:
    """Samples to centers of other classes, and their coarse counts ``[groups, COARSE]``."""
    found, table = Similarities(), np.zeros((len(groups), COARSE))
    classes = torch.arange(len(sample.centers))
    for g, group in enumerate(groups):
        for part in _pieces(group, len(classes)):
            cosines = sample.rows[part] @ sample.centers.T
            other = torch.from_numpy(sample.labels[part])[:, None] != classes
            table[g] += coarser(found.add(cosines[other]), COARSE)
    return found, table


def _batch_negatives(sample: Sample, batches: Iterable[Integers]) -> InBatches:
    every, kept = Similarities(), Similarities()
    below, fences, sizes = 0, [], []
    for batch in batches:
        rows, labels = sample.rows[batch], torch.from_numpy(sample.labels[batch])
        negatives = (rows @ rows.T)[(labels[:, None] != labels).triu(1)]
        low, high = pair_bounds(negatives, WHISKER)
        every.add(negatives)
        kept.add(negatives[(negatives >= low) & (negatives <= high)])
        below += int((negatives < low).sum())
        fences.append([float(low), float(high)])
        sizes.append(len(batch))
    return InBatches(
        every=every,
        kept=kept,
        below=below / max(every.size, 1),
        fences=np.array(fences),
        sizes=np.array(sizes),
    )


def _blocks(
    sample: Sample, left: Integers, right: Integers
) -> Iterator[tuple[Integers, Tensor, Tensor, Tensor]]:
    """Positions ``[m]`` on the left, cosines ``[m, len(right)]``, whether of one identity, and whether a pair counts.

    Of a set with itself each pair counts once, and no sample with itself.
    """
    labels = torch.from_numpy(sample.labels)
    for part in _pieces(left, len(right)):
        once = torch.ones(len(part), len(right), dtype=torch.bool)
        if left is right:
            once = torch.from_numpy(part[:, None] < right)
        yield part, sample.rows[part] @ sample.rows[right].T, labels[part, None] == labels[right], once


def _pieces(positions: Integers, width: int) -> list[Integers]:
    """Parts of some rows of ``width`` cosines such that a part is no more than a block."""
    rows = max(1, _BLOCK // max(width, 1))
    return [positions[start : start + rows] for start in range(0, len(positions), rows)]
