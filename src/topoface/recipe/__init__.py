"""The recipe: typed fields, YAML files with overrides, and classes by path. Imports no torch."""

from topoface.recipe.fields import (
    SHORT_NAMES,
    Component,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    TrainingConfig,
)

__all__ = [
    "SHORT_NAMES",
    "Component",
    "DataConfig",
    "EvaluationConfig",
    "ModelConfig",
    "OptimizerConfig",
    "Recipe",
    "ScheduleConfig",
    "TrainingConfig",
]
