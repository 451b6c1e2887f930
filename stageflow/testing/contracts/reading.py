"""Somebody who reads what a stage streams: slowly, or only the beginning."""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass
from typing import Any

from stageflow.context import StageContext
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.pipeline import Pipeline
from stageflow.stage import StageOutput, StageSpec
from stageflow.stream import StreamWriter
from stageflow.testing.opening import opening

READER = "reader"


@dataclass(frozen=True)
class Reader:
    """Reads some streams at once.

    Attributes:
        keys: Which.
        pause_s: How long it takes for an item, in seconds.
        takes: After how many items it leaves a stream; None for never.
    """

    keys: tuple[str, ...]
    pause_s: float = 0.0
    takes: int | None = None

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        """Read them."""
        async with asyncio.TaskGroup() as group:
            for key in self.keys:
                group.create_task(self._read(ctx[key]))
        return StageOutput.ok()

    async def _read(self, stream: Any) -> None:
        taken = 0
        while taken != self.takes:
            async for _ in stream:
                break
            else:
                return
            taken += 1
            await asyncio.sleep(self.pause_s)
        await stream.aclose()


def read_by(spec: StageSpec, reader: Reader) -> Pipeline:
    """A pipeline of a stage, given all its inputs, and its reader."""
    alone = dataclasses.replace(spec, dependencies=(), condition=None)
    name = f"{spec.name}-{READER}"
    beside = StageSpec(name, reader, dependencies=(spec.name,), inputs=reader.keys)
    return Pipeline(f"{spec.name}-read", [alone, beside], inputs=spec.inputs)


class Narrow(Interceptor):
    """Lets no stream have room for more than one item, so that whoever puts has to wait."""

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage with a context that opens narrow streams."""
        return await call_next(opening(ctx, _narrow))


def _narrow(ctx: StageContext, key: str, capacity: int) -> StreamWriter:
    return ctx.open(key, capacity=1)
