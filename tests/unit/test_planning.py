"""The planner's formulas against what is measured here: memory, operations, bytes sent, time."""

import subprocess
import sys
import time
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear, normalize

from topoface.data.batch import Batch
from topoface.functional import blocked_softmax
from topoface.functional.draws import SampleDraws
from topoface.heads import CosFace
from topoface.models import build_model
from topoface.planning import heads as formulas
from topoface.planning.backbone import backbone_cost
from topoface.planning.heads import head_cost
from topoface.planning.probe import this_device
from topoface.planning.setting import HeadName, Setting
from topoface.planning.step import SLACK, backbone_seconds, head_seconds
from topoface.planning.watch import Watch, saved_bytes, storage_of
from topoface.recipe import OptimizerConfig

Step = Callable[[Tensor, Tensor], None]
SHAPES = [(20_000, 128, 128), (20_000, 64, 512), (40_000, 256, 64), (30_000, 16, 32)]  # C, n, D


def setting(**changes: object) -> Setting:
    return Setting(**{"identities": 1000, "device": "this", **changes})  # type: ignore[arg-type]


# --- backbones ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(
    ("name", "recompute", "accumulates"),
    [
        ("iresnet_tiny", False, False),
        ("iresnet_compact", False, True),
        ("iresnet_compact", True, False),
        ("mobilefacenet", False, False),
        ("mobilefacenet", True, True),
    ],
)
def test_a_backbone_traced_costs_what_the_real_one_does(
    name: str, recompute: bool, accumulates: bool, precision: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parameters, saved activations, peak and arithmetic, where torch's own normalisation runs, as on an accelerator."""
    monkeypatch.setattr("topoface.models.batchnorm.loops_can_normalise", lambda x: False)
    traced = backbone_cost(
        name, dimension=64, batch=3, precision=precision, recompute=recompute, accumulates=accumulates
    )
    model = build_model(name, dimension=64)
    model.precision = precision
    model.set_recompute(recompute)
    images = torch.randint(0, 255, (3, 3, 112, 112), dtype=torch.uint8)
    if accumulates:
        model(images).sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    kept = {storage_of(t) for t in (images, *gradients, *model.parameters(), *model.buffers())}
    with Watch(kept) as watch:
        with saved_bytes(kept) as saved:
            embeddings = model(images)
        activations = saved[0]
        embeddings.sum().backward()
    assert traced.parameters == sum(p.numel() for p in model.parameters() if p.requires_grad)
    # oneDNN keeps small things of its own in bfloat16
    assert traced.saved_bytes == pytest.approx(activations, rel=0.02 if precision == "bf16" else 0)
    assert traced.peak_bytes == pytest.approx(watch.peak + sum(g.nbytes for g in gradients), rel=0.02)
    assert traced.flops == pytest.approx(sum(operation.flops for operation in watch.operations))
    assert traced.flops > 0


def test_the_cost_of_a_published_backbone_is_the_known_one() -> None:
    cost = backbone_cost("iresnet100", dimension=512, batch=2, precision="fp32")
    assert cost.parameters == 65_155_648  # as arcface_torch's r100 has, its last scale frozen
    assert cost.flops == pytest.approx(2 * 3 * 24.2e9, rel=0.01)  # forward and twice that backward


def test_activations_grow_with_the_batch() -> None:
    two, six = (backbone_cost("iresnet_tiny", dimension=32, batch=n, precision="fp32") for n in (20, 60))
    assert six.saved_bytes == pytest.approx(3 * two.saved_bytes, rel=0.01)
    assert six.parameters == two.parameters


def test_blocks_that_run_twice_keep_less_and_take_a_third_more() -> None:
    once, twice = (
        backbone_cost("iresnet50", dimension=64, batch=2, precision="fp32", recompute=again)
        for again in (False, True)
    )
    assert twice.saved_bytes < once.saved_bytes / 3
    assert twice.peak_bytes < once.peak_bytes
    assert twice.flops == pytest.approx(4 / 3 * once.flops, rel=0.02)


# --- heads ----------------------------------------------------------------------------------------------


def written_out(classes: int, dimension: int) -> tuple[list[Tensor], Step]:
    """CosFace by its definition; its tables, and forward with backward."""
    weight = (0.01 * torch.randn(classes, dimension)).requires_grad_()

    def loss(embeddings: Tensor, labels: Tensor) -> Tensor:
        logits = linear(normalize(embeddings), normalize(weight))
        margins = torch.zeros_like(logits).scatter_(1, labels[:, None], 0.4)
        return cross_entropy(64 * (logits - margins), labels)

    return [weight], lambda embeddings, labels: loss(embeddings, labels).backward()  # type: ignore[no-untyped-call]


def ours(classes: int, dimension: int, **settings: object) -> tuple[list[Tensor], Step]:
    """One of our heads, likewise, and with the moving of its centers if it does that itself."""
    head = CosFace(dimension, classes, **settings)  # type: ignore[arg-type]
    head.adopt(OptimizerConfig(clip_norm=None), 1)
    count = iter(range(100))

    def step(embeddings: Tensor, labels: Tensor) -> None:
        head.begin_step(0.1)
        draws = SampleDraws(seed=0, step=next(count), global_size=len(labels), start=0, stop=len(labels))
        batch = Batch(images=torch.empty(0), labels=labels, indices=labels, draws=draws)
        head(embeddings, labels, extras=head.prepare(batch)).loss.mean().backward()
        head.end_step()

    return [*head.parameters(), *head.buffers()], step


def made(name: HeadName, classes: int, dimension: int) -> tuple[list[Tensor], Step]:
    if name == "dense":
        return written_out(classes, dimension)
    settings = {"chunked_fused": {"fused": True}, "partial_fc": {"rate": 0.1}}.get(name, {})
    return ours(classes, dimension, **settings)


def batch_of(classes: int, rows: int, dimension: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    embeddings = torch.randn(rows, dimension, generator=random).requires_grad_()
    return embeddings, torch.randint(0, classes, (rows,), generator=random)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["dense", "chunked", "chunked_fused"])
def test_the_memory_of_a_head_is_as_computed(name: HeadName, shape: tuple[int, int, int]) -> None:
    """Tensors alive at the peak, to a tenth; products exactly."""
    classes, rows, dimension = shape
    tables, step = made(name, classes, dimension)
    step(*batch_of(classes, 2, dimension))  # libraries and probes load
    for table in tables:
        table.grad = None
    embeddings, labels = batch_of(classes, rows, dimension)
    with Watch({storage_of(t) for t in (embeddings, labels, *tables)}) as watch:
        step(embeddings, labels)
    cost = head_cost(name, setting(identities=classes, batch=rows, dimension=dimension))
    assert watch.peak == pytest.approx(sum(cost.passing.values()), rel=0.1)
    assert sum(operation.flops for operation in watch.operations) == pytest.approx(cost.flops, rel=0.01)


@pytest.mark.parametrize("compiled", [True, False])
def test_the_memory_of_sampled_classes_is_as_computed(
    compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows drawn are copied twice, or six times where no compiled loop moves them, as on an accelerator."""
    pytest.importorskip("numba")
    if not compiled:
        monkeypatch.setattr("topoface.functional.center_sgd.in_memory", lambda *tensors: False)
    classes, rows, dimension = 40_000, 64, 128
    tables, step = made("partial_fc", classes, dimension)
    step(*batch_of(classes, 2, dimension))
    embeddings, labels = batch_of(classes, rows, dimension)
    with Watch({storage_of(t) for t in (embeddings, labels, *tables)}) as watch:
        step(embeddings, labels)
    device = "this" if compiled else "h100"
    monkeypatch.setitem(formulas.BLOCK_LOGITS, "cuda", formulas.BLOCK_LOGITS["cpu"])
    cost = head_cost(
        "partial_fc", setting(identities=classes, batch=rows, dimension=dimension, device=device)
    )
    passing = {what: count for what, count in cost.passing.items() if what != "numbers drawn"}  # NumPy's
    assert watch.peak == pytest.approx(sum(passing.values()), rel=0.1)
    assert sum(cost.kept.values()) == pytest.approx(sum(t.nbytes for t in tables), rel=0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_grows_by_the_memory_computed() -> None:
    """As the system counts it, library buffers and fragments included; the least of three, as other work adds to it."""
    classes, rows, dimension = 100_000, 64, 128
    code = f"""
import re
from pathlib import Path
from tests.unit.test_planning import batch_of, made

def mebibytes(field):
    return int(re.search(field + r":\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024

tables, step = made("chunked", {classes}, {dimension})
step(*batch_of({classes}, 2, {dimension}))
tables[0].grad = None
embeddings, labels = batch_of({classes}, {rows}, {dimension})
Path("/proc/self/clear_refs").write_text("5")
before = mebibytes("VmRSS")
step(embeddings, labels)
print(mebibytes("VmHWM") - before)
"""
    grown = min(
        float(
            subprocess.run(
                [sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True
            ).stdout
        )
        for _ in range(3)
    )
    cost = head_cost("chunked", setting(identities=classes, batch=rows, dimension=dimension))
    computed = sum(cost.passing.values()) / 2**20
    assert 0.8 < grown / computed < 1.3, (grown, computed)


def test_the_blocks_are_those_of_the_softmax() -> None:
    assert formulas.BLOCK_LOGITS == blocked_softmax._ELEMENTS
    assert formulas.KEPT_LOGITS == blocked_softmax._KEPT


# --- time -----------------------------------------------------------------------------------------------


def cpu_seconds(work: Callable[[], object]) -> float:
    found = []
    for _ in range(4):
        start = time.thread_time()
        work()
        found.append(time.thread_time() - start)
    return min(found[1:])


def test_the_time_of_a_step_here_is_within_the_range() -> None:
    """One thread: from half of what is computed (compiled loops save passes over memory) to three times that."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        device, times = this_device(), {}
        for name in ("dense", "chunked", "partial_fc"):
            asked = setting(identities=10_000, batch=64, dimension=256)
            tables, step = made(name, 10_000, 256)
            given = batch_of(10_000, 64, 256)
            optimizer = torch.optim.SGD([t for t in tables if t.requires_grad] or [torch.zeros(1)], 0.1, 0.9)
            times[name] = (
                cpu_seconds(
                    lambda step=step, given=given, o=optimizer: (o.zero_grad(), step(*given), o.step())
                ),
                head_seconds(head_cost(name, asked), device),
            )
        model = build_model("iresnet_compact", dimension=128)
        images = torch.randint(0, 255, (32, 3, 112, 112), dtype=torch.uint8)
        cost = backbone_cost("iresnet_compact", dimension=128, batch=32, precision="fp32")
        times["backbone"] = (
            cpu_seconds(lambda: model(images).sum().backward()),
            backbone_seconds(cost, setting(), device),
        )
    finally:
        torch.set_num_threads(threads)
    ratios = {name: measured / computed for name, (measured, computed) in times.items()}
    assert min(ratios.values()) > 0.5, ratios
    assert max(ratios.values()) < SLACK, ratios
