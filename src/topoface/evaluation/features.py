"""A feature for each image, of any length: from a file, from a model, or from what a model gave before."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from topoface.data.source import content_hash
from topoface.errors import UserError
from topoface.evaluation.embedding import Embed, Progress, embed_images
from topoface.evaluation.images import Images
from topoface.models import load
from topoface.models.embedding import EmbeddingModel
from topoface.models.encoder import onnx_files, open_onnx

STORED = (".npy", ".safetensors")
_VERSION = "features 2"  # part of the key: what an older way computed is not found


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """A row for each image.

    Attributes:
        rows: float32 ``[n, D]``, of any length; rows of zeros for images that failed.
        failures: name and reason, for each image without a row.
        origin: where they come from and how they were made, for the record.
    """

    rows: NDArray[np.float32]
    failures: tuple[tuple[str, str], ...] = ()
    origin: str


def read_features(path: Path, images: Sequence[str], *, source: str | None = None) -> Features:
    """Features on disk: ``.npy`` or a ``.safetensors`` with one table, a row for each image in the order of the list.

    What ``topoface embed`` wrote says which image each row is of, and may hold more images in another order. A row of zeros is no
    feature: its image is a failure.

    Args:
        path: the file.
        images: their names.
        source: fingerprint of the images where they are all of a source, whose order ``topoface embed`` keeps; a file that says it
            was made from others is refused.

    Raises:
        UserError: the file cannot be read, is no finite table, or has no row for some image.
    """
    made_from = kept_names = None
    try:
        if path.suffix == ".npy":
            rows = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with safe_open(str(path), framework="np") as file:
                keys = list(file.keys())
                names = [name for name in keys if len(file.get_slice(name).get_shape()) == 2]
                made_from = (file.metadata() or {}).get("source")
                if None not in (source, made_from) and made_from != source:
                    raise UserError("was made from other images", str(path), "make it from this very source")
                if len(names) != 1:
                    raise UserError(f"holds {len(names)} tables", str(path), "store one, [images, D]")
                rows = file.get_tensor(names[0])
                if "names" in keys:
                    kept_names = os.fsdecode(file.get_tensor("names").tobytes()).split("\0")
    except (OSError, ValueError, EOFError, TypeError, SafetensorError) as error:
        raise UserError(
            f"cannot be read ({error})", str(path), "give a .npy or .safetensors table"
        ) from error
    if made_from is not None and source is None and rows.ndim == 2:
        rows = rows[_places(kept_names or [], images, path)]
    if rows.ndim != 2 or len(rows) != len(images) or not rows.shape[1]:
        raise UserError(
            f"holds {list(rows.shape)}",
            str(path),
            f"give a row for each of the {len(images):,} images of the list",
        )
    if not np.issubdtype(rows.dtype, np.floating):
        raise UserError(f"holds {rows.dtype}", str(path), "store floating point numbers")
    table = np.asarray(rows, dtype=np.float32)
    failures = []
    for start in range(0, len(images), 1 << 14):
        part = table[start : start + (1 << 14)]
        bad = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if len(bad):
            raise UserError(f"row {start + bad[0]} is not finite", str(path), "compute the features again")
        zero = start + np.flatnonzero(~part.any(axis=1))
        failures += [(images[i], f"its row in {path.name} is zero") for i in zero.tolist()]
    if len(failures) == len(images):
        raise UserError("holds zeros only", str(path), "compute the features again")
    return Features(
        rows=table, failures=tuple(failures), origin=f"read from {path.name}, {_digest(path)[:16]}"
    )


def _places(kept: Sequence[str], wanted: Sequence[str], path: Path) -> NDArray[np.int64]:
    """The row of each image that is wanted, by its name."""
    place = {name: row for row, name in enumerate(kept)}
    absent = next((name for name in wanted if name not in place), None)
    if absent is not None:
        raise UserError(
            f"has no row named {absent!r}" if kept else "does not say which image each row is of",
            str(path),
            "make it with topoface embed from the folder that the list names its images in, or give a .npy in the order of the list",
        )
    return np.array([place[name] for name in wanted])


def model_features(
    model: str,
    images: Images,
    *,
    stamps: Sequence[str],
    flip: bool = True,
    cache: Path | None = None,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Features:
    """What a model gives, or gave before.

    Args:
        model: a model directory, an arcface_torch state dict (.pt), or an ONNX embedder.
        images: what to embed.
        stamps: strings that change when the images, or how they are aligned, do.
        flip: add the feature of the mirrored image.
        cache: folder of what models gave before; None to compute and keep nothing. The name of a file there is a hash of the
            weights, the stamps and what else decides about the rows, so that nothing stale is ever found.
        device: where the model runs.
        progress: called with images done and images in all.

    Raises:
        UserError: the model cannot be read, no image at all can be embedded, or the cache cannot be written.
    """
    embed, digest = open_embed(model, device)
    key = content_hash([os.fsencode(part) for part in (_VERSION, digest, f"flip {flip}", *stamps)])
    kept = cache / f"{key}.safetensors" if cache else None
    origin = (
        f"{Path(model).name}, weights {digest[:16]}, {'image plus mirror image' if flip else 'image only'}"
    )
    if kept and kept.exists():
        return _read_kept(kept, origin)
    features = compute_features(embed, images, flip=flip, origin=origin, progress=progress)
    if kept:
        _keep(kept, features)
    return features


def open_embed(path: str, device: torch.device | str = "cpu") -> tuple[Embed, str]:
    """A function from uint8 RGB ``[n, 112, 112, 3]`` to rows of the model's own length, and a digest of its weights."""
    if path.endswith(".onnx"):
        rows_of = open_onnx(path)

        def through_onnx(faces: NDArray[np.uint8]) -> NDArray[Any]:
            return rows_of(torch.from_numpy(faces).permute(0, 3, 1, 2)).numpy()

        graph, *beside = onnx_files(path)
        digest = _digest(graph)
        parts = [digest.encode(), *(file.read_bytes() for file in beside)]
        return through_onnx, content_hash(parts) if beside else digest
    model = load(path, device=device).eval()

    @torch.inference_mode()
    def through_torch(faces: NDArray[np.uint8]) -> NDArray[Any]:
        rows: NDArray[Any] = (
            model(torch.from_numpy(faces).to(device).permute(0, 3, 1, 2)).float().cpu().numpy()
        )
        return rows

    return through_torch, weights_digest(model)


def compute_features(
    embed: Embed,
    images: Images,
    *,
    flip: bool,
    origin: str,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> Features:
    """Embed every image once; arguments as in :func:`model_features`."""
    rows: NDArray[np.float32] | None = None
    failures: dict[int, str] = {}
    for places, made in embed_images(
        embed, images, failures, flip=flip, batch_size=batch_size, progress=progress
    ):
        if rows is None:
            rows = np.zeros((len(images), made.shape[1]), np.float32)
        rows[places] = made
    if rows is None or len(failures) == len(images):
        reason = next(iter(failures.values()), "there are none")
        raise UserError(
            f"none of {len(images)} images can be embedded; the first: {reason}",
            origin,
            "check images and model",
        )
    return Features(
        rows=rows,
        failures=tuple((images.names[i], reason) for i, reason in sorted(failures.items())),
        origin=origin,
    )


def default_cache() -> Path:
    """Where features are kept unless the user says otherwise: in the user's cache folder. UserError if there is none."""
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "topoface" / "features"
    except RuntimeError as error:
        raise UserError("this user has no home folder", "--cache", "name a folder, or none") from error


def require_cache(folder: Path) -> None:
    """Say before anything is embedded that nothing can be kept there. UserError if it is no folder that can be written to."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"cannot be made ({error.strerror})", str(folder), "name another --cache, or none"
        ) from error
    if not os.access(folder, os.W_OK):
        raise UserError("cannot be written to", str(folder), "name another --cache, or none")


def _keep(path: Path, features: Features) -> None:
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(
            {"rows": torch.from_numpy(features.rows)}, partial, {"failures": json.dumps(features.failures)}
        )
        partial.replace(path)
    except (OSError, SafetensorError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(
            f"cannot be written ({error})", str(path), "make room, or name another --cache"
        ) from error


def _read_kept(path: Path, origin: str) -> Features:
    try:
        with safe_open(str(path), framework="np") as file:
            failures = json.loads(file.metadata()["failures"])
            rows = file.get_tensor("rows")
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"cannot be read ({error})", str(path), "remove it") from error
    return Features(
        rows=rows, failures=tuple((name, why) for name, why in failures), origin=f"{origin}; kept from before"
    )


def weights_digest(model: EmbeddingModel) -> str:
    """Of everything that decides about what the model gives."""
    total = hashlib.sha256(repr((model.name, model.config, model.spec, model.precision)).encode())
    for name, values in sorted(model.state_dict().items()):
        total.update(name.encode())
        total.update(values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return total.hexdigest()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
