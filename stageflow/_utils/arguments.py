"""Options of commands, declared tersely, and types of their values."""

from __future__ import annotations

import argparse
import math
from typing import Any, TypeAlias

#: A parser, or a group of arguments in its help.
Arguments: TypeAlias = argparse._ActionsContainer


def option(parser: Arguments, names: str, text: str, **more: Any) -> None:
    """Add an option: its names and its metavar as one text, such as ``-o --output FILE``."""
    words = names.split()
    if not words[-1].startswith("-"):
        more["metavar"] = words.pop()
    parser.add_argument(*words, help=text, **more)


def flag(parser: Arguments, name: str, text: str) -> None:
    """Add an option without a value."""
    parser.add_argument(name, action="store_true", help=text)


def not_negative(text: str) -> float:
    """Parse an option that is a finite number, 0 or more."""
    number = float(text)
    if not 0 <= number < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a finite number of at least 0")
    return number


def positive(text: str) -> float:
    """Parse an option that is a finite number above 0."""
    number = not_negative(text)
    if number == 0:
        raise argparse.ArgumentTypeError("give a number above 0")
    return number


def whole(text: str) -> int:
    """Parse an option that is a whole number from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1; give a whole number from 1 up")
    return number
