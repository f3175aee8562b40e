"""The command line, thin: it parses, calls and prints. ``topoface --help`` imports nothing heavy."""

import argparse
import io
import os
import sys
from collections.abc import Sequence

import topoface
from topoface.cli import (
    clusters,
    codes,
    compare,
    doctor,
    embed,
    evaluate,
    look,
    pairs,
    plan,
    protocols,
    topology,
    train,
)
from topoface.cli.parsing import Commands, Parser
from topoface.errors import UserError

GROUPS = (train, plan, evaluate, protocols, compare, doctor, embed, look, topology, pairs, clusters, codes)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: arguments after the program's name; those of the process by default.

    Returns:
        The exit code: 0, 1 (some run of a study failed, or the doctor found something wrong), 2 (a mistake that the user can mend), 130 (CTRL-C).
    """
    # Threads of torch's OpenMP spin 300,000 rounds for work, and whoever shares the cores waits for them: beside one
    # busy process a training step took three to eight times as long. A short spin costs a tenth on idle cores.
    os.environ.setdefault("GOMP_SPINCOUNT", "2000")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a file name need not be UTF-8
    try:
        arguments = _parsed(argv)
        code: int = arguments.run(arguments)
        sys.stdout.flush()
    except UserError as error:
        print(f"topoface: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("topoface: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader, head or less, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    except OSError as error:  # a file or folder of the user: no rights, a name too long, no room
        if error.filename is None:
            raise
        named = os.fsdecode(error.filename) if isinstance(error.filename, bytes) else error.filename
        print(f"topoface: error: {named}: {error.strerror}; check the name and the rights", file=sys.stderr)
        return 2
    return code


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    arguments, unknown = _parser().parse_known_args(argv)
    if arguments.command == "train":  # argparse knows neither overrides with -- nor those behind an option
        arguments.overrides += unknown
    elif unknown:
        where = f"topoface {arguments.command}"
        raise UserError(f"unknown argument {unknown[0]}", where, f"see {where} --help")
    arguments.words = list(sys.argv[1:] if argv is None else argv)  # for reports, which show their command
    return arguments


def _parser() -> Parser:
    parser = Parser(prog="topoface", description=topoface.__doc__, allow_abbrev=False)
    parser.add_argument("--version", action="version", version=f"topoface {topoface.__version__}")
    commands = Commands(parser, "command")
    for group in GROUPS:
        group.add(commands)
    return parser
