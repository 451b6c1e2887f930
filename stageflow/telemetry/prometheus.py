"""Metrics for Prometheus, counted from events (extra ``prometheus``).

Labels are names and error codes that are defined in code, never data of a run.
docs/reference/metrics.md lists the metrics.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from stageflow._utils.extras import needs_extra
from stageflow.events import log as ev
from stageflow.events.dispatcher import EventDispatcher
from stageflow.events.log import FAILED, STARTED, STREAM_FIRST_ITEM, TERMINAL, USAGE, Event
from stageflow.telemetry import runs
from stageflow.telemetry.dead_letters import DEAD_LETTER_WAITING
from stageflow.telemetry.readings import DURATION_BUCKETS_S
from stageflow.telemetry.runs import BREAKER_STATES, MEASURED, UNKNOWN, OpenRun, OpenRuns

with needs_extra("prometheus"):
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, start_http_server
    from prometheus_client.core import CounterMetricFamily, Metric
    from prometheus_client.registry import Collector

_STAGE = ("pipeline", "stage")
_RUN_OUTCOMES = (ev.COMPLETED, FAILED, ev.CANCELLED)


class PrometheusSink:
    """An `EventSink` that counts events and measures durations.

    Example::

        sink = PrometheusSink()
        with EventDispatcher([sink]) as dispatcher, serve_metrics(sink, port=9464):
            sink.watch(dispatcher)
            ...

    `registry` holds the metrics.
    """

    def __init__(
        self, registry: CollectorRegistry | None = None, *, pipelines: Iterable[str] = ()
    ) -> None:
        """Choose the registry, a new one by default; a registry takes one such sink.

        Name the `pipelines` of the process, so that their metrics begin at 0: Prometheus sees no
        increase in the first value of a series, so it would miss a failure before the first scrape.
        """
        self.registry = registry if registry is not None else CollectorRegistry()
        self._runs: OpenRuns[OpenRun] = OpenRuns()
        self._codes = runs.FirstValues()
        first_item = "Time from the start of a stage to the first item of one of its streams."
        self._stage_s, self._run_s, self._first_item_s, self._first_audio_s = (
            Histogram(
                *(f"stageflow_{name}_seconds", documentation, labels),
                buckets=DURATION_BUCKETS_S,
                registry=self.registry,
            )
            for name, documentation, labels in (
                ("stage_duration", "Duration of stages that completed or failed.", _STAGE),
                ("run_duration", "Duration of runs that completed or failed.", _STAGE[:1]),
                ("stage_first_item", first_item, (*_STAGE, "stream")),
                ("run_first_audio", "Time from the start of a run to its first sound.", _STAGE[:1]),
            )
        )
        ends, calls = (*_STAGE, "outcome", "error_code"), (*_STAGE, "provider", "unit")
        runs_end = ("pipeline", "outcome")
        used = "What calls of providers have used: tokens, characters, seconds of sound, cost."
        kept = "Runs that failed for good and were kept as dead letters."
        self._stages, self._run_ends, self._used, self._letters = (
            Counter(f"stageflow_{name}", documentation, labels, registry=self.registry)
            for name, documentation, labels in (
                ("stage_total", "Ends of stages: completed, failed, skipped, cancelled.", ends),
                ("run_total", "Ends of runs: completed, failed, cancelled.", runs_end),
                ("usage", used, calls),
                ("dead_letters_total", kept, ()),
            )
        )
        self._breakers = Gauge(
            "stageflow_breaker_state",
            "State of the provider's circuit breaker: 0 closed, 1 half-open, 2 open.",
            ("provider",),
            registry=self.registry,
        )
        for pipeline in pipelines:
            self._run_s.labels(pipeline)
            self._begin_at_zero(pipeline)

    def _begin_at_zero(self, pipeline: str) -> None:
        for outcome in _RUN_OUTCOMES:
            self._run_ends.labels(pipeline, outcome)

    def watch(self, dispatcher: EventDispatcher) -> None:
        """Report at each scrape how many events the dispatcher's sinks have lost; call it once."""
        self.registry.register(_Losses(dispatcher))

    def watch_letters(self, waiting: Callable[[], float]) -> None:
        """Report at each scrape how many dead letters wait; call it once.

        `waiting` counts them, in the thread of a scrape; such as
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
            elif event.type == DEAD_LETTER_WAITING:
                self._letters.inc()
            elif event.what == STARTED:
                pipeline = event.data.get("pipeline", UNKNOWN)
                self._runs.begin(event.pipeline_run_id, OpenRun(pipeline))
                self._begin_at_zero(pipeline)
            elif event.what in TERMINAL:
                run = self._runs.pop(event.pipeline_run_id, None)
                pipeline = run.pipeline if run is not None else UNKNOWN
                self._run_ends.labels(pipeline, event.what).inc()
                if event.what in MEASURED:
                    self._run_s.labels(pipeline).observe(event.data["duration_ms"] / 1000.0)

    def close(self) -> None:
        """Do nothing; the metrics can still be scraped."""

    def _take_stage_event(self, event: Event, stage: str) -> None:
        what, run = event.what, self._runs.get(event.pipeline_run_id)
        pipeline = run.pipeline if run is not None else UNKNOWN
        # If the start of the run was dropped, its first audio may have been, too.
        if run is not None and run.begins_to_sound(what):
            self._first_audio_s.labels(pipeline).observe(event.offset_ms / 1000.0)
        if what == STREAM_FIRST_ITEM:
            first_item_s = self._first_item_s.labels(pipeline, stage, event.data["stream"])
            first_item_s.observe(event.data["elapsed_ms"] / 1000.0)
        elif what in TERMINAL:
            code = self._codes(event.data.get("error_code", "")) if what == FAILED else ""
            self._stages.labels(pipeline, stage, what, code).inc()
            if what in MEASURED:
                duration_s = event.data["duration_ms"] / 1000.0
                self._stage_s.labels(pipeline, stage).observe(duration_s)
        elif what == USAGE:
            for unit in set(ev.USAGE_UNITS).intersection(event.data):
                used = self._used.labels(pipeline, stage, event.data.get("provider", UNKNOWN), unit)
                used.inc(event.data[unit])
        elif what in BREAKER_STATES:
            self._breakers.labels(event.data.get("provider", UNKNOWN)).set(BREAKER_STATES[what])


class _Losses(Collector):
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
def serve_metrics(
    sink: PrometheusSink, *, port: int = 9464, host: str = "127.0.0.1"
) -> Iterator[int]:
    """Serve ``/metrics`` in a thread while the body runs, and yield the port.

    The `port` 0 is any free one. If it is taken, `OSError` is raised.
    """
    server, thread = start_http_server(port, host, sink.registry)
    try:
        yield int(server.server_port)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
