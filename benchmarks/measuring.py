"""Measuring several ways of the same work beside each other in one run: time, memory, and a Markdown table of them."""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

Way = Callable[[Any], object]
LOOP = 0.02  # CPU seconds that a way fills in a round, about
AT_ONCE = 8  # inputs made at once: they are in the cache, as they are where the step has just computed them
BUDGET = 8.0  # CPU seconds of a way in one comparison: slow ones take part in fewer rounds, but in two


def timed(way: Way, inputs: Sequence[Any]) -> float:
    """CPU seconds a call."""
    start = time.process_time()
    for item in inputs:
        way(item)
    return (time.process_time() - start) / len(inputs)


def first_call(way: Way, item: Any) -> tuple[Any, float]:
    """What a way returns, and about how many CPU seconds a call takes once everything is loaded."""
    start = time.process_time()
    result = way(item)
    cost = time.process_time() - start
    return result, cost if cost > 1 else timed(way, [item])


def interleaved(
    ways: dict[str, Way], fresh: Callable[[int], Sequence[Any]], rounds: int, costs: dict[str, float]
) -> dict[str, list[float]]:
    """CPU seconds a call of each way, a figure a round; `fresh` makes inputs, `costs` says what a call takes about."""
    times: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name, way in ways.items():
            if number < max(2, BUDGET / costs[name]):
                calls = min(AT_ONCE, max(1, round(LOOP / costs[name])))
                loops = max(1, round(LOOP / (costs[name] * calls)))
                times[name].append(statistics.median(timed(way, fresh(calls)) for _ in range(loops)))
    return times


def ratios(slow: list[float], fast: list[float]) -> list[float]:
    """One for each round in which both took part."""
    return [a / b for a, b in zip(slow, fast, strict=False)]


def median_ratio(values: list[float]) -> str:
    middle = statistics.median(values)
    return f"{middle:,.{0 if middle >= 20 else 1}f}x"


def median_ms(seconds: Iterable[float]) -> str:
    middle = 1e3 * statistics.median(seconds)
    return f"{middle:,.{3 if middle < 1 else 2 if middle < 100 else 0}f}"


def table(head: list[str], rows: Iterable[list[str]]) -> None:
    """Prints it as Markdown, each row as soon as it is there."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |", flush=True)


def memory_free() -> float:
    """GiB that this machine says are free; unknown counts as enough."""
    path = Path("/proc/meminfo")
    found = re.search(r"MemAvailable:\s+(\d+)", path.read_text()) if path.exists() else None
    return int(found[1]) / 2**20 if found else float("inf")


def peak_growth(work: Callable[[], object]) -> float:
    """MiB by which work raises the resident memory at its peak; native allocations too. Linux only."""

    def mebibytes(field: str) -> float:
        found = re.search(rf"{field}:\s+(\d+)", Path("/proc/self/status").read_text())
        assert found is not None
        return int(found[1]) / 1024

    if hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)  # memory freed before must not hide what work takes
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    before = mebibytes("VmRSS")
    work()
    return mebibytes("VmHWM") - before


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def machine(*packages: str) -> str:
    """Processor, kernels, threads, versions of packages and load, in one line."""
    path = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", path.read_text()) if path.exists() else None
    versions = [
        f"{name} {importlib.metadata.version(name)}" if installed(name) else f"no {name}" for name in packages
    ]
    return (
        f"{found[1] if found else platform.processor()}, {torch.backends.cpu.get_cpu_capability()}, matmul precision "
        f"{torch.get_float32_matmul_precision()}, threads: {torch.get_num_threads()}; {', '.join(versions)}; "
        f"load {os.getloadavg()[0]:.1f}"
    )


class Blank(list[None]):
    """Images that nobody looks at."""

    names = property(lambda self: tuple(map(str, range(len(self)))))
