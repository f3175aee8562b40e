"""Frozen encoders: any trained embedder as a function of images, whose space other models can learn from."""

import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from topoface.errors import UserError, missing_extra
from topoface.files import write_bytes
from topoface.models.files import load
from topoface.models.spec import EmbeddingSpec

Encode = Callable[[Tensor, Tensor], Tensor]
"""Aligned RGB faces, uint8 ``[n, 3, 112, 112]``, and their positions in the source, int64 ``[n]``, to unit rows, float32
``[n, d]``; on the CPU, and safe to call from threads."""


def open_encoder(path: str, *, fingerprint: str) -> Encode:
    """Open a frozen encoder.

    Args:
        path: a model directory, an arcface_torch state dict (.pt, .pth), an ONNX embedder (.onnx, needs onnxruntime)
            that takes ``[n, 3, 112, 112]``, fed as `onnx_input` says, or what
            ``topoface embed`` wrote (.safetensors): a row for each image of the source, alike for an image and its mirror image.
        fingerprint: of the source, which such a file must have been made from.

    Raises:
        UserError: nothing usable is there.
    """
    if path.endswith(".safetensors"):
        return _stored(path, fingerprint)
    if path.endswith(".onnx"):
        rows = open_onnx(path)
        return lambda images, indices: torch.nn.functional.normalize(rows(images))  # noqa: ARG005
    model = load(path).eval().requires_grad_(False)

    def encode(images: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG001
        with torch.no_grad():  # not inference mode: its tensors cannot take part in a loss
            return torch.nn.functional.normalize(model(images))

    return encode


def write_embeddings(
    path: Path, rows: NDArray[np.float32], *, fingerprint: str, names: Sequence[str] = ()
) -> None:
    """Write unit rows ``[images, D]`` for `open_encoder`, with the fingerprint of their source, and the name of each image.

    Raises:
        UserError: the file cannot be written.
    """
    tensors = {"rows": torch.from_numpy(rows)}
    if names:  # a tensor, since the header's length is limited
        tensors["names"] = torch.from_numpy(np.frombuffer(os.fsencode("\0".join(names)), np.uint8).copy())
    write_bytes(path, save(tensors, {"source": fingerprint}))


def _stored(path: str, fingerprint: str) -> Encode:
    try:
        with safe_open(path, framework="pt") as file:
            made_from = (file.metadata() or {}).get("source")
            rows = file.get_tensor("rows")
    except (OSError, SafetensorError) as error:
        raise UserError(f"cannot be read ({error})", path, "make it with topoface embed") from error
    if made_from != fingerprint:
        raise UserError(
            "was made from other images", path, "make it with topoface embed from this very source"
        )
    if rows.dtype != torch.float32 or not torch.allclose(rows.norm(dim=1), torch.ones(len(rows)), atol=1e-3):
        raise UserError("holds rows that are no directions", path, "make it with topoface embed")
    return lambda images, indices: rows[indices]  # noqa: ARG005


def onnx_input(path: str) -> EmbeddingSpec:
    """How an ONNX embedder wants its pixels: RGB as ``(x - 127.5) / 127.5``, as InsightFace says of its own, unless ``PATH.json`` says otherwise.

    That file holds any of ``colour`` (rgb, bgr), ``mean`` and ``scale``: what is subtracted from pixels in 0..255, and what they are
    divided by after that. (`topoface doctor` finds out.)

    Raises:
        UserError: the file says something else.
    """
    beside = Path(f"{path}.json")
    if not beside.is_file():
        return EmbeddingSpec(dimension=1)  # no file says it, and nobody asks
    try:
        said = json.loads(beside.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"is no JSON ({error})", str(beside), 'write e.g. {"colour": "bgr"}') from error
    if not isinstance(said, dict) or not said.keys() <= {"colour", "mean", "scale"}:
        raise UserError("says something else", str(beside), "write colour, mean and scale, or some of them")
    try:
        return EmbeddingSpec(dimension=1, **said)
    except UserError as error:
        raise UserError(error.what, str(beside), error.remedy) from error


def onnx_files(path: str) -> list[Path]:
    """All that decides about what an ONNX embedder gives: the graph, weights that it keeps in files beside it, and how it is fed.

    The graph is not parsed: wherever a tensor stands in it, an entry ``location`` says where its values lie (onnx.proto,
    ``external_data``), as key (field 1) and value (field 2).

    Raises:
        UserError: the graph cannot be read.
    """
    graph = Path(path)
    try:
        data = graph.read_bytes()
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})", path, "give an ONNX embedder") from error
    named = set()
    for key in re.finditer(rb"\x0a\x08location\x12([\x80-\xff]?[\x00-\x7f])", data):
        low, *high = key[1]
        length = (low & 127) + (high[0] << 7 if high else 0)
        named.add(os.fsdecode(data[key.end() : key.end() + length]))
    beside = [graph.parent / name for name in sorted(named) if "\0" not in name]
    return [graph, *(file for file in (*beside, Path(f"{path}.json")) if file.is_file())]


def open_onnx(path: str) -> Callable[[Tensor], Tensor]:
    """An ONNX embedder: uint8 RGB ``[n, 3, 112, 112]`` to float32 ``[n, d]`` of its own length; errors as in `open_encoder`."""
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "onnx", path) from None
    if not Path(path).is_file():
        raise UserError("there is no such file", path, "give an ONNX embedder")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # it runs in the loader's threads
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class but this
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot be read ({reason})", path, "give an ONNX embedder of faces") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    name, shape = inputs[0].name, list(inputs[0].shape)
    one_at_a_time, spec = shape[0] == 1, onnx_input(path)
    if len(inputs) != 1 or len(outputs) != 1 or shape[1:] != [3, 112, 112]:
        raise UserError(
            f"maps {len(inputs)} inputs, the first {shape}, to {len(outputs)} outputs",
            path,
            "give an embedder with one input [n, 3, 112, 112] and one output",
        )

    def rows_of(images: Tensor) -> Tensor:
        ordered = images.flip(1) if spec.colour == "bgr" else images
        pixels = ((ordered.float() - spec.mean) / spec.scale).contiguous().numpy()
        parts = np.split(pixels, len(pixels)) if one_at_a_time else [pixels]
        rows = np.concatenate([session.run(None, {name: part})[0] for part in parts])
        return torch.from_numpy(rows).flatten(1)

    return rows_of
