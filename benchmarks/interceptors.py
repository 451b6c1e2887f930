"""What interceptors add to a stage.

Every call runs ten times a graph of 100 stages (layered 10x10) that do nothing: a millisecond on
the chart is a microsecond a stage, and what an interceptor costs is the distance to ``none``. What
metrics and spans go to does nothing, and the logger is at its usual level, so that what is
measured is the interceptors' own cost.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Any

import stageflow as sf
from benchmarks import plain
from benchmarks.support import CpuTimed, requires, run, timed
from benchmarks.workloads import TIMEOUT_S, pipeline, run_times

setup = requires(
    "Interceptor",
    "LoggingInterceptor",
    "MetricsInterceptor",
    "PipelineOrchestrator",
    "TimeoutInterceptor",
    "TracingInterceptor",
)

GRAPH = "layered 10x10"
RUNS_A_CALL = 10


class NullMetrics:
    """Takes measurements and drops them."""

    def record_stage(self, pipeline: str, stage: str, outcome: str, duration_ms: float) -> None:
        """Drop one measurement."""


class NullTracer:
    """Takes spans and drops them."""

    def start(self, name: str, parent: Any | None, attributes: Mapping[str, Any]) -> str:
        """Open a span that is nothing but its name."""
        return name

    def end(self, span: Any, error_code: str | None) -> None:
        """Drop a span."""


def observer() -> sf.Interceptor:
    """A synchronous interceptor with both hooks, which do nothing."""

    # Not at the top of the module: on commits without interceptors it has to be importable.
    class Observer(sf.Interceptor):
        def before(self, ctx: sf.StageContext, /) -> None:
            pass

        def after(self, ctx: sf.StageContext, output: sf.StageOutput, /) -> None:
            pass

    return Observer()


def real() -> tuple[sf.Interceptor, ...]:
    """The four that stageflow brings, the outermost first."""
    return (
        sf.TracingInterceptor(NullTracer()),
        sf.MetricsInterceptor(NullMetrics()),
        sf.LoggingInterceptor(),
        sf.TimeoutInterceptor(TIMEOUT_S),
    )


#: What stands around each stage, the outermost first, by the name under which it is reported.
CHAINS: dict[str, Callable[[], tuple[sf.Interceptor, ...]]] = {
    "none": lambda: (),
    "one observer": lambda: (observer(),),
    "four observers": lambda: tuple(observer() for _ in range(4)),
    "tracing": lambda: real()[:1],
    "metrics": lambda: real()[1:2],
    "logging": lambda: real()[2:3],
    "timeout": lambda: real()[3:],
    "all four": real,
}


@functools.cache
def intercepted(chain: str) -> sf.PipelineOrchestrator:
    """What runs the graph with one of `CHAINS` around each stage; made once."""
    return sf.PipelineOrchestrator(pipeline(GRAPH).build(), interceptors=CHAINS[chain]())


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
    """What runs the graph, each stage naming a provider, with a chain of `resilient`; made once."""
    specs = [dataclasses.replace(spec, provider="llm") for spec in pipeline(GRAPH).stages]
    graph = sf.Pipeline("bench", specs).build()
    return sf.PipelineOrchestrator(graph, interceptors=resilient(chain))


class Resilience(CpuTimed):
    """The same graph with what stands between its stages and a failing provider; none fails."""

    version = "1"
    params = ("none", "retry", "breaker", "both")
    param_names = ("interceptors",)
    setup = requires("interceptors.breaker", "interceptors.retry")

    @timed
    def track_1000_stages(self, chain: str) -> None:
        """A thousand stages with that chain around each; each may add 1.0 µs a stage."""
        run(run_times(guarded(chain), RUNS_A_CALL)).unwrap()


if __name__ == "__main__":
    plain.main()
