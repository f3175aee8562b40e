"""What diagnostics look at: faces of a source or of verification pairs, models, and runs with their heads."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
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
    """A run at its newest checkpoint, on the CPU: model, head, methods and training data.

    Raises:
        UserError: no run is there, it has no checkpoint, or its data are gone.
    """
    run_dir = Path(path)
    recipe_file = run_dir / "recipe.yaml"
    if not recipe_file.is_file():
        raise UserError("is no run directory (it has no recipe.yaml)", path, "give a folder that train wrote")
    messages: list[str] = []
    state = load_newest(run_dir / "checkpoints", messages.append)
    if state is None:
        raise UserError("has no checkpoint", path, "train it, or give another run")
    run = build_run(load_recipe(recipe_file, []), torch.device("cpu"))
    run.load_state_dict(state)
    run.model.eval()
    return run
