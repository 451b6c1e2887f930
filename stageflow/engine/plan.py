"""A graph and its interceptors, compiled so that a run needs no look-ups."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stageflow import events as ev
from stageflow.engine.dead_letter import DeadLetterSink
from stageflow.engine.graph import StageGraph
from stageflow.engine.interceptor import Interceptor, fold
from stageflow.engine.run_streams import EarlyLatch
from stageflow.engine.stage import Condition, StageFunction, StageSpec, holds
from stageflow.engine.stage_context import StageContext


class Node:
    """One stage, compiled: all that a run needs of it."""

    def __init__(self, spec: StageSpec, interceptors: Sequence[Interceptor]) -> None:
        self.name = spec.name
        self.execute: StageFunction = (
            fold(spec, interceptors)
            if interceptors or spec.interceptors or spec.streams
            else spec.execute
        )
        #: The latches that this stage counts down when it ends.
        self.latches: tuple[int, ...] = ()
        self.inputs = frozenset(spec.inputs)
        self.outputs = spec.output_keys
        self.provider = spec.provider
        self.required = spec.required
        self.timeout_s = spec.timeout_s
        self.condition: Condition | None = spec.condition
        self.needs = spec.needs
        #: Whether it may be skipped before it runs.
        self.guarded = bool(spec.condition or spec.needs)
        #: Whether it writes or reads streams, which the run closes at its end.
        self.streaming = False
        self.started = ev.stage_event_type(spec.name, ev.STARTED)
        self.completed = ev.stage_event_type(spec.name, ev.COMPLETED)

    def why_skip(self, ctx: StageContext) -> str | None:
        """Return why the stage does not run, if it does not."""
        values, given = ctx.scope.bag._values, ctx.scope.inputs
        for key in self.needs:
            if key not in values and key not in given:
                return ctx.why_skip(key)
        if self.condition is not None and not holds(self.condition(ctx)):
            return "its condition does not hold"
        return None


class Plan:
    """A graph, compiled for running.

    Stages with the same dependencies share one *latch*, a counter that starts all of them when it
    reaches zero: two fully connected layers of 100 stages cost 200 steps, not 10,000. The end of a
    dependency counts a latch down, or that a dependency has opened streams (an `EarlyLatch`).
    """

    def __init__(
        self,
        graph: StageGraph,
        interceptors: Sequence[Interceptor],
        dead_letters: DeadLetterSink | None,
    ) -> None:
        self.graph = graph
        self.dead_letters = dead_letters
        self.nodes = tuple(Node(spec, interceptors) for spec in graph.specs)
        self.producers = {key: spec.name for spec in graph.specs for key in spec.outputs}
        self.timeouts_s = {s.name: s.timeout_s for s in graph.specs if s.timeout_s is not None}
        #: The keys of the streams that each stage writes, and of those that it reads, by name.
        self.written: dict[str, list[str]] = {}
        self.read: dict[str, list[str]] = {}
        waits: Sequence[tuple[Any, ...]] = graph.predecessors
        if graph.streams:
            keys_of = graph.stream_edges
            # Each waits for ends of stages, or for pairs of a stage and its streams.
            waits = [
                tuple((n, keys_of[n, number]) if (n, number) in keys_of else n for n in before)
                for number, before in enumerate(graph.predecessors)
            ]
            for key, route in graph.streams.items():
                self.producers[key] = route.producer
                self.written.setdefault(route.producer, []).append(key)
                for reader in (*route.back_pressured, *route.buffered):
                    self.read.setdefault(reader, []).append(key)
            for node, spec in zip(self.nodes, graph.specs, strict=True):
                node.streaming = bool(spec.streams) or not node.inputs.isdisjoint(graph.streams)
        behind: dict[tuple[Any, ...], list[int]] = {}
        for number, before in enumerate(waits):
            behind.setdefault(before, []).append(number)
        self.roots = tuple(behind.pop((), ()))
        #: For each latch, how many stages it waits for, and the stages that it starts.
        self.counts = tuple(map(len, behind))
        self.opens = tuple(map(tuple, behind.values()))
        latches: list[list[int]] = [[] for _ in self.nodes]
        #: For each producer of streams, by name, the latches that wait for its streams.
        self.early: dict[str, list[EarlyLatch]] = {}
        for latch, before in enumerate(behind):
            for awaited in before:
                if isinstance(awaited, int):
                    latches[awaited].append(latch)
                else:
                    number, keys = awaited
                    waiting = self.early.setdefault(self.nodes[number].name, [])
                    waiting.append(EarlyLatch(keys, latch))
        for node, counted in zip(self.nodes, latches, strict=True):
            node.latches = tuple(counted)
