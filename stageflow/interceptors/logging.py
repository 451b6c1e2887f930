"""Stages in the standard library's log, with structured fields."""

from __future__ import annotations

import asyncio
import logging

from stageflow.context import StageContext
from stageflow.interceptors.base import Interceptor
from stageflow.stage import StageOutput


class LoggingInterceptor(Interceptor):
    """Writes one record when a stage starts (DEBUG) and one when it ends.

    A completed or skipped stage is logged at DEBUG, a cancelled one at INFO, a failed one at
    ERROR with its traceback. Each record has the attributes ``stage``, ``pipeline``,
    ``pipeline_run_id`` and ``correlation_id``, and at the end ``duration_ms``.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        """Choose the logger; ``stageflow.stage`` if left out."""
        self._logger = logger if logger is not None else logging.getLogger("stageflow.stage")

    def before(self, ctx: StageContext, /) -> None:
        """Log that the stage starts."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._log(ctx, logging.DEBUG, "stage %s started", None)

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        """Log how the stage ended."""
        if self._logger.isEnabledFor(logging.DEBUG):
            self._log(ctx, logging.DEBUG, f"stage %s {output.status}", None)

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        """Log why the stage failed, or that it was cancelled."""
        if isinstance(error, asyncio.CancelledError):
            self._log(ctx, logging.INFO, "stage %s cancelled", None)
        else:
            self._log(ctx, logging.ERROR, "stage %s failed", error)

    def _log(
        self, ctx: StageContext, level: int, message: str, error: BaseException | None
    ) -> None:
        fields = {
            "stage": ctx.name,
            "pipeline": ctx.pipeline_name,
            "pipeline_run_id": ctx.pipeline_run_id,
            "correlation_id": ctx.correlation_id,
            "duration_ms": (ctx.now() - ctx.started_at) * 1000.0,
        }
        self._logger.log(level, message, ctx.name, extra=fields, exc_info=error)
