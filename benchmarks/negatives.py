"""Time and memory of UNPG's virtual class and of JLCC's cluster centers beside the plain head, in one run.

python benchmarks/negatives.py [--quick]

UNPG also beside the literal concatenated softmax. Forward and backward of the head from given embeddings (D = 512, ArcFace), and what
JLCC does after the optimizer's step; one thread, interleaved, medians of ratios.
"""

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

from topoface.data.batch import Batch
from topoface.functional.directions import unit_rows
from topoface.functional.draws import SampleDraws
from topoface.functional.negatives import PairBatch, describe_pairs, pair_log_mass, whisker_bounds
from topoface.heads import ArcFace
from topoface.methods import JLCC
from topoface.methods.jlcc_settings import PRESETS, Contrast
from topoface.methods.method import RunFacts, StepState
from topoface.models import build_model
from topoface.recipe.components import arguments, options_of
from topoface.training.step import Hooks, forward_step

D, SCALE = 512, 64.0
MEMORY = "--memory"


def inputs(batch: int, classes: int) -> tuple[ArcFace, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    embeddings = torch.randn(batch, D, generator=g).requires_grad_()
    return ArcFace(D, classes, seed=0), embeddings, torch.randint(0, classes, (batch,), generator=g)


def plain(head: ArcFace, x: Tensor, labels: Tensor) -> Tensor:
    return head(x, labels).loss.mean()


def virtual(head: ArcFace, x: Tensor, labels: Tensor) -> Tensor:
    rows = unit_rows(x)
    pairs = PairBatch(rows=rows, columns=rows, row_labels=labels, column_labels=labels)
    low, high = whisker_bounds(pairs, 1.5)
    describe_pairs(pairs, low, high)  # for the log: part of the method's step
    return head(x, labels, extra=pair_log_mass(pairs, low, high, SCALE)).loss.mean()


def literal(head: ArcFace, x: Tensor, labels: Tensor) -> Tensor:
    """Every kept pair appended to every row, as released, with torch's own cross entropy."""
    rows = unit_rows(x)
    cosines = rows @ rows.T
    pairs = cosines[(labels[:, None] != labels).triu(1)]
    ordered = pairs.detach().sort().values
    first, third = ordered[len(ordered) // 4], ordered[3 * len(ordered) // 4]
    reach = 1.5 * (third - first)
    kept = pairs[(pairs >= first - reach) & (pairs <= third + reach)]
    logits = rows @ unit_rows(head.weight).T
    own = head.margin(logits.gather(1, labels[:, None])[:, 0], None)
    logits = logits.scatter(1, labels[:, None], own[:, None])
    return torch.nn.functional.cross_entropy(SCALE * torch.cat([logits, kept.expand(len(x), -1)], 1), labels)


def seconds(way: Callable[..., Tensor], head: ArcFace, x: Tensor, labels: Tensor) -> float:
    x.grad = head.weight.grad = None
    start = time.thread_time()
    way(head, x, labels).backward()
    return time.thread_time() - start


def clusters(preset: str, classes: int, **settings: object) -> Callable[[ArcFace, Tensor, Tensor], Tensor]:
    """A step with JLCC past its ramp and all its centers seen, and the memory's update by the step before."""
    facts = RunFacts(
        num_classes=classes,
        num_images=classes,
        source_fingerprint="",
        embedding_dim=D,
        steps_per_epoch=1.0,
        trainable_embedding_scale=True,
        logit_scale=SCALE,
        margin_room=0.5,
        has_class_centers=True,
        model=build_model("iresnet_compact", dimension=D, seed=0),
    )
    method = JLCC(
        facts, **{**arguments(options_of(JLCC, positional=1), PRESETS[preset], "benchmark", []), **settings}
    )
    g = torch.Generator().manual_seed(1)
    method.directions.copy_(unit_rows(torch.randn(classes, D, generator=g)))
    method.visits.fill_(1)
    method.lengths.fill_(1.0)
    hooks = Hooks.of(nn.ModuleList([method]))
    before: list[StepState] = []

    def step(head: ArcFace, x: Tensor, labels: Tensor) -> Tensor:
        n = len(labels)
        if before:
            with torch.no_grad():
                method.update([before.pop()])
        batch = Batch(
            images=torch.empty(n, 0),
            labels=labels,
            indices=torch.arange(n),
            draws=SampleDraws(seed=0, step=10, global_size=n, start=0, stop=n),
        )
        output = forward_step(lambda _: x, head, hooks, batch)
        before.append(output.state)
        return output.total

    return step


CLUSTERS = {
    "all, against all centers": ("all", {}),
    "all, contrast sampled": ("all", {"contrast": Contrast(scope="sampled")}),
    "margin": ("margin", {}),
    "watch": ("watch", {}),
}


def peak_mib(way: str, batch: int, classes: int) -> float:
    """Peak resident memory of a step over what was resident before, in a process of its own."""
    command = [sys.executable, __file__, MEMORY, way, str(batch), str(classes)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def measure_memory(way: str, batch: int, classes: int) -> None:
    from measuring import peak_growth

    torch.set_num_threads(1)
    head, x, labels = inputs(batch, classes)
    plain(head, *(t[:8] if t is labels else t[:8].detach().requires_grad_() for t in (x, labels))).backward()
    print(peak_growth(lambda: globals()[way](head, x, labels).backward()))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    cases = [(64, 1000, 5)] if quick else [(512, 10_575, 7), (512, 85_742, 3)]
    print("| B | C | plain, ms | virtual / plain | literal / virtual |\n|---|---|---|---|---|")
    for batch, classes, repeats in cases:
        head, x, labels = inputs(batch, classes)
        with_literal = batch * batch // 2 * batch < 2**27 and classes < 50_000
        ways = [plain, virtual, *([literal] if with_literal else [])]
        if with_literal:
            torch.testing.assert_close(virtual(head, x, labels), literal(head, x, labels))
        times = [[seconds(way, head, x, labels) for way in ways] for _ in range(repeats + 1)][1:]
        ratio = statistics.median(row[1] / row[0] for row in times)
        against = f"{statistics.median(row[2] / row[1] for row in times):.1f}" if with_literal else ""
        print(
            f"| {batch} | {classes:,} | {1e3 * statistics.median(r[0] for r in times):.0f} | {ratio:.3f} | {against} |"
        )
    print("\n| B | C | JLCC | / plain |\n|---|---|---|---|")
    for batch, classes, repeats in cases:
        head, x, labels = inputs(batch, classes)
        ways = [plain, *(clusters(preset, classes, **more) for preset, more in CLUSTERS.values())]
        times = [[seconds(way, head, x, labels) for way in ways] for _ in range(repeats + 1)][1:]
        for place, name in enumerate(CLUSTERS, 1):
            ratio = statistics.median(row[place] / row[0] for row in times)
            print(f"| {batch} | {classes:,} | {name} | {ratio:.3f} |")
    if not quick:
        plain_mib, virtual_mib = (peak_mib(way, 4096, 1000) for way in ("plain", "virtual"))
        print(
            f"\nB = 4096, C = 1,000: peak extra memory {plain_mib:.0f} MiB plain, {virtual_mib:.0f} MiB with the virtual class"
        )


if __name__ == "__main__":
    if MEMORY in sys.argv:
        measure_memory(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
