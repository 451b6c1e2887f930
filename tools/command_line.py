"""Write the reference of the command line, docs/reference/command-line.md, from its parsers."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

from stageflow.cli import make_parser

PAGE = Path(__file__).resolve().parents[1] / "docs" / "reference" / "command-line.md"

_HEAD = """\
# Command line

The help of each command, as `stageflow COMMAND --help` prints it. `python -m stageflow` is the
same program.
"""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield a parser and those of its commands, in the order of the help."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in dict.fromkeys(action.choices.values()):
                yield from parsers(command)


def page() -> str:
    """Return the page; nothing of this machine's environment is in it."""
    plain = {"COLUMNS": "100", "NO_COLOR": "1", "PATH": os.environ.get("PATH", "")}
    with mock.patch.dict(os.environ, plain, clear=True):
        helps = {parser.prog: parser.format_help() for parser in parsers(make_parser())}
    lines = {name: [line.rstrip() for line in text.splitlines()] for name, text in helps.items()}
    whole = {name: "\n".join(text) for name, text in lines.items()}
    parts = [f"## {name}\n\n```text\n{text}\n```\n" for name, text in whole.items()]
    return "\n".join((_HEAD, *parts))


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(prog="python -m tools.command_line", description=__doc__).parse_args()
    PAGE.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
