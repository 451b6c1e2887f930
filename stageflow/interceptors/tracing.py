"""Stages as spans of a trace."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from stageflow.classification import classify
from stageflow.context import PipelineContext, RunScope, StageContext
from stageflow.interceptors.base import Interceptor
from stageflow.stage import StageOutput


class Tracer(Protocol):
    """Where spans go. Called in the event loop, so it must not block."""

    def start(self, name: str, parent: Any | None, attributes: Mapping[str, Any]) -> Any:
        """Open a span below `parent` (None: a new trace) and return a handle to it."""

    def end(self, span: Any, error_code: str | None) -> None:
        """Close a span; `error_code` is None when all went well."""


@dataclass(slots=True)
class Span:
    """One piece of work in a trace, as `InMemoryTracer` keeps it.

    Attributes:
        name: What it is.
        parent: The span that it is part of.
        attributes: What is known about it.
        ended: Whether it has been closed.
        error_code: Why it failed, None if it did not.
    """

    name: str
    parent: Span | None
    attributes: Mapping[str, Any]
    ended: bool = False
    error_code: str | None = None


@dataclass(slots=True)
class InMemoryTracer:
    """Keeps every span; for tests and small tools."""

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
    """Opens a span for each stage, below the stage that started its run as a child.

    Spans of stages of one run share the attribute ``pipeline_run_id``, those of a whole tree of
    runs the ``correlation_id``.
    """

    def __init__(self, tracer: Tracer) -> None:
        """Choose where the spans go."""
        self._start, self._end = tracer.start, tracer.end
        #: By run and stage; runs of one seed share their id.
        self._open: dict[tuple[RunScope, str], Any] = {}
        #: What all stages of a run share, kept from one to the next: most often it is the same run.
        self._shared: dict[str, Any] = {"pipeline_run_id": None}

    def before(self, ctx: StageContext, /) -> None:
        """Open the stage's span."""
        scope, stage = ctx.scope, ctx.name
        context, run_id = scope.context, scope.pipeline_run_id
        # By identity: the id of another run of the same seed is equal, but another object.
        if self._shared["pipeline_run_id"] is not run_id:
            self._shared = {
                "pipeline": scope.pipeline_name,
                "pipeline_run_id": run_id,
                "correlation_id": context.correlation_id,
            }
        attributes = {"stage": stage, **self._shared}
        parent = None if context.parent is None else self._parent(context)
        self._open[scope, stage] = self._start(f"stage {stage}", parent, attributes)

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """Close the span of a stage that went well."""
        self._end(self._open.pop((ctx.scope, ctx.name)), None)

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """Close the span of a stage that failed or was cancelled."""
        cancelled = isinstance(error, asyncio.CancelledError)
        error_code = "cancelled" if cancelled else classify(error).code
        self._end(self._open.pop((ctx.scope, ctx.name)), error_code)

    def _parent(self, context: PipelineContext) -> Any | None:
        assert context.parent is not None, "only a child run has one"
        assert context.parent_stage_id is not None, "it was set together with the parent"
        return self._open.get((context.parent, context.parent_stage_id))
