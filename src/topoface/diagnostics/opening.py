"""What diagnostics look at: faces of a source or of verification pairs, models, and runs with their heads."""

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from topoface.data import open_source
from topoface.data.source import SYNTHETIC
from topoface.errors import UserError
from topoface.evaluation import open_protocol
from topoface.evaluation.images import Images, SourceImages
from topoface.functional.draws import generator
from topoface.models import EmbeddingModel, load
from topoface.recipe.files import load_recipe
from topoface.training.checkpoint import load_newest
from topoface.training.run import Run, build_run


@dataclass(frozen=True, kw_only=True, eq=False)
class Faces:
    """Aligned faces and who is on them.

    Attributes:
        uri: what was given.
        images: read one at a time.
        identities: int64 ``[n]``.
        real: whether they are photographs.
    """

    uri: str
    images: Images
    identities: NDArray[np.int64]
    real: bool

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, positions: NDArray[np.int64]) -> NDArray[np.uint8]:
        """uint8 RGB ``[n, 112, 112, 3]``. UserError if one cannot be read."""
        return np.stack([self.images[int(i)] for i in positions])


def open_faces(uri: str) -> Faces:
    """Open what ``data.train`` takes, or what ``evaluation.pairs`` takes (every image of the pairs once).

    Raises:
        UserError: it is neither; the message is that of the likelier one.
    """
    path = Path(uri)
    is_pairs = "::" in uri or "pairs=" in uri or path.suffix == ".bin" or any(path.glob("pairs*.txt"))
    real = not uri.startswith(SYNTHETIC)
    if is_pairs:
        protocol = open_protocol(uri)
        return Faces(uri=uri, images=protocol.images, identities=protocol.identities, real=real)
    source = open_source(uri)
    images = SourceImages(source, range(len(source)))
    return Faces(uri=uri, images=images, identities=np.asarray(source.labels), real=real)


def draw_batches(faces: Faces, size: int, count: int, *, seed: int) -> Iterator[NDArray[np.int64]]:
    """Positions ``[size]`` of ``count`` batches, each drawn without replacement from all faces.

    Raises:
        UserError: there are fewer faces than a batch holds.
    """
    if not 2 <= size <= len(faces):
        raise UserError(f"a batch of {size} images", faces.uri, f"choose a size from 2 to {len(faces)}")
    for number in range(count):
        yield generator(seed, "diagnostic batch", size, number).choice(len(faces), size, replace=False)


def open_model(path: str) -> EmbeddingModel:
    """A model directory, a run directory (its model), or a state dict of arcface_torch.

    Raises:
        UserError: it is none of them.
    """
    inside = Path(path) / "model"
    return load(inside if inside.is_dir() else path)


@torch.no_grad()
def embed_raw(model: EmbeddingModel, images: NDArray[np.uint8], *, batch_size: int = 128) -> Tensor:
    """Embeddings float32 ``[n, D]`` in evaluation mode, *not* normalised: their norms tell shrinking from alignment."""
    model.eval()
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    device = next(model.parameters()).device
    return torch.cat([model(part.to(device)).cpu() for part in torch.split(pixels, batch_size)])


def open_run(path: str) -> Run:
    """A run at its newest checkpoint, on the CPU: model, head and training data; methods and optimizer are fresh.

    Raises:
        UserError: no run is there, it has no checkpoint, or its data are gone or others than it was trained on.
    """
    run_dir = Path(path)
    recipe_file = run_dir / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError("is no run directory (it has no recipe.yaml)", path, "give a folder that train wrote")
    state = load_newest(run_dir / "checkpoints", partial(print, file=sys.stderr))
    if state is None:
        raise UserError("has no checkpoint", path, "train it, or give another run")
    run = build_run(load_recipe(recipe_file, []), torch.device("cpu"))
    if state["identity"]["data"] != run.identity()["data"]:
        what = f"was trained on other data than now lie in {run.recipe.data.train}"
        raise UserError(what, path, "restore them, or train anew")
    run.model.load_state_dict(state["model"])
    run.head.load_state_dict(state["head"])
    run.step = int(state["step"])
    run.model.eval()
    return run


def short_names(paths: Sequence[str]) -> list[str]:
    """What tells paths apart, without the folders that they share at either end; repeats get a number."""
    parts = [Path(path).parts or (path,) for path in paths]
    if len(set(parts)) == 1:
        names = ["/".join(part[-2:]) for part in parts]
    else:
        start, stop = _shared(parts), _shared([part[::-1] for part in parts])
        names = [str(Path(*(part[start : max(len(part) - stop, start + 1)] or part[-1:]))) for part in parts]
    repeated = {name for name, count in Counter(names).items() if count > 1}
    return [
        f"{name} ({names[: i + 1].count(name)})" if name in repeated else name for i, name in enumerate(names)
    ]


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """With how many equal members all begin."""
    columns = zip(*parts, strict=False)
    return next((i for i, column in enumerate(columns) if len(set(column)) > 1), min(map(len, parts)))


def progress_bar(unit: str) -> Progress:
    """A bar with count and time left on the terminal's error stream."""
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
    )
    return Progress(*columns, TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True)
