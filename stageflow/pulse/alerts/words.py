"""Figures and times as a person reads them."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(seconds: float) -> str:
    """A time in seconds since the epoch, in words."""
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M} UTC"


def span(seconds: float) -> str:
    """A length of time in words, in the largest unit that leaves no fraction."""
    for unit, size in (("h", 3600), ("min", 60)):
        if seconds >= size and not seconds % size:
            return f"{seconds // size:g} {unit}"
    return f"{seconds:g} s"


def share(value: float) -> str:
    """A share in per cent, with three digits that count."""
    return f"{value * 100:.3g} %"


def milliseconds(value: float) -> str:
    """A duration with three digits that count, as a histogram tells no more."""
    return f"{float(f'{value:.3g}'):,.10g} ms"
