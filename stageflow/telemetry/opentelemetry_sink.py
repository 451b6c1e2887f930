"""Traces and metrics for OpenTelemetry, made from events, beside the run and not within it.

Needs the extra ``stageflow[otel]``. A run is a span, its stages are spans below it, and a child run
is a span below the stage that ran it, with the times at which things happened, not those at which
the sink heard of them. Unlike those of `stageflow.telemetry.opentelemetry`, these spans are never
current while a stage runs, so spans of an instrumented client do not come to stand below them; and
they cost the run nothing. Use one or the other, or stages have two spans each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from opentelemetry import metrics, trace
from opentelemetry.context import Context

from stageflow import __version__
from stageflow.events import CANCELLED, FAILED, STARTED, STREAM_FIRST_ITEM, TERMINAL, Event
from stageflow.telemetry.buckets import DURATION_BUCKETS_S
from stageflow.telemetry.encoding import plain
from stageflow.telemetry.letters import LETTER_WAITING
from stageflow.telemetry.open_runs import OpenRun, OpenRuns
from stageflow.telemetry.opentelemetry import OpenTelemetryMetrics
from stageflow.telemetry.outcomes import BREAKER_STATES, MEASURED, UNKNOWN

_SCOPE = "stageflow"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class _OpenRun(OpenRun):
    """A run that has begun: its span, and those of its stages that have begun."""

    span: trace.Span
    seen_ns: int
    stages: dict[str, trace.Span] = field(default_factory=dict)


class OpenTelemetrySink:
    """An `EventSink` that makes spans and fills instruments.

    A span of a run is called ``run <pipeline>``, one of a stage ``stage <name>``. Attributes have
    the prefix ``stageflow.``. A failed one has the status ERROR and ``error.type`` with the error's
    code; a cancelled one ``stageflow.cancelled``. What happens within a stage, such as a retry or a
    change of a circuit breaker, is an event of its span; a stage that never began is one of the
    run's. Instruments: ``stageflow.stage.duration``, ``stageflow.run.duration``,
    ``stageflow.stage.first_item`` (from the start of the stage to the first item of a stream) and
    ``stageflow.run.first_audio`` (from the start of a voice turn to its first sound) in seconds,
    ``stageflow.dead_letters``, and ``stageflow.breaker.state`` (0 closed, 1 half-open, 2 open).

    Spans go to the application's provider, which the application flushes.
    """

    def __init__(
        self,
        tracer: trace.Tracer | None = None,
        meter: metrics.Meter | None = None,
        *,
        max_open_runs: int = 100_000,
    ) -> None:
        """Choose where spans and measurements go.

        Args:
            tracer: Makes the spans; one of the global provider if left out.
            meter: Makes the instruments; one of the global provider if left out.
            max_open_runs: How many runs may be under way. Beyond that the oldest is taken to be
                one whose end was dropped on the way to the sink.
        """
        self._tracer = tracer if tracer is not None else trace.get_tracer(_SCOPE, __version__)
        meter = meter if meter is not None else metrics.get_meter(_SCOPE, __version__)
        self._stages = OpenTelemetryMetrics(meter)
        self._run_s, self._first_item_s, self._first_audio_s = (
            meter.create_histogram(
                f"stageflow.{name}",
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
            )
            for name, description in (
                ("run.duration", "Duration of runs that completed or failed."),
                ("stage.first_item", "Time from a stage's start to a stream's first item."),
                ("run.first_audio", "Time from a voice turn's start to its first sound."),
            )
        )
        self._letters = meter.create_counter(
            "stageflow.dead_letters", description="Runs that were kept as dead letters."
        )
        self._breakers = meter.create_gauge(
            "stageflow.breaker.state",
            description="State of a circuit breaker: 0 closed, 1 half-open, 2 open.",
        )
        self._runs: OpenRuns[_OpenRun] = OpenRuns(max_open_runs)

    def write(self, events: Sequence[Event]) -> None:
        """Open and end spans, and record durations."""
        for event in events:
            if event.type == LETTER_WAITING:
                self._letters.add(1, {"stageflow.pipeline": event.data["pipeline"]})
            elif event.stage is None and event.what == STARTED:
                self._begin(event)
            elif event.pipeline_run_id in self._runs:
                run = self._runs[event.pipeline_run_id]
                run.seen_ns = _ns(event)
                if event.stage is not None:
                    self._take(run, event, event.stage)
                elif event.what in TERMINAL:
                    self._end_run(run, event)

    def close(self) -> None:
        """End the spans of runs that have not ended, at the last moment they were heard of."""
        while self._runs:
            _abandon(self._runs.popitem()[1])

    def _begin(self, event: Event) -> None:
        data = event.data
        pipeline = data.get("pipeline", UNKNOWN)
        above = self._runs.get(data.get("parent_run_id", ""))
        span = self._tracer.start_span(
            f"run {pipeline}",
            _below(above.stages.get(data["parent_stage_id"], above.span) if above else None),
            start_time=_ns(event),
            attributes=_attributes({**data, "pipeline_run_id": event.pipeline_run_id}),
        )
        run = _OpenRun(pipeline, span, _ns(event))
        gone = self._runs.begin(event.pipeline_run_id, run)
        if gone is not None:
            _abandon(gone)

    def _take(self, run: _OpenRun, event: Event, stage: str) -> None:
        what, data = event.what, event.data
        if what == STARTED:
            names = {"stage": stage, "pipeline": run.pipeline}
            run.stages[stage] = self._tracer.start_span(
                f"stage {stage}",
                _below(run.span),
                start_time=_ns(event),
                attributes=_attributes({**names, "pipeline_run_id": event.pipeline_run_id}),
            )
            return
        if what in BREAKER_STATES:
            provider = {"stageflow.provider": str(data.get("provider", UNKNOWN))}
            self._breakers.set(BREAKER_STATES[what], provider)
        if run.begins_to_sound(event.type):
            whose = {"stageflow.pipeline": run.pipeline}
            self._first_audio_s.record(event.offset_ms / 1000.0, whose)
        if what == STREAM_FIRST_ITEM:
            named = {"pipeline": run.pipeline, "stage": stage, "stream": data["stream"]}
            self._first_item_s.record(data["elapsed_ms"] / 1000.0, _attributes(named))
        span = run.stages.pop(stage, None) if what in TERMINAL else run.stages.get(stage)
        if span is None:
            run.span.add_event(f"stage {stage} {what}", _attributes(data), _ns(event))
        elif what in TERMINAL:
            _end(span, event)
            outcome = data["error_code"] if what == FAILED else what
            self._stages.record_stage(run.pipeline, stage, outcome, data["duration_ms"])
        else:
            span.add_event(what, _attributes(data), _ns(event))

    def _end_run(self, run: _OpenRun, event: Event) -> None:
        del self._runs[event.pipeline_run_id]
        _end(run.span, event)
        if event.what in MEASURED:
            named = {"stageflow.pipeline": run.pipeline, "stageflow.outcome": event.what}
            self._run_s.record(event.data["duration_ms"] / 1000.0, named)


def _below(span: trace.Span | None) -> Context:
    """The context of a span below `span`; of one that has none above it if that is None."""
    return trace.set_span_in_context(span, Context()) if span is not None else Context()


def _end(span: trace.Span, event: Event) -> None:
    data = event.data
    if event.what == FAILED:
        span.set_attribute("error.type", data["error_code"])
        span.set_status(trace.StatusCode.ERROR, data["error_code"])
    elif event.what == CANCELLED:
        span.set_attribute("stageflow.cancelled", True)
    if "reason" in data:
        span.set_attribute("stageflow.reason", str(data["reason"]))
    span.end(_ns(event))


def _abandon(run: _OpenRun) -> None:
    for span in (*run.stages.values(), run.span):
        span.set_attribute("stageflow.unfinished", True)
        span.end(run.seen_ns)


def _attributes(data: Mapping[str, Any]) -> dict[str, str | bool | int | float]:
    said = ((key, plain(value)) for key, value in data.items() if value is not None)
    return {
        f"stageflow.{key}": value if isinstance(value, str | bool | int | float) else str(value)
        for key, value in said
    }


def _ns(event: Event) -> int:
    """When, in nanoseconds since the epoch, exact to the microsecond."""
    return (event.timestamp - _EPOCH) // timedelta(microseconds=1) * 1000
