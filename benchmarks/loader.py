"""Loading training batches: topoface's threads against the field's DataLoader with Pillow, on the same images.

    python benchmarks/loader.py [PATH_OR_URI]

Both sides give shuffled, randomly flipped batches of 128; the field's loader decodes with Pillow and turns each image into
a normalised float tensor. CPU microseconds an image include worker processes; the sides alternate, and
the median of the rounds is printed. Without a path the images are noise smoothed until a JPEG of quality 95 takes 6.5 kB, in a RecordIO
file as InsightFace writes it. Every image that is loaded has first been compared with what Pillow makes of it.
"""

import io
import os
import statistics
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from measuring import machine, median_ratio, ratios, table
from topoface.data import Loader, Source, UniformOrder, open_source
from topoface.data.recordio import MAGIC, RecordSource

BATCH, STEPS, ROUNDS = 128, 12, 5
IMAGES, IDENTITIES = 1000, 100


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
            path, label = Path(self.source.describe(i)), int(self.source.labels[i])
            image = Image.open(path).convert("RGB") if path.is_file() else Image.fromarray(self.source[i][0])
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


def draw_faces(folder: Path) -> Path:
    """A RecordIO file of generated images of about 6.5 kB, the size that speed is quoted for."""
    rng = np.random.default_rng(0)
    path = folder / "train.rec"
    with path.open("wb") as records, path.with_suffix(".idx").open("w") as index:
        for key in range(IMAGES):
            coarse = Image.fromarray(rng.integers(0, 256, (14, 14, 3), dtype=np.uint8))
            smooth = np.asarray(coarse.resize((112, 112), Image.Resampling.BICUBIC), np.float64)
            pixels = (smooth + rng.normal(0, 2.5, smooth.shape)).clip(0, 255).astype(np.uint8)
            encoded = io.BytesIO()
            Image.fromarray(pixels).save(encoded, "JPEG", quality=95)
            payload = struct.pack("<IfQQ", 0, key % IDENTITIES, key, 0) + encoded.getvalue()
            index.write(f"{key}\t{records.tell()}\n")
            records.write(struct.pack("<II", MAGIC, len(payload)) + payload + bytes(-len(payload) % 4))
    (folder / "property").write_text(f"{IDENTITIES},112,112\n")
    return path


def require_equal(source: Source) -> None:
    """Every image of a few batches must have Pillow's pixels, mirrored or not."""
    field_side = FieldDataset(source)
    for batch in Loader(source, UniformOrder(len(source), BATCH, seed=0), seed=0).batches(0, 4):
        for pixels, i in zip(batch.images, batch.indices.tolist(), strict=True):
            theirs = ((field_side[i][0] * 0.5 + 0.5) * 255).round().to(torch.uint8)
            if not (torch.equal(pixels, theirs) or torch.equal(pixels, theirs.flip(2))):
                raise SystemExit(f"{source.describe(i)}: the pixels are not Pillow's")


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        source = open_source(sys.argv[1] if sys.argv[1:] else str(draw_faces(Path(folder))))
        compare(source)


def compare(source: Source) -> None:
    require_equal(source)
    theirs, ours_name, alone = "DataLoader, Pillow, 2 workers", "topoface, 2 threads", "decoding alone"
    sides: dict[str, Callable[[], Iterator[object]]] = {
        "DataLoader, Pillow, no workers": lambda: field(source, 0),
        theirs: lambda: field(source, 2),
        "topoface, 1 thread": lambda: ours(source, 1),
        ours_name: lambda: ours(source, 2),
        alone: lambda: decode_only(source),
    }
    rounds = [{name: measure(make) for name, make in sides.items()} for _ in range(ROUNDS)]
    print(machine("simplejpeg", "pillow"))
    if isinstance(source, RecordSource):
        size = statistics.mean(len(source._parse(i)[1]) for i in range(len(source)))
        print(f"{len(source):,} images of {size:,.0f} bytes, batches of {BATCH}")
    cpu = {name: [r[name][0] for r in rounds] for name in sides}
    rows = []
    for name in sides:
        middle = statistics.median(cpu[name])
        wall = statistics.median(r[name][1] for r in rounds)
        times = median_ratio(ratios(cpu[name], cpu[ours_name]))
        rows.append([name, f"{middle:.0f}", f"{1e6 / middle:,.0f}", f"{1e6 / wall:,.0f}", times])
    table(["loader", "CPU us an image", "images/s a core", "images/s by the wall", "its CPU / ours"], rows)


if __name__ == "__main__":
    main()
