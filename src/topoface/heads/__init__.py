"""Class supervision: heads turn embeddings and labels into the statistics of each sample's prediction."""

from topoface.heads.head import ClassStatistics, Head, StatisticsRequest
from topoface.heads.norms import AdaFace, MagFace
from topoface.heads.softmax import ArcFace, CombinedMargin, CosFace, Softmax

__all__ = [
    "AdaFace",
    "ArcFace",
    "ClassStatistics",
    "CombinedMargin",
    "CosFace",
    "Head",
    "MagFace",
    "Softmax",
    "StatisticsRequest",
]
