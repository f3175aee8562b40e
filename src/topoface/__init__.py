"""topoface: train and judge face-recognition models whose embedding space has structure."""

from importlib import import_module
from types import ModuleType

__version__ = "0.1.0"

_ROOMS = ("data", "evaluation", "functional", "heads", "methods", "models", "recipe", "study", "training")


def __getattr__(name: str) -> ModuleType:
    """Import a room when it is first named: ``import topoface`` alone stays free of torch."""
    if name in _ROOMS:
        return import_module(f"topoface.{name}")
    raise AttributeError(f"module 'topoface' has no attribute {name!r}")
