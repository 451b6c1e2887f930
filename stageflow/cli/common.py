"""Helpers of several commands: options, errors, files and the terminal."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stageflow._utils.arguments import Arguments, flag, not_negative, option
from stageflow._utils.extras import install_command
from stageflow._utils.text import printable
from stageflow.errors import LOGIC, SYSTEMIC, StageflowError


class UsageError(StageflowError, code="usage", traits=LOGIC):
    """An argument names something that does not exist or has the wrong type."""


class FileError(StageflowError, code="file", traits=SYSTEMIC):
    """A file could not be read or written."""

    def __init__(self, action: str, path: str, error: OSError | UnicodeError) -> None:
        reason = getattr(error, "strerror", None) or error
        super().__init__(f"cannot {action} {path}: {reason}")
        self.path = path


@contextmanager
def needing(extra: str) -> Iterator[None]:
    """Import modules of an extra in this block; a `UsageError` says how to install it."""
    try:
        yield
    except ModuleNotFoundError as error:
        fix = install_command(extra)
        raise UsageError(f"{error.name} is not installed: {fix}") from error


def add_pipeline(parser: Arguments, name: str = "pipeline", **more: Any) -> None:
    """Add the argument PIPELINE."""
    text = "voice, streaming_voice, chat, or module:attribute of your Pipeline"
    parser.add_argument(name, metavar="PIPELINE", help=text, **more)


def add_own_providers(parser: Arguments, default: str = "the fake ones by default") -> None:
    """Add ``--providers``."""
    text = "your ProviderRegistry, or a function that returns one"
    option(parser, "--providers MODULE:ATTRIBUTE", f"{text}; {default}")


def add_scale(parser: Arguments) -> None:
    """Add ``--scale``."""
    text = "multiply the latencies of fake providers by X; 0 for none (default: 1)"
    option(parser, "--scale X", text, type=not_negative, default=1.0)


def add_json(parser: Arguments, what: str = "the result") -> None:
    """Add ``--json``."""
    flag(parser, "--json", f"print {what} as JSON")


def add_color(parser: Arguments) -> None:
    """Add ``--color``."""
    text = "auto, always or never; auto obeys NO_COLOR and FORCE_COLOR (default: auto)"
    choices = ("auto", "always", "never")
    option(parser, "--color WHEN", text, choices=choices, default="auto")


def key_and_value(text: str) -> tuple[str, Any]:
    """Parse an option KEY=VALUE, whose value is JSON or else a string."""
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"{text!r} is not KEY=VALUE")
    try:
        return key, json.loads(value)
    except ValueError:
        return key, value


def wants_color(choice: str) -> bool:
    """Return whether to colour the output: by the option, else NO_COLOR, else FORCE_COLOR."""
    if choice != "auto":
        return choice == "always"
    if os.environ.get("NO_COLOR"):
        return False
    return bool(os.environ.get("FORCE_COLOR")) or sys.stdout.isatty()


def terminal_width() -> int:
    """Return how many columns the output may fill."""
    return shutil.get_terminal_size().columns


def say(text: str) -> None:
    """Write lines to the standard output; pass foreign text through `printable` first."""
    sys.stdout.write(f"{text}\n")


def say_json(value: object, indent: int | None = 2) -> None:
    """Write JSON to the standard output, with escapes for what would control a terminal."""
    text = json.dumps(value, indent=indent, ensure_ascii=False)
    say("".join(c if c == "\n" or c.isprintable() else json.dumps(c)[1:-1] for c in text))


def complain(text: str) -> None:
    """Write one line to the standard error, after the output so far."""
    sys.stdout.flush()
    sys.stderr.write(f"{printable(text)}\n")


def write_text(path: str, text: str) -> None:
    """Write a file; raises `FileError`."""
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise FileError("write", path, error) from error


def read_lines(path: str) -> Sequence[str]:
    """Return the lines of a file, or of the standard input for ``-``; raises `FileError`."""
    try:
        return sys.stdin.readlines() if path == "-" else Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeError) as error:
        raise FileError("read", path, error) from error
