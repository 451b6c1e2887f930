"""The cost of interceptors per stage.

Every call runs ten times a graph of 100 stages (layered 10x10) that do nothing: a millisecond on
the chart is a microsecond a stage, and what an interceptor costs is the distance to ``none``. Spans
go nowhere, and the logger is at its usual level, so that what is measured is the interceptors' own
cost.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.support import CpuTimed, requires, run, timed
from benchmarks._lib.workloads import (
    CHAINS,
    INTERCEPTED_GRAPH,
    intercepted,
    pipeline,
    run_times,
)

setup = requires(
    "Interceptor",
    "PipelineOrchestrator",
    "TimeoutInterceptor",
    "TracingInterceptor",
)

RUNS_A_CALL = 10


class Overhead(CpuTimed):
    """The same graph with more and more around its stages."""

    version = "1"
    params = tuple(CHAINS)
    param_names = ("interceptors",)

    @timed
    def track_1000_stages(self, chain: str) -> None:
        """A thousand stages with that chain around each; four observers may add 1.5 µs a stage."""
        run(run_times(intercepted(chain), RUNS_A_CALL)).unwrap()


def resilient(name: str) -> tuple[sf.Interceptor, ...]:
    """The interceptors against failing providers, of commits that have them."""
    retry = importlib.import_module("stageflow.interceptors.retry").RetryInterceptor
    breaker = importlib.import_module("stageflow.interceptors.breaker").BreakerInterceptor
    chains = {"none": (), "retry": (retry,), "breaker": (breaker,), "both": (retry, breaker)}
    return tuple(make() for make in chains[name])


@functools.cache
def guarded(chain: str) -> sf.PipelineOrchestrator:
    """Return an orchestrator, made once, of stages with a provider and a chain of `resilient`."""
    specs = [
        dataclasses.replace(spec, provider="llm") for spec in pipeline(INTERCEPTED_GRAPH).stages
    ]
    graph = sf.Pipeline("bench", specs).build()
    return sf.PipelineOrchestrator(graph, interceptors=resilient(chain))


class Resilience(CpuTimed):
    """The same graph with the interceptors against failing providers; no provider fails."""

    version = "1"
    params = ("none", "retry", "breaker", "both")
    param_names = ("interceptors",)
    setup = requires("interceptors.breaker", "interceptors.retry")

    @timed
    def track_1000_stages(self, chain: str) -> None:
        """A thousand stages with that chain around each; each may add 1.0 µs a stage."""
        run(run_times(guarded(chain), RUNS_A_CALL)).unwrap()


if __name__ == "__main__":
    without_asv.main()
