"""State dicts of arcface_torch and its descendants: read without executing anything, architecture inferred."""

import logging
import pickle
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from topoface.errors import UserError
from topoface.models.backbone import BackboneConfig, blueprint
from topoface.models.embedding import EmbeddingModel
from topoface.models.iresnet import IResNetConfig
from topoface.models.mobilefacenet import MobileFaceNetConfig
from topoface.models.registry import MODELS, configure, restore, spec_of

_WRAPPERS = ("state_dict_backbone", "state_dict", "model")
_PREFIXES = re.compile(r"^(module\.|backbone\.|_orig_mod\.)+")
_PUBLISHED = {
    (type(config), config.blocks): name
    for name, config in MODELS.items()
    if isinstance(config, IResNetConfig | MobileFaceNetConfig) and config.input_size == 112
}
_REMEDY = "give a state dict of iresnet18..200 or MobileFaceNet as arcface_torch saves it"

_log = logging.getLogger(__name__)


def load_state_dict_file(path: Path) -> EmbeddingModel:
    """The model whose weights lie in a .pt or .pth file, in evaluation mode and float32.

    The file may hold the state dict itself or wrap it under ``state_dict_backbone``, ``state_dict`` or
    ``model``; names may carry ``module.``, ``backbone.`` or ``_orig_mod.`` in front. Weights of a class
    head beside the backbone (the TopoFR release keeps them there) are left out, with a note in the log.

    Raises:
        UserError: when the file is unreadable, damaged or holds code; when the architecture is not one
            we know; when a weight is missing, left over, of another shape, or no plain dense tensor.
    """
    where = str(path)
    weights = _state_dict(_read(path), where)
    name, config = _architecture(weights, where)
    expected = set(blueprint(config).state_dict())
    _drop_head(weights, expected, config.dimension, where)
    for key in expected - weights.keys():
        if key.endswith(".num_batches_tracked"):  # absent from files of old torch versions; counts, no more
            weights[key] = torch.zeros((), dtype=torch.int64)
    return restore(name, config, spec_of(config), weights, where)


def _read(path: Path) -> Any:
    """What the file holds, unpickled by torch's restricted reader."""
    try:
        damage = _damage(path)
        content = None if damage else torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        asked = re.search(r"(?:GLOBAL|global) ([\w.]+)", str(error))
        found = f"asks to run {asked[1]}, and code is never run" if asked else "is no file of weights"
        raise UserError(found, str(path), _REMEDY) from error
    except Exception as error:  # a damaged pickle can raise anything; all of it means the same to the user
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise UserError(f"cannot be read ({reason[:200]})", str(path), "copy the file again") from error
    if damage:
        raise UserError(f"is damaged ({damage})", str(path), "copy the file again")
    return content


def _damage(path: Path) -> str | None:
    """What is wrong with the zip archive that torch.save writes, by its checksums, which torch.load skips."""
    if not zipfile.is_zipfile(path):
        return None  # torch's format before version 1.6 has none
    with zipfile.ZipFile(path) as archive:
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
            return "its entries are compressed, which torch never does"
        entry = archive.testzip()
    return f"checksum of {entry}" if entry else None


def _state_dict(content: Any, where: str) -> dict[str, Tensor]:
    """Tensors by their bare names."""
    if isinstance(content, dict) and {"optimizer", "identity", "step"} <= content.keys():
        raise UserError("is a checkpoint to resume from", where, "give the folder named model of its run")
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not content:
        raise UserError(f"holds a {type(content).__name__}, not tensors by name", where, _REMEDY)
    weights: dict[str, Tensor] = {}
    for key, tensor in content.items():
        if not isinstance(key, str) or not isinstance(tensor, Tensor):
            raise UserError(f"entry {str(key)[:80]!r} is no named tensor", where, _REMEDY)
        bare = _PREFIXES.sub("", key)
        if bare in weights:
            raise UserError(f"two entries are named {bare!r}", where, _REMEDY)
        if not _is_plain(tensor):
            raise UserError(f"{bare!r} is not a plain dense tensor", where, _REMEDY)
        weights[bare] = tensor.detach()
    return weights


def _is_plain(tensor: Tensor) -> bool:
    """Dense, on the CPU, of a standard type, and with storage for every value: no few bytes posing as gigabytes."""
    return (
        tensor.layout is torch.strided
        and tensor.device.type == "cpu"
        and not tensor.is_quantized
        and tensor.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.int64)
        and tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()
    )


def _architecture(weights: dict[str, Tensor], where: str) -> tuple[str, BackboneConfig]:
    """The registered model with these blocks in its four stages, and the width of the embeddings here."""
    family: type[BackboneConfig]
    if "layer1.0.conv1.weight" in weights:
        blocks = [_count(weights, rf"layer{stage}\.(\d+)\.conv1\.weight") for stage in (1, 2, 3, 4)]
        family, scale = IResNetConfig, weights.get("features.weight")
    elif "conv_sep.layers.0.weight" in weights:
        inner = r"layers\.{}\.layers\.(\d+)\.layers\.0\.layers\.0\.weight"
        blocks = [_count(weights, inner.format(stage)) for stage in (1, 3, 5, 7)]
        blocks[0] = blocks[0] or 1  # a single block there is a bare convolution
        family, scale = MobileFaceNetConfig, weights.get("features.layers.3.weight")
    else:
        raise UserError(
            f"is of an unknown architecture (one weight is {min(weights)[:80]!r})", where, _REMEDY
        )
    name = _PUBLISHED.get((family, tuple(blocks)))
    if name is None:
        raise UserError(f"has {blocks} blocks in its stages, as none that we know", where, _REMEDY)
    if scale is None or scale.ndim != 1:
        raise UserError("lacks the last normalisation, which tells the embeddings' width", where, _REMEDY)
    trained = not bool((scale == 1).all())
    return name, configure(name, {"dimension": len(scale), "trainable_scale": trained})


def _count(names: Iterable[str], pattern: str) -> int:
    return len({match[1] for name in names if (match := re.fullmatch(pattern, name))})


def _drop_head(weights: dict[str, Tensor], expected: set[str], dimension: int, where: str) -> None:
    """Remove matrices with a row or column of an embedding's width that the backbone does not have."""
    for key in sorted(weights.keys() - expected):
        tensor = weights[key]
        if tensor.ndim == 2 and dimension in tensor.shape:
            _log.warning("%s: left out %s %s, weights of a class head", where, key, list(tensor.shape))
            del weights[key]
