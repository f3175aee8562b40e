"""The command line on several processes."""

from topoface import cli


def main(*words: str) -> None:
    assert cli.main(list(words)) == 0
