"""Judging a model: protocols, figures with intervals, and the report."""

from topoface.evaluation.opening import open_protocol
from topoface.evaluation.protocol import PairProtocol
from topoface.evaluation.verification import Verification, compare, verify

__all__ = ["PairProtocol", "Verification", "compare", "open_protocol", "verify"]
