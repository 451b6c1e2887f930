"""The cost of handing events to sinks, and of reading them from a result.

Every call of the first class is a run of 1,000 stages with about 2,000 events.
"""

from __future__ import annotations

import atexit
import functools
import time
from collections.abc import Sequence

import stageflow as sf
from benchmarks._lib import without_asv
from benchmarks._lib.interleaved import interleaved
from benchmarks._lib.support import CpuTimed, charted, requires, run, timed
from benchmarks._lib.workloads import orchestrator, pipeline, run_times

setup = requires("EventDispatcher", "PipelineOrchestrator")

GRAPH = "1,000 stages"
#: More than a measurement produces: an event that is dropped costs less than one that is kept.
CAPACITY = 10_000_000
#: Events of one run: a started and a completed one a stage, and the run's own two.
EVENTS = 2_002
ROUNDS = 9


class NullSink:
    """Takes events as objects and drops them."""

    def write(self, events: Sequence[sf.Event]) -> None:
        """Look at each event of a batch: some commits make it an object only then."""
        for _ in events:
            pass

    def close(self) -> None:
        """Nothing is held back."""


@functools.cache
def dispatched(sinks: int) -> sf.PipelineOrchestrator:
    """Return an orchestrator of the graph, made once, with that many null sinks."""
    if not sinks:
        return orchestrator(GRAPH)
    dispatcher = sf.EventDispatcher([NullSink() for _ in range(sinks)], capacity=CAPACITY)
    atexit.register(dispatcher.close)
    return sf.PipelineOrchestrator(graph(), dispatcher=dispatcher)


@functools.cache
def graph() -> sf.StageGraph:
    """The graph of all runs here."""
    return pipeline(GRAPH).build()


def run_alone() -> None:
    """Do the same as `run_and_flush`, without a dispatcher."""
    run(run_times(sf.PipelineOrchestrator(graph()), 1)).unwrap()


def run_and_flush() -> None:
    """A run with a dispatcher of its own, until its sink has taken every event."""
    dispatcher = sf.EventDispatcher([NullSink()], capacity=CAPACITY)
    bound = sf.PipelineOrchestrator(graph(), dispatcher=dispatcher)
    run(run_times(bound, 1)).unwrap()
    dispatcher.close()
    assert dispatcher.stats()[0].written == EVENTS


class Emission(CpuTimed):
    """The cost of a run's events."""

    version = "1"
    params = (0, 1, 4)
    param_names = ("sinks",)
    #: CPU time of the thread that runs the loop: the sinks have threads of their own.
    timer = time.thread_time

    @timed
    def track_run(self, sinks: int) -> None:
        """A run's own time: without sinks its log alone; with them, an append to each buffer."""
        run(run_times(dispatched(sinks), 1)).unwrap()


class Dispatch(CpuTimed):
    """The cost of events for the whole process, with the start and end of the sink's thread."""

    version = "2"

    @timed
    def track_run_and_flush(self) -> None:
        """A run until a null sink has taken every event as an object, threads included."""
        run_and_flush()


class PerEvent:
    """The cost of one event on its way to a sink."""

    version = "2"
    unit = "seconds"

    def track_cost(self) -> dict[str, object]:
        """CPU time that each event adds until a null sink has it, against a run without sink."""
        pairs = interleaved((run_and_flush, run_alone), ROUNDS)
        return charted([(with_ - without) / EVENTS for with_, without in pairs])


class Reading(CpuTimed):
    """The cost of reading a result's events: they become objects only then."""

    version = "1"

    @timed
    def track_run_and_read(self) -> None:
        """A run of 1,000 stages and its 2,002 events read once."""
        assert len(run(run_times(dispatched(0), 1)).events) == EVENTS


if __name__ == "__main__":
    without_asv.main()
