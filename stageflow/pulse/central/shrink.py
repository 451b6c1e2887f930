"""Leave out what no eye can see: of many values, those that a chart of some pixels would show."""

from __future__ import annotations

from collections.abc import Sequence

#: How many columns a chart of a history has. Each shows its least and its greatest value, so that
#: no peak is lost.
COLUMNS = 600


def visible(values: Sequence[float | None], columns: int = COLUMNS) -> list[int]:
    """Indexes of the values to draw: the first, the last, and the extremes of each column.

    Args:
        values: What is drawn, from left to right; None where there is nothing.
        columns: How many columns there are.
    """
    there = [index for index, value in enumerate(values) if value is not None]
    if len(there) <= 2 * columns:
        return there
    kept = {there[0], there[-1]}
    for column in range(columns):
        part = there[column * len(there) // columns : (column + 1) * len(there) // columns]
        kept.add(min(part, key=lambda index: values[index] or 0.0))
        kept.add(max(part, key=lambda index: values[index] or 0.0))
    return sorted(kept)


def rounded(value: float | None) -> float | None:
    """A value with the six digits that are ever read."""
    return None if value is None else float(f"{value:.6g}")
