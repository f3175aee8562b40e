"""A run small enough for a test: procedural faces, iresnet_tiny, a handful of steps."""

from typing import Any

from topoface.recipe import Recipe
from topoface.recipe.files import recipe_from_dict


def tiny_recipe(**changes: Any) -> Recipe:
    """A recipe of a few seconds; ``changes`` replace whole groups' entries, e.g. ``training={"steps": 3}``."""
    tree: dict[str, Any] = {
        "data": {"train": "synthetic:?identities=6&images=4&seed=0"},
        "model": {"name": "iresnet_tiny", "dimension": 16},
        "head": {"class_path": "ArcFace", "init_args": {"scale": 16.0, "margin": 0.2}},
        "methods": [{"class_path": "TopoFR"}],
        "training": {"steps": 8, "batch_size": 8, "log_every": 1, "checkpoint_every": 3},
        "optimizer": {"lr": 0.05},
    }
    for group, values in changes.items():
        tree[group] = {**tree[group], **values} if isinstance(values, dict) and group in tree else values
    return recipe_from_dict(tree, "test recipe")
