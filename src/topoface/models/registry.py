"""The models that have a name, how one is built from it, and how weights are put into one."""

import dataclasses
import difflib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from topoface.errors import UserError
from topoface.models.backbone import BackboneConfig, blueprint, new_backbone
from topoface.models.embedding import EmbeddingModel
from topoface.models.iresnet import IResNetConfig
from topoface.models.mobilefacenet import MobileFaceNetConfig
from topoface.models.spec import EmbeddingSpec

MODELS: dict[str, BackboneConfig] = {
    "iresnet18": IResNetConfig(blocks=(2, 2, 2, 2)),
    "iresnet34": IResNetConfig(blocks=(3, 4, 6, 3)),
    "iresnet50": IResNetConfig(blocks=(3, 4, 14, 3)),
    "iresnet100": IResNetConfig(blocks=(3, 13, 30, 3)),
    "iresnet200": IResNetConfig(blocks=(6, 26, 60, 6)),
    "iresnet_compact": IResNetConfig(
        blocks=(1, 1, 1, 1), widths=(16, 32, 64, 128), activation="relu", input_size=56, dimension=128
    ),
    "iresnet_tiny": IResNetConfig(
        blocks=(1, 1, 1, 1), widths=(4, 8, 16, 32), activation="relu", input_size=28, dimension=32
    ),
    "mobilefacenet": MobileFaceNetConfig(blocks=(1, 4, 6, 2)),
    "mobilefacenet_large": MobileFaceNetConfig(blocks=(2, 8, 12, 4), width=4),
}


def build_model(
    name: str,
    *,
    dimension: int | None = None,
    input_size: int | None = None,
    dropout: float = 0.0,
    trainable_scale: bool = False,
    seed: int = 0,
    **settings: Any,
) -> EmbeddingModel:
    """A new model in training mode, its weights a pure function of ``seed``.

    Args:
        name: one of `MODELS`.
        dimension: width D of the embeddings; None for the model's own.
        input_size: what the backbone sees of the 112 x 112 images, in pixels; None for the model's own.
        dropout: see `BackboneConfig`.
        trainable_scale: see `BackboneConfig`.
        seed: of the initial weights; no global generator is read or moved.
        settings: further fields of the model's config, e.g. ``widths`` of an IResNet.

    Raises:
        UserError: when the name or a setting is unknown, or a value out of range.
    """
    settings |= {"dropout": dropout, "trainable_scale": trainable_scale}
    settings |= {"dimension": dimension} if dimension is not None else {}
    settings |= {"input_size": input_size} if input_size is not None else {}
    config = configure(name, settings)
    return EmbeddingModel(new_backbone(config, seed), spec_of(config), name=name, config=config)


def configure(name: str, settings: Mapping[str, Any]) -> BackboneConfig:
    """The config of a named model with some fields replaced; lists become tuples (as read from JSON or YAML).

    Raises:
        UserError: as `build_model`.
    """
    if name not in MODELS:
        raise UserError(f"there is no model {name!r}", "model.name", _suggest(name, list(MODELS)))
    fields = [field.name for field in dataclasses.fields(MODELS[name])]
    for key in settings:
        if key not in fields:
            raise UserError(f"{name} has no setting {key!r}", "model", _suggest(key, fields))
    plain: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in settings.items()
    }
    return dataclasses.replace(MODELS[name], **plain)


def spec_of(config: BackboneConfig) -> EmbeddingSpec:
    """What a backbone of these settings expects: RGB in [-1, 1]."""
    return EmbeddingSpec(dimension=config.dimension, input_size=config.input_size)


def restore(
    name: str, config: BackboneConfig, spec: EmbeddingSpec, weights: Mapping[str, Tensor], where: str
) -> EmbeddingModel:
    """A model in evaluation mode with these weights, copied and in float32.

    Args:
        name: the registered model.
        config: settings of the backbone.
        spec: of the images.
        weights: a tensor for every name of the backbone's state dict, and no others.
        where: the file, for errors.

    Raises:
        UserError: when a weight is missing, left over, or of another shape.
    """
    backbone = blueprint(config)
    expected = backbone.state_dict()
    for kind, names in (("lacks", expected.keys() - weights), ("has the foreign", weights.keys() - expected)):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"{kind} weights {min(names)}{more} of {name}", where, "give a file of this model"
            )
    for key, tensor in expected.items():
        if weights[key].shape != tensor.shape:
            raise UserError(
                f"{key} has the shape {list(weights[key].shape)} where {name} has {list(tensor.shape)}",
                where,
                "give a file of this model",
            )
    copies = {key: weights[key].to(tensor.dtype, copy=True) for key, tensor in expected.items()}
    backbone.load_state_dict(copies, assign=True)
    return EmbeddingModel(backbone, spec, name=name, config=config).eval()


def _suggest(word: str, known: list[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(sorted(known))}"
