"""What token classifiers read off images: the likeliest of the codes that exist, and how likely the label's own is."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from topoface.data import Source
from topoface.diagnostics.opening import embed_raw, progress_bar
from topoface.diagnostics.prediction import Floats, Integers
from topoface.evaluation.images import SourceImages
from topoface.functional.prefix_tree import NextToken, PrefixTree, beam_search
from topoface.heads.identity_code import IdentityCode
from topoface.models import EmbeddingModel

_BATCH = 64


@dataclass(frozen=True, kw_only=True)
class Decoded:
    """What a run reads off n training images, clean and not mirrored.

    Attributes:
        positions: int64 ``[n]``, in the source.
        rows: int64 ``[n]``, row of the code table of each label.
        found: int64 ``[n, w]``, rows that the beam ends with, most likely first.
        likelihood: float64 ``[n]``, log of the product of token probabilities of the first of them.
        own: float64 ``[n]``, the same of the label's code.
        tokens: bool ``[n, L]``, whether the most likely token after the label's own prefix is the label's.
    """

    positions: Integers
    rows: Integers
    found: Integers
    likelihood: Floats
    own: Floats
    tokens: np.ndarray

    @property
    def doubt(self) -> Floats:
        """``[n]``: by how much (nats) another identity is likelier than the label; 0 where none is."""
        return np.where(self.found[:, 0] == self.rows, 0.0, np.maximum(self.likelihood - self.own, 0))

    @cached_property
    def oddness(self) -> Floats:
        """``[n]``: by how much (nats) the label is less likely than on the other images of the same label, on average; 0 without others."""
        _, who, images = np.unique(self.rows, return_inverse=True, return_counts=True)
        others = images[who] - 1
        mean = (np.bincount(who, self.own)[who] - self.own) / np.maximum(others, 1)
        return np.where(others > 0, mean - self.own, 0.0)

    def doubtful(self) -> Integers:
        """Positions in ``[n]`` of images that another identity is likelier for, the oddest of their label first.

        A hard person is hard throughout, a wrong label stands alone.
        """
        order = np.argsort(-self.oddness, kind="stable")
        return order[self.doubt[order] > 0]


@torch.no_grad()
def decoded(
    model: EmbeddingModel, head: IdentityCode, source: Source, positions: Integers, width: int
) -> Decoded:
    """Beam search over images ``[n]`` of a source, whose identities the head's table knows by name."""
    table = head.codes.table
    tree = PrefixTree.of(torch.from_numpy(table.codes.astype(np.int64)))
    names = source.names
    rows = table.rows_of([names[label] for label in np.asarray(source.labels)[positions]], source.uri)
    parts: list[tuple[Tensor, ...]] = []
    with progress_bar("images") as bar:
        task = bar.add_task("decoding", total=len(positions))
        for start in range(0, len(positions), _BATCH):
            some = positions[start : start + _BATCH]
            images = SourceImages(source, [int(i) for i in some])
            embeddings = embed_raw(model, np.stack([images[i] for i in range(len(some))]))
            ask = head.next_token(embeddings)
            codes = torch.from_numpy(table.tokens(rows[start : start + len(some)]))
            found, scores = beam_search(ask, tree, width, len(some))
            parts.append((found, scores[:, 0], *_along(ask, codes)))
            bar.update(task, advance=len(some))
    ends, likelihood, own, right = (torch.cat(part).numpy() for part in zip(*parts, strict=True))
    return Decoded(
        positions=positions,
        rows=rows,
        found=ends,
        likelihood=likelihood.astype(np.float64),
        own=own.astype(np.float64),
        tokens=right,
    )


def _along(ask: NextToken, codes: Tensor) -> tuple[Tensor, Tensor]:
    """Log-likelihood ``[n]`` of codes ``[n, L]``, and whether each token is the likeliest after those before it."""
    total, right = torch.zeros(len(codes)), []
    for j in range(codes.shape[1]):
        log_p = ask(codes[:, None, :j])[:, 0]
        total = total + log_p.gather(1, codes[:, j, None])[:, 0]
        right.append(log_p.argmax(1) == codes[:, j])
    return total, torch.stack(right, 1)


def prefix_accuracy(found: Decoded, codes: np.ndarray) -> Floats:
    """Share ``[L]`` of images whose likeliest identity begins with the label's first 1, 2, .. tokens."""
    same = codes[found.found[:, 0]] == codes[found.rows]
    shares: Floats = np.logical_and.accumulate(same, axis=1).mean(0)
    return shares
