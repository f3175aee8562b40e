"""What a published method changes in a training step: one file a method."""

from topoface.methods.gif import GIF
from topoface.methods.jlcc import JLCC
from topoface.methods.method import Method, RunFacts, StepState
from topoface.methods.topofr import TopoFR
from topoface.methods.unpg import UNPG

__all__ = ["GIF", "JLCC", "UNPG", "Method", "RunFacts", "StepState", "TopoFR"]
