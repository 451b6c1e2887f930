"""Measure single series, exact or counted, by their names.

asv counts all operations at once, since a start under valgrind takes seconds. A search for the
commit that made one of them slower needs that one alone.
"""

from __future__ import annotations

import ast
import importlib
import math
from collections.abc import Sequence
from typing import Any

from benchmarks._lib.callgrind import Count, TooBusyError, count

AREAS = ("counted", "exact")


def measure(series: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Measure series such as ``counted.Operation.track_instructions('bag.write')``.

    Args:
        series: Names as asv writes them: module, class, method, and parameters if there are any.

    Returns:
        By series ``{"value": …}``, ``{"missing": …}`` where this commit or machine lacks something
        for it, ``{"error": …}`` where it raised or there is no such series, or ``{"late": …}``
        where counting did not end in time.
    """
    parsed: dict[str, tuple[Any, str, tuple[Any, ...]]] = {}
    found: dict[str, dict[str, Any]] = {}
    for name in series:
        try:
            parsed[name] = _parse(name)
        except (AttributeError, ImportError, SyntaxError, ValueError) as error:
            found[name] = {"error": f"there is no series {name!r} ({error})"}
    needed = [
        n for owner, _, params in parsed.values() if _counts(owner) for n in owner.needed(*params)
    ]
    try:
        counts = count(list(dict.fromkeys(needed))) if needed else {}
    except TooBusyError as error:
        late = {name for name, (owner, *_) in parsed.items() if _counts(owner)}
        found |= {name: {"late": str(error)} for name in late}
        parsed, counts = {n: what for n, what in parsed.items() if n not in late}, {}
    return {**found, **{name: _value(*what, counts) for name, what in parsed.items()}}


def _parse(name: str) -> tuple[Any, str, tuple[Any, ...]]:
    """The object, the method's name, and the parameters that a series names."""
    path, bracket, rest = name.partition("(")
    area, owner, method = path.split(".")
    if area not in AREAS:
        raise ValueError(f"only series of {' and '.join(AREAS)} are measured by themselves")
    found = getattr(importlib.import_module(f"benchmarks.{area}"), owner)()
    getattr(found, method)
    params = ast.literal_eval(f"({rest[:-1]},)") if bracket else ()
    if params and params[0] not in found.params:
        raise ValueError(f"its parameter is one of {', '.join(map(repr, found.params))}")
    return found, method, params


def _counts(owner: Any) -> bool:
    return hasattr(owner, "setup_cache")


def _value(
    owner: Any, method: str, params: tuple[Any, ...], counts: dict[str, Count]
) -> dict[str, Any]:
    try:
        skip = getattr(owner, "setup", None) or getattr(
            importlib.import_module(type(owner).__module__), "setup", None
        )
        if skip is not None:
            skip()
        value = getattr(owner, method)(*([counts] if _counts(owner) else []), *params)
    except NotImplementedError as error:
        return {"missing": [str(error)]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if math.isnan(value):
        return {"missing": sorted({lack for c in counts.values() for lack in c.missing})}
    return {"value": value}
