"""Numbers and words, made to fit a chart."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Mapping

#: What shows a status to those who see no colour, by status.
SIGNS: Mapping[str, str] = {
    "completed": "✓",
    "failed": "✗",
    "skipped": "↷",
    "cancelled": "⊘",
    "running": "…",
    "never started": "·",
    "waiting": "·",
}


def signs_of(statuses: set[str]) -> list[str]:
    """The signs of those statuses, each with what it means."""
    return [f"{sign} {status}" for status, sign in SIGNS.items() if status in statuses]


def axis_unit(total_ms: float) -> tuple[str, float]:
    """The unit of an axis that is `total_ms` long, and its length in milliseconds."""
    return ("s", 1000.0) if total_ms >= 10_000 else ("ms", 1.0)


def ticks_ms(total_ms: float, most: int) -> list[float]:
    """Round moments from 0 to `total_ms`, in steps of 1, 2 or 5 times a power of ten.

    Args:
        total_ms: Where the axis ends, in milliseconds.
        most: How many steps there may be; at least 1.
    """
    if total_ms <= 0:
        return [0.0]
    least = total_ms / max(most, 1)
    power = 10.0 ** math.floor(math.log10(least))
    step = next((factor * power for factor in (1, 2, 5) if factor * power >= least), 10 * power)
    # The sum of roundings must not cost the last tick.
    count = math.floor(total_ms / step + 1e-9)
    return [number * step for number in range(count + 1)]


def format_ms(duration_ms: float) -> str:
    """A duration given in milliseconds, in a unit and to a precision that can be read."""
    if duration_ms == 0:
        return "0 ms"
    if duration_ms < 10:
        return f"{duration_ms:.2f} ms"
    return f"{duration_ms:.1f} ms" if duration_ms < 10_000 else f"{duration_ms / 1000:.1f} s"


def printable(text: str) -> str:
    """`text` on one line, with a mark for what would move the cursor or is no XML."""
    return "".join(map(_shown, text))


def _shown(character: str) -> str:
    if character in "\t\n\r":
        return " "
    return character if character.isprintable() else "\N{REPLACEMENT CHARACTER}"


def columns(text: str) -> int:
    """How many columns of a terminal `text` takes."""
    return sum(map(_columns_of, text))


def _columns_of(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


def fit(text: str, width: int) -> str:
    """`text` in exactly `width` columns; its middle gives way, for ends tell names apart."""
    if columns(text) > width:
        head, tail = text[: len(text) // 2], text[len(text) // 2 :]
        while columns(head) + 1 + columns(tail) > width:
            if columns(head) > columns(tail):
                head = head[:-1]
            else:
                tail = tail[1:]
        text = f"{head}…{tail}"
    return text + " " * (width - columns(text))
