"""The failure of a dead letter, made to happen again; what exported tests are made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NoReturn

from stageflow.context import StageContext
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.errors import ErrorCategory, StageflowError
from stageflow.events import StageStatus
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.letter import StageRecord
from stageflow.providers.registry import adapted
from stageflow.stage import StageOutput


class RecordedError(StageflowError):
    """A failure as a dead letter has recorded it, with the code, category and text of then."""

    code = "recorded_error"

    def __init__(self, code: str, category: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.category = ErrorCategory(category)


class _Broken:
    """Stands in for a provider, whatever its port, and fails each call."""

    def __init__(self, error: StageflowError) -> None:
        self._error = error

    def __getattr__(self, name: str) -> Any:
        return self._fail

    def _fail(self, *arguments: Any, **options: Any) -> NoReturn:
        raise self._error


class RecordedFault(Interceptor):
    """Makes a stage fail as it did when the dead letter was written.

    With a provider it is that one which fails, and the stage runs as it always does; without, the
    stage itself does.
    """

    def __init__(
        self, stage: str, *, code: str, category: str, message: str, provider: str | None = None
    ) -> None:
        """Choose the stage, and what happens to it.

        Args:
            stage: Name of the stage.
            code: Code of the error.
            category: Category of the error.
            message: Text of the error.
            provider: Name of the provider that failed; None if the stage did.
        """
        self.stage = stage
        self.provider = provider
        self._error = RecordedError(code, category, message)

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Fail the stage, and leave all others alone."""
        if ctx.name != self.stage:
            return await call_next(ctx)
        if self.provider is None:
            raise self._error
        with adapted(self.provider, lambda _: _Broken(self._error)):
            return await call_next(ctx)


class RecordedStall(Interceptor):
    """Lets stages stand still until the run's deadline strikes."""

    def __init__(self, *stages: str) -> None:
        """Choose the stages by their names."""
        self.stages = stages

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Stand still, or leave the stage alone."""
        if ctx.name in self.stages:
            await asyncio.Event().wait()
        return await call_next(ctx)


def values_of(text: str, codec: LetterCodec = DEFAULT_CODEC) -> dict[str, Any]:
    """Values by key, from the JSON of a dead letter."""
    return {key: codec.from_plain(plain) for key, plain in json.loads(text).items()}


def stages_of(text: str, codec: LetterCodec = DEFAULT_CODEC) -> Mapping[str, StageRecord]:
    """Finished stages by name, from JSON that gives for each how it ended and what it wrote."""
    return {
        name: StageRecord(
            StageStatus(plain["ending"]),
            final=True,
            outputs={key: codec.from_plain(value) for key, value in plain["outputs"].items()},
        )
        for name, plain in json.loads(text).items()
    }
