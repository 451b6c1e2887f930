"""Metrics for Prometheus, counted from events.

Needs the extra ``stageflow[prometheus]``::

    sink = PrometheusSink()
    with EventDispatcher([sink]) as dispatcher, serve(sink, port=9464):
        sink.watch(dispatcher)
        ...

Labels are names of pipelines, stages, providers, sinks, and codes of errors: what is defined in
code, never what a run carries. docs/telemetry.md lists the metrics.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from stageflow.dispatch import EventDispatcher
from stageflow.events import CANCELLED, COMPLETED, FAILED, STARTED, TERMINAL, Event
from stageflow.telemetry.buckets import DURATION_BUCKETS_S
from stageflow.telemetry.letters import LETTER_WAITING
from stageflow.telemetry.open_runs import OpenRuns
from stageflow.telemetry.outcomes import BREAKER_STATES, MEASURED, UNKNOWN

_STAGE = ("pipeline", "stage")
_RUN_OUTCOMES = (COMPLETED, FAILED, CANCELLED)


class PrometheusSink:
    """An `EventSink` that counts, and measures durations.

    Attributes:
        registry: Where the metrics are; its own unless another one was given.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        """Choose the registry; each has one such sink at most."""
        self.registry = registry if registry is not None else CollectorRegistry()
        self._runs: OpenRuns[str] = OpenRuns()
        self._stage_s = Histogram(
            "stageflow_stage_duration_seconds",
            "Duration of stages that completed or failed.",
            _STAGE,
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self._run_s = Histogram(
            "stageflow_run_duration_seconds",
            "Duration of runs that completed or failed.",
            ("pipeline",),
            buckets=DURATION_BUCKETS_S,
            registry=self.registry,
        )
        self._stages = Counter(
            "stageflow_stage_total",
            "Ends of stages: completed, failed, skipped, cancelled.",
            (*_STAGE, "outcome", "error_code"),
            registry=self.registry,
        )
        self._run_ends = Counter(
            "stageflow_run_total",
            "Ends of runs: completed, failed, cancelled.",
            ("pipeline", "outcome"),
            registry=self.registry,
        )
        self._breakers = Gauge(
            "stageflow_breaker_state",
            "State of the provider's circuit breaker: 0 closed, 1 half-open, 2 open.",
            ("provider",),
            registry=self.registry,
        )
        self._letters = Counter(
            "stageflow_dead_letters_total",
            "Runs that failed for good and were kept as dead letters.",
            registry=self.registry,
        )

    def watch(self, dispatcher: EventDispatcher) -> None:
        """Show what the dispatcher's sinks have lost, as it stands at each scrape; once at most."""
        self.registry.register(_Losses(dispatcher))

    def watch_letters(self, waiting: Callable[[], float]) -> None:
        """Show how many dead letters wait, as it stands at each scrape; once at most.

        Events cannot tell: other processes replay letters, and earlier ones have left some.

        Args:
            waiting: Counts them, in the thread of a scrape; such as
                ``lambda: len(store.dead_letters(waiting=True))`` of a `TelemetryStore`.
        """
        Gauge(
            "stageflow_dead_letters_waiting",
            "Dead letters that have not been replayed.",
            registry=self.registry,
        ).set_function(waiting)

    def write(self, events: Sequence[Event]) -> None:
        """Count a batch."""
        for event in events:
            if event.stage is not None:
                self._take_stage_event(event, event.stage)
            elif event.type == LETTER_WAITING:
                self._letters.inc()
            elif event.what == STARTED:
                pipeline = event.data.get("pipeline", UNKNOWN)
                self._runs.begin(event.pipeline_run_id, pipeline)
                # A rate is taken from what there was before: a counter that appears with the
                # first failure would hide just that one.
                for outcome in _RUN_OUTCOMES:
                    self._run_ends.labels(pipeline, outcome)
            elif event.what in TERMINAL:
                self._take_end_of_run(event)

    def close(self) -> None:
        """Nothing is held back, and what was counted may still be scraped."""

    def _take_stage_event(self, event: Event, stage: str) -> None:
        what = event.what
        if what in TERMINAL:
            pipeline = self._runs.get(event.pipeline_run_id, UNKNOWN)
            code = event.data.get("error_code", "") if what == FAILED else ""
            self._stages.labels(pipeline, stage, what, code).inc()
            if what in MEASURED:
                duration_s = event.data["duration_ms"] / 1000.0
                self._stage_s.labels(pipeline, stage).observe(duration_s)
        elif what in BREAKER_STATES:
            self._breakers.labels(event.data.get("provider", UNKNOWN)).set(BREAKER_STATES[what])

    def _take_end_of_run(self, event: Event) -> None:
        pipeline = self._runs.pop(event.pipeline_run_id, UNKNOWN)
        self._run_ends.labels(pipeline, event.what).inc()
        if event.what in MEASURED:
            self._run_s.labels(pipeline).observe(event.data["duration_ms"] / 1000.0)


class _Losses(Collector):
    """What sinks have not taken, from the dispatcher's own counts."""

    def __init__(self, dispatcher: EventDispatcher) -> None:
        self._dispatcher = dispatcher

    def collect(self) -> Iterator[Metric]:
        lost: Tally[str] = Tally()
        for stats in self._dispatcher.stats():
            lost[stats.sink] += stats.dropped + stats.failed
        family = CounterMetricFamily(
            "stageflow_sink_dropped_events",
            "Events that a sink has lost: dropped on the way to it, or refused by it.",
            labels=("sink",),
        )
        for sink, count in lost.items():
            family.add_metric((sink,), count)
        yield family


@contextmanager
def serve(sink: PrometheusSink, *, port: int = 9464, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve ``/metrics`` from a thread while the body runs, by prometheus-client's own server.

    Args:
        sink: Whose metrics.
        port: Where; 0 for any that is free.
        host: On which address.

    Yields:
        The port.

    Raises:
        OSError: The port is taken.
    """
    server, thread = start_http_server(port, host, sink.registry)
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
