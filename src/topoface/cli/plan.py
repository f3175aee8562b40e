"""``topoface plan``: what a run will need."""

import argparse
from typing import TYPE_CHECKING

from topoface.cli.parsing import Commands

if TYPE_CHECKING:
    from topoface.planning.plan import Plan

_EXAMPLE = """
  topoface plan identities=2e6 gpus=8 backbone=iresnet100 batch=128

All figures are computed, none is of a run: bytes by formulas that the tests hold to measured cases, times from the rates of the device.
The first time of a step is everything at full rate and the network hidden, the second everything at a third of the rate and nothing
hidden. Reading images is not in it. A head fits where it leaves a tenth of the memory free. Settings with a name of the recipe are its:
batch x gpus is training.batch_size, optimizer is optimizer.name, accumulation training.accumulation, recompute model.recompute.

Heads:
"""


def add(commands: Commands) -> None:
    """Add the command."""
    plan = commands.command(
        "plan", _plan, "Say what a run will need: memory, bytes sent, time, and which head."
    )
    plan.add_argument("settings", metavar="KEY=VALUE", nargs="+", help="identities=2e6 is needed")
    plan.more_help = _help


def _help() -> str:
    from topoface.planning.heads import EXPLAINED
    from topoface.planning.setting import Setting
    from topoface.recipe.schema import described, flatten, options_of

    heads = "".join(f"  {name}: {text}\n" for name, text in EXPLAINED.items())
    return f"{_EXAMPLE}{heads}\nWhat can be given:\n" + described(flatten(options_of(Setting).values()))


def _plan(arguments: argparse.Namespace) -> int:
    from topoface.planning.setting import read_setting

    setting = read_setting(arguments.settings)
    from topoface.planning.plan import make_plan  # brings torch, so after the cheap checks

    _print(make_plan(setting))
    return 0


def _print(plan: "Plan") -> None:
    from rich.console import Console
    from rich.table import Table

    from topoface.planning.heads import EXPLAINED

    setting, console = plan.setting, Console(soft_wrap=True, highlight=False)

    def table(title: str, *columns: str) -> Table:
        made = Table(title=title, title_justify="left")
        for number, column in enumerate(columns):
            made.add_column(column, justify="right" if number else "left")
        return made

    micro = f" in {setting.accumulation} micro-batches" if setting.accumulation > 1 else ""
    console.print(
        f"{setting.identities:,} identities, {setting.gpus} x {plan.device.name} ({plan.device.source}); "
        f"{setting.backbone}, {plan.backbone.parameters:,} parameters, {plan.backbone.flops / setting.micro_batch / 1e9:,.1f} GFLOP an image "
        f"and step; {setting.batch} images a device{micro}, {setting.images:,} a step; computed, not run"
    )
    heads = table("heads, one device", "head", "memory", "fits", "a step", "images/s")
    for name in EXPLAINED:
        if name in plan.refused:
            heads.add_row(name, *["refused"] * 4)
            continue
        head = plan.heads[name]
        heads.add_row(
            name,
            size(head.peak),
            "yes" if plan.fits(name) else "no",
            between(head.least_s, head.most_s),
            f"{setting.images / head.most_s:,.0f} to {setting.images / head.least_s:,.0f}",
        )
    console.print(heads)
    chosen = setting.head or plan.recommended or "chunked"
    parts = table(f"memory of one device with {chosen}", "what", "bytes")
    for what, count in plan.heads[chosen].memory.items():
        parts.add_row(what, size(count))
    parts.add_row("at the peak (not all of it at once)", size(plan.heads[chosen].peak))
    console.print(parts)
    if plan.heads[chosen].sent:
        sent = table(
            f"sent in a step with {chosen}", "what", "operation", "calls", "handed over", "on the wire"
        )
        for s in plan.heads[chosen].sent:
            sent.add_row(s.what, s.operation, f"{s.calls}", size(s.bytes), size(s.on_the_wire(setting.gpus)))
        console.print(sent)
    for sentence in plan.advice:
        console.print(sentence)


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if count >= factor:
            return f"{count / factor:,.1f} {unit}"
    return f"{count:,.0f} B"


def between(least: float, most: float) -> str:
    """Two times in seconds as people read them."""
    factor, unit = (1.0, "s") if most >= 10 else (1e3, "ms")
    return f"{least * factor:,.0f} to {most * factor:,.0f} {unit}"
