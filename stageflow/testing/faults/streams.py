"""Faults of streams that stages write: what becomes of those who read them?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

from stageflow.context import StageContext
from stageflow.errors import InvalidConfigError, nearest
from stageflow.interceptors.base import CallNext, Interceptor
from stageflow.pipeline import Pipeline
from stageflow.stage import StageOutput, StageSpec
from stageflow.stream import StreamWriter
from stageflow.testing.faults.errors import connection_reset
from stageflow.testing.faults.injector import FaultType
from stageflow.testing.faults.options import refused, require_amount, require_count
from stageflow.testing.opening import opening

#: The one option of each fault that fits a stream, and its default.
_OPTIONS: Mapping[FaultType, tuple[str, float]] = {
    FaultType.STALL: ("after_items", 0),
    FaultType.CUT: ("after_items", 1),
    FaultType.SLOW: ("duration_ms", 500.0),
}


class StreamFaultInjector(Interceptor):
    """Puts a fault on one stream; give it to the orchestrator among its interceptors.

    STALL: the stage puts ``after_items`` items, and its next ``put`` never returns. CUT: that
    ``put`` raises `ConnectionResetError`, so the stage fails as when its service hangs up. SLOW:
    each ``put`` takes ``duration_ms`` longer.

    Example:
        >>> stalls = StreamFaultInjector(pipeline, "sentences", "stall", after_items=2)
        >>> await PipelineOrchestrator(pipeline.build(), interceptors=[stalls]).run(ctx)
        >>> stalls.injected
        1

    Attributes:
        key: The stream.
        fault_type: What goes wrong.
        injected: How many items have met it.
    """

    def __init__(
        self, pipeline: Pipeline, key: str, fault_type: FaultType | str, **options: float
    ) -> None:
        """Choose stream and fault.

        Args:
            pipeline: Whose stage writes the stream.
            key: The stream.
            fault_type: STALL, CUT or SLOW; the value as a string will do.
            options: ``after_items`` of STALL (default 0) and CUT (1), ``duration_ms`` of SLOW
                (500).

        Raises:
            InvalidConfigError: No stage writes such a stream, or fault and option do not fit.
        """
        written = [name for spec in pipeline.stages for name in spec.streams]
        if key not in written:
            hint = nearest(key, written) if isinstance(key, str) else None
            known = ", ".join(map(repr, written)) or "none at all"
            mend = f"did you mean {hint!r}?" if hint else f"{pipeline.name!r} writes {known}"
            raise InvalidConfigError("StreamFaultInjector", "key", key, mend)
        if not isinstance(fault_type, str) or fault_type not in _OPTIONS:
            mend = f"a stream can have {', '.join(_OPTIONS)}"
            raise InvalidConfigError("StreamFaultInjector", "fault_type", fault_type, mend)
        self.key = key
        self.fault_type = FaultType(fault_type)
        self._amount = _amount(self.fault_type, options)
        self.injected = 0

    def applies_to(self, spec: StageSpec) -> bool:
        """Only to the stage that writes the stream."""
        return self.key in spec.streams

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage with a context whose stream is in trouble."""
        return await call_next(opening(ctx, self._open))

    def _open(self, ctx: StageContext, key: str, capacity: int) -> StreamWriter:
        writer = ctx.open(key, capacity=capacity)
        return writer if key != self.key else cast("StreamWriter", _Writer(writer, self))

    async def strike(self, count: int) -> None:
        """Do what the fault does to an item.

        Args:
            count: How many items have been put before it.
        """
        if self.fault_type is not FaultType.SLOW and count < self._amount:
            return
        self.injected += 1
        if self.fault_type is FaultType.SLOW:
            await asyncio.sleep(self._amount / 1000.0)
        elif self.fault_type is FaultType.CUT:
            raise connection_reset(self.key, f"after {count} items")
        else:
            await asyncio.get_running_loop().create_future()

    def __repr__(self) -> str:
        return f"StreamFaultInjector({self.key!r}, {str(self.fault_type)!r})"


def _amount(kind: FaultType, options: Mapping[str, float]) -> float:
    field, default = _OPTIONS[kind]
    for name, found in options.items():
        if name != field:
            raise refused(kind.name, name, found, f"of a stream, its one option is {field}")
    amount = options.get(field, default)
    if kind is FaultType.SLOW:
        require_amount(kind.name, field, amount, "milliseconds")
    else:
        require_count(kind.name, field, amount)
    return amount


class _Writer:
    """The writer of the stream that is in trouble."""

    def __init__(self, writer: StreamWriter, injector: StreamFaultInjector) -> None:
        self._writer = writer
        self._injector = injector
        self._count = 0

    async def put(self, item: Any) -> bool:
        """As `StreamWriter.put`, unless the fault strikes first."""
        await self._injector.strike(self._count)
        taken = await self._writer.put(item)
        self._count += taken
        return taken

    @property
    def wanted(self) -> bool:
        """As `StreamWriter.wanted`."""
        return self._writer.wanted
