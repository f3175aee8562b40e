"""``topoface evaluate`` and ``embed``: judge a model on pairs, templates and galleries, or store its embeddings."""

import argparse
import json
import shlex
import sys
from collections.abc import Callable, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from topoface.cli.output import image_progress, print_figures, show_progress
from topoface.cli.parsing import Commands
from topoface.errors import UserError, missing_extra
from topoface.files import write_text

if TYPE_CHECKING:
    import torch

    from topoface.evaluation import PairProtocol, Verification
    from topoface.evaluation.all_pairs import AllPairs, LabelledSet
    from topoface.evaluation.embedding import Embed
    from topoface.evaluation.features import Features
    from topoface.evaluation.template_protocol import TemplateProtocol
    from topoface.evaluation.templates import TemplateVerification

    Result = Verification | TemplateVerification | AllPairs

ALL_PAIRS = "all-pairs:"
WEIGHTINGS = ("detector+norm", "detector", "norm", "none")


def add(commands: Commands) -> None:
    """Add the command."""
    evaluate = commands.command(
        "evaluate",
        _evaluate,
        "Judge a model on pairs, on templates and galleries (IJB-B, IJB-C), or on all pairs of a set.",
    )
    evaluate.add_argument(
        "model",
        metavar="MODEL",
        help="a model directory, a .pt of arcface_torch, or an ONNX embedder; but for pairs also features on disk: "
        "a .npy or .safetensors with a row for each image of the list",
    )
    evaluate.add_argument(
        "protocols",
        metavar="PROTOCOL",
        nargs="+",
        help="what evaluation.pairs takes: a .bin, a manifest, IMAGES::PAIRS; a folder in the layout of IJB-C; "
        "or all-pairs:SOURCE, every pair of what data.train takes",
    )
    evaluate.add_argument("--report", type=Path, metavar="FILE", help="also write an HTML report (of pairs)")
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="also write every figure as JSON")
    evaluate.add_argument(
        "--bootstrap", type=int, default=1000, metavar="N", help="replicates (default 1000; 0: none)"
    )
    evaluate.add_argument("--no-flip", action="store_true", help="do not average with the mirrored image")
    evaluate.add_argument(
        "--weighting",
        choices=WEIGHTINGS,
        default=WEIGHTINGS[0],
        help=f"how much an image counts in its template (default {WEIGHTINGS[0]})",
    )
    evaluate.add_argument(
        "--cache",
        metavar="DIR",
        help="where features are kept, but those of pairs (default ~/.cache/topoface/features; none: nowhere)",
    )

    embed = commands.command("embed", _embed, "Store the embeddings of all images of a source, a row each.")
    embed.add_argument(
        "model", metavar="MODEL", help="a model directory, a .pt of arcface_torch, or an ONNX embedder"
    )
    embed.add_argument("uri", metavar="SOURCE", help="what data.train takes")
    embed.add_argument(
        "out", metavar="FILE.safetensors", type=Path, help="gets float32 [images, D], unit rows"
    )


def _evaluate(arguments: argparse.Namespace) -> int:
    _check_options(arguments)
    from topoface.evaluation import PairProtocol, Verification, verify
    from topoface.evaluation.all_pairs import judge_all_pairs
    from topoface.evaluation.template_protocol import TemplateProtocol
    from topoface.evaluation.templates import judge_templates
    from topoface.training.distributed import choose_device

    protocols = [_open(uri) for uri in arguments.protocols]
    others = [protocol.name for protocol in protocols if not isinstance(protocol, PairProtocol)]
    if arguments.report and others:
        raise UserError("shows lists of pairs only", "--report", f"write {others[0]} with --json")
    device = choose_device("auto")
    print(f"judging on {device}", file=sys.stderr)
    embed = _pair_embed(arguments.model, device) if len(others) < len(protocols) else None
    results: list[Result] = []
    with image_progress() as bar:
        for protocol in protocols:
            show = partial(show_progress, bar, bar.add_task(protocol.name, total=None))
            if isinstance(protocol, PairProtocol):
                assert embed is not None
                flip = not arguments.no_flip
                results.append(
                    verify(embed, protocol, flip=flip, bootstrap=arguments.bootstrap, progress=show)
                )
                continue
            features = _features(arguments, protocol, device, show)
            if isinstance(protocol, TemplateProtocol):
                results.append(judge_templates(features, protocol, weighting=arguments.weighting))
            else:
                results.append(judge_all_pairs(features, protocol, progress=show))
    pairs = [result for result in results if isinstance(result, Verification)]
    if pairs:
        print_figures(pairs)
    for result in results:
        if not isinstance(result, Verification):
            _print_plain(result)
    if arguments.json:
        write_text(arguments.json, json.dumps([result.to_json() for result in results], indent=1))
    if arguments.report:
        _write_report(arguments, pairs)
    return 0


def _open(uri: str) -> "PairProtocol | TemplateProtocol | LabelledSet":
    from topoface.evaluation import open_protocol
    from topoface.evaluation.all_pairs import open_labelled
    from topoface.evaluation.ijb import is_ijb, open_ijb

    if uri.startswith(ALL_PAIRS):
        return open_labelled(uri.removeprefix(ALL_PAIRS))
    return open_ijb(Path(uri)) if is_ijb(Path(uri)) else open_protocol(uri)


def _check_options(arguments: argparse.Namespace) -> None:
    if arguments.bootstrap < 0:
        raise UserError(f"is {arguments.bootstrap}", "--bootstrap", "give 0 for none, or more")
    for out in (arguments.json, arguments.report):
        if out and not out.resolve().parent.is_dir():
            raise UserError("is in no folder that exists", str(out), "make the folder first")
    if arguments.report and not (find_spec("jinja2") and find_spec("matplotlib")):
        raise missing_extra("matplotlib", "report", "--report")


def _pair_embed(model: str, device: "torch.device") -> "Embed":
    """What embeds the images of pairs."""
    from topoface.evaluation.features import STORED, open_embed
    from topoface.models import load

    if model.endswith(STORED):
        raise UserError(
            "holds features, and pairs need a model", model, "give a model, or a folder of templates"
        )
    return open_embed(model, device)[0] if model.endswith(".onnx") else load(model, device=device).embed


def _features(
    arguments: argparse.Namespace,
    protocol: "TemplateProtocol | LabelledSet",
    device: "torch.device",
    show: Callable[[int, int], None],
) -> "Features":
    """Read from the file named as the model, or made by the model, or kept from before."""
    from topoface.evaluation.all_pairs import LabelledSet
    from topoface.evaluation.features import STORED, default_cache, model_features, read_features

    if arguments.model.endswith(STORED):
        source = protocol.fingerprint if isinstance(protocol, LabelledSet) else None
        return read_features(Path(arguments.model), len(protocol.images), source=source)
    return model_features(
        arguments.model,
        protocol.images,
        stamps=protocol.stamps(),
        flip=not arguments.no_flip,
        cache=None if arguments.cache == "none" else Path(arguments.cache or default_cache()),
        device=device,
        progress=show,
    )


def _print_plain(result: "TemplateVerification | AllPairs") -> None:
    """A table of the figures, and below it what they rest on and what limits them."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title=result.name, title_justify="left")
    table.add_column("figure")
    table.add_column("%", justify="right")
    for name, value in result.summary().items():
        table.add_row(name, f"{100 * value:.2f}")
    console = Console()
    console.print(table)
    shown = [key for key in ("features", "alignment", "weight of an image") if key in result.contract]
    for line in (
        *(f"{key}: {result.contract[key]}" for key in shown),
        *(f"{result.name}: {warning}" for warning in result.warnings),
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _write_report(arguments: argparse.Namespace, results: "Sequence[Verification]") -> None:
    from topoface.evaluation.report import ModelEntry, ReportInput, write_report

    name = Path(arguments.model).name
    write_report(
        arguments.report,
        ReportInput(
            title=f"{name} on {', '.join(result.name for result in results)}",
            models=[ModelEntry(name=name, verifications=results)],
            command=shlex.join(["topoface", "evaluate", arguments.model, *arguments.protocols]),
        ),
    )


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
