"""``topoface clusters``: training images as clusters around their identities."""

import argparse
from pathlib import Path

from topoface.cli.output import import_from_here
from topoface.cli.parsing import Commands


def add(commands: Commands) -> None:
    """Add the commands."""
    group = commands.group(
        "clusters", "Look at training images as clusters: agreement with labels, labels to doubt."
    )
    report = Commands(group, "action").command(
        "report",
        _report,
        "How hard images sit in their clusters, which labels look wrong, which identities look like one.",
    )
    report.add_argument("run_dir", metavar="RUN", help="a run directory with a checkpoint")
    report.add_argument(
        "--samples",
        type=_samples,
        metavar="N",
        help="training images, in whole identities: a number, or all (default all)",
    )
    report.add_argument(
        "--count", type=int, default=24, metavar="K", help="faces and pairs of identities shown (default 24)"
    )
    report.add_argument(
        "--planted",
        metavar="CSV",
        help="index,true label of images whose label is known to be wrong: judge the scores",
    )
    report.add_argument(
        "--held-out",
        metavar="URI",
        help="faces of other people: cluster these without labels, not the training images",
    )
    report.add_argument(
        "--out", type=Path, default=Path("runs/clusters/report"), metavar="DIR", help="default %(default)s"
    )
    report.add_argument(
        "--seed", type=int, default=0, metavar="S", help="draws identities and chance (default 0)"
    )


def _samples(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor all")
    return int(text)


def _report(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.clusters.report import report

    import_from_here()
    report(
        arguments.run_dir,
        samples=arguments.samples,
        count=arguments.count,
        planted=arguments.planted,
        held_out=arguments.held_out,
        seed=arguments.seed,
        out=arguments.out,
    )
    return 0
