"""The same work as stageflow's, written by hand with asyncio alone: what it is compared with.

Two versions of each shape:

- *bare*: ``gather`` for each layer. No events, no timing, no limits, no checks.
- *featured*: what somebody writes who needs what the engine gives: a run id, numbered and timed
  events, outputs checked against the declared ones and written once, and a timeout a stage. Events
  are tuples, the cheapest record there is, and a layer of one stage is awaited without a task, so
  a chain is plain awaits one after another.

Both write for each stage the same output as the stages of `workloads`.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from benchmarks._lib.workloads import TIMEOUT_S, Shape, output_of

BareStage: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]
Outputs: TypeAlias = dict[str, Any]
FeaturedStage: TypeAlias = Callable[["Run"], Awaitable[Outputs]]
#: Sequence number, type, time in seconds since the epoch, run id, stage, data.
HandEvent: TypeAlias = tuple[int, str, float, str, str | None, Any]


# ── bare: gather for each layer ─────────────────────────────────────────────────────────────


class BareGraph:
    """The stages of a shape as functions that write into a dict."""

    def __init__(self, shape: Shape, *, suspend: bool = False) -> None:
        make = _bare_suspending if suspend else _bare_no_op
        self.layers = [[make(name) for name in layer] for layer in shape.layers]

    async def run(self) -> Outputs:
        """Run every layer after the one before it; returns what the stages have written."""
        outputs: Outputs = {}
        for layer in self.layers:
            if len(layer) == 1:
                await layer[0](outputs)
            else:
                await asyncio.gather(*(stage(outputs) for stage in layer))
        return outputs


def _bare_no_op(name: str) -> BareStage:
    key = output_of(name)

    async def stage(outputs: Outputs) -> None:
        outputs[key] = name

    return stage


def _bare_suspending(name: str) -> BareStage:
    key = output_of(name)

    async def stage(outputs: Outputs) -> None:
        await asyncio.sleep(0)
        outputs[key] = name

    return stage


# ── featured: the same features as stageflow ────────────────────────────────────────────────


class Run:
    """One hand-written run: its id, its outputs with their writers, and its events."""

    __slots__ = ("events", "outputs", "run_id", "writers")

    def __init__(self) -> None:
        self.run_id = uuid.uuid4().hex
        self.outputs: Outputs = {}
        self.writers: dict[str, str] = {}
        self.events: list[HandEvent] = []

    def emit(self, kind: str, stage: str | None = None, data: Any = None) -> None:
        """Append one numbered and timed event."""
        events = self.events
        events.append((len(events) + 1, kind, time.time(), self.run_id, stage, data))


class FeaturedGraph:
    """The stages of a shape with all features around each of them."""

    def __init__(
        self, shape: Shape, *, suspend: bool = False, timeout_s: float | None = TIMEOUT_S
    ) -> None:
        make = _featured_suspending if suspend else _featured_no_op
        self.timeout_s = timeout_s
        self.layers = [
            [(name, make(name), frozenset({output_of(name)})) for name in layer]
            for layer in shape.layers
        ]

    async def run(self) -> Run:
        """Run every layer after the one before it."""
        run = Run()
        run.emit("pipeline.started")
        started_at = time.perf_counter()
        for layer in self.layers:
            if len(layer) == 1:
                await self._stage(run, *layer[0])
            else:
                await asyncio.gather(*(self._stage(run, *stage) for stage in layer))
        duration_ms = (time.perf_counter() - started_at) * 1000.0
        run.emit("pipeline.completed", None, duration_ms)
        return run

    async def _stage(
        self, run: Run, name: str, stage: FeaturedStage, declared: frozenset[str]
    ) -> None:
        run.emit(f"stage.{name}.started", name)
        started_at = time.perf_counter()
        try:
            if self.timeout_s is None:
                outputs = await stage(run)
            else:
                async with asyncio.timeout(self.timeout_s):
                    outputs = await stage(run)
            if outputs.keys() != declared:
                raise ValueError(f"{name} returned {sorted(outputs)}, not {sorted(declared)}")
            for key, value in outputs.items():
                write_once(run.outputs, run.writers, key, value, name)
        except BaseException as error:
            run.emit(f"stage.{name}.failed", name, repr(error))
            raise
        duration_ms = (time.perf_counter() - started_at) * 1000.0
        run.emit(f"stage.{name}.completed", name, duration_ms)


def write_once(
    outputs: Outputs, writers: dict[str, str], key: str, value: Any, writer: str
) -> None:
    """Write one key into two dicts, unless it stands there already."""
    if key in outputs:
        raise ValueError(f"{writer} writes {key}, which {writers[key]} has written")
    outputs[key] = value
    writers[key] = writer


def _featured_no_op(name: str) -> FeaturedStage:
    key = output_of(name)

    async def stage(_run: Run) -> Outputs:
        return {key: name}

    return stage


def _featured_suspending(name: str) -> FeaturedStage:
    key = output_of(name)

    async def stage(_run: Run) -> Outputs:
        await asyncio.sleep(0)
        return {key: name}

    return stage
