"""``topoface protocols``: one's own faces as protocols that models are judged on."""

import argparse
from pathlib import Path

from topoface.cli.parsing import Commands


def add(commands: Commands) -> None:
    """Add the command."""
    protocols = commands.command(
        "protocols",
        _protocols,
        "Draw pairs, templates and a search from your own faces, as manifests that topoface evaluate takes.",
    )
    protocols.add_argument(
        "source", metavar="SOURCE", help="what data.train takes: a folder with one folder a person, ..."
    )
    protocols.add_argument("out", type=Path, metavar="OUT", help="folder to be made")
    protocols.add_argument(
        "--folds", type=int, default=10, metavar="N", help="of the pairs; they share nobody (default 10)"
    )
    protocols.add_argument(
        "--pairs", type=int, metavar="N", help="half of one person, half of two (default: up to 6000)"
    )
    protocols.add_argument(
        "--gallery-share",
        type=float,
        default=0.5,
        metavar="SHARE",
        help="of the people with two images who are in the gallery of the search (default 0.5)",
    )
    protocols.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of all that is drawn (default 0)"
    )


def _protocols(arguments: argparse.Namespace) -> int:
    from topoface.data import open_source
    from topoface.evaluation.manifests.drawing import draw_protocols

    record = draw_protocols(
        open_source(arguments.source),
        arguments.out,
        folds=arguments.folds,
        pairs=arguments.pairs,
        gallery_share=arguments.gallery_share,
        seed=arguments.seed,
    )
    for name, counts in record["files"].items():
        print(
            f"{arguments.out / name}: " + ", ".join(f"{number:,} {what}" for what, number in counts.items())
        )
    return 0
