"""Structure alignment, spanning tree and mixture fit beside the released way and the peers, interleaved in one run.

    python benchmarks/topology.py [--quick]        peers: pip install -e '.[bench]'

One thread, CPU time. In every round each way gets fresh data: batches, matrices and entropies in an order
never seen before, made just before the clock starts (a repeated matrix would teach the branch predictor its answer and
flatter the tree five times). Results are compared before they are timed, ratios are medians over the rounds. Prints
Markdown; the full run takes about five minutes of one core and 11 GiB, which the released way needs at n = 256.
"""

import argparse
import multiprocessing
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import measuring
from benchmarks.measuring import Way, median_ms, median_ratio, table
from benchmarks.topology_peers import peers
from tests.oracles import released_topology as released
from tests.oracles.mixture import step

from topoface.functional.alignment import structure_loss
from topoface.functional.distances import pixel_distances, pixel_squared_distances, squared_distances
from topoface.functional.mixture import fit_mixture
from topoface.functional.persistence import h0_edges
from topoface.functional.spanning_tree import prim_numpy

Batch = tuple[Tensor, Tensor, tuple[Tensor, Tensor]]  # images, latents, source distances and tree
WIDTH = 512  # of the latents
FORMS: dict[str, dict[str, str]] = {
    "as released": {"form": "sorted", "norm": "pixel_range", "latent": "raw", "reduction": "batch"},
    "default": {"form": "paired", "norm": "mean_edge", "latent": "sphere", "reduction": "edges"},
}
SLOW = 10.0  # CPU seconds of one call above which a way is left out
MIXTURE_GOAL, MEMORY_GOAL = 100.0, 80  # ratio; MiB at n = 128

random = np.random.default_rng(0)
goals: list[tuple[str, list[float], float]] = []  # what, its ratios, at least


# --- the alignment, forward and backward ---------------------------------------------------------------


def pixels(count: int) -> Tensor:
    """Smooth random uint8 images ``[count, 3, 112, 112]`` with some noise."""
    coarse = torch.from_numpy(random.random((count, 3, 7, 7), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=112, mode="bilinear") * 240
    return (smooth + torch.from_numpy(random.random((count, 1, 112, 112), dtype=np.float32)) * 15).byte()


def normal(count: int) -> Tensor:
    """Latents ``[count, WIDTH]``."""
    return torch.from_numpy(random.standard_normal((count, WIDTH), dtype=np.float32))


def source_of(images: Tensor) -> tuple[Tensor, Tensor]:
    """What the loader makes of the images of a batch: distances and tree."""
    squared = pixel_squared_distances(images)
    return pixel_distances(squared, images[0].numel()), h0_edges(squared)


def aligned(batch: Batch, form: str, loader: bool) -> tuple[Tensor, Tensor]:
    """Loss and gradient, ours."""
    images, latents, ready = batch
    latents = latents.detach().requires_grad_()
    distances, edges = ready if loader else source_of(images)
    return with_gradient(structure_loss(distances, latents, source_edges=edges, **FORMS[form]), latents)


def aligned_as_released(batch: Batch) -> tuple[Tensor, Tensor]:
    latents = batch[1].detach().requires_grad_()
    return with_gradient(released.alignment(batch[0].float() / 127.5 - 1, latents), latents)


def with_gradient(loss: Tensor, latents: Tensor) -> tuple[Tensor, Tensor]:
    loss.backward()
    assert latents.grad is not None
    return loss.detach(), latents.grad


def alignment_rows(n: int, rounds: int) -> Iterator[list[str]]:
    need = 4 * n * n * 3 * 112 * 112 * 1.2 / 2**30
    if need > (free := measuring.memory_free()):
        yield [str(n), f"left out: the released way needs {need:.0f} GiB, {free:.0f} are free", "", "", ""]
        return
    pool, features = pixels(2 * n), normal(4 * n)

    def fresh(count: int) -> list[Batch]:
        images = [pool[random.permutation(2 * n)[:n]] for _ in range(count)]
        return [(batch, features[random.permutation(4 * n)[:n]], source_of(batch)) for batch in images]

    ours: dict[str, Way] = {}
    for form in FORMS:
        ours[f"{form}, everything in the step"] = lambda batch, form=form: aligned(batch, form, loader=False)
        ours[f"{form}, source from the loader"] = lambda batch, form=form: aligned(batch, form, loader=True)
    ways = {"released": aligned_as_released, **ours}
    batch, costs, results = fresh(1)[0], {}, {}
    for name, way in ways.items():
        way(fresh(1)[0]) if name in ours else None  # compiles
        results[name], costs[name] = measuring.first_call(way, batch)
    loss, gradient = results["released"]
    for name in list(ours)[:2]:
        torch.testing.assert_close(results[name][0], loss, rtol=1e-5, atol=0)
        torch.testing.assert_close(
            results[name][1], gradient, rtol=0, atol=1e-4 * float(gradient.abs().max())
        )
    times = measuring.interleaved(ways, fresh, rounds, costs)
    for name in ours:
        ratios = measuring.ratios(times["released"], times[name])
        ask = {128: 2000.0}.get(n) if "loader" in name else {128: 80.0, 256: 100.0}.get(n)
        if ask:
            goals.append((f"alignment, n = {n}, {name}", ratios, ask))
        yield [str(n), name, median_ms(times["released"]), median_ms(times[name]), median_ratio(ratios)]


# --- the tree alone ------------------------------------------------------------------------------------


@cache
def others() -> dict[str, Callable[[NDArray[np.float32]], NDArray[Any]]]:
    return {"our NumPy fallback": prim_numpy, **peers(), "released union-find": released.union_find_tree}


def tree_row(n: int, rounds: int, costs: dict[str, float]) -> list[str]:
    """`costs` has the CPU seconds of each way at half as many points, and then at this many."""
    pool = []
    for _ in range(2):
        squared = squared_distances(torch.nn.functional.normalize(normal(n).double()))
        pool.append(torch.maximum(squared, squared.T).sqrt().float())

    def fresh(count: int) -> list[Tensor]:
        orders = [torch.from_numpy(random.permutation(n)) for _ in range(count)]
        return [pool[k % 2].index_select(0, order).index_select(1, order) for k, order in enumerate(orders)]

    matrix = fresh(1)[0]
    edges = h0_edges(matrix)
    lengths = matrix[edges[:, 0], edges[:, 1]].numpy()
    ways: dict[str, Way] = {"topoface": h0_edges}
    costs["topoface"] = measuring.timed(h0_edges, fresh(1))
    for name, other in others().items():
        costs[name] = 4.5 * costs.get(name, 0)  # what twice the points will take
        if costs[name] > SLOW:
            continue
        ways[name] = lambda d, other=other: other(d.numpy())
        found, costs[name] = measuring.first_call(ways[name], matrix)
        same = edges.numpy() if found.ndim == 2 else lengths
        found = found if found.ndim == 2 else np.sort(found).astype(np.float32)
        assert np.array_equal(found, same), f"{name} disagrees at n = {n}"
    times = measuring.interleaved(ways, fresh, rounds, costs)
    row = [str(n), median_ms(times["topoface"])]
    for name in others():
        if name not in ways:
            row.append(f"> {SLOW:.0f} s: left out")
            continue
        costs[name] = statistics.median(times[name])
        ratios = measuring.ratios(times[name], times["topoface"])
        row.append(f"{median_ratio(ratios)} ({median_ms(times[name])})")
        if name == "released union-find" and n == 128:
            goals.append((f"tree, n = {n}, over {name}", ratios, 90.0))
        elif name in ("scipy linkage", "released union-find"):
            goals.append((f"tree, n = {n}, over {name}", ratios, 1.0))
        elif name != "our NumPy fallback":
            goals.append((f"tree, n = {n}, over {name}", ratios, {128: 20.0, 512: 40.0}.get(n, 1.0)))
    return row


# --- the mixture ---------------------------------------------------------------------------------------


def planted(pi: float, sigma: float, omega: float) -> Callable[[], NDArray[np.float64]]:
    def draw() -> NDArray[np.float64]:
        easy = np.abs(random.normal(0, sigma**0.5, 128))
        return np.where(random.random(128) < pi, easy, random.uniform(0, omega, 128))

    return draw


def arcface(cosine: float) -> Callable[[], NDArray[np.float64]]:
    """Entropies of ArcFace's margin logits (s = 64, m = 0.5) over 10,000 random centers of 512 dimensions."""

    def draw() -> NDArray[np.float64]:
        logits = random.normal(0, 64 / WIDTH**0.5, (128, 10_000))
        angle = np.arccos(np.clip(random.normal(cosine, 0.1, 128), -0.99, 0.99))
        logits[:, 0] = 64 * np.cos(angle + 0.5)
        return torch.distributions.Categorical(logits=torch.from_numpy(logits)).entropy().numpy()

    return draw


ENTROPIES: dict[str, Callable[[], NDArray[np.float64]]] = {
    "planted 0.9, 0.0025, 5": planted(0.9, 0.0025, 5),
    "planted 0.8, 0.04, 3": planted(0.8, 0.04, 3),
    "planted 0.5, 0.04, 3": planted(0.5, 0.04, 3),
    "planted 0.3, 0.09, 4": planted(0.3, 0.09, 4),
    "ArcFace, target cosines around 0.5": arcface(0.5),
    "ArcFace, target cosines around 0.6": arcface(0.6),
    "ArcFace, target cosines around 0.7": arcface(0.7),
    "Gamma(2), mean 1": lambda: random.gamma(2, 0.5, 128),
    "log-normal, median 0.2": lambda: random.lognormal(np.log(0.2), 1.2, 128),
    "normal around 6 (first steps)": lambda: np.abs(random.normal(6, 0.5, 128)),
}


def mixture_rows(draws: int) -> Iterator[list[str]]:
    everything = []
    for name, draw in ENTROPIES.items():
        theirs, mine, iterations = [], [], []
        for _ in range(draws):
            entropies = torch.from_numpy(draw().astype(np.float32))
            iterations.append(check_mixture(entropies))
            orders = [entropies[torch.from_numpy(random.permutation(128))] for _ in range(32)]
            theirs.append(measuring.timed(released.mixture, [orders[0].numpy()]))
            mine.append(measuring.timed(fit_mixture, orders))
        ratios = measuring.ratios(theirs, mine)
        everything += ratios
        counts = f"{min(iterations)} to {max(iterations)}"
        yield [name, median_ms(theirs), median_ms(mine), median_ratio(ratios), spread(ratios), counts]
    above = sum(ratio >= MIXTURE_GOAL for ratio in everything) / len(everything)
    yield [
        f"all, {above:.0%} at {MIXTURE_GOAL:.0f}x or more",
        "",
        "",
        median_ratio(everything),
        spread(everything),
        "",
    ]
    goals.append(("mixture fit, all draws", everything, MIXTURE_GOAL))


def check_mixture(entropies: Tensor) -> int:
    """That the baseline is the release and ours the likelihood's; the iterations that the released one takes."""
    hardness, _, iterations = released.mixture(entropies.numpy())
    ours = fit_mixture(entropies, fit="release").hardness.double().numpy()
    np.testing.assert_allclose(ours, hardness, atol=1e-4)
    e = entropies.double().tolist()
    pi, sigma, omega = 0.5, max(sum(x * x for x in e) / len(e), 1e-4), max(*e, 0.1)
    for _ in range(50):  # with the floors of ours
        pi, sigma, _ = step(e, pi, sigma, omega, "ml")
        pi, sigma = min(max(pi, 1e-3), 1 - 1e-3), max(sigma, 1e-4)
    fit = fit_mixture(entropies)
    np.testing.assert_allclose([float(fit.weight), float(fit.variance)], [pi, sigma], rtol=1e-5)
    return int(iterations)


def spread(ratios: list[float]) -> str:
    return f"{min(ratios):,.1f} to {max(ratios):,.1f}"


# --- memory --------------------------------------------------------------------------------------------


def peak_of(side: str, n: int) -> float:
    """MiB that one forward and backward takes at its peak, in a process of its own."""
    torch.set_num_threads(1)
    small, batch = ((pixels(size), normal(size), source_of(pixels(2))) for size in (8, n))
    way: Way = aligned_as_released if side == "released" else lambda b: aligned(b, side, loader=False)
    way(small)  # imports and compilation are not the step's
    return measuring.peak_growth(lambda: way(batch))


def memory_rows(n: int) -> Iterator[list[str]]:
    if not Path("/proc/self/clear_refs").exists():
        yield ["left out: this system does not reset the high-water mark", ""]
        return
    for side in ("released", *FORMS):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            yield [side, f"{pool.apply(peak_of, (side, n)):,.1f}"]


# --- the run -------------------------------------------------------------------------------------------


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Prints Markdown tables; the head of this file says what they hold."
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, few rounds, goals not judged: seconds"
    )
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    warnings.filterwarnings("ignore", category=UserWarning)  # ripser's, about more columns than rows
    start = time.perf_counter()
    print(measuring.machine("torch", "numpy", "numba", "scipy", "ripser", "gudhi"))

    print("\n### Alignment, forward and backward, CPU ms")
    sizes = [(32, 2)] if quick else [(128, 5), (256, 2)]
    rows = (row for n, rounds in sizes for row in alignment_rows(n, rounds))
    table(["n", "topoface", "released", "topoface", "ratio"], rows)

    print("\n### Spanning tree of a float32 matrix: topoface in CPU ms, the others as ratio to it (CPU ms)")
    costs: dict[str, float] = {}
    points = (64, 128) if quick else (64, 128, 256, 512, 1024, 2048, 4096)
    table(["n", "topoface", *others()], (tree_row(n, 2 if quick else 7, costs) for n in points))

    print("\n### Mixture fit of 128 entropies, CPU ms")
    head = ["entropies", "released", "topoface", "ratio", "over the draws", "iterations of the released"]
    table(head, mixture_rows(1 if quick else 12))

    n = 32 if quick else 128
    print(
        f"\n### Peak extra memory of one step, n = {n}, everything computed in it (goal at 128: < {MEMORY_GOAL} MiB)"
    )
    table(["way", "MiB"], memory_rows(n))

    if not quick:
        print("\n### Goals")
        table(
            ["ratio of CPU time", "goal", "median", "over the rounds", "reached"],
            (
                [
                    what,
                    f"{ask:,.0f}x",
                    median_ratio(found),
                    spread(found),
                    "yes" if statistics.median(found) >= ask else "**no**",
                ]
                for what, found, ask in goals
            ),
        )
    print(f"\n{time.perf_counter() - start:.0f} s, {time.process_time():.0f} s of CPU.")


if __name__ == "__main__":
    main()
