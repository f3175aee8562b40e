"""Loading training batches: topoface's threads against the field's DataLoader with Pillow, on the same images.

    python benchmarks/loader.py PATH_OR_URI

Both sides give shuffled, randomly flipped batches of 128; the field's loader decodes with Pillow and turns each image into
a normalised float tensor. CPU microseconds an image include worker processes; the sides alternate, and
the median of five rounds is printed.
"""

import io
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from topoface.data import Loader, Source, UniformOrder, open_source
from topoface.data.recordio import RecordSource

BATCH, STEPS, ROUNDS = 128, 60, 5


class FieldDataset(Dataset[tuple[Tensor, int]]):
    """What released trainers do for each image: Pillow, random flip, to float, normalise."""

    def __init__(self, source: Source) -> None:
        self.source = source

    def __len__(self) -> int:
        return STEPS * BATCH

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        i %= len(self.source)
        if isinstance(self.source, RecordSource):
            label, encoded = self.source._parse(i)
            image = Image.open(io.BytesIO(encoded)).convert("RGB")
        else:
            image = Image.open(self.source.describe(i)).convert("RGB")
            label = int(self.source.labels[i])
        if torch.rand(()) < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).float().div(255)
        return (tensor - 0.5) / 0.5, label


def ours(source: Source, threads: int) -> Iterator[object]:
    order = UniformOrder(len(source), BATCH, seed=0)
    return Loader(source, order, seed=0, threads=threads).batches(0, STEPS)


def field(source: Source, workers: int) -> Iterator[object]:
    return iter(DataLoader(FieldDataset(source), BATCH, shuffle=True, num_workers=workers))


def decode_only(source: Source) -> Iterator[object]:
    """The floor: reading every image into one buffer, no batches, no flip."""
    row = np.empty((112, 112, 3), dtype=np.uint8)
    for i in range(STEPS * BATCH):
        source.read_into(i % len(source), row)
        yield None


def measure(make: Callable[[], Iterator[object]]) -> tuple[float, float]:
    """(CPU microseconds, wall microseconds) an image, worker processes included."""
    cpu, wall = sum(os.times()[:4]), time.perf_counter()
    for _ in make():
        pass
    images = STEPS * BATCH
    return (sum(os.times()[:4]) - cpu) / images * 1e6, (time.perf_counter() - wall) / images * 1e6


def main() -> None:
    torch.set_num_threads(1)
    source = open_source(sys.argv[1])
    sides: dict[str, Callable[[], Iterator[object]]] = {
        "field: DataLoader, Pillow, 0 workers": lambda: field(source, 0),
        "field: DataLoader, Pillow, 2 workers": lambda: field(source, 2),
        "topoface: 1 thread": lambda: ours(source, 1),
        "topoface: 2 threads": lambda: ours(source, 2),
        "decode alone, one thread": lambda: decode_only(source),
    }
    rounds = [{name: measure(make) for name, make in sides.items()} for _ in range(ROUNDS)]
    medians = {name: [statistics.median(r[name][k] for r in rounds) for k in (0, 1)] for name in sides}
    for name, (cpu, wall) in medians.items():
        print(f"{name:38} {cpu:7.1f} CPU us/image  {1e6 / wall:8,.0f} images/s wall")
    mine, theirs = medians["topoface: 2 threads"], medians["field: DataLoader, Pillow, 2 workers"]
    alone = medians["field: DataLoader, Pillow, 0 workers"]
    print(f"ratio to 2 workers: {theirs[0] / mine[0]:.1f}x fewer CPU us, {theirs[1] / mine[1]:.1f}x faster")
    print(f"ratio to 0 workers: {alone[0] / mine[0]:.1f}x fewer CPU us, {alone[1] / mine[1]:.1f}x faster")
    print(f"decoding is {medians['decode alone, one thread'][0] / mine[0]:.0%} of the loader's CPU")


if __name__ == "__main__":
    main()
