"""From files to batches: sources of labelled faces, the order of training, the loader."""

from topoface.data.batch import Batch
from topoface.data.info import SourceInfo, describe_source
from topoface.data.loader import Loader
from topoface.data.opening import open_source
from topoface.data.order import IdentityBalancedOrder, Order, UniformOrder
from topoface.data.source import Source

__all__ = [
    "Batch",
    "IdentityBalancedOrder",
    "Loader",
    "Order",
    "Source",
    "SourceInfo",
    "UniformOrder",
    "describe_source",
    "open_source",
]
