"""Counts and durations of stages."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Protocol

from stageflow.classification import classify
from stageflow.context import StageContext
from stageflow.interceptors.base import Interceptor
from stageflow.stage import StageOutput


class Metrics(Protocol):
    """Where measurements of stages go. Called in the event loop, so it must not block."""

    def record_stage(self, pipeline: str, stage: str, outcome: str, duration_ms: float) -> None:
        """Take one execution of a stage.

        Args:
            pipeline: Name of the pipeline.
            stage: Name of the stage.
            outcome: ``completed``, ``skipped``, ``cancelled``, or the code of the error.
            duration_ms: How long it took, in milliseconds.
        """


class InMemoryMetrics:
    """Keeps every measurement; for tests and small tools.

    Attributes:
        durations_ms: For each (pipeline, stage, outcome) the durations in milliseconds, in order.
    """

    def __init__(self) -> None:
        self.durations_ms: defaultdict[tuple[str, str, str], list[float]] = defaultdict(list)

    def record_stage(self, pipeline: str, stage: str, outcome: str, duration_ms: float) -> None:
        """Keep one measurement; see `Metrics`."""
        self.durations_ms[pipeline, stage, outcome].append(duration_ms)

    def count(self, pipeline: str, stage: str, outcome: str = "completed") -> int:
        """How often a stage ended that way."""
        return len(self.durations_ms.get((pipeline, stage, outcome), ()))


class MetricsInterceptor(Interceptor):
    """Measures how long each stage takes and how it ends.

    What is measured is what stands inside: put it inside a retry to see each attempt.
    """

    def __init__(self, metrics: Metrics) -> None:
        """Choose where the measurements go."""
        self._record = metrics.record_stage

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """Record a completed or skipped stage."""
        self._take(ctx, output.status)

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """Record a failed or cancelled stage."""
        cancelled = isinstance(error, asyncio.CancelledError)
        self._take(ctx, "cancelled" if cancelled else classify(error).code)

    def _take(self, ctx: StageContext, outcome: str) -> None:
        scope = ctx.scope
        duration_ms = (scope.loop.time() - ctx.started_at) * 1000.0
        self._record(scope.pipeline_name, ctx.name, outcome, duration_ms)
