"""Time and memory of judging beside the obvious ways, in one run.

python benchmarks/evaluation.py [--quick] [--rounds N]

Templates: a generated protocol of the size of IJB-C, from features to the table of TAR, beside the way of released scripts
(tests/oracles/released_templates.py), of which slow stages are timed on a part and scaled. Search: the 20 most similar of a
gallery beside a product and a partial sort. All pairs of a set beside a product and a sort. One thread, CPU time, interleaved.
"""

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from measuring import installed, machine, median_ratio, memory_free, peak_growth, ratios, table

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.oracles import released_templates as released

from topoface.evaluation.all_pairs.counts import points_of_all_pairs
from topoface.evaluation.features import Features
from topoface.evaluation.figures import TEMPLATE_FARS
from topoface.evaluation.templates.judging import judge_templates, template_vectors
from topoface.evaluation.templates.protocol import TemplateProtocol
from topoface.functional.search import most_similar, prepare
from topoface.functional.templates import pair_cosines
from topoface.functional.verification import allowed_false_accepts

ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
IJBC = {"images": 469_375, "templates": 23_124, "people": 3_531, "pairs": 15_658_489, "genuine": 19_559}


class Drawn:
    """Names of images that are never read."""

    def __init__(self, n: int) -> None:
        self.names = range(n)

    def __len__(self) -> int:
        return len(self.names)


def seconds(work: Callable[[], object]) -> tuple[float, object]:
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def units(
    rng: np.random.Generator, people: int, labels: np.ndarray, noise: float, d: int = 512
) -> np.ndarray:
    """float32 unit rows around the directions of people."""
    centers = rng.standard_normal((people, d), dtype=np.float32)
    rows = np.empty((len(labels), d), np.float32)
    for at in range(0, len(labels), 1 << 14):
        part = centers[labels[at : at + (1 << 14)]]
        part += noise * rng.standard_normal(part.shape, dtype=np.float32)
        rows[at : at + len(part)] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return rows


def ijbc(share: float) -> tuple[np.ndarray, TemplateProtocol]:
    """Features and lists of the size of IJB-C, or a share of it."""
    rng = np.random.default_rng(0)
    images, templates, people, pairs, genuine = (round(share * size) for size in IJBC.values())
    owner = np.sort(rng.integers(0, people, templates))
    template = np.sort(np.concatenate([np.arange(templates), rng.integers(0, templates, images - templates)]))
    media = rng.integers(0, 8, images)  # of its template; frames of a video share one
    rows = units(rng, people, owner[template], noise=8.0)
    rows *= rng.uniform(15, 30, (images, 1)).astype(np.float32)
    left, right = rng.integers(0, templates, (2, pairs)).astype(np.int32)
    first = np.searchsorted(owner, owner[left[:genuine]])
    last = np.searchsorted(owner, owner[left[:genuine]], side="right")
    right[:genuine] = first + (rng.random(genuine) * (last - first)).astype(np.int32)
    order = np.argsort(left, kind="stable")  # as the official list: by its first template
    left, right = left[order], right[order]
    labels = np.arange(templates, dtype=np.int64) * 2 + 1
    return rows, TemplateProtocol(
        name="drawn",
        uri="drawn",
        images=Drawn(images),
        template_ids=labels,
        templates=labels[template],
        media=media + 10 * template,
        detector=rng.uniform(0.5, 1, images),
        pairs=np.stack([left, right], axis=1),
        same=owner[left] == owner[right],
        people=owner,
        searches=(),
        alignment="",
        fingerprint="",
    )


def templates(quick: bool, rounds: int) -> None:
    rows, protocol = ijbc(0.02 if quick else 1.0)
    features = Features(rows=rows, origin="drawn")
    n, pairs = len(protocol.template_ids), len(protocol.same)
    print(
        f"\n### Templates: {len(rows):,} features of 512, {n:,} templates, {pairs:,} pairs ({int(protocol.same.sum()):,} genuine)\n"
    )
    judge_templates(features, protocol, bootstrap=0)  # compiles

    # The same figures first, on all templates and part of the pairs.
    scaled = rows * protocol.detector[:, None].astype(np.float32)
    part = slice(0, n if quick else 1500)
    _, few = seconds(
        lambda: np.stack(
            [
                released.one_template(scaled, protocol.templates, protocol.media, label)
                for label in protocol.template_ids[part]
            ]
        )
    )
    few /= np.linalg.norm(few, axis=1, keepdims=True)
    vectors = template_vectors(rows, protocol, "detector+norm")
    print(
        f"Largest difference of a template's coordinate to the loop's: {np.abs(vectors[part] - few).max():.1e}"
    )
    wide = vectors.astype(np.float64)
    left, right = (protocol.template_ids[side] for side in protocol.pairs.T)
    some = slice(0, min(pairs, 1_000_000))
    _, scores = seconds(lambda: released.pair_scores(protocol.template_ids, wide, left[some], right[some]))
    ours = pair_cosines(vectors, *protocol.pairs[some].T)
    print(f"Largest difference of a score to float64: {np.abs(ours - scores).max():.1e}\n")

    slow, fast, stages = [], [], []
    for number in range(rounds):
        loop, _ = seconds(
            lambda: [
                released.one_template(scaled, protocol.templates, protocol.media, label)
                for label in protocol.template_ids[part]
            ]
        )
        gather, _ = seconds(
            lambda: released.pair_scores(protocol.template_ids, wide, left[some], right[some])
        )
        if number == 0:  # once: it takes long, and is a small part
            every = np.concatenate(
                [
                    pair_cosines(vectors, *protocol.pairs[at : at + 1_000_000].T).astype(np.float64)
                    for at in range(0, pairs, 1_000_000)
                ]
            )
            table_s, nearest = seconds(lambda: released.tar_at_fars(every, protocol.same, TEMPLATE_FARS))  # noqa: B023
        stages.append((loop * n / (part.stop or n), gather * pairs / some.stop, table_s))
        slow.append(sum(stages[-1]))
        cost, result = seconds(lambda: judge_templates(features, protocol, bootstrap=0))
        fast.append(cost)
    growth = peak_growth(lambda: judge_templates(features, protocol, bootstrap=0))
    loop_s, gather_s, table_s = (statistics.median(stage) for stage in zip(*stages, strict=True))
    table(
        ["from features to the table", "CPU s", "ratio", "extra MiB"],
        [
            [
                f"released style: {loop_s:.1f} loops over templates (scaled), {gather_s:.1f} scores (scaled), {table_s:.1f} table",
                f"{statistics.median(slow):.1f}",
                "1",
                "",
            ],
            ["topoface", f"{statistics.median(fast):.2f}", median_ratio(ratios(slow, fast)), f"{growth:.0f}"],
        ],
    )
    table(
        ["FAR", "TAR", "its FAR", "false accepts", "released: nearest point"],
        [
            [
                f"{p.target:g}",
                f"{p.tar.value:.4f}",
                f"{p.far:.2e}",
                f"{p.false_accepts:,} of {p.allowed:,}",
                f"{other:.4f}",
            ]
            for p, other in zip(result.tar, nearest, strict=True)
        ],
    )


def search(quick: bool, rounds: int) -> None:
    rng = np.random.default_rng(1)
    probes, entries, k = (50, 10_000, 20) if quick else (500, 100_000, 20)
    gallery = units(rng, entries, np.arange(entries), 0.0)
    asked = units(rng, entries, rng.integers(0, entries, probes), 0.0)
    asked[: probes // 2] = gallery[: probes // 2] + 0.05 * asked[: probes // 2]
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    print(f"\n### Search: {probes} probes, {entries:,} entries of 512, the {k} best")
    print(
        f"OPENBLAS_CORETYPE={os.environ.get('OPENBLAS_CORETYPE', '')}: NumPy and faiss each have an OpenBLAS; run with Haswell too."
    )

    def numpy_way() -> np.ndarray:
        cosines = asked @ gallery.T
        best = np.argpartition(-cosines, k, axis=1)[:, :k]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1)
        return np.take_along_axis(best, order, axis=1)

    def torch_way() -> np.ndarray:
        return torch.topk(torch.from_numpy(asked) @ torch.from_numpy(gallery).T, k).indices.numpy()

    cost, rounded = seconds(lambda: prepare(gallery))
    print(f"Rounding the gallery to eight bits, once: {cost:.2f} CPU s.")
    ways: dict[str, Callable[[], np.ndarray]] = {
        "topoface": lambda: most_similar(asked, gallery, k)[0],
        "topoface, eight bits and exact again": lambda: most_similar(asked, rounded, k)[0],
        "NumPy product and argpartition": numpy_way,
        "torch product and topk": torch_way,
    }
    if installed("faiss"):
        import faiss

        index = faiss.IndexFlatIP(gallery.shape[1])
        index.add(gallery)
        ways[f"faiss {faiss.__version__} flat"] = lambda: index.search(asked, k)[1]
    exact = ways["topoface"]()
    alike = {name: float((way() == exact).all(axis=1).mean()) for name, way in ways.items()}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            times[name].append(seconds(way)[0])
    table(
        ["way", "CPU s", "ratio to topoface", "probes with the same list", "extra MiB"],
        [
            [
                name,
                f"{statistics.median(times[name]):.3f}",
                median_ratio(ratios(times[name], times["topoface"])),
                f"{100 * alike[name]:.1f} %",
                f"{peak_growth(way):.0f}",
            ]
            for name, way in ways.items()
        ],
    )


def obvious_points(rows: np.ndarray, people: np.ndarray) -> list[tuple[int, int]]:
    """Genuine and impostor pairs accepted at each FAR, from all cosines in one table."""
    upper = np.triu(np.ones((len(rows), len(rows)), dtype=bool), 1)
    cosines = rows @ rows.T
    same = people[:, None] == people
    genuine, impostor = cosines[same & upper], np.sort(cosines[~same & upper])
    found = []
    for far in TEMPLATE_FARS:
        bar = impostor[len(impostor) - 1 - allowed_false_accepts(len(impostor), far)]
        found.append((int((genuine > bar).sum()), int((impostor > bar).sum())))
    return found


def all_pairs(quick: bool, rounds: int) -> None:
    rng = np.random.default_rng(2)
    sizes = (2_000,) if quick else (5_000, 20_000)
    print("\n### All pairs of a set, features of 512, TAR at six FARs")
    lines = []
    for n in sizes:
        people = rng.integers(0, n // 10, n).astype(np.int32)
        rows = units(rng, n // 10, people, noise=2.0)
        run = lambda rows=rows, people=people: points_of_all_pairs(rows, people, TEMPLATE_FARS).points  # noqa: E731
        points = run()
        few = n <= 5_000
        slow, fast = [], []
        for _ in range(rounds if few else 1):
            fast.append(seconds(run)[0])
            if few:
                cost, found = seconds(lambda rows=rows, people=people: obvious_points(rows, people))
                slow.append(cost)
                # Rounding in float32 moves single pairs over a bar.
                off = max(
                    abs(a - b)
                    for theirs, ours in zip(found, points, strict=True)
                    for a, b in zip(theirs, ours[1:], strict=True)
                )
        lines.append(
            [
                f"{n:,}",
                f"{n * (n - 1) // 2:,}",
                f"{statistics.median(fast):.1f}",
                f"{peak_growth(run):.0f}",
                f"{statistics.median(slow):.1f}" if few else "",
                median_ratio(ratios(slow, fast)) if few else "",
                f"{peak_growth(lambda rows=rows, people=people: obvious_points(rows, people)):.0f}"
                if few
                else "",
                f"{off}" if few else "",
            ]
        )
    table(
        [
            "images",
            "pairs",
            "topoface, CPU s",
            "extra MiB",
            "one table and a sort, CPU s",
            "ratio",
            "extra MiB",
            "counts differ by at most",
        ],
        lines,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("templates", "search", "pairs"))
    arguments = parser.parse_args()
    if any(
        os.environ.get(variable) != "1" for variable in ONE_THREAD
    ):  # libraries read it when they are loaded
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | dict.fromkeys(ONE_THREAD, "1"))
    if not arguments.quick and memory_free() < 5:
        sys.exit("needs 5 GiB of free memory; --quick needs little")
    torch.set_num_threads(1)
    print(machine("torch", "numpy", "numba"))
    for name, part in {"templates": templates, "search": search, "pairs": all_pairs}.items():
        if arguments.only in (None, name):
            part(arguments.quick, arguments.rounds)


if __name__ == "__main__":
    main()
