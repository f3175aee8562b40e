"""A network of any kind, fed as any input contract says: model directory, arcface_torch weights, or ONNX."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from topoface.data.decode import FACE_SHAPE
from topoface.errors import UserError, missing_extra
from topoface.models import load
from topoface.models.encoder import onnx_input

Floats = NDArray[np.float32]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Contract:
    """How a network wants its pixels.

    Attributes:
        scale: in words, for example ``(x - 127.5) / 127.5``.
        mean: subtracted from red, green and blue in 0..255.
        divisor: what they are divided by after that.
        colour: ``"rgb"`` or ``"bgr"``, the order of the channels.
    """

    scale: str
    mean: Triple
    divisor: Triple
    colour: str = "rgb"

    def __str__(self) -> str:
        return f"{self.colour.upper()}, {self.scale}"

    def feed(self, faces: Floats) -> Floats:
        """RGB in 0..255, ``[n, H, W, 3]``, to what the network sees, ``[n, 3, H, W]``."""
        ready = (faces - np.array(self.mean, np.float32)) / np.array(self.divisor, np.float32)
        return np.ascontiguousarray(
            (ready[..., ::-1] if self.colour == "bgr" else ready).transpose(0, 3, 1, 2)
        )


def even(mean: float, divisor: float, colour: str = "rgb") -> Contract:
    """A contract that treats the three colours alike."""
    words = f"(x - {mean:g}) / {divisor:g}" if mean else f"x / {divisor:g}" if divisor != 1 else "x in 0..255"
    return Contract(words, (mean,) * 3, (divisor,) * 3, colour)


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A network without the contract that it comes with.

    Attributes:
        path: what was opened.
        declared: the contract that topoface feeds it by.
        source: who says so.
        run: float32 ``[n, 3, 112, 112]`` as `Contract.feed` makes it to ``[n, D]``, of any length.
        limits: why ``topoface evaluate`` could not run it as it is, a sentence each.
    """

    path: str
    declared: Contract
    source: str
    run: Callable[[Floats], NDArray[Any]]
    limits: tuple[str, ...] = ()

    def embed(self, faces: NDArray[Any], contract: Contract, *, batch_size: int = 64) -> NDArray[np.float64]:
        """Unit rows ``[n, D]`` of RGB faces ``[n, 112, 112, 3]``, values in 0..255; rows of zeros where there is no direction."""
        parts = [
            np.asarray(self.run(contract.feed(faces[at : at + batch_size].astype(np.float32))), np.float64)
            for at in range(0, len(faces), batch_size)
        ]
        rows = np.concatenate(parts).reshape(len(faces), -1)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        known = np.isfinite(lengths) & (lengths > 0)
        units: NDArray[np.float64] = np.where(known, rows, 0) / np.where(known, lengths, 1)
        return units


def open_network(path: str, device: torch.device | str = "cpu") -> Network:
    """Open a model directory, an arcface_torch state dict, or an ONNX embedder (channels first or last, any batch size).

    Raises:
        UserError: nothing usable is there.
    """
    return _open_onnx(path) if path.endswith(".onnx") else _open_torch(path, device)


def _open_torch(path: str, device: torch.device | str) -> Network:
    inside = Path(path) / "model"  # a run directory holds one
    model = load(inside if inside.is_dir() else path, device=device).eval()
    spec = model.spec
    if spec.image_size != FACE_SHAPE[0]:
        raise UserError(
            f"takes images of {spec.image_size} pixels", path, "give a model for faces of 112 x 112"
        )

    @torch.inference_mode()
    def run(inputs: Floats) -> NDArray[Any]:
        # The model normalises by itself: what it does is undone before.
        pixels = torch.from_numpy(inputs).to(device) * spec.scale + spec.mean
        rows: NDArray[Any] = model(pixels.flip(1) if spec.colour == "bgr" else pixels).float().cpu().numpy()
        return rows

    return Network(
        path=path,
        declared=even(spec.mean, spec.scale, spec.colour),
        source="its model.json" if Path(path).is_dir() else "the custom of arcface_torch",
        run=run,
    )


def _open_onnx(path: str) -> Network:
    try:
        import onnxruntime
    except ImportError:
        raise missing_extra("onnxruntime", "onnx", path) from None
    if not Path(path).is_file():
        raise UserError("there is no such file", path, "give an ONNX embedder")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # heeds OMP_NUM_THREADS; its own choice spins
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions have no common class but this
        reason = str(error).splitlines()[0]
        raise UserError(f"cannot be read ({reason})", path, "give an ONNX embedder of faces") from error
    inputs, outputs = session.get_inputs(), session.get_outputs()
    shape = [size if isinstance(size, int) else None for size in inputs[0].shape]  # None: any
    first, last = (_fits(shape, wanted) for wanted in ((3, 112, 112), FACE_SHAPE))
    if len(inputs) != 1 or len(outputs) != 1 or inputs[0].type != "tensor(float)" or not (first or last):
        raise UserError(
            f"maps {len(inputs)} inputs, the first {inputs[0].type} {inputs[0].shape}, to {len(outputs)} outputs",
            path,
            "give an embedder with one float input [n, 3, 112, 112] or [n, 112, 112, 3] and one output",
        )
    name, batch = inputs[0].name, shape[0]

    def run(ready: Floats) -> NDArray[Any]:
        images = ready if first else np.ascontiguousarray(ready.transpose(0, 2, 3, 1))
        size = batch or len(images)
        rows = []
        for at in range(0, len(images), size):
            part = images[at : at + size]
            full = np.concatenate([part, np.zeros((size - len(part), *part.shape[1:]), np.float32)])
            made = np.asarray(session.run(None, {name: full})[0])
            rows.append(made.reshape(size, -1)[: len(part)])
        return np.concatenate(rows)

    limits, spec = [], onnx_input(path)
    if not first:
        limits.append(
            "takes channels last [n, 112, 112, 3]; topoface evaluate feeds channels first: export it with NCHW"
        )
    if batch not in (None, 1):
        limits.append(
            f"takes {batch} images at a time, no more and no fewer: export it with a free batch size, or 1"
        )
    return Network(
        path=path,
        declared=even(spec.mean, spec.scale, spec.colour),
        source=f"{Path(path).name}.json"
        if Path(f"{path}.json").is_file()
        else "what topoface assumes of ONNX",
        run=run,
        limits=tuple(limits),
    )


def _fits(shape: list[int | None], wanted: tuple[int, ...]) -> bool:
    return len(shape) == 4 and all(size in (None, want) for size, want in zip(shape[1:], wanted, strict=True))
