"""What the forms of structure alignment do to a small network: shrink its embeddings, or align them.

python examples/digit_toy.py --seeds 4
python examples/digit_toy.py --seeds 8 --rows none release ratio-0.1 ratio-0.3

ArcFace on scikit-learn's 8 x 8 digits with TopoFR's alignment loss in eight settings, held-out figures as mean and
standard deviation over the seeds, the expected mean in brackets. docs/methods/topofr_toy.md has the reading.
"""

import argparse
from dataclasses import asdict, dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from topoface.errors import UserError, missing_extra
from topoface.functional.alignment import structure_loss, structure_report
from topoface.functional.directions import unit_rows
from topoface.functional.distances import pixel_distances, pixel_squared_distances
from topoface.functional.draws import generator
from topoface.functional.verification import tar_at_far
from topoface.heads import ArcFace

SIDE, CLASSES, DIMENSION = 16, 10, 32
TRAINING, BATCH, STEPS = 600, 128, 250
WEIGHT_LIMITS = 1e-4, 1e4


@dataclass(frozen=True)
class Row:
    """One setting of the alignment: ``weight`` fixes its weight, ``ratio`` its gradient over the classifier's."""

    form: str = "paired"
    latent: str = "sphere"
    norm: str = "mean_edge"
    reduction: str = "edges"
    weight: float = 0.0
    ratio: float = 0.0
    trained_scale: bool = False


class Figures(NamedTuple):
    """Held-out figures. The structure's are means over batches, since they depend on the number of points."""

    accuracy: float
    tar: float  # at FAR 1e-3, over all pairs
    overlap: float  # of the two trees
    paired: float  # discrepancy of unit embeddings, each space in its mean edge
    sorted: float  # discrepancy of raw embeddings, the released form
    norm: float  # mean length of an embedding


_RAW = Row(latent="raw", norm="pixel_range", reduction="batch", weight=0.1, trained_scale=True)
ROWS = {
    "none": Row(),
    "release": Row(**asdict(_RAW) | {"form": "sorted"}),
    "release-frozen": Row(**asdict(_RAW) | {"form": "sorted", "trained_scale": False}),
    "paired-raw": _RAW,
    "weight-0.1": Row(weight=0.1),
    "ratio-0.1": Row(ratio=0.1),
    "ratio-0.3": Row(ratio=0.3),
    "ratio-1": Row(ratio=1.0),
}
EXPECTED = {  # four seeds
    "none": Figures(0.980, 0.795, 0.404, 0.515, 3.64, 5.29),
    "release": Figures(0.975, 0.801, 0.350, 0.910, 0.070, 1.41),
    "release-frozen": Figures(0.974, 0.748, 0.298, 1.355, 1.31, 4.93),
    "paired-raw": Figures(0.977, 0.809, 0.377, 0.706, 0.004, 0.71),
    "weight-0.1": Figures(0.978, 0.696, 0.470, 0.232, 5.78, 5.33),
    "ratio-0.1": Figures(0.979, 0.786, 0.434, 0.379, 4.31, 5.30),
    "ratio-0.3": Figures(0.978, 0.708, 0.495, 0.189, 6.13, 5.33),
    "ratio-1": Figures(0.977, 0.400, 0.625, 0.041, 10.43, 5.47),
}


class Digits(NamedTuple):
    """The data, and the distances of all pairs of images."""

    pixels: Tensor  # uint8 [1797, 256]
    labels: Tensor  # int64 [1797]
    distances: Tensor  # float32 [1797, 1797] in [0, 1]


def load_digits() -> Digits:
    """The digits, enlarged to 16 x 16 in 8 bits."""
    try:
        from sklearn import datasets
    except ImportError:
        raise missing_extra("scikit-learn", "test", "digit_toy.py") from None
    raw = datasets.load_digits()
    images = torch.from_numpy(raw.images).float()[:, None] * (255 / 16)
    large = nn.functional.interpolate(images, size=SIDE, mode="bilinear", align_corners=False)
    pixels = large.round().to(torch.uint8).flatten(1)
    distances = pixel_distances(pixel_squared_distances(pixels), SIDE * SIDE)
    return Digits(pixels, torch.from_numpy(raw.target).long(), distances)


def build(seed: int) -> nn.Sequential:
    """The network 256-128-32 with initial weights of the seed, the scale of its last normalisation frozen."""
    layers = []
    for inputs, outputs, gain in ((SIDE * SIDE, 128, 1.0), (128, DIMENSION, 0.5)):
        layer = nn.utils.skip_init(nn.Linear, inputs, outputs, bias=False)
        weight = generator(seed, "layer", inputs).normal(0.0, gain * inputs**-0.5, (outputs, inputs))
        layer.weight.data.copy_(torch.from_numpy(weight))
        layers.append(layer)
    last = nn.BatchNorm1d(DIMENSION)
    last.weight.requires_grad_(False)
    return nn.Sequential(layers[0], nn.BatchNorm1d(128), nn.PReLU(), layers[1], last)


def run(row: Row, seed: int, digits: Digits, steps: int = STEPS) -> Figures:
    """Train one network on digits drawn by the seed and measure it on the others."""
    order = generator(seed, "split").permutation(len(digits.pixels))
    training, held_out = order[:TRAINING], order[TRAINING:]
    inputs = digits.pixels.float() / 127.5 - 1
    network, head = build(seed), ArcFace(DIMENSION, CLASSES, seed=seed, scale=16.0, margin=0.3)
    with torch.no_grad():
        head.weight.mul_(100)  # only their directions count: longer centers turn more slowly
    network[-1].weight.requires_grad_(row.trained_scale)
    parameters = [p for p in (*network.parameters(), *head.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(parameters, lr=0.05, momentum=0.9, weight_decay=1e-3)
    batches = TRAINING // BATCH
    for step in range(steps):
        epoch, place = divmod(step, batches)
        chosen = generator(seed, "order", epoch).permutation(training)[place * BATCH : (place + 1) * BATCH]
        z = network(inputs[chosen])
        loss = head(z, digits.labels[chosen]).loss.mean()
        if row.weight or row.ratio:
            alignment = align(row, digits.distances[chosen][:, chosen], z)
            loss = loss + (row.weight or weight_of(row.ratio, loss, alignment, z)) * alignment
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.eval()
    with torch.no_grad():
        return measure(network(inputs[held_out]), head, digits, held_out)


def align(row: Row, distances: Tensor, z: Tensor) -> Tensor:
    return structure_loss(
        distances, z, form=row.form, latent=row.latent, norm=row.norm, reduction=row.reduction
    )


def weight_of(ratio: float, loss: Tensor, alignment: Tensor, z: Tensor) -> Tensor:
    """The weight at which the alignment's gradient at the embeddings is ``ratio`` times the classifier's."""
    ours, theirs = (torch.autograd.grad(x, z, retain_graph=True)[0].norm() for x in (alignment, loss))
    weight: Tensor = ratio * theirs / ours
    return weight.clamp(*WEIGHT_LIMITS)


def measure(z: Tensor, head: ArcFace, digits: Digits, held_out: np.ndarray) -> Figures:
    labels, units = digits.labels[held_out], unit_rows(z)
    i, j = torch.triu_indices(len(z), len(z), 1)
    aligned, raw = [], []
    for start in range(0, len(z) - BATCH + 1, BATCH):
        part = slice(start, start + BATCH)
        distances = digits.distances[held_out[part]][:, held_out[part]]
        aligned.append(structure_report(distances, z[part], latent="sphere", norm="mean_edge"))
        raw.append(structure_report(distances, z[part], latent="raw", norm="pixel_range"))
    return Figures(
        accuracy=float(((units @ unit_rows(head.weight).T).argmax(1) == labels).double().mean()),
        tar=tar_at_far((units @ units.T)[i, j], labels[i] == labels[j], 1e-3),
        overlap=float(np.mean([report.overlap for report in aligned])),
        paired=float(np.mean([report.paired for report in aligned])),
        sorted=float(np.mean([report.sorted for report in raw])),
        norm=float(z.norm(dim=1).mean()),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=4, help="networks for each row (default: 4)")
    parser.add_argument(
        "--rows", nargs="+", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS)
    )
    args = parser.parse_args()
    if args.seeds < 1:
        parser.error("--seeds must be 1 or more")
    torch.set_num_threads(1)
    try:
        digits = load_digits()
    except UserError as error:
        parser.exit(2, f"{error}\n")
    print(
        "| ISA | accuracy | TAR | tree overlap | disc_paired (mean_edge) | disc_sorted (raw) | mean norm of z |"
    )
    print("|---|---|---|---|---|---|---|")
    for name in args.rows:
        figures = np.array([run(ROWS[name], seed, digits) for seed in range(args.seeds)])
        spread = figures.std(0, ddof=1 if args.seeds > 1 else 0)
        cells = (
            f"{mean:.3f} ± {sd:.3f} ({expected:.3f})"
            for mean, sd, expected in zip(figures.mean(0), spread, EXPECTED[name], strict=True)
        )
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
