"""``topoface evaluate`` and ``embed``: judge a model on verification pairs, or store its embeddings."""

import argparse
import json
import shlex
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from topoface.cli.output import image_progress, print_figures, show_progress
from topoface.cli.parsing import Commands
from topoface.errors import UserError, missing_extra
from topoface.files import write_text


def add(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.command("evaluate", _evaluate, "Judge a model on verification pairs.")
    evaluate.add_argument(
        "model", metavar="MODEL", help="a model directory, or a state dict of arcface_torch (.pt)"
    )
    evaluate.add_argument(
        "protocols",
        metavar="PROTOCOL",
        nargs="+",
        help="what evaluation.pairs takes: a .bin, a manifest, IMAGES::PAIRS",
    )
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="also write an HTML report")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write every figure as JSON")
    evaluate.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="replicates (default 1000; 0: none)"
    )
    evaluate.add_argument("--no-flip", action="store_true", help="do not average with the mirrored image")

    embed = commands.command("embed", _embed, "Store the embeddings of all images of a source, a row each.")
    embed.add_argument(
        "model", metavar="MODEL", help="a model directory, a .pt of arcface_torch, or an ONNX embedder"
    )
    embed.add_argument("uri", metavar="SOURCE", help="what data.train takes")
    embed.add_argument(
        "out", metavar="FILE.safetensors", type=Path, help="gets float32 [images, D], unit rows"
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    if arguments.bootstrap < 0:
        raise UserError(f"is {arguments.bootstrap}", "--bootstrap", "give 0 for none, or more")
    for out in (arguments.json, arguments.report):
        if out and not out.resolve().parent.is_dir():
            raise UserError("is in no folder that exists", str(out), "make the folder first")
    if arguments.report and not (find_spec("jinja2") and find_spec("matplotlib")):
        raise missing_extra("matplotlib", "report", "--report")
    from topoface.evaluation import open_protocol, verify
    from topoface.models import load
    from topoface.training.distributed import choose_device

    protocols = [open_protocol(uri) for uri in arguments.protocols]
    device = choose_device("auto")
    print(f"judging on {device}", file=sys.stderr)
    model = load(arguments.model, device=device)
    results = []
    with image_progress() as bar:
        for protocol in protocols:
            show = partial(show_progress, bar, bar.add_task(protocol.name, total=None))
            flip = not arguments.no_flip
            results.append(
                verify(model.embed, protocol, flip=flip, bootstrap=arguments.bootstrap, progress=show)
            )
    print_figures(results)
    if arguments.json:
        write_text(arguments.json, json.dumps([result.to_json() for result in results], indent=1))
    if arguments.report:
        from topoface.evaluation.report import ModelEntry, ReportInput, write_report

        write_report(
            arguments.report,
            ReportInput(
                title=f"{Path(arguments.model).name} on {', '.join(result.name for result in results)}",
                models=[ModelEntry(name=Path(arguments.model).name, verifications=results)],
                command=shlex.join(["topoface", "evaluate", arguments.model, *arguments.protocols]),
            ),
        )
    return 0


def _embed(arguments: argparse.Namespace) -> int:
    if arguments.out.suffix != ".safetensors" or not arguments.out.resolve().parent.is_dir():
        raise UserError(
            "is no .safetensors file in a folder that exists", str(arguments.out), "make the folder first"
        )
    from topoface.data import open_source
    from topoface.evaluation.embedding import embed_source
    from topoface.models.encoder import write_embeddings

    source = open_source(arguments.uri)
    with image_progress() as bar:
        show = partial(show_progress, bar, bar.add_task(arguments.uri, total=len(source)))
        rows = embed_source(arguments.model, source, progress=show)
    write_embeddings(arguments.out, rows, fingerprint=source.fingerprint())
    print(f"{rows.shape[0]:,} rows of {rows.shape[1]}: {arguments.out}")
    return 0
