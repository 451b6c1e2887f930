"""Pieces of work that are measured against each other: stageflow's, and one beside it.

`compare` prints the ratios of these pairs, `ratios` keeps their history. Each piece enters the loop
once and does enough to make that entry (12 µs) disappear.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from benchmarks._lib.handwritten import BareGraph, FeaturedGraph
from benchmarks._lib.interleaved import Work
from benchmarks._lib.support import run
from benchmarks._lib.workloads import (
    INTERCEPTED_GRAPH,
    SHAPES,
    TIMEOUT_S,
    intercepted,
    no_op,
    orchestrator,
    run_at_once,
    run_times,
    suspending,
    unlimited,
    write_dict_with_check,
    write_sequentially,
)

#: Stageflow's work first.
Pair: TypeAlias = tuple[Work, Work]

STAGES_A_BATCH = 1_000
CONCURRENT_RUNS = 1_000
CONCURRENT_GRAPH = "dense 4x5"


def runs_a_batch(graph: str) -> int:
    """How often a graph is run for one timing."""
    return max(1, STAGES_A_BATCH // len(SHAPES[graph]))


async def _repeat(once: Callable[[], Awaitable[Any]], times: int) -> Any:
    for _ in range(times):
        last = await once()
    return last


async def _at_once(once: Callable[[], Awaitable[Any]], runs: int) -> list[Any]:
    return await asyncio.gather(*(once() for _ in range(runs)))


def beside_gather(graph: str, *, suspend: bool = False) -> Pair:
    """A graph with all features, and a gather a layer with none."""
    bound = orchestrator(graph, suspending if suspend else no_op)
    by_hand = BareGraph(SHAPES[graph], suspend=suspend)
    times = runs_a_batch(graph)
    return (
        lambda: run(run_times(bound, times)).outputs,
        lambda: run(_repeat(by_hand.run, times)),
    )


def beside_featured(graph: str, *, suspend: bool = False, timeouts: bool = True) -> Pair:
    """A graph with all features, and hand-written code that has them too."""
    make = suspending if suspend else (no_op if timeouts else unlimited)
    bound = orchestrator(graph, make)
    by_hand = FeaturedGraph(
        SHAPES[graph], suspend=suspend, timeout_s=TIMEOUT_S if timeouts else None
    )
    times = runs_a_batch(graph)
    return (
        lambda: run(run_times(bound, times)).outputs,
        lambda: run(_repeat(by_hand.run, times)).outputs,
    )


def concurrent_runs(*, suspend: bool = False) -> Pair:
    """1,000 runs of 20 stages at once, and as many by hand with a gather a layer."""
    bound = orchestrator(CONCURRENT_GRAPH, suspending if suspend else no_op)
    by_hand = BareGraph(SHAPES[CONCURRENT_GRAPH], suspend=suspend)
    return (
        lambda: [result.bag for result in run(run_at_once(bound, CONCURRENT_RUNS))],
        lambda: run(_at_once(by_hand.run, CONCURRENT_RUNS)),
    )


def bag_writes() -> Pair:
    """10,000 awaited writes to a bag, and to a dict with a check before each."""
    return write_sequentially, write_dict_with_check


def interceptors(chain: str) -> Pair:
    """A thousand stages with a chain of interceptors, and with none."""
    times = runs_a_batch(INTERCEPTED_GRAPH)
    with_chain, without = intercepted(chain), orchestrator(INTERCEPTED_GRAPH)
    return (
        lambda: run(run_times(with_chain, times)).outputs,
        lambda: run(run_times(without, times)).outputs,
    )
