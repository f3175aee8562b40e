"""Backbones, the embedding contract, and their files. Importing this room does not import torch yet."""

from typing import TYPE_CHECKING, Any

from topoface.models.spec import EmbeddingSpec

if TYPE_CHECKING:
    from topoface.models.embedding import EmbeddingModel
    from topoface.models.files import load, save
    from topoface.models.registry import MODELS, build_model

__all__ = ["MODELS", "EmbeddingModel", "EmbeddingSpec", "build_model", "load", "save"]

_HOME = {
    "MODELS": "registry",
    "EmbeddingModel": "embedding",
    "build_model": "registry",
    "load": "files",
    "save": "files",
}


def __getattr__(name: str) -> Any:
    """Fetch an export when it is first asked for, so that ``topoface --help`` stays free of torch."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
