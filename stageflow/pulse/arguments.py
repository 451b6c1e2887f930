"""The commands of pulse: how each is added, and options that several have."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeAlias

from stageflow._utils.arguments import option
from stageflow.telemetry import place

#: `add_command` without its first argument.
Add: TypeAlias = Callable[..., argparse.ArgumentParser]
#: Write a line to the standard output at once.
emit: Callable[[str], None] = partial(print, flush=True)


def add_command(
    subparsers: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    short: str,
    run: Callable[[argparse.Namespace], int | None],
    *,
    in_repository: bool = True,
) -> argparse.ArgumentParser:
    """Add a command, with ``--repository`` if it works on a clone.

    `run` gets the parsed arguments and returns the exit code, or None for 0. It raises
    `PulseError` for what the user can fix.
    """
    parser = subparsers.add_parser(name, help=short)
    if in_repository:
        text = "the clone with asv.conf.json (default: the current folder)"
        option(parser, "--repository FOLDER", text, type=Path, default=Path())
    parser.set_defaults(run=run)
    return parser


def add_store(parser: argparse.ArgumentParser, what: str) -> None:
    """Add ``--store``: the telemetry that a command reads."""
    text = f"{what}: a SQLite file, or postgresql://user@host/database"
    option(parser, "--store STORE", text, type=place)
