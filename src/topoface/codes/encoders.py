"""Frozen encoders that code vectors may come from: whatever `open_encoder` opens, and the image tower of a CLIP model."""

import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor

from topoface.errors import UserError, missing_extra
from topoface.models.encoder import Encode, onnx_files, open_encoder
from topoface.models.files import CALIBRATION

STORED = ".safetensors"
"""How the name of a file ends that ``topoface embed`` wrote: an encoder that looks at no image again."""
_CLIP_SIZE = 224
_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_SCALE = (0.26862954, 0.26130258, 0.27577711)


def open_image_encoder(path: str, *, fingerprint: str) -> Encode:
    """Open a frozen encoder.

    Args:
        path: what `open_encoder` takes, or a local folder with a CLIP model as transformers saves it (needs transformers).
        fingerprint: of the source, which stored embeddings must have been made from.

    Raises:
        UserError: nothing usable is there, or a package is missing.
    """
    return _clip(path) if _is_clip(Path(path)) else open_encoder(path, fingerprint=fingerprint)


def encoder_digest(path: str) -> str:
    """SHA-256 over the encoder's file, or the files of its folder, 64 hex digits: codes remember whose they are.

    Raises:
        UserError: it is not there, or cannot be read.
    """
    place = Path(path)
    if not place.exists():
        raise UserError("does not exist", path, "say where the encoder lies now: --encoder PATH")
    if place.is_file():
        files = onnx_files(path) if place.suffix == ".onnx" else [place]
    else:
        files = sorted(file for file in place.rglob("*") if file.is_file() and file.name != CALIBRATION)
    total = hashlib.sha256()
    try:
        for file in files:
            with file.open("rb") as stream:
                total.update(hashlib.file_digest(stream, "sha256").digest())
    except OSError as error:
        raise UserError(
            f"cannot be read ({error.strerror})", path, "check the path and permissions"
        ) from error
    return total.hexdigest()


def _is_clip(path: Path) -> bool:
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8"))["model_type"]
    except (OSError, ValueError, KeyError, TypeError):
        return False
    return str(kind).startswith("clip")


def _clip(path: str) -> Encode:
    try:
        from transformers import CLIPVisionModelWithProjection
    except ImportError:
        raise missing_extra("transformers", "clip", path) from None
    try:
        tower, loaded = CLIPVisionModelWithProjection.from_pretrained(
            path, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"cannot be read ({reason})", path, "give a folder with a whole CLIP model"
        ) from error
    if missing := sorted(loaded["missing_keys"]):  # transformers would draw them at random
        raise UserError(f"lacks {missing[0]}", path, "give a folder with a whole CLIP model")
    tower = tower.eval().requires_grad_(False)
    mean, scale = (torch.tensor(values).view(3, 1, 1) for values in (_CLIP_MEAN, _CLIP_SCALE))

    def encode(images: Tensor, indices: Tensor) -> Tensor:  # noqa: ARG001
        pixels = torch.nn.functional.interpolate(
            images.float(), size=_CLIP_SIZE, mode="bicubic", align_corners=False
        )
        pixels = pixels.round().clamp(0, 255) / 255  # CLIP was trained on resized 8-bit images
        with torch.no_grad():
            rows: Tensor = tower(pixel_values=(pixels - mean) / scale).image_embeds
        return torch.nn.functional.normalize(rows)

    return encode
