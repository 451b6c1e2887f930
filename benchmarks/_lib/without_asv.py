"""Runs the benchmarks of one module as plain Python, without asv.

``python -m benchmarks.engine`` prints the timings of every benchmark in ``engine.py``, and
``python -m benchmarks.engine fan`` those whose name or parameter contains "fan". Good for a first
look and for profilers; asv's numbers come from fresh processes and more samples.
"""

from __future__ import annotations

import argparse
import functools
import inspect
import itertools
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from benchmarks._lib.fresh_process import peak_bytes

KINDS = ("time_", "track_", "peakmem_")
SAMPLES = 5
SAMPLE_S = 0.02


@dataclass(frozen=True, slots=True)
class Case:
    """One benchmark with one choice of its parameters.

    Attributes:
        label: Class, method and parameters.
        kind: One of `KINDS`.
        call: Executes it once.
        timer: The clock of a ``time_`` benchmark, in seconds.
        unit: The unit of a ``track_`` benchmark.
    """

    label: str
    kind: str
    call: Callable[[], Any]
    timer: Callable[[], float]
    unit: str


def cases(module: ModuleType) -> Iterator[Case]:
    """Every benchmark that `module` defines itself, with every choice of its parameters."""
    for owner in vars(module).values():
        if not (inspect.isclass(owner) and owner.__module__ == module.__name__):
            continue
        for name in vars(owner):
            kind = next((kind for kind in KINDS if name.startswith(kind)), None)
            if kind is None:
                continue
            instance = owner()
            method = getattr(instance, name)
            for values in itertools.product(*_axes(getattr(instance, "params", ()))):
                choice = f"({', '.join(map(str, values))})" if values else ""
                yield Case(
                    label=f"{owner.__name__}.{name}{choice}",
                    kind=kind,
                    call=functools.partial(_called, method, values),
                    timer=getattr(owner, "timer", time.perf_counter),
                    unit=getattr(method, "unit", getattr(owner, "unit", "unit")),
                )


def _called(method: Callable[..., Any], values: tuple[Any, ...]) -> Any:
    """Call a benchmark, with what its class prepares for all of them if it does."""
    prepare = getattr(method.__self__.__class__, "setup_cache", None)  # type: ignore[attr-defined]
    return method(*values) if prepare is None else method(_prepared(prepare), *values)


@functools.cache
def _prepared(prepare: Callable[..., Any]) -> Any:
    return prepare(None)


def _axes(params: Any) -> tuple[tuple[Any, ...], ...]:
    """The values of each parameter; asv lets a single parameter stand without its outer list."""
    if params and not isinstance(params[0], list | tuple):
        return (tuple(params),)
    return tuple(map(tuple, params))


def measure(case: Case) -> str:
    """Execute a benchmark and say in words what came of it."""
    if case.kind == "peakmem_":
        case.call()
        return f"{peak_bytes() / 1e6:10.1f} MB peak of this process so far"
    if case.kind == "track_":
        found = case.call()
        samples = found["samples"] if isinstance(found, dict) else [found]
        return _summary(samples, case.unit)
    return _summary(_timings(case), "seconds")


def _timings(case: Case) -> list[float]:
    case.call()  # fixtures are made at the first call
    number, took_s = 1, 0.0
    samples: list[float] = []
    while len(samples) < SAMPLES:
        started_at = case.timer()
        for _ in range(number):
            case.call()
        took_s = case.timer() - started_at
        if took_s < SAMPLE_S and not samples:
            number *= 2
        else:
            samples.append(took_s / number)
    return samples


def _summary(samples: list[float], unit: str) -> str:
    median = statistics.median(samples)
    low, high = min(samples), max(samples)
    if unit == "seconds":
        unit, factor = _readable(median)
        median, low, high = median * factor, low * factor, high * factor
    return f"{median:10.3f} {unit:8} ({low:.3f} to {high:.3f}, n={len(samples)})"


def _readable(duration_s: float) -> tuple[str, float]:
    """The unit in which a duration is a number from 1 up, and what seconds are multiplied by."""
    units = (("s", 1.0), ("ms", 1e3), ("µs", 1e6), ("ns", 1e9))
    return next((unit for unit in units if abs(duration_s) * unit[1] >= 1), units[-1])


def main() -> None:
    """Measure the benchmarks of the module that is run as a script."""
    module = sys.modules["__main__"]
    parser = argparse.ArgumentParser(
        prog=f"python -m benchmarks.{module.__spec__.name.rpartition('.')[2]}"
        if module.__spec__
        else None,
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("pattern", nargs="?", default="", help="part of a benchmark's label")
    pattern = parser.parse_args().pattern
    chosen = [case for case in cases(module) if pattern in case.label]
    if not chosen:
        parser.exit(2, f"no benchmark here has {pattern!r} in its label\n")
    skip = getattr(module, "setup", None)
    if skip is not None:
        try:
            skip()
        except NotImplementedError as reason:
            parser.exit(0, f"skipped: {reason}\n")
    width = max(len(case.label) for case in chosen)
    for case in chosen:
        sys.stdout.write(f"{case.label:{width}} {measure(case)}\n")
        sys.stdout.flush()
