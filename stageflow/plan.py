"""A graph with its interceptors, compiled so that a run looks nothing up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from stageflow import events as ev
from stageflow.board import EarlyLatch
from stageflow.graph import StageGraph
from stageflow.interceptors.base import Interceptor, fold
from stageflow.letter import LetterBox
from stageflow.stage import Condition, StageFunction, StageSpec


class Node:
    """One stage, compiled: everything a run needs, without a look-up."""

    __slots__ = (
        "completed",
        "condition",
        "execute",
        "inputs",
        "latches",
        "name",
        "outputs",
        "provider",
        "required",
        "started",
        "streaming",
        "timeout_s",
    )

    def __init__(self, spec: StageSpec, interceptors: Sequence[Interceptor]) -> None:
        self.name = spec.name
        self.execute: StageFunction = (
            fold(spec, interceptors) if interceptors or spec.streams else spec.execute
        )
        #: The latches that this stage counts down when it ends.
        self.latches: tuple[int, ...] = ()
        self.inputs = frozenset(spec.inputs)
        self.outputs = frozenset(spec.outputs)
        self.provider = spec.provider
        self.required = spec.required
        self.timeout_s = spec.timeout_s
        self.condition: Condition | None = spec.condition
        #: Whether it writes or reads streams, so that these have to be told of its end.
        self.streaming = False
        self.started = ev.stage_event_type(spec.name, ev.STARTED)
        self.completed = ev.stage_event_type(spec.name, ev.COMPLETED)

    def event_type(self, what: str) -> str:
        """The type of an event too rare to keep the text of."""
        return ev.stage_event_type(self.name, what)


class Plan:
    """A graph, compiled for running.

    Stages that wait for the same stages share one *latch*, which counts these down and then lets
    all of them through: two layers of 100 stages that are fully connected cost 200 steps, not
    10,000. What is waited for is the end of a stage, or that it has opened some streams (an
    `EarlyLatch`).
    """

    __slots__ = (
        "counts",
        "dead_letters",
        "early",
        "graph",
        "nodes",
        "opens",
        "producers",
        "read",
        "roots",
        "timeouts_s",
        "written",
    )

    def __init__(
        self,
        graph: StageGraph,
        interceptors: Sequence[Interceptor],
        dead_letters: LetterBox | None,
    ) -> None:
        self.graph = graph
        self.dead_letters = dead_letters
        self.nodes = tuple(Node(spec, interceptors) for spec in graph.specs)
        self.producers = {key: spec.name for spec in graph.specs for key in spec.outputs}
        self.timeouts_s = {s.name: s.timeout_s for s in graph.specs if s.timeout_s is not None}
        #: The keys of the streams that each stage writes, and of those that it reads, by its name.
        self.written: dict[str, list[str]] = {}
        self.read: dict[str, list[str]] = {}
        waits: Sequence[tuple[Any, ...]] = graph.predecessors
        if graph.streams:
            waits = [_waits(graph, number) for number in range(len(graph))]
            for key, route in graph.streams.items():
                self.producers[key] = route.producer
                self.written.setdefault(route.producer, []).append(key)
                for reader in (*route.live, *route.late):
                    self.read.setdefault(reader, []).append(key)
            for node, spec in zip(self.nodes, graph.specs, strict=True):
                node.streaming = bool(spec.streams) or not node.inputs.isdisjoint(graph.streams)
        behind: dict[tuple[Any, ...], list[int]] = {}
        for number, before in enumerate(waits):
            behind.setdefault(before, []).append(number)
        self.roots = tuple(behind.pop((), ()))
        #: For each latch, how many stages it waits for, and the stages that it lets through.
        self.counts = tuple(map(len, behind))
        self.opens = tuple(map(tuple, behind.values()))
        latches: list[list[int]] = [[] for _ in self.nodes]
        #: For each producer of streams, by name, what waits for these.
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


def _waits(graph: StageGraph, number: int) -> tuple[int | tuple[int, frozenset[str]], ...]:
    """What a stage waits for: the end of a stage, or a stage with the streams that it opens."""
    keys_of = graph.stream_edges
    return tuple(
        (before, keys_of[before, number]) if (before, number) in keys_of else before
        for before in graph.predecessors[number]
    )
