"""The streams of one run: open them, start the stages that wait for them, close them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, NamedTuple

from stageflow import events as ev
from stageflow.engine.stream import Stream, StreamWriter
from stageflow.errors import StageDefectError, StageflowError, StreamError
from stageflow.errors.data import require_counts

if TYPE_CHECKING:
    from stageflow.engine.context import RunScope
    from stageflow.engine.plan import Plan


class EarlyLatch(NamedTuple):
    """The latch of stages that wait for streams of one producer to open, or for its end."""

    keys: frozenset[str]
    latch: int


class RunStreams:
    """All streams of one run; `release` is called with latches to count down while a stage runs."""

    def __init__(self, scope: RunScope, plan: Plan, release: Callable[[list[int]], None]) -> None:
        self._loop = scope.loop
        self._log = scope.log
        self._bag = scope.bag
        self._routes = plan.graph.streams
        self._written = plan.written
        self._read = plan.read
        self._early = {stage: list(waiting) for stage, waiting in plan.early.items()}
        self._release = release
        #: Streams that the caller reads already, before a stage opens them.
        self.prepared: dict[str, Stream] = {}
        self._opened: dict[str, dict[str, Stream]] = defaultdict(dict)
        self._ended: set[str] = set()

    def open(self, stage: str, started_at: float, key: str, capacity: int) -> StreamWriter:
        """Open a stream, or continue it in another attempt; see `StageContext.open`."""
        owned = self._written.get(stage, ())
        if key not in owned:
            raise StreamError.undeclared(key, owned)
        require_counts(f"stream {key!r}", capacity=capacity)
        if stage in self._ended:
            raise StreamError.closed(key, stage)
        stream = self._opened[stage].get(key)
        if stream is None:
            stream = self._open(stage, started_at, key)
        elif stream.count:
            raise StreamError(
                key,
                f"opened the stream {key!r} again after putting {stream.count} items into it; open"
                " it once, and do not run the stage again: readers have seen these items",
                code="stream_reopened",
            )
        stream.capacity = capacity
        return StreamWriter(stream)

    def _open(self, stage: str, started_at: float, key: str) -> Stream:
        def announce() -> None:
            elapsed_ms = (self._loop.time() - started_at) * 1000.0
            self._record(ev.STREAM_FIRST_ITEM, stage, stream=key, elapsed_ms=elapsed_ms)

        route = self._routes[key]
        stream = self.prepared.pop(key, None) or Stream(key, route)
        stream._announce = announce
        for reader in (*route.back_pressured, *route.buffered):
            if reader in self._ended:
                stream.leave(reader)
        self._bag.put(key, stream, stage)
        opened = self._opened[stage]
        opened[key] = stream
        self._record(ev.STREAM_OPENED, stage, stream=key)
        waiting = self._early.get(stage, [])
        passed = [early for early in waiting if early.keys <= opened.keys()]
        if passed:
            self._early[stage] = [early for early in waiting if early not in passed]
            self._release([early.latch for early in passed])
        return stream

    def check(self, stage: str) -> None:
        """Raise if a stage that completes has not opened a stream, or not awaited a ``put``."""
        opened = self._opened[stage]
        unopened = sorted(key for key in self._written[stage] if key not in opened)
        if unopened:
            raise StageDefectError(
                f"did not open the streams {unopened}, which it declares: write"
                f" ctx.open({unopened[0]!r}), or return StageOutput.skip(reason)",
                code="output_mismatch",
                keys=unopened,
            )
        for key, stream in opened.items():
            if stream.drop_put():
                raise StageDefectError(
                    f"put an item into the stream {key!r} that nobody awaited; write 'await"
                    " writer.put(…)', and let the stage wait for its tasks",
                    code="unawaited_output",
                )

    def has_put(self, stage: str) -> bool:
        """Return whether the stage has put an item into any of its streams."""
        return any(stream.count for stream in self._opened[stage].values())

    def end(
        self, stage: str, outcome: str, at: float, failure: StageflowError | None = None
    ) -> list[int]:
        """Close the streams and readers of a stage that has ended; return latches to count down."""
        self._leave(stage)
        for key, stream in self._opened[stage].items():
            stream.close(outcome, failure)
            kind = ev.stage_event_type(stage, ev.STREAM_CLOSED)
            data = {"stream": key, "items": stream.count, "outcome": outcome}
            self._log.append((kind, at, stage, data))
        self._close_unopened(stage, outcome, failure)
        return [early.latch for early in self._early.pop(stage, [])]

    def detach(self) -> None:
        """Drop the references to the run, which has ended."""
        del self._release
        for opened in self._opened.values():
            for stream in opened.values():
                stream.detach()

    def abandon(self, begun: Collection[str | None], failure: StageflowError | None) -> None:
        """Close the readers and streams of stages that have not begun, because the run stops."""
        for stage in sorted(self._read.keys() - begun):
            self._leave(stage)
        for stage in sorted(self._written.keys() - begun):
            self._close_unopened(stage, ev.CANCELLED, failure)

    def _close_unopened(self, stage: str, outcome: str, failure: StageflowError | None) -> None:
        for key in self._written.get(stage, ()):
            if key in self.prepared:
                self.prepared.pop(key).close(outcome, failure)

    def _leave(self, stage: str) -> None:
        self._ended.add(stage)
        for key in self._read.get(stage, ()):
            stream = self._opened[self._routes[key].producer].get(key)
            if stream is not None:
                stream.leave(stage)

    def _record(self, what: str, stage: str, **data: object) -> None:
        self._log.append((ev.stage_event_type(stage, what), self._loop.time(), stage, data))
