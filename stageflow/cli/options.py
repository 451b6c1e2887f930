"""Parts that several commands share: options, their types, files and the terminal."""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeAlias

from stageflow.cli.errors import FileError
from stageflow.kernels.defaults import KNOWN_USER

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def described(
    commands: Commands, name: str, summary: str, examples: str
) -> argparse.ArgumentParser:
    """A new command whose help ends with examples."""
    return commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """Let the command take a pipeline."""
    parser.add_argument(
        "pipeline",
        metavar="PIPELINE",
        help="voice, streaming_voice, chat, or module:attribute of a Pipeline (or of a function"
        " that returns one)",
    )


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """Let the command take ``--user`` and ``--input``."""
    parser.add_argument("--user", help=f"id of the user (default: {KNOWN_USER})")
    parser.add_argument(
        "--input",
        action="append",
        type=key_and_value,
        default=[],
        metavar="KEY=VALUE",
        help="an input of the run, as JSON or else a string; may be repeated",
    )


def add_scale(parser: argparse.ArgumentParser) -> None:
    """Let the command take ``--scale``."""
    parser.add_argument(
        "--scale",
        type=not_negative,
        default=1.0,
        metavar="X",
        help="how slow the fake providers are; 0: instant (default: 1)",
    )


def add_color(parser: argparse.ArgumentParser) -> None:
    """Let the command take ``--color``."""
    parser.add_argument(
        "--color",
        choices=("auto", "always", "never"),
        default="auto",
        help="colour the output; auto: on a terminal, unless NO_COLOR is set, and elsewhere if"
        " FORCE_COLOR is",
    )


def wants_color(choice: str) -> bool:
    """Whether to colour the standard output: an option beats variables, NO_COLOR beats FORCE_COLOR.

    A variable that is empty counts as not set.
    """
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


_ANSI = {"red": 31, "green": 32, "yellow": 33}


def painted(text: str, hue: str, color: bool) -> str:
    """`text` in a colour (red, green, yellow), or as it is."""
    return f"\x1b[{_ANSI[hue]}m{text}\x1b[0m" if color else text


def terminal_width() -> int:
    """How many columns the output may fill."""
    return shutil.get_terminal_size().columns


def not_negative(text: str) -> float:
    """The type of an option that is a number from 0 up."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is no finite number from 0 up")
    return number


def positive(text: str) -> float:
    """The type of an option that is a number above 0."""
    number = not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("0 is too little; give a number above 0")
    return number


def key_and_value(text: str) -> tuple[str, Any]:
    """The type of an option ``KEY=VALUE``, whose value is JSON, or else a string."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def say(text: str) -> None:
    """Write `text` and a line's end to the standard output."""
    sys.stdout.write(f"{text}\n")


def complain(text: str) -> None:
    """Write `text` and a line's end to the standard error, after what has been said so far."""
    sys.stdout.flush()
    sys.stderr.write(f"{text}\n")


def write_text(path: str, text: str) -> None:
    """Write a file.

    Raises:
        FileError: It cannot be written.
    """
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError("write", path, error) from error


def read_lines(path: str) -> Iterable[str]:
    """The lines of a file, or of the standard input for ``-``.

    Raises:
        FileError: It cannot be read.
    """
    try:
        return sys.stdin.readlines() if path == "-" else Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise FileError("read", path, error) from error
