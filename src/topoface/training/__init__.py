"""From a recipe to a trained and judged model."""

from topoface.training.loop import RunResult, train

__all__ = ["RunResult", "train"]
