"""Step of the class head alone, from 10^4 to 10^8 identities: full softmax and Partial FC as anyone writes them, ours, and identity codes.

python benchmarks/heads.py [--most N] [--plot FILE]

Forward, backward and update from given embeddings (B = 128, D = 512, CosFace, SGD with momentum), the reading of the codes from their mapped table
included; one thread, medians. One large head is in memory at a time, its steps interleaved with those of the code head; it is left out, and said to be,
where ten times what it took for a tenth of the identities would not fit into what is free. Memory held: what stays private after a step, in a process
of its own. The plot draws dashed, in proportion, what was not run.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, normalize

from measuring import (
    first_call,
    interleaved,
    machine,
    median_ms,
    memory_free,
    peak_growth,
    ratios,
    table,
)
from topoface.codes.folder import write_folder
from topoface.data.batch import Batch
from topoface.functional.draws import SampleDraws
from topoface.heads import CosFace, IdentityCode, PartialFC
from topoface.recipe import OptimizerConfig

B, D, SCALE, MARGIN, LR, MOMENTUM, DECAY = 128, 512, 64.0, 0.4, 0.1, 0.9, 5e-4
ALPHABET = 256
RATE = 0.1
TABLE_BYTES = 50  # an identity, while its codes are made
MEMORY = "--memory"
FULL, PARTIAL, OUR_FULL, OUR_PARTIAL, CODES = (
    "full softmax, obvious",
    "Partial FC 0.1, as released",
    "CosFace, fused",
    "PartialFC 0.1",
    "IdentityCode",
)
NAMES = (FULL, PARTIAL, OUR_FULL, OUR_PARTIAL, CODES)
Item = tuple[Tensor, Tensor, int]  # embeddings, labels, step


def inputs(classes: int, seed: int) -> Item:
    g = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(B, D, generator=g).requires_grad_()
    return embeddings, torch.randint(0, classes, (B,), generator=g), seed


# --- as anyone writes them -----------------------------------------------------------------------------------


def margin_loss(embeddings: Tensor, weight: Tensor, labels: Tensor) -> Tensor:
    """CosFace by its definition."""
    logits = linear(normalize(embeddings), normalize(weight))
    margins = torch.zeros_like(logits).scatter_(1, labels[:, None], MARGIN)
    return cross_entropy(SCALE * (logits - margins), labels)


@torch.no_grad()
def move(weight: Tensor, momentum: Tensor, gradient: Tensor) -> None:
    """SGD with momentum and weight decay by its definition."""
    momentum.mul_(MOMENTUM).add_(gradient).add_(weight, alpha=DECAY)
    weight.add_(momentum, alpha=-LR)


class Centers:
    """Class centers and their momentum."""

    def __init__(self, classes: int) -> None:
        self.weight = 0.01 * torch.randn(classes, D, generator=torch.Generator().manual_seed(0))
        self.momentum = torch.zeros(classes, D)

    def full(self, item: Item) -> None:
        """The whole softmax, and an update of every row."""
        embeddings, labels, _ = item
        weight = self.weight.requires_grad_()
        margin_loss(embeddings, weight, labels).backward()
        assert weight.grad is not None
        gradient, weight.grad = weight.grad, None
        move(self.weight.requires_grad_(False), self.momentum, gradient)

    def partial(self, item: Item) -> None:
        """Partial FC (arXiv 2010.05222): rows of centers and momentum are taken out, moved and put back."""
        embeddings, labels, _ = item
        keys = torch.rand(len(self.weight))
        keys[labels] = 2.0
        chosen = keys.topk(round(RATE * len(keys))).indices.sort().values
        rows = self.weight[chosen].requires_grad_()
        margin_loss(embeddings, rows, torch.searchsorted(chosen, labels)).backward()
        assert rows.grad is not None
        momentum = self.momentum[chosen]
        move(rows.detach(), momentum, rows.grad)
        self.weight[chosen] = rows.detach()
        self.momentum[chosen] = momentum


# --- ours ----------------------------------------------------------------------------------------------------


class Numbers(Sequence[str]):
    """Names of any number of identities, made when they are asked for."""

    def __init__(self, count: int) -> None:
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: Any) -> Any:
        if isinstance(i, slice):
            return [f"{k:09d}" for k in range(*i.indices(self.count))]
        return f"{i:09d}"


class Faces:
    """A source that has names and nothing else."""

    def __init__(self, classes: int) -> None:
        self.names = Numbers(classes)

    def fingerprint(self) -> str:
        """Of no faces."""
        return ""


def code_table(folder: Path, classes: int) -> Path:
    """Codes that count: the bytes of each identity's number, the most significant first."""
    path = folder / f"codes_{classes}"
    if not path.exists():
        length = 3 if classes <= ALPHABET**3 else 4
        numbers = np.arange(classes, dtype=">u4")
        digits = np.empty((classes, 9), dtype=np.uint8)
        for place in range(9):
            digits[:, 8 - place] = numbers // 10**place % 10 + ord("0")
        arrays = {
            "codes": numbers.view(np.uint8).reshape(-1, 4)[:, 4 - length :],
            "uids": digits.view("S9")[:, 0],
            "packed": numbers.astype(np.uint64),
            "owners": numbers.astype(np.uint32),
        }
        write_folder(path, arrays, {"identities": classes, "alphabets": [ALPHABET] * length, "made": {}})
    return path


def our_step(head: Any) -> Callable[[Item], None]:
    trained = [p for p in head.parameters() if p.requires_grad]
    settings = {"lr": LR, "momentum": MOMENTUM, "weight_decay": DECAY}
    optimizer = torch.optim.SGD(trained, fused=True, **settings) if trained else None
    moves_itself = getattr(head, "sgd", None) is not None
    if moves_itself:
        head.adopt(OptimizerConfig(**settings), 1)

    def step(item: Item) -> None:
        embeddings, labels, number = item
        batch = Batch(
            images=torch.empty(0),
            labels=labels,
            indices=labels,
            draws=SampleDraws(seed=0, step=number, global_size=B, start=0, stop=B),
        )
        if moves_itself:
            head.begin_step(LR)
        if optimizer is not None:
            optimizer.zero_grad()
        head(embeddings, labels, extras=head.prepare(batch)).loss.mean().backward()
        if moves_itself:
            head.end_step()
        if optimizer is not None:
            optimizer.step()

    return step


def code_head(folder: Path, classes: int) -> nn.Module:
    head = IdentityCode(D, classes, table=str(code_table(folder, classes)), margin=MARGIN, scale=SCALE)
    head.connect(Faces(classes))
    return head


# --- measuring -----------------------------------------------------------------------------------------------


class Comparison:
    """Steps of every head beside those of the code head, size after size; ``left_out`` says in words what was not run."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.needs: dict[str, float] = {}  # MiB an identity at the peak, of the size before
        self.left_out: list[str] = []

    def _make(self, name: str, classes: int) -> Callable[[Item], None]:
        if name == FULL:
            return Centers(classes).full
        if name == PARTIAL:
            return Centers(classes).partial
        if name == OUR_FULL:
            return our_step(CosFace(D, classes, scale=SCALE, margin=MARGIN, fused=True))
        return our_step(PartialFC(D, classes, rate=RATE, scale=SCALE, margin=MARGIN))

    def row(self, classes: int, rounds: int) -> dict[str, tuple[list[float], list[float]]]:
        """CPU seconds of a step of each head that fits, and of the code head in the same rounds."""
        codes = our_step(code_head(self.folder, classes))
        cost = first_call(codes, inputs(classes, 0))[1]
        found = {}
        for name in (FULL, PARTIAL, OUR_FULL, OUR_PARTIAL):
            need, free = self.needs.get(name, 0.0) * classes / 1024, memory_free()
            if need > 0.9 * free:
                self.left_out.append(
                    f"{name} at {classes:,} identities: {need:.1f} GiB, and {free:.1f} are free"
                )
                continue
            times = self._beside(name, classes, codes, cost, rounds)
            found[name] = (times[name], times[CODES])
        if not found:
            found[CODES] = (
                interleaved({CODES: codes}, self._items(classes), rounds, {CODES: cost})[CODES],
            ) * 2
        return found

    def _beside(
        self, name: str, classes: int, codes: Callable[[Item], None], cost: float, rounds: int
    ) -> dict[str, list[float]]:
        ways = {CODES: codes}
        costs = {CODES: cost}

        def first() -> None:
            ways[name] = self._make(name, classes)
            costs[name] = first_call(ways[name], inputs(classes, 0))[1]

        self.needs[name] = peak_growth(first) / classes
        return interleaved(ways, self._items(classes), rounds, costs)

    @staticmethod
    def _items(classes: int) -> Callable[[int], list[Item]]:
        return lambda n: [inputs(classes, seed) for seed in range(n)]


def growth(folder: Path, sizes: Sequence[int], rounds: int) -> dict[int, list[float]]:
    """The code head at all sizes, interleaved; the labels lie all over each table."""

    def way(classes: int) -> Callable[[Item], None]:
        step, apart = our_step(code_head(folder, classes)), classes // sizes[0]
        return lambda item: step((item[0], item[1] * apart, item[2]))

    ways = {str(classes): way(classes) for classes in sizes}
    costs = {name: first_call(way, inputs(sizes[0], 0))[1] for name, way in ways.items()}
    times = interleaved(ways, lambda n: [inputs(sizes[0], seed) for seed in range(n)], rounds, costs)
    return {int(name): values for name, values in times.items()}


def private_mib() -> float:
    text = Path("/proc/self/status").read_text()
    return int(text.split("RssAnon:")[1].split()[0]) / 1024


def measure_memory(name: str, classes: int, folder: str) -> None:
    """Prints the private memory that a head holds after a step."""
    torch.set_num_threads(1)
    our_step(CosFace(D, 100))(inputs(100, 0))
    before = private_mib()
    if name == CODES:
        head: Any = code_head(Path(folder), classes)
        step = our_step(head)
    else:
        centers = Centers(classes)
        step = centers.full if name == FULL else centers.partial
    step(inputs(classes, 0))
    print(private_mib() - before)


def memory(name: str, classes: int, folder: Path) -> float:
    command = [sys.executable, __file__, MEMORY, name, str(classes), str(folder)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def plot(file: Path, times: dict[str, dict[int, float]], held: dict[str, dict[int, float]]) -> None:
    """Step time and memory against the number of identities; dashed in proportion where it was not run."""
    import matplotlib as mpl

    mpl.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axis, values, label in ((axes[0], times, "ms a step (CPU, one thread)"), (axes[1], held, "MiB held")):
        for name, found in values.items():
            known = sorted(found)
            colour = f"C{NAMES.index(name)}"
            axis.loglog(known, [found[c] for c in known], "o-", label=name, color=colour)
            if known[-1] < 10**8:
                beyond = [known[-1], 10**8]
                axis.loglog(beyond, [found[known[-1]] * c / known[-1] for c in beyond], "--", color=colour)
        axis.set(xlabel="identities", ylabel=label)
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle("Class head alone, B = 128, D = 512; dashed: not run, in proportion")
    figure.savefig(file, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--most", type=int, default=10**8, help="identities, at the most (default 10^8)")
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(machine("torch", "numpy"), f"{memory_free():.1f} GiB free")
    every = [c for c in (10**4, 10**5, 10**6, 10**7, 10**8) if c <= arguments.most]
    sizes = [c for c in every if c <= 10**6]
    times: dict[str, dict[int, float]] = {}
    held: dict[str, dict[int, float]] = {}
    heads = (FULL, PARTIAL, OUR_FULL, OUR_PARTIAL)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        comparison = Comparison(folder)
        for classes in [c for c in every if memory_free() < TABLE_BYTES * c / 2**30]:
            comparison.left_out.append(f"all heads at {classes:,} identities: no memory to make the codes in")
            every.remove(classes)

        def row(classes: int) -> list[str]:
            found = comparison.row(classes, 3 if classes > 10**5 else 7)
            for head, (own, _) in found.items():
                times.setdefault(head, {})[classes] = 1e3 * statistics.median(own)
            codes = [seconds for _, beside in found.values() for seconds in beside]
            against = [
                f"{statistics.median(ratios(*found[other])):,.0f}x" if other in found else "left out"
                for other in (FULL, PARTIAL)
            ]
            shown = [median_ms(found[n][0]) if n in found else "left out" for n in heads]
            return [f"{classes:,}", *shown, median_ms(codes), *against]

        titles = ["identities", *(f"{n}, ms" for n in (*heads, CODES)), "full / codes", "Partial FC / codes"]
        table(titles, map(row, sizes))
        grown = growth(folder, every, 15)
        times[CODES] = {c: 1e3 * statistics.median(values) for c, values in grown.items()}
        for head in (FULL, PARTIAL, CODES):
            for classes in every if head == CODES else [c for c in sizes if c <= 10**5]:
                held.setdefault(head, {})[classes] = memory(head, classes, folder)
        table(
            [
                "identities",
                "IdentityCode, ms",
                f"against {sizes[0]:,}",
                *(f"{n}, MiB held" for n in (FULL, PARTIAL, CODES)),
            ],
            [
                [
                    f"{c:,}",
                    median_ms(grown[c]),
                    f"{statistics.median(ratios(grown[c], grown[sizes[0]])):.2f}x",
                    *(f"{held[n][c]:,.1f}" if c in held[n] else "" for n in (FULL, PARTIAL, CODES)),
                ]
                for c in every
            ],
        )
    for line in comparison.left_out:
        print(f"Left out: {line}.")
    if arguments.plot:
        plot(arguments.plot, times, held)


if __name__ == "__main__":
    if MEMORY in sys.argv:
        measure_memory(sys.argv[2], int(sys.argv[3]), sys.argv[4])
    else:
        main()
