"""The parser: mistakes in one line, and commands that the other files of this room add."""

import argparse
from collections.abc import Callable
from typing import Any, NoReturn

from topoface.errors import UserError

Run = Callable[[argparse.Namespace], int]


class Parser(argparse.ArgumentParser):
    """Argparse whose mistakes are one line like all others, and whose help may have a part made on demand."""

    more_help: Callable[[], str] = staticmethod(lambda: "")

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(message, self.prog, f"see {self.prog} --help")

    def format_help(self) -> str:
        """Argparse's own, and more."""
        return super().format_help() + self.more_help()


class Commands:
    """A level of commands below a parser.

    Args:
        parser: gets them.
        dest: where the parsed arguments keep the name of the chosen one.
    """

    def __init__(self, parser: Parser, dest: str) -> None:
        self._made: Any = parser.add_subparsers(dest=dest, required=True, metavar=dest.upper())

    def command(self, name: str, run: Run, text: str) -> Parser:
        """A command that calls ``run`` with its arguments and returns the exit code."""
        made = self.group(name, text)
        made.set_defaults(run=run)
        return made

    def group(self, name: str, text: str) -> Parser:
        """A word that has commands of its own below it."""
        made: Parser = self._made.add_parser(name, help=text, description=text, allow_abbrev=False)
        return made
