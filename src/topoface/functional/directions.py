"""Directions of vectors, with a gradient that a zero vector cannot blow up."""

import torch
from torch import Tensor


def unit_rows(points: Tensor) -> Tensor:
    """Rows of ``[n, D]`` divided by their lengths; a row of zeros stays zero and passes its gradient unscaled.

    (``normalize`` divides by an epsilon there: a gradient of 1e12 that clipping would turn into the whole step.)
    """
    lengths = torch.linalg.vector_norm(points, dim=1, keepdim=True)
    return points / torch.where(lengths > 0, lengths, 1.0)
