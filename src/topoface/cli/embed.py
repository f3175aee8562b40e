"""``topoface embed``: store the embeddings of all images of a source."""

import argparse
from functools import partial
from pathlib import Path

from topoface.cli.output import image_progress, show_progress
from topoface.cli.parsing import Commands
from topoface.errors import UserError
from topoface.files import require_writable


def add(commands: Commands) -> None:
    """Add the command."""
    embed = commands.command("embed", _embed, "Store the embeddings of all images of a source, a row each.")
    embed.add_argument(
        "model", metavar="MODEL", help="a model directory, a .pt of arcface_torch, or an ONNX embedder"
    )
    embed.add_argument("uri", metavar="SOURCE", help="what data.train takes")
    embed.add_argument(
        "out", metavar="FILE.safetensors", type=Path, help="gets float32 [images, D], unit rows"
    )


def _embed(arguments: argparse.Namespace) -> int:
    if arguments.out.suffix != ".safetensors":
        raise UserError("is no .safetensors file", str(arguments.out), "name it so")
    require_writable(arguments.out)
    from topoface.data import open_source
    from topoface.evaluation.embedding import embed_source
    from topoface.evaluation.manifests.files import image_names
    from topoface.models.encoder import write_embeddings

    source = open_source(arguments.uri)
    with image_progress() as bar:
        show = partial(show_progress, bar, bar.add_task(arguments.uri, total=len(source)))
        rows = embed_source(arguments.model, source, progress=show)
    _, kind, name = image_names(source, arguments.out.parent)
    named = [name(i) if kind == "paths" else source.describe(i) for i in range(len(source))]
    write_embeddings(arguments.out, rows, fingerprint=source.fingerprint(), names=named)
    print(f"{rows.shape[0]:,} rows of {rows.shape[1]}: {arguments.out}")
    return 0
