"""Spans and metrics for OpenTelemetry (extra ``otel``).

`OpenTelemetrySink` makes both from events, outside of the run. A run is a span, its stages are
spans below it, and a child run is a span below its stage. These spans are never current, so spans
of an instrumented client are not below them.

``TracingInterceptor(OpenTelemetryTracer())`` makes a stage's span the current one while the stage
runs, below the span that is current where the run is awaited: open one around a turn. With both,
each stage has two spans.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import Token
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from stageflow import __version__
from stageflow._utils.extras import needs_extra
from stageflow.events.log import CANCELLED, FAILED, STARTED, STREAM_FIRST_ITEM, TERMINAL, Event
from stageflow.telemetry import runs
from stageflow.telemetry.dead_letters import DEAD_LETTER_WAITING
from stageflow.telemetry.jsonl import plain
from stageflow.telemetry.readings import DURATION_BUCKETS_S
from stageflow.telemetry.runs import BREAKER_STATES, MEASURED, UNKNOWN, OpenRun, OpenRuns

with needs_extra("otel"):
    from opentelemetry import context as otel_context
    from opentelemetry import metrics, trace
    from opentelemetry.context import Context

_SCOPE = "stageflow"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class OpenSpan(NamedTuple):
    """A span that is current, and the token that restores the one before."""

    span: trace.Span
    token: Token[Context]


class OpenTelemetryTracer:
    """A `stageflow.interceptors.tracing.Tracer` that makes OpenTelemetry spans.

    Attributes of a span have the prefix ``stageflow.``. A failed stage's span has the status
    ERROR and the attribute ``error.type`` with the error's code; a cancelled one has the attribute
    ``stageflow.cancelled`` and no error.
    """

    def __init__(self, tracer: trace.Tracer | None = None) -> None:
        """Choose the tracer; that of the global provider by default."""
        self._tracer = tracer if tracer is not None else trace.get_tracer(_SCOPE, __version__)

    def start(self, name: str, parent: OpenSpan | None, attributes: Mapping[str, Any]) -> OpenSpan:
        """Open a span below `parent` (None: below the current span, if there is one)."""
        above = trace.set_span_in_context(parent.span) if parent is not None else None
        known = {f"stageflow.{k}": v for k, v in attributes.items() if v is not None}
        span = self._tracer.start_span(name, above, attributes=known)
        return OpenSpan(span, otel_context.attach(trace.set_span_in_context(span)))

    def end(self, span: OpenSpan, error_code: str | None) -> None:
        """End a span and make the one before current again."""
        otel_context.detach(span.token)
        _mark(span.span, error_code)
        span.span.end()


@dataclass(slots=True)
class _OpenRun(OpenRun):
    """A run that has begun, with its span and those of its running stages."""

    span: trace.Span
    seen_ns: int
    stages: dict[str, trace.Span] = field(default_factory=dict)


class OpenTelemetrySink:
    """An `EventSink` that makes spans and fills instruments.

    A span of a run is called ``run <pipeline>``, one of a stage ``stage <name>``; attributes are
    those of `OpenTelemetryTracer`. What happens within a stage, such as a retry or a change of a
    circuit breaker, is an event of its span; a stage that never began is an event of the run's.
    docs/reference/metrics.md lists the instruments. The application flushes its provider.
    """

    def __init__(
        self,
        tracer: trace.Tracer | None = None,
        meter: metrics.Meter | None = None,
        *,
        max_open_runs: int = 100_000,
    ) -> None:
        """Choose tracer and meter; those of the global providers by default.

        Beyond `max_open_runs` runs under way, the oldest is assumed to have ended unseen.
        """
        self._tracer = tracer if tracer is not None else trace.get_tracer(_SCOPE, __version__)
        meter = meter if meter is not None else metrics.get_meter(_SCOPE, __version__)
        self._stage_s, self._run_s, self._first_item_s, self._first_audio_s = (
            meter.create_histogram(
                f"stageflow.{name}",
                unit="s",
                description=description,
                explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
            )
            for name, description in (
                ("stage.duration", "Duration of one execution of a stage."),
                ("run.duration", "Duration of runs that completed or failed."),
                ("stage.first_item", "Time from a stage's start to a stream's first item."),
                ("run.first_audio", "Time from a run's start to its first sound."),
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
        self._codes = runs.FirstValues()

    def write(self, events: Sequence[Event]) -> None:
        """Start and end spans, and record durations."""
        for event in events:
            if event.type == DEAD_LETTER_WAITING:
                self._letters.add(1, {"stageflow.pipeline": event.data["pipeline"]})
            elif event.stage is None and event.what == STARTED:
                self._begin(event)
            elif event.pipeline_run_id in self._runs:
                run = self._runs[event.pipeline_run_id]
                run.seen_ns = _ns(event)
                if event.stage is not None:
                    self._take(run, event, event.stage)
                elif event.what in TERMINAL:
                    del self._runs[event.pipeline_run_id]
                    _end(run.span, event)
                    if event.what in MEASURED:
                        named = {"pipeline": run.pipeline, "outcome": event.what}
                        took_s = event.data["duration_ms"] / 1000.0
                        self._run_s.record(took_s, _attributes(named))

    def close(self) -> None:
        """End the spans of runs that have not ended, at the time of their last event."""
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
        if run.begins_to_sound(what):
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
            named = {"pipeline": run.pipeline, "stage": stage, "outcome": what}
            failed = {"error.type": self._codes(data["error_code"])} if what == FAILED else {}
            self._stage_s.record(data["duration_ms"] / 1000.0, {**_attributes(named), **failed})
        else:
            span.add_event(what, _attributes(data), _ns(event))


def _below(span: trace.Span | None) -> Context:
    """Return the context of a span below `span`; of a root span if that is None."""
    return trace.set_span_in_context(span, Context()) if span is not None else Context()


def _end(span: trace.Span, event: Event) -> None:
    data = event.data
    _mark(span, CANCELLED if event.what == CANCELLED else data.get("error_code"))
    if "reason" in data:
        span.set_attribute("stageflow.reason", str(data["reason"]))
    span.end(_ns(event))


def _mark(span: trace.Span, error_code: str | None) -> None:
    if error_code == CANCELLED:
        span.set_attribute("stageflow.cancelled", True)
    elif error_code is not None:
        span.set_attribute("error.type", error_code)
        span.set_status(trace.StatusCode.ERROR, error_code)


def _abandon(run: _OpenRun) -> None:
    for span in (*run.stages.values(), run.span):
        span.set_attribute("stageflow.unfinished", True)
        span.end(run.seen_ns)


def _attributes(data: Mapping[str, Any]) -> dict[str, str | bool | int | float]:
    known = ((key, plain(value)) for key, value in data.items() if value is not None)
    return {
        f"stageflow.{key}": value if isinstance(value, str | bool | int | float) else str(value)
        for key, value in known
    }


def _ns(event: Event) -> int:
    """Return the time in nanoseconds since the epoch, exact to the microsecond."""
    return (event.timestamp - _EPOCH) // timedelta(microseconds=1) * 1000
