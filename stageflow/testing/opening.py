"""A stage's context that is as it was, but opens streams in another way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias, cast

from stageflow.context import StageContext
from stageflow.stream import CAPACITY, StreamWriter

#: Opens a stream in the place of `StageContext.open`: takes the context, key and capacity.
Opens: TypeAlias = Callable[[StageContext, str, int], StreamWriter]


def opening(ctx: StageContext, opens: Opens) -> StageContext:
    """The context for a stage whose streams `opens` opens; for an interceptor to hand on."""
    return cast("StageContext", _Context(ctx, opens))


class _Context:
    def __init__(self, ctx: StageContext, opens: Opens) -> None:
        self._ctx = ctx
        self._opens = opens

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ctx, name)

    def __getitem__(self, key: str) -> Any:
        return self._ctx[key]

    def __setitem__(self, key: str, value: object) -> None:
        self._ctx[key] = value

    def open(self, key: str, *, capacity: int = CAPACITY) -> StreamWriter:
        return self._opens(self._ctx, key, capacity)
