"""``topoface doctor``: which input contract fits a model, and what is wrong with the data."""

import argparse
import json
from functools import partial
from pathlib import Path

from topoface.cli.output import image_progress, show_progress
from topoface.cli.parsing import Commands
from topoface.errors import UserError
from topoface.files import require_writable, write_text


def add(commands: Commands) -> None:
    """Add the command."""
    doctor = commands.command(
        "doctor",
        _doctor,
        "Say which input contract fits a model and what is wrong with the pairs: colour, alignment, duplicates, overlap. "
        "Exit code 1 if something is.",
    )
    doctor.add_argument(
        "model", metavar="MODEL", help="a model directory, a .pt of arcface_torch, or an ONNX embedder"
    )
    doctor.add_argument(
        "data", metavar="DATA", help="pairs: a .bin, a manifest, IMAGES::PAIRS, a folder in the layout of RFW"
    )
    doctor.add_argument(
        "--train", metavar="SOURCE", help="what data.train takes: look for test images among these"
    )
    doctor.add_argument(
        "--pairs",
        type=int,
        default=300,
        metavar="N",
        help="that contract and alignment are judged by (default 300)",
    )
    doctor.add_argument("--seed", type=int, default=0, metavar="S", help="draws those pairs (default 0)")
    doctor.add_argument(
        "--json", type=Path, metavar="FILE", help="also write all findings with their figures"
    )


def _doctor(arguments: argparse.Namespace) -> int:
    if arguments.pairs < 20:
        raise UserError(f"is {arguments.pairs}", "--pairs", "ask for 20 or more")
    if arguments.json:
        require_writable(arguments.json)
    from topoface.data import open_source
    from topoface.diagnostics.doctor.examination import examine
    from topoface.diagnostics.doctor.network import open_network
    from topoface.diagnostics.doctor.report import lines, to_json
    from topoface.evaluation import open_protocol
    from topoface.training.distributed import choose_device

    protocol = open_protocol(arguments.data)
    train = open_source(arguments.train) if arguments.train else None
    network = open_network(arguments.model, choose_device("auto"))
    with image_progress() as bar:
        found = examine(
            network,
            protocol,
            train=train,
            pairs=arguments.pairs,
            seed=arguments.seed,
            step=lambda title: partial(show_progress, bar, bar.add_task(title, total=None)),
        )
    if arguments.json:
        facts = {name: getattr(arguments, name) for name in ("model", "data", "train", "pairs", "seed")}
        write_text(arguments.json, json.dumps(to_json(found, facts), indent=1))
    print("\n".join(lines(found)))
    return int(any(finding.level == "wrong" for finding in found))
