"""Where events, spans and measurements go: sinks and readers, each backend an extra."""

# ruff: noqa: F403, F405 - the list below says which names are public

from typing import TYPE_CHECKING

from stageflow._utils.lazy import lazy_names
from stageflow.telemetry.database import TelemetryError
from stageflow.telemetry.dead_letters import *
from stageflow.telemetry.jsonl import JsonLinesSink, read_events
from stageflow.telemetry.logging import LoggingSink
from stageflow.telemetry.readings import *
from stageflow.telemetry.sqlite import SQLiteSink
from stageflow.telemetry.store import *

if TYPE_CHECKING:
    from stageflow.telemetry.opentelemetry import OpenTelemetrySink, OpenTelemetryTracer
    from stageflow.telemetry.postgres import PostgresSink
    from stageflow.telemetry.prometheus import PrometheusSink, serve_metrics

__all__ = [
    "BOUNDS_MS",
    "DEAD_LETTER_REPLAYED",
    "DEAD_LETTER_WAITING",
    "DURATION_BUCKETS_S",
    "BreakerNote",
    "Errors",
    "First",
    "Histogram",
    "JsonLinesSink",
    "Latency",
    "LetterNote",
    "LoggingSink",
    "ObservedDeadLetterStore",
    "OpenTelemetrySink",
    "OpenTelemetryTracer",
    "Place",
    "PostgresSink",
    "PrometheusSink",
    "Pruned",
    "RunNote",
    "SQLiteSink",
    "TelemetryError",
    "TelemetryStore",
    "Window",
    "place",
    "prune",
    "read_events",
    "serve_metrics",
]
__getattr__, __dir__ = lazy_names(
    __name__,
    """
    opentelemetry: OpenTelemetrySink OpenTelemetryTracer
    postgres: PostgresSink
    prometheus: PrometheusSink serve_metrics
    """,
)
