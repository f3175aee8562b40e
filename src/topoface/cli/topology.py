"""``topoface topology``: the figures of the TopoFR paper as commands, on one's own faces and models."""

import argparse
from pathlib import Path

from topoface.cli.output import import_from_here
from topoface.cli.parsing import Commands, Parser

FACES = "a source of faces (what data.train takes) or verification pairs (what evaluation.pairs takes)"


def add(commands: Commands) -> None:
    """Add the commands."""
    group = commands.group(
        "topology", "Look at the topology of faces and models: the figures of the TopoFR paper."
    )
    actions = Commands(group, "action")

    diagram = actions.command(
        "diagram", _diagram, "Persistence diagrams of the input space at growing sample sizes, beside a null."
    )
    diagram.add_argument("faces", metavar="FACES", help=FACES)
    diagram.add_argument(
        "--sizes",
        type=int,
        nargs="+",
        default=[25, 50, 100, 1000],
        metavar="N",
        help="images (default 25 50 100 1000)",
    )
    diagram.add_argument(
        "--homology",
        type=int,
        choices=[0, 1, 2],
        help="highest dimension (1 and 2 need ripser; default 1 with it, 0 without)",
    )
    _common(diagram)

    discrepancy = actions.command(
        "discrepancy",
        _discrepancy,
        "How far the structure of embeddings is from that of their images, over many batches.",
    )
    discrepancy.add_argument("faces", metavar="FACES", help=FACES)
    discrepancy.add_argument(
        "models", metavar="MODEL", nargs="+", help="a model directory, run directory or .pt file"
    )
    discrepancy.add_argument(
        "--sizes", type=int, nargs="+", default=[128], metavar="N", help="images in a batch (default 128)"
    )
    discrepancy.add_argument(
        "--batches", type=int, default=100, metavar="K", help="of each size (default 100)"
    )
    _common(discrepancy)

    curve = actions.command(
        "curve", _curve, "Discrepancy, scale and tree overlap over training, from the logs of runs."
    )
    curve.add_argument("runs", metavar="RUN", nargs="+", help="a run directory, or its metrics.jsonl")
    _out_option(curve)

    hardness = actions.command(
        "hardness",
        _hardness,
        "The mixture over entropies, and how well it tells samples that are classified wrongly.",
    )
    hardness.add_argument("run_dir", metavar="RUN", help="a run directory with a checkpoint")
    hardness.add_argument(
        "--samples", type=int, default=4096, metavar="N", help="training images (default 4096)"
    )
    _common(hardness)

    gallery = actions.command(
        "gallery", _gallery, "The hardest training faces with hardness, probability and weight."
    )
    gallery.add_argument("run_dir", metavar="RUN", help="a run directory with a checkpoint")
    gallery.add_argument(
        "--baseline", metavar="RUN", help="also show what this run classifies wrongly and RUN does not"
    )
    gallery.add_argument(
        "--samples", type=int, default=4096, metavar="N", help="training images (default 4096)"
    )
    gallery.add_argument(
        "--count", type=int, default=24, metavar="K", help="faces shown of each kind (default 24)"
    )
    _common(gallery)

    sweep = actions.command(
        "sweep",
        _sweep,
        "Run a study whose grid has one or two keys (alpha and xi, say), and draw what came out.",
    )
    sweep.add_argument("file", metavar="STUDY.yaml", type=Path)
    _out_option(sweep)


def _common(parser: Parser) -> None:
    _out_option(parser)
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="draws the images (default 0)")


def _out_option(parser: Parser) -> None:
    parser.add_argument("--out", type=Path, metavar="DIR", help="default runs/topology/ACTION")


def _out(arguments: argparse.Namespace) -> Path:
    out: Path = arguments.out or Path("runs/topology") / arguments.action
    return out


def _diagram(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.topology.diagram import diagram

    diagram(
        arguments.faces,
        sizes=arguments.sizes,
        homology=arguments.homology,
        seed=arguments.seed,
        out=_out(arguments),
    )
    return 0


def _discrepancy(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.topology.discrepancy import discrepancy

    discrepancy(
        arguments.faces,
        arguments.models,
        sizes=arguments.sizes,
        batches=arguments.batches,
        seed=arguments.seed,
        out=_out(arguments),
    )
    return 0


def _curve(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.topology.curve import curve

    curve(arguments.runs, out=_out(arguments))
    return 0


def _hardness(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.topology.hardness import hardness

    import_from_here()
    hardness(arguments.run_dir, samples=arguments.samples, seed=arguments.seed, out=_out(arguments))
    return 0


def _gallery(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.topology.gallery import gallery

    import_from_here()
    gallery(
        arguments.run_dir,
        baseline=arguments.baseline,
        samples=arguments.samples,
        count=arguments.count,
        seed=arguments.seed,
        out=_out(arguments),
    )
    return 0


def _sweep(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.topology.sweep import sweep

    import_from_here()
    return sweep(arguments.file, out=_out(arguments))
