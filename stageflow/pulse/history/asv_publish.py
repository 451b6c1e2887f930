"""Run a command of asv so that ``asv publish`` takes time by the number of values, and not more.

A program of its own, run by its path, since the measured repository's package may have any name.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

from asv import graph, step_detect  # type: ignore[import-untyped]

#: Steps are searched among this many of the newest values of a series.
SEARCHED = 1000


def _get_graph(
    self: Any, name: str, params: dict[str, Any], find: Any = graph.GraphSet.get_graph
) -> Any:
    """Find a graph by its parameters; asv makes a path of them for each value."""
    known, key = vars(self).setdefault("known", {}), (name, tuple(params.items()))
    if key not in known:
        known[key] = find(self, name, params)
    return known[key]


def _get_data(self: Any, find: Any = graph.Graph.get_data) -> Any:
    """Return a graph's values in order; asv sorts them for each of the pages that show them."""
    count = sum(map(len, self.data_points.values()))
    if "in_order" not in vars(self) or self.in_order[0] != count:
        self.in_order = (count, find(self))
    return self.in_order[1]


def _steps(y: list[Any], w: list[Any] | None = None, find: Any = step_detect.detect_steps) -> Any:
    """Find the steps among the newest values; the first level reaches back to the oldest."""
    first = max(0, len(y) - SEARCHED)
    found = find(y[first:], w and w[first:])
    steps = [(left + first, right + first, *level) for left, right, *level in found]
    return [(0, *steps[0][1:]), *steps[1:]] if first and steps else steps


# asv's workers load this file, too.
graph.GraphSet.get_graph, graph.Graph.get_data = _get_graph, _get_data
step_detect.detect_steps = _steps

if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))
    importlib.import_module("asv.main").main()
