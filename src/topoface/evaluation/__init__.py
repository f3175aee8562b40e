"""Judging a model: protocols, figures with intervals, and the report."""

from topoface.evaluation.pairs.opening import open_protocol
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.evaluation.pairs.verification import Verification, compare, verify

__all__ = ["PairProtocol", "Verification", "compare", "open_protocol", "verify"]
