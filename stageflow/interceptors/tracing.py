"""Stages as spans of a trace."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stageflow.engine import Interceptor, RunScope, StageContext, StageOutput
from stageflow.errors.data import require_methods
from stageflow.resilience.classification import classify


class Tracer(Protocol):
    """A receiver of spans. Its methods are called in the event loop and must not block."""

    def start(self, name: str, parent: Any | None, attributes: Mapping[str, Any]) -> Any:
        """Open a span below `parent` (None starts a trace) and return it."""

    def end(self, span: Any, error_code: str | None) -> None:
        """Close a span; `error_code` is None if it did not fail."""


@dataclass(slots=True)
class Span:
    """A span of `InMemoryTracer`; `error_code` is None if it did not fail."""

    name: str
    parent: Span | None
    attributes: Mapping[str, Any]
    ended: bool = False
    error_code: str | None = None


@dataclass(slots=True)
class InMemoryTracer:
    """A tracer that keeps every span, for tests and small tools."""

    spans: list[Span] = field(default_factory=list)

    def start(self, name: str, parent: Span | None, attributes: Mapping[str, Any]) -> Span:
        """Open a span; see `Tracer`."""
        span = Span(name, parent, attributes)
        self.spans.append(span)
        return span

    def end(self, span: Span, error_code: str | None) -> None:
        """Close a span; see `Tracer`."""
        span.ended = True
        span.error_code = error_code


class TracingInterceptor(Interceptor):
    """Open a span for each stage, below the stage that started a child run.

    The spans of a run share ``pipeline_run_id``; its child runs also share ``correlation_id``.
    """

    def __init__(self, tracer: Tracer) -> None:
        require_methods("TracingInterceptor", "tracer", tracer, plain=("start", "end"))
        self._start, self._end = tracer.start, tracer.end
        #: By run and stage, as runs with the same seed have the same id.
        self._open: dict[tuple[RunScope | None, str | None], Any] = {}
        #: The attributes of the latest run, which mostly is the next stage's run, too.
        self._shared: dict[str, Any] = {"pipeline_run_id": None}

    def before(self, ctx: StageContext, /) -> None:
        """Open the stage's span."""
        scope, stage = ctx.scope, ctx.name
        context, run_id = scope.context, scope.pipeline_run_id
        # By identity, as another run with the same seed has an equal id.
        if self._shared["pipeline_run_id"] is not run_id:
            self._shared = {
                "pipeline": scope.pipeline_name,
                "pipeline_run_id": run_id,
                "correlation_id": context.correlation_id,
            }
        attributes = {"stage": stage, **self._shared}
        child = context.parent is not None
        parent = self._open.get((context.parent, context.parent_stage_id)) if child else None
        self._open[scope, stage] = self._start(f"stage {stage}", parent, attributes)

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """Close the span of a stage that succeeded."""
        self._end(self._open.pop((ctx.scope, ctx.name)), None)

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """Close the span of a stage that failed or was cancelled."""
        cancelled = isinstance(error, asyncio.CancelledError)
        error_code = "cancelled" if cancelled else classify(error).code
        self._end(self._open.pop((ctx.scope, ctx.name)), error_code)
