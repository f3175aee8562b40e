"""The class head with its update: logits never materialised, centers moved in backward, a sampled share; beside the obvious version and arcface_torch's.

python benchmarks/softmax.py [--classes N] [--sampled N] [--rounds N] [--arcface-torch FOLDER]
python benchmarks/softmax.py --largest 10000000

Forward, backward and, where said, SGD with momentum and weight decay, from given embeddings (B = 256, D = 512, ArcFace 64, 0.5, one thread). The ways take
turns; CPU seconds, medians. Extra memory: by how much a second step, in a process of its own and with no gradient left from the first, raises the resident
memory at its peak. FOLDER is a checkout of insightface's recognition/arcface_torch, whose own head is then run on one process. With --largest only the
fused head takes two steps, with D = 128.
"""

import argparse
import importlib
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize

from arcface_torch_loop import without_cuda
from measuring import interleaved, machine, median_ratio, peak_growth, ratios, table, timed
from topoface.data.batch import Batch
from topoface.functional.draws import SampleDraws
from topoface.heads import ArcFace
from topoface.recipe import OptimizerConfig

B, D, SCALE, MARGIN, RATE = 256, 512, 64.0, 0.5, 0.1
CONFIG = OptimizerConfig(lr=0.1, momentum=0.9, weight_decay=5e-4)
SGD = {"lr": CONFIG.lr, "momentum": CONFIG.momentum, "weight_decay": CONFIG.weight_decay}
Item = tuple[Tensor, Tensor, int]
Step = Callable[[Item], None]


def inputs(classes: int, count: int) -> list[Item]:
    random = torch.Generator().manual_seed(count)
    return [
        (torch.randn(B, D, generator=random), torch.randint(0, classes, (B,), generator=random), number)
        for number in range(count)
    ]


def obvious_loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """ArcFace as anyone writes it: all logits, the margin on the own ones."""
    logits = linear(normalize(embeddings), normalize(weight)).clamp(-1, 1)
    own = logits.gather(1, labels[:, None])
    margined = (own.clamp(-1 + 1e-6, 1 - 1e-6).acos() + MARGIN).cos()
    return cross_entropy(SCALE * logits.scatter(1, labels[:, None], margined), labels)


def obvious(classes: int, *, update: bool) -> Step:
    weight = (0.01 * torch.randn(classes, D)).requires_grad_()
    optimizer = torch.optim.SGD([weight], **SGD)

    def step(item: Item) -> None:
        obvious_loss(item[0].requires_grad_(), weight, item[1]).backward()
        if update:
            optimizer.step()
        weight.grad = None

    return step


def sampled_as_released(classes: int) -> Step:
    """Partial FC (arXiv 2010.05222): rows of centers and momentum are taken out, moved and put back."""
    weight, momentum = 0.01 * torch.randn(classes, D), torch.zeros(classes, D)

    def step(item: Item) -> None:
        embeddings, labels, _ = item
        keys = torch.rand(classes)
        keys[labels] = 2.0
        chosen = keys.topk(round(RATE * classes)).indices.sort().values
        rows, speeds = weight[chosen].requires_grad_(), momentum[chosen]
        obvious_loss(embeddings.requires_grad_(), rows, torch.searchsorted(chosen, labels)).backward()
        optimizer = torch.optim.SGD([rows], **SGD)
        optimizer.state[rows]["momentum_buffer"] = speeds
        optimizer.step()
        weight[chosen], momentum[chosen] = rows.detach(), speeds

    return step


def ours(classes: int, *, update: bool, dimension: int = D, **arguments: Any) -> Step:
    head = ArcFace(dimension, classes, scale=SCALE, margin=MARGIN, **arguments)
    head.adopt(CONFIG, 1)
    trained = [p for p in head.parameters() if p.requires_grad]
    optimizer = torch.optim.SGD(trained, fused=True, **SGD) if trained else None

    def step(item: Item) -> None:
        embeddings, labels, number = item
        draws = SampleDraws(seed=0, step=number, global_size=B, start=0, stop=B)
        batch = Batch(images=embeddings, labels=labels, indices=labels, draws=draws)
        head.begin_step(CONFIG.lr)
        head(embeddings.requires_grad_(), labels, extras=head.prepare(batch)).loss.mean().backward()
        if update:
            head.end_step()
            if optimizer is not None:
                optimizer.step()
        if optimizer is not None:
            optimizer.zero_grad()

    return step


def arcface_torch(folder: Path, classes: int, rate: float, *, update: bool) -> Step:
    """The head of the checkout itself, in a group of one process."""
    if not dist.is_initialized():
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    sys.path.insert(0, str(folder))
    losses, heads = importlib.import_module("losses"), importlib.import_module("partial_fc_v2")
    head = heads.PartialFC_V2(losses.ArcFace(s=SCALE, margin=MARGIN), D, classes, rate, False)
    head.train()
    optimizer = torch.optim.SGD(head.parameters(), **SGD)

    def step(item: Item) -> None:
        with without_cuda():
            head(item[0].requires_grad_(), item[1]).backward()
        if update:
            optimizer.step()
        optimizer.zero_grad()

    return step


class Comparison(NamedTuple):
    """Ways to take the same step, each made when its turn comes."""

    title: str
    classes: int
    ways: dict[str, Callable[[], Step]]
    base: str


def compare(comparison: Comparison, extra: dict[str, str], rounds: int) -> None:
    print(f"\n{comparison.title}, {comparison.classes:,} identities")
    ways, costs = {name: make() for name, make in comparison.ways.items()}, {}
    for name, way in ways.items():
        first, second = inputs(comparison.classes, 2)
        way(first)
        costs[name] = timed(way, [second])
    times = interleaved(ways, lambda count: inputs(comparison.classes, count), rounds, costs)
    table(
        ["", "CPU s a step", f"{comparison.base} / this", "extra MiB"],
        [
            [
                name,
                f"{statistics.median(times[name]):.3f}",
                median_ratio(ratios(times[comparison.base], times[name])),
                extra[name],
            ]
            for name in ways
        ],
    )


def extra_memory(comparison: Comparison, name: str) -> float:
    """MiB of a second step, in a process that has done nothing else: what others freed would hide it."""
    way, (first, second) = comparison.ways[name](), inputs(comparison.classes, 2)
    way(first)
    return peak_growth(lambda: way(second))


def in_its_own_process(number: int, name: str) -> str:
    command = [sys.executable, *sys.argv, "--alone", str(number), name]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1]


def well_trained() -> None:
    """Relative errors of loss and gradient against float64 for rows whose loss is about 1e-6."""
    random = torch.Generator().manual_seed(2)
    centers = torch.randn(10_000, D, dtype=torch.float64, generator=random)
    labels = torch.arange(B)
    embeddings = centers[:B] + 2.1 * torch.randn(B, D, dtype=torch.float64, generator=random)
    rows = []
    reference = None
    for name, dtype in (
        ("float64", torch.float64),
        ("ours, float32", torch.float32),
        ("obvious, float32", None),
    ):
        x = embeddings.to(dtype or torch.float32).requires_grad_()
        w = centers.to(x.dtype).requires_grad_()
        if dtype is None:
            loss = cross_entropy(SCALE * linear(normalize(x), normalize(w)), labels)
        else:
            head = ArcFace(D, 10_000, scale=SCALE, margin=0.0).to(dtype)
            head.weight.data = w.data
            loss, w = head(x, labels).loss.mean(), head.weight
        found = (loss.detach(), *torch.autograd.grad(loss, (x, w)))
        reference = reference or found
        errors = [((f - r).norm() / r.norm()).item() for f, r in zip(found, reference, strict=True)]
        rows.append([name, f"{loss.item():.3e}", *(f"{e:.1e}" for e in errors)])
    table(
        ["well-trained rows", "loss", "error of the loss", "of the embeddings' gradient", "of the centers'"],
        rows,
    )


def largest(classes: int, dimension: int = 128) -> None:
    """Two steps of the full softmax over so many identities, and the memory of the whole process at its peak."""
    start = time.perf_counter()
    step = ours(classes, update=True, dimension=dimension, fused=True)
    rows = [["making the head", f"{time.perf_counter() - start:.1f}", f"{peak_gib():.2f}"]]
    for number, (wide, labels, _) in enumerate(inputs(classes, 2)):
        start = time.perf_counter()
        step((wide[:, :dimension].clone(), labels, number))
        rows.append([f"step {number + 1}", f"{time.perf_counter() - start:.1f}", f"{peak_gib():.2f}"])
    table([f"{classes:,} identities, D = {dimension}, B = {B}", "s", "peak memory, GiB"], rows)


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--classes", type=int, default=100_000)
    parser.add_argument("--sampled", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--arcface-torch", type=Path)
    parser.add_argument("--largest", type=int, metavar="CLASSES")
    parser.add_argument("--alone", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if arguments.largest:
        print(machine("torch", "numpy", "numba"))
        largest(arguments.largest)
        return
    many, sampled, peer = arguments.classes, arguments.sampled, arguments.arcface_torch

    def theirs(classes: int, rate: float, *, update: bool) -> dict[str, Callable[[], Step]]:
        make = partial(arcface_torch, peer, classes, rate, update=update)
        return {} if peer is None else {"arcface_torch's own": make}

    comparisons = [
        Comparison(
            "Forward and backward",
            many,
            {
                "obvious": partial(obvious, many, update=False),
                "ArcFace": partial(ours, many, update=False),
                "ArcFace, bfloat16": partial(ours, many, update=False, products="bfloat16"),
                **theirs(many, 1.0, update=False),
            },
            "obvious",
        ),
        Comparison(
            "With SGD",
            many,
            {
                "obvious": partial(obvious, many, update=True),
                "ArcFace": partial(ours, many, update=True),
                "ArcFace, fused": partial(ours, many, update=True, fused=True),
                "ArcFace, fused, bfloat16": partial(ours, many, update=True, fused=True, products="bfloat16"),
            },
            "obvious",
        ),
        Comparison(
            f"Partial FC {RATE}, with SGD",
            sampled,
            {
                "as released": partial(sampled_as_released, sampled),
                "caught up": partial(ours, sampled, update=True, rate=RATE),
                "untouched": partial(ours, sampled, update=True, rate=RATE, unsampled="untouched"),
                **theirs(sampled, RATE, update=True),
            },
            "as released",
        ),
    ]
    if arguments.alone:
        number, name = arguments.alone
        print(f"{extra_memory(comparisons[int(number)], name):,.0f}")
        return
    print(machine("torch", "numpy", "numba"))
    for number, comparison in enumerate(comparisons):
        extra = {name: in_its_own_process(number, name) for name in comparison.ways}
        compare(comparison, extra, arguments.rounds)
    well_trained()


if __name__ == "__main__":
    main()
