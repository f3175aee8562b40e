"""``topoface pairs``: the pairs of images that losses see, on one's own runs."""

import argparse
from pathlib import Path

from topoface.cli.output import import_from_here
from topoface.cli.parsing import Commands


def add(commands: Commands) -> None:
    """Add the commands."""
    group = commands.group(
        "pairs", "Look at the pairs of images that losses see: the figure of the UNPG paper."
    )
    actions = Commands(group, "action")

    distribution = actions.command(
        "distribution",
        _distribution,
        "Sampled negatives beside all pairs, genuine beside impostor pairs, and identities that may be one person.",
    )
    distribution.add_argument("runs", metavar="RUN", nargs="+", help="a run directory with a checkpoint")
    distribution.add_argument(
        "--samples", type=int, default=4096, metavar="N", help="training images (default 4096)"
    )
    distribution.add_argument(
        "--batches", type=int, default=50, metavar="K", help="of in-batch negatives (default 50)"
    )
    distribution.add_argument(
        "--count", type=int, default=12, metavar="C", help="pairs of identities shown (default 12)"
    )
    distribution.add_argument(
        "--out",
        type=Path,
        default=Path("runs/pairs/distribution"),
        metavar="DIR",
        help="default runs/pairs/distribution",
    )
    distribution.add_argument("--seed", type=int, default=0, metavar="S", help="draws the images (default 0)")


def _distribution(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.pairs.distribution import distribution

    import_from_here()
    distribution(
        arguments.runs,
        samples=arguments.samples,
        batches=arguments.batches,
        count=arguments.count,
        seed=arguments.seed,
        out=arguments.out,
    )
    return 0
