"""Spans and measurements of stages, handed to OpenTelemetry.

Needs the extra ``stageflow[otel]``. Without arguments, both adapters use the providers that the
application has set up globally::

    interceptors = [
        TracingInterceptor(OpenTelemetryTracer()),
        MetricsInterceptor(OpenTelemetryMetrics()),
    ]

A stage's span is the current one while the stage runs, so that the spans of an instrumented HTTP
client or database come to stand below it. The stages of a run have no common span of their own:
they stand below whatever span is current where the run is awaited, so open one around a turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import Token
from typing import Any, NamedTuple

from opentelemetry import context as otel_context
from opentelemetry import metrics, trace
from opentelemetry.context import Context

from stageflow import __version__
from stageflow.telemetry.buckets import DURATION_BUCKETS_S

_SCOPE = "stageflow"

#: The outcomes of `Metrics.record_stage` that are no code of an error.
_PLAIN_OUTCOMES = frozenset({"completed", "skipped", "cancelled"})


class OpenSpan(NamedTuple):
    """A span that has been started and made current.

    Attributes:
        span: The span.
        token: What gives the former span its place back.
    """

    span: trace.Span
    token: Token[Context]


class OpenTelemetryTracer:
    """A `stageflow.interceptors.tracing.Tracer` that makes OpenTelemetry spans.

    Attributes of a span have the prefix ``stageflow.``. A failed stage's span has the status
    ERROR and the attribute ``error.type`` with the error's code; a cancelled one has the attribute
    ``stageflow.cancelled``, and no error, as nothing is wrong with it.
    """

    def __init__(self, tracer: trace.Tracer | None = None) -> None:
        """Choose the tracer; one of the global provider if left out."""
        self._tracer = tracer if tracer is not None else trace.get_tracer(_SCOPE, __version__)

    def start(self, name: str, parent: OpenSpan | None, attributes: Mapping[str, Any]) -> OpenSpan:
        """Open a span below `parent` (None: below the current span, if there is one)."""
        above = trace.set_span_in_context(parent.span) if parent is not None else None
        known = {f"stageflow.{k}": v for k, v in attributes.items() if v is not None}
        span = self._tracer.start_span(name, above, attributes=known)
        return OpenSpan(span, otel_context.attach(trace.set_span_in_context(span)))

    def end(self, span: OpenSpan, error_code: str | None) -> None:
        """Close a span and give the former one its place back."""
        otel_context.detach(span.token)
        if error_code == "cancelled":
            span.span.set_attribute("stageflow.cancelled", True)
        elif error_code is not None:
            span.span.set_attribute("error.type", error_code)
            span.span.set_status(trace.StatusCode.ERROR, error_code)
        span.span.end()


class OpenTelemetryMetrics:
    """A `stageflow.interceptors.metrics.Metrics` that fills an OpenTelemetry histogram.

    The histogram ``stageflow.stage.duration`` counts seconds. Its attributes are
    ``stageflow.pipeline``, ``stageflow.stage`` and ``stageflow.outcome`` (completed, skipped,
    cancelled or failed), and for a failed stage ``error.type`` with the error's code.
    """

    def __init__(self, meter: metrics.Meter | None = None) -> None:
        """Choose the meter; one of the global provider if left out."""
        meter = meter if meter is not None else metrics.get_meter(_SCOPE, __version__)
        self._durations = meter.create_histogram(
            "stageflow.stage.duration",
            unit="s",
            description="Duration of one execution of a stage.",
            explicit_bucket_boundaries_advisory=DURATION_BUCKETS_S,
        )

    def record_stage(self, pipeline: str, stage: str, outcome: str, duration_ms: float) -> None:
        """Take one execution; see `stageflow.interceptors.metrics.Metrics`."""
        attributes = {"stageflow.pipeline": pipeline, "stageflow.stage": stage}
        if outcome in _PLAIN_OUTCOMES:
            attributes["stageflow.outcome"] = outcome
        else:
            attributes["stageflow.outcome"] = "failed"
            attributes["error.type"] = outcome
        self._durations.record(duration_ms / 1000.0, attributes)
