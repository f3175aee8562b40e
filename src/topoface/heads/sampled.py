"""Partial FC (arXiv 2010.05222, 2203.15565): a softmax over the classes of the batch and a random share of the others."""

from typing import Any

from topoface.heads.softmax import CosFace


class PartialFC(CosFace):
    """CosFace over ``rate`` of all classes, drawn anew in each step; every other margin head takes ``rate`` as well.

    Args:
        embedding_dim: D.
        num_classes: C.
        rate: share of the classes that take part in a step.
        margin: subtracted from the own cosine.
        softmax: arguments of :class:`Softmax`.
    """

    def __init__(
        self, embedding_dim: int, num_classes: int, *, rate: float = 0.1, margin: float = 0.4, **softmax: Any
    ) -> None:
        super().__init__(embedding_dim, num_classes, rate=rate, margin=margin, **softmax)
