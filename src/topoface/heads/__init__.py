"""Class supervision: heads turn embeddings and labels into the statistics of each sample's prediction."""

from topoface.heads.head import ClassStatistics, Head, StatisticsRequest
from topoface.heads.softmax import ArcFace, CombinedMargin, CosFace, Softmax

__all__ = ["ArcFace", "ClassStatistics", "CombinedMargin", "CosFace", "Head", "Softmax", "StatisticsRequest"]
