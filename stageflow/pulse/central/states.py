"""The states of circuit breakers over time, one line for each provider."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from stageflow.telemetry.store import BreakerTurn

#: From the best to the worst.
STATES = ("closed", "half_open", "open")
#: The newest so many changes of a provider are listed; all are counted.
CHANGES = 20


def timelines(
    changes: Sequence[BreakerTurn], window_s: tuple[float, float], columns: int
) -> list[dict[str, Any]]:
    """For each provider, since when it has been in which state.

    A provider's breakers in several processes are shown as one, in the worst state of any. Where
    a chart of so many columns cannot show all changes, a column shows the worst state within it.

    Args:
        changes: In order of time, with the last of each breaker before the window.
        window_s: Begin and end of what is shown.
        columns: Into how many columns a chart divides it.
    """
    by_provider: defaultdict[str, list[BreakerTurn]] = defaultdict(list)
    for change in changes:
        by_provider[change.provider].append(change)
    start_s, _ = window_s
    return [
        {
            "provider": provider,
            "segments": _thinned(_merged(turns, start_s), window_s, columns),
            "changes": sum(turn.at_s >= start_s for turn in turns),
            "newest": [asdict(turn) for turn in turns[: -CHANGES - 1 : -1]],
        }
        for provider, turns in sorted(by_provider.items())
    ]


def _merged(turns: Sequence[BreakerTurn], start_s: float) -> list[tuple[float, int]]:
    """When the worst state of all sources changed, and to what."""
    by_source: dict[str, int] = {}
    found: list[tuple[float, int]] = [(start_s, 0)]
    for turn in turns:
        by_source[turn.source] = STATES.index(turn.after)
        worst = max(by_source.values())
        if turn.at_s <= start_s:
            found[0] = (start_s, worst)
        elif worst != found[-1][1]:
            found.append((turn.at_s, worst))
    return found


def _thinned(
    segments: list[tuple[float, int]], window_s: tuple[float, float], columns: int
) -> list[tuple[float, int]]:
    if len(segments) <= 2 * columns:
        return segments
    start_s, end_s = window_s
    width_s = (end_s - start_s) / columns
    worst = [0] * columns
    for (at_s, state), (until_s, _) in zip(segments, [*segments[1:], (end_s, 0)], strict=True):
        last = min(int((until_s - start_s) / width_s), columns - 1)
        for column in range(min(int((at_s - start_s) / width_s), columns - 1), last + 1):
            worst[column] = max(worst[column], state)
    thinned: list[tuple[float, int]] = []
    for column, state in enumerate(worst):
        if not thinned or thinned[-1][1] != state:
            thinned.append((start_s + column * width_s, state))
    return thinned
