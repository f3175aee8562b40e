"""Recipe dataclasses: values of the right type that make no sense are refused, with their key."""

import re
from typing import Any

import pytest

from topoface.errors import UserError
from topoface.recipe import (
    Component,
    DataConfig,
    EvaluationConfig,
    ModelConfig,
    OptimizerConfig,
    Recipe,
    ScheduleConfig,
    TrainingConfig,
)


@pytest.mark.parametrize(
    ("config", "values", "key"),
    [
        (DataConfig, {"train": "x", "images_per_identity": 0}, "data.images_per_identity"),
        (DataConfig, {"train": "x", "threads": 0}, "data.threads"),
        (ModelConfig, {"dimension": 0}, "model.dimension"),
        (ModelConfig, {"dropout": 1.0}, "model.dropout"),
        (ModelConfig, {"dropout": -0.1}, "model.dropout"),
        (ModelConfig, {"dropout": float("nan")}, "model.dropout"),
        (ModelConfig, {"recompute": True, "compile": True}, "model.recompute"),
        (OptimizerConfig, {"lr": 0.0}, "optimizer.lr"),
        (OptimizerConfig, {"lr": float("inf")}, "optimizer.lr"),
        (OptimizerConfig, {"lr": float("nan")}, "optimizer.lr"),
        (OptimizerConfig, {"momentum": 1.0}, "optimizer.momentum"),
        (OptimizerConfig, {"momentum": 0.0, "nesterov": True}, "optimizer.nesterov"),
        (OptimizerConfig, {"betas": (0.9, 1.0)}, "optimizer.betas"),
        (OptimizerConfig, {"weight_decay": -1e-4}, "optimizer.weight_decay"),
        (OptimizerConfig, {"clip_norm": 0.0}, "optimizer.clip_norm"),
        (OptimizerConfig, {"clip_norm": float("inf")}, "optimizer.clip_norm"),
        (ScheduleConfig, {"warmup_epochs": -1.0}, "schedule.warmup_epochs"),
        (ScheduleConfig, {"warmup_epochs": 1e308}, "schedule.warmup_epochs"),
        (ScheduleConfig, {"power": 0.0}, "schedule.power"),
        (TrainingConfig, {"epochs": 0.0}, "training.epochs"),
        (TrainingConfig, {"epochs": 1e308}, "training.epochs"),
        (TrainingConfig, {"steps": 0}, "training.steps"),
        (TrainingConfig, {"batch_size": 0}, "training.batch_size"),
        (TrainingConfig, {"accumulation": 3}, "training.accumulation"),
        (TrainingConfig, {"accumulation": 0}, "training.accumulation"),
        (TrainingConfig, {"checkpoint_every": 0}, "training.checkpoint_every"),
        (TrainingConfig, {"keep_last": 0}, "training.keep_last"),
        (TrainingConfig, {"log_every": 0}, "training.log_every"),
        (TrainingConfig, {"seed": -1}, "training.seed"),
        (TrainingConfig, {"device": "gpu"}, "training.device"),
        (EvaluationConfig, {"every_epochs": 0.0}, "evaluation.every_epochs"),
        (EvaluationConfig, {"every_epochs": float("inf")}, "evaluation.every_epochs"),
        (EvaluationConfig, {"bootstrap": -1}, "evaluation.bootstrap"),
    ],
)
def test_a_senseless_value_names_its_key(config: type, values: dict[str, Any], key: str) -> None:
    with pytest.raises(UserError, match=f"^{re.escape(key)}: is .*; give "):
        config(**values)


@pytest.mark.parametrize("device", ["auto", "cpu", "cuda", "cuda:0", "cuda:12"])
def test_devices_that_exist_somewhere_are_taken(device: str) -> None:
    assert TrainingConfig(device=device).device == device


def test_balanced_batches_hold_whole_identities() -> None:
    data = DataConfig(train="x", sampling="identity_balanced", images_per_identity=3)
    head = Component(class_path="ArcFace")
    with pytest.raises(
        UserError, match=r"^data\.images_per_identity: is 3; give a divisor of batch_size 128"
    ):
        Recipe(data=data, head=head)
    assert Recipe(data=data, head=head, training=TrainingConfig(batch_size=129)).training.batch_size == 129
