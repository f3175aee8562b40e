"""Class supervision: heads turn embeddings and labels into the statistics of each sample's prediction."""

from topoface.heads.composed import Composed
from topoface.heads.head import ClassStatistics, Head, StatisticsRequest
from topoface.heads.identity_code import IdentityCode
from topoface.heads.norms import AdaFace, MagFace
from topoface.heads.sampled import PartialFC
from topoface.heads.softmax import ArcFace, CombinedMargin, CosFace, Softmax

__all__ = [
    "AdaFace",
    "ArcFace",
    "ClassStatistics",
    "CombinedMargin",
    "Composed",
    "CosFace",
    "Head",
    "IdentityCode",
    "MagFace",
    "PartialFC",
    "Softmax",
    "StatisticsRequest",
]
