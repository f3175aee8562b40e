"""Judging a model: protocols, figures with intervals, and the report."""

from topoface.evaluation.pairs.comparing import compare
from topoface.evaluation.pairs.opening import open_protocol
from topoface.evaluation.pairs.protocol import PairProtocol
from topoface.evaluation.pairs.verification import Verification, verify

__all__ = ["PairProtocol", "Verification", "compare", "open_protocol", "verify"]
