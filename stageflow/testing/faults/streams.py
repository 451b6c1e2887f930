"""Faults of the streams that stages write."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, cast

from stageflow.engine import CallNext, Interceptor, Pipeline, StageContext, StageOutput, StageSpec
from stageflow.engine.stream import StreamWriter
from stageflow.errors import InvalidConfigError
from stageflow.testing.faults.injector import FaultType
from stageflow.testing.faults.kinds import check_option, connection_reset, refused, suggestion
from stageflow.testing.wrapped import opening

#: The one option of each fault that fits a stream, and its default.
_OPTIONS: Mapping[FaultType, tuple[str, float]] = {
    FaultType.STALL: ("after_items", 0),
    FaultType.CUT: ("after_items", 1),
    FaultType.SLOW: ("duration_ms", 500.0),
}


class StreamFaultInjector(Interceptor):
    """Injects a fault into one stream; give it to the orchestrator as an interceptor.

    STALL: after ``after_items`` items, the stage's next ``put`` never returns. CUT: that ``put``
    raises `ConnectionResetError`, so the stage fails as when its service hangs up. SLOW: each
    ``put`` takes ``duration_ms`` longer.

    Example:
        >>> stalls = StreamFaultInjector(pipeline, "sentences", "stall", after_items=2)
        >>> await PipelineOrchestrator(pipeline.build(), interceptors=[stalls]).run(ctx)

    The options are ``after_items`` of STALL (default 0) and CUT (1), ``duration_ms`` of SLOW (500).

    Attributes:
        key: The stream, which a stage of the pipeline writes.
        fault_type: STALL, CUT or SLOW; the constructor takes its value as a string, too.
        injected: How many items have met it.

    Raises:
        InvalidConfigError: No stage writes such a stream, or fault and option do not fit.
    """

    def __init__(
        self, pipeline: Pipeline, key: str, fault_type: FaultType | str, **options: float
    ) -> None:
        written = [name for spec in pipeline.stages for name in spec.streams]
        if key not in written:
            known = ", ".join(map(repr, written)) or "none at all"
            fix = suggestion(str(key), written, f"{pipeline.name!r} writes {known}")
            raise InvalidConfigError("StreamFaultInjector", "key", key, fix)
        if not isinstance(fault_type, str) or fault_type not in _OPTIONS:
            fix = f"a stream can have {', '.join(_OPTIONS)}"
            raise InvalidConfigError("StreamFaultInjector", "fault_type", fault_type, fix)
        self.key = key
        self.fault_type = FaultType(fault_type)
        self.injected = 0
        kind, (field, default) = self.fault_type, _OPTIONS[self.fault_type]
        for name, found in options.items():
            if name != field:
                raise refused(kind.name, name, found, f"of a stream, its one option is {field}")
        self._amount = options.get(field, default)
        check_option(kind.name, field, self._amount)

    def applies_to(self, spec: StageSpec) -> bool:
        """Return whether the stage writes the stream."""
        return self.key in spec.streams

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        """Run the stage with a context whose stream has the fault."""
        return await call_next(opening(ctx, self._open))

    def _open(self, ctx: StageContext, key: str, capacity: int) -> StreamWriter:
        writer = ctx.open(key, capacity=capacity)
        return writer if key != self.key else cast("StreamWriter", _Writer(writer, self._strike))

    async def _strike(self, count: int) -> None:
        """Affect an item before which `count` items have been put."""
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


class _Writer:
    def __init__(self, writer: StreamWriter, strike: Callable[[int], Awaitable[None]]) -> None:
        self._writer = writer
        self._strike = strike
        self._count = 0

    async def put(self, item: Any) -> bool:
        await self._strike(self._count)
        taken = await self._writer.put(item)
        self._count += taken
        return taken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)
