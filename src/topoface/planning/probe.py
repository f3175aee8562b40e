"""The rates of the processor here, by a short probe. Figures of one moment: what else runs takes its share."""

import os
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import conv2d

from topoface.functional.products import fast_products
from topoface.planning.devices import Device

_ROUNDS = 7


def this_device() -> Device:
    """Products and convolutions of the shapes that training has, and copies of memory; about a second."""
    random = torch.Generator().manual_seed(0)
    rows, centers = torch.randn(128, 512, generator=random), torch.randn(8192, 512, generator=random)
    with torch.no_grad(), fast_products(rows):
        product = 2 * 128 * 512 * 8192 / _seconds(lambda: rows @ centers.T)
    source = torch.empty(2**25)
    copied = torch.empty_like(source)
    memory = 2 * 4 * source.numel() / _seconds(lambda: copied.copy_(source))
    return Device(
        name="this",
        memory_gib=_memory_gib(),
        product_tflops=product / 1e12,
        convolution_tflops=_convolution(torch.float32) / 1e12,
        bf16_tflops=_convolution(torch.bfloat16) / 1e12,
        memory_gb_s=memory / 1e9,
        link_gb_s=1.0,
        latency_us=200.0,
        source=f"this processor, {torch.get_num_threads()} thread(s), probed now; link and latency guessed",
    )


def _convolution(dtype: torch.dtype) -> float:
    """Floating-point operations a second, forward and backward."""
    layout = torch.channels_last
    images = torch.randn(8, 64, 28, 28, dtype=dtype).to(memory_format=layout).requires_grad_()
    kernel = torch.randn(64, 64, 3, 3, dtype=dtype).to(memory_format=layout).requires_grad_()

    def once() -> None:
        out: Tensor = conv2d(images, kernel, padding=1)
        torch.autograd.backward(out, out.detach())

    return 3 * 2 * 8 * 28 * 28 * 64 * 64 * 9 / _seconds(once)


def _seconds(work: Callable[[], object]) -> float:
    """Least of some calls, of this thread's own time on the processor."""
    found = []
    for _ in range(_ROUNDS + 1):  # the first call prepares
        start = time.thread_time()
        work()
        found.append(time.thread_time() - start)
    return min(found[1:])


def _memory_gib() -> float:
    """Free now where the system tells, else all there is."""
    path = Path("/proc/meminfo")
    for line in path.read_text().splitlines() if path.exists() else ():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) / 2**20
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**30
