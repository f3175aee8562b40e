"""``topoface codes``: identity codes for GIF: make them, look at them, add identities, judge what a run learned of them."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from topoface.cli.output import import_from_here
from topoface.cli.parsing import Commands, Parser

if TYPE_CHECKING:
    from topoface.codes.build import Show
    from topoface.codes.table import CodeTable

_KINDS = ("rq", "aligned", "axis", "arbitrary", "shuffled", "random", "rs", "numeric")


def add(commands: Commands) -> None:
    """Add the commands."""
    actions = Commands(
        commands.group("codes", "Identity codes for GIF: build, look at, extend, decode."), "action"
    )
    _add_build(actions.command("build", _build, "Give every identity of a source a code vector and a code."))

    info = actions.command("info", _info, "What a table of codes holds.")
    info.add_argument("table", metavar="TABLE", help="a folder that build wrote")
    info.add_argument("--verify", action="store_true", help="also compare every file with its SHA-256")

    insert = actions.command(
        "insert", _insert, "Add the identities of another source; no code that exists changes."
    )
    insert.add_argument("table", metavar="TABLE", help="a folder that build wrote")
    insert.add_argument("source", metavar="SOURCE", help="what data.train takes")
    insert.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the new table")
    insert.add_argument(
        "--encoder", metavar="PATH", help="where the table's encoder lies now, or embeddings of SOURCE by it"
    )

    report = actions.command(
        "report", _report, "A page on a table: who shares a prefix, how vectors and tokens lie."
    )
    report.add_argument("table", metavar="TABLE", help="a folder that build wrote")
    report.add_argument(
        "--source", metavar="SOURCE", help="show its faces (default: what the table was built from)"
    )
    report.add_argument(
        "--run", dest="run_dir", metavar="RUN", help="compare with the class centers of this run"
    )
    report.add_argument(
        "--pairs", metavar="PAIRS", help="judge the table's encoder on these: what evaluation.pairs takes"
    )
    report.add_argument("--encoder", metavar="PATH", help="where the table's encoder lies now, for --pairs")
    report.add_argument("--count", type=int, default=6, metavar="K", help="prefixes shown (default 6)")
    report.add_argument(
        "--out", type=Path, default=Path("runs/codes/report"), metavar="DIR", help="default %(default)s"
    )
    report.add_argument(
        "--seed", type=int, default=0, metavar="S", help="draws prefixes and pairs (default 0)"
    )

    decode = actions.command(
        "decode", _decode, "Which training images a run with token classifiers spells right."
    )
    decode.add_argument(
        "run_dir", metavar="RUN", help="a run directory with an IdentityCode head and a checkpoint"
    )
    decode.add_argument(
        "--source",
        metavar="SOURCE",
        help="other images of the same identities (default: those it was trained on)",
    )
    decode.add_argument(
        "--samples", type=_samples, metavar="N", help="images looked at: a number, or all (default all)"
    )
    decode.add_argument("--width", type=int, default=8, metavar="W", help="of the beam (default 8)")
    decode.add_argument(
        "--count", type=int, default=24, metavar="K", help="doubtful faces shown (default 24)"
    )
    decode.add_argument(
        "--out", type=Path, default=Path("runs/codes/decoded"), metavar="DIR", help="default %(default)s"
    )
    decode.add_argument(
        "--seed", type=int, default=0, metavar="S", help="draws images and chance (default 0)"
    )


def _add_build(build: Parser) -> None:
    build.add_argument("source", metavar="SOURCE", help="what data.train takes")
    build.add_argument(
        "--encoder",
        required=True,
        metavar="PATH",
        help="a model directory, a .pt of arcface_torch, an ONNX embedder, what topoface embed wrote, a folder with a CLIP "
        "model, or random (the control)",
    )
    build.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the table; must not exist"
    )
    build.add_argument(
        "--preset",
        choices=("paper",),
        help="the published reading: no whitening, 1000 epochs of spreading, arbitrary tree of 20",
    )
    build.add_argument(
        "--dimension", type=int, metavar="D", help="of the embeddings to train (default: the encoder's)"
    )
    build.add_argument("--kind", choices=_KINDS, help="tokeniser (default rq)")
    build.add_argument("--shape", metavar="S", help="K, KxL or K1,K2,.. tokens (default: chosen by cost)")
    build.add_argument(
        "--alpha",
        type=_alpha,
        metavar="A",
        help="whitening, 0 to 1, or none: not even centered (default 0.25)",
    )
    build.add_argument("--shrink", choices=("none", "wiener"), help="trust few images less (default none)")
    build.add_argument("--max-images", type=int, metavar="N", help="of one identity (default 32)")
    build.add_argument(
        "--epochs", type=int, metavar="E", help="of spreading by the Gaussian potential (default 0)"
    )
    build.add_argument(
        "--step", choices=("row", "sum"), help="of spreading; sum is the published one (default row)"
    )
    build.add_argument("--seed", type=int, metavar="S", help="default 0")


def _samples(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is neither a whole number nor all")
    return int(text)


def _alpha(text: str) -> float | str:
    if text == "none":
        return text  # not None, which stands for "not given"
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number nor none") from None


def _build(arguments: argparse.Namespace) -> int:
    from topoface.codes.build import PAPER, BuildSettings, build
    from topoface.data import open_source

    names = ("dimension", "kind", "shape", "alpha", "shrink", "max_images", "epochs", "step", "seed")
    given = {name: getattr(arguments, name) for name in names}
    chosen: dict[str, Any] = dict(PAPER) if arguments.preset == "paper" else {}
    chosen |= {name: value for name, value in given.items() if value is not None}
    if chosen.get("alpha") == "none":
        chosen["alpha"] = None
    settings = BuildSettings(encoder=arguments.encoder, **chosen)
    settings.check()
    source = open_source(arguments.source)
    with _progress() as show:
        table = build(source, arguments.out, settings, show)
    _describe(table)
    return 0


def _info(arguments: argparse.Namespace) -> int:
    from topoface.codes.table import open_table

    table = open_table(arguments.table)
    if arguments.verify:
        table.folder.verify()
        print("every file is as it was written")
    _describe(table)
    return 0


def _insert(arguments: argparse.Namespace) -> int:
    from topoface.codes.extend import extend
    from topoface.codes.insertion import sibling_spread
    from topoface.codes.table import open_table
    from topoface.data import open_source

    table = open_table(arguments.table)
    with _progress() as show:
        made = extend(
            table, open_source(arguments.source), arguments.out, encoder=arguments.encoder, show=show
        )
    _describe(made)
    spread = sibling_spread(made.codes, made.alphabets)
    print(f"{made.num_identities - table.num_identities:,} identities added, no code changed")
    if spread > 2:
        print(
            f"the most frequent first token has {spread:.1f} times the identities of the rarest: for the next run, build anew"
        )
    return 0


def _report(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.codes.report import report

    import_from_here()
    report(
        arguments.table,
        source=arguments.source,
        run=arguments.run_dir,
        pairs=arguments.pairs,
        encoder=arguments.encoder,
        count=arguments.count,
        seed=arguments.seed,
        out=arguments.out,
    )
    return 0


def _decode(arguments: argparse.Namespace) -> int:
    from topoface.diagnostics.codes.decode import decode

    import_from_here()
    decode(
        arguments.run_dir,
        source=arguments.source,
        samples=arguments.samples,
        width=arguments.width,
        count=arguments.count,
        seed=arguments.seed,
        out=arguments.out,
    )
    return 0


def _describe(table: "CodeTable") -> None:
    from topoface.codes.description import describe

    for name, text in describe(table):
        print(f"{name + ':':<18}{text}")


@contextmanager
def _progress() -> "Iterator[Show]":
    """A bar for each stage, on the terminal's error stream."""
    from topoface.diagnostics.opening import progress_bar

    tasks: dict[str, Any] = {}
    with progress_bar("") as bar:

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=total)
            bar.update(tasks[what], completed=done, total=total)

        yield show
