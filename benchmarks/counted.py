"""Counted series: instructions, growth, bytes and modules; the same on a busy machine.

Two counts of the same code hardly differ, so asv's factor alone judges them rightly. Everything is
counted in one process before the first benchmark, since a start under valgrind takes seconds.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from benchmarks._lib import without_asv
from benchmarks._lib.callgrind import Count, count, limit_s
from benchmarks._lib.fresh_process import imported_modules, traced_bytes
from benchmarks._lib.operations import GROWTH, OPERATIONS
from benchmarks._lib.support import requires

LEAK_RUNS = 4_000
#: What the benchmarks of memory and start need; each operation knows its own needs.
NEEDS = ("PipelineOrchestrator", "PipelineContext")

Counts = dict[str, Count]


class _Counted:
    """Base of these series: one process under valgrind, whose counts they read."""

    def setup_cache(self) -> Counts:
        """Count all operations; asv does this once, and hands the counts to each benchmark."""
        return counts()


class Operation(_Counted):
    """Instructions of single operations; of interceptors, those that they add to a stage."""

    version = "1"
    params = tuple(OPERATIONS)
    param_names = ("operation",)
    unit = "instructions"

    def needed(self, operation: str) -> list[str]:
        """Return the operations to count."""
        without = OPERATIONS[operation].without
        return [operation, without] if without else [operation]

    def track_instructions(self, counts: Counts, operation: str) -> float:
        """Work that one operation is for a processor: a rise is a rise on any machine."""
        counted, *without = (counts[name].value() for name in self.needed(operation))
        return counted - sum(without)


class Growth(_Counted):
    """How the instructions grow with the size of what is done."""

    version = "1"
    params = tuple(GROWTH)
    param_names = ("what",)
    unit = "exponent"

    def needed(self, what: str) -> list[str]:
        """Return the operations to count: the smallest first, the one to subtract last."""
        growth = GROWTH[what]
        beyond = () if growth.beyond is None else (growth.beyond,)
        return [f"{what}@{size}" for size in (*growth.sizes, *beyond)]

    def track_exponent(self, counts: Counts, what: str) -> float:
        """1 grows as the size does; 2 is the square, seen here long before it hurts."""
        growth = GROWTH[what]
        costs = [counts[name].value() for name in self.needed(what)]
        off = 0.0 if growth.beyond is None else costs.pop()
        return exponent(growth.sizes, [cost - off for cost in costs])


def counts() -> Counts:
    """A count of every operation, and of the growing ones at each of their sizes."""
    return count(all_names())


def all_names() -> list[str]:
    """Every operation, and the growing ones at each of their sizes."""
    # The last: what was made before belongs to modules that the import loads anew.
    last = "start.import"
    return [*(name for name in OPERATIONS if name != last), *growing_names(), last]


def growing_names() -> list[str]:
    """The growing operations at each size, the smallest first."""
    return [name for what in GROWTH for name in Growth().needed(what)]


# Longer than counting may take, which says that the machine was too busy.
_Counted.setup_cache.timeout = limit_s(len(all_names())) + 60  # type: ignore[attr-defined]


def exponent(sizes: Sequence[int], costs: Sequence[float]) -> float:
    """The exponent e of the power law ``cost = c * size ** e`` that lies nearest.

    It is the slope of the straight line through the logarithms by least squares.
    """
    xs, ys = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    mean_x, mean_y = math.fsum(xs) / len(xs), math.fsum(ys) / len(ys)
    over = math.fsum((x - mean_x) * (y - mean_y) for x, y in zip(xs, ys, strict=True))
    return over / math.fsum((x - mean_x) ** 2 for x in xs)


class Memory:
    """Bytes that Python has allocated, as tracemalloc counts them."""

    version = "1"
    setup = requires(*NEEDS)
    unit = "bytes"

    def track_bytes_a_run(self) -> float:
        """Bytes kept of each of 200 runs of 20 stages, as long as its result is kept."""
        return traced_bytes(runs=200, keep=True)

    def track_peak_bytes_a_run(self) -> float:
        """The most that is allocated while 200 runs of 20 stages are under way at once, each."""
        return traced_bytes(runs=200, keep=True, peak=True)

    def track_bytes_by_hand(self) -> float:
        """Bytes kept of each of 200 runs of the same stages by hand: of the interpreter alone."""
        return traced_bytes(runs=200, keep=True, by_hand=True)

    def track_bytes_leaked(self) -> float:
        """Bytes left of each of 4,000 runs whose results are dropped, in whole bytes: 0."""
        return float(round(traced_bytes(runs=LEAK_RUNS, keep=False)))


class Start:
    """The cost of starting a program."""

    version = "2"
    setup = requires(*NEEDS)
    unit = "modules"

    def track_imported_modules(self) -> int:
        """Modules that ``import stageflow`` loads beyond the few of Python that it needs."""
        return imported_modules()


if __name__ == "__main__":
    without_asv.main()
