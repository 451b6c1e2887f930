"""The directed graph of a pipeline's stages, compiled to integers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stageflow.engine.stage import StageSpec
from stageflow.engine.stream import StreamRoute
from stageflow.errors import UnknownStageError

#: Up to how many inputs a list of dependencies is searched, and no set of them made.
_FEW = 8


class CriticalPath(NamedTuple):
    """The chain of stages that gives the least duration of a run, and the sum of its weights."""

    stages: tuple[str, ...]
    length: float


class StageGraph:
    """A graph of stages and their dependencies; `Pipeline.build` returns a validated one.

    Stages are numbered in the order of the specs. The producer of an input is a dependency of the
    stage that reads it. Dependencies that are not among the specs are left out.

    Attributes:
        name: Name of the pipeline.
        specs: The stages.
        inputs: Keys of the inputs that a run requires: those declared, or else those that stages
            read and no stage produces; without the optional ones.
        optional_inputs: Keys of the inputs for which every reader has a default.
        open_stages: Numbers of the stages that depend on a stage, or read a key, which no other
            stage here provides.
        order: The stages' numbers, each after those that it waits for.
        successors: For each stage, the numbers of the stages that wait for it.
        predecessors: For each stage, the numbers of the stages that it waits for.
        in_degrees: For each stage, how many stages it waits for.
        streams: For each stream its producer and its readers, by key; see `StreamRoute`.
        stream_edges: For each stream edge, from producer to dependent, the keys of the streams
            that the dependent reads: it may start as soon as these are open.
    """

    def __init__(
        self,
        specs: Iterable[StageSpec],
        *,
        name: str = "graph",
        inputs: Sequence[str] = (),
        strict: bool = True,
    ) -> None:
        """Compile specs; `strict` means that a run has no other inputs than `inputs`."""
        self.name = name
        self.specs = tuple(specs)
        self._index = {spec.name: number for number, spec in enumerate(self.specs)}
        producers: dict[str, int] = {}
        streaming = False
        for number, spec in enumerate(self.specs):
            for key in spec.outputs:
                producers[key] = number
            if spec.streams:
                streaming = True
                producers.update(dict.fromkeys(spec.streams, number))
        # For each input of the run that stages read, whether one of them needs it.
        read: dict[str, bool] = {}
        self.open_stages = self._connect(producers, read)
        self.order = self._sort()
        taken = dict.fromkeys(inputs if strict else (*inputs, *read))
        self.inputs = tuple(key for key in taken if read.get(key, True))
        self.optional_inputs = tuple(key for key in taken if not read.get(key, True))
        self.streams: Mapping[str, StreamRoute] = {}
        self.stream_edges: Mapping[tuple[int, int], frozenset[str]] = {}
        if streaming:
            self.stream_edges = self._find_stream_edges()
            self.streams = self._find_routes()

    def _connect(self, producers: Mapping[str, int], read: dict[str, bool]) -> tuple[int, ...]:
        """Find the edges, fill `read`, and return the open stages."""
        index = self._index
        predecessors: list[tuple[int, ...]] = []
        successors: list[list[int]] = [[] for _ in self.specs]
        open_stages: list[int] = []
        for number, spec in enumerate(self.specs):
            found = list(map(index.get, spec.dependencies))
            complete = None not in found
            before: list[Any] = found if complete else [n for n in found if n is not None]
            if spec.inputs:
                many = len(spec.inputs) > _FEW
                known: Any = set(before) if many else before
                for key in spec.inputs:
                    producer = producers.get(key, number)
                    if producer == number:
                        complete = False
                        if key not in producers:
                            read[key] = read.get(key, False) or key not in spec.optional
                    elif producer not in known:
                        before.append(producer)
                        if many:
                            known.add(producer)
            predecessors.append(tuple(before))
            if not complete:
                open_stages.append(number)
            for predecessor in before:
                successors[predecessor].append(number)
        self.predecessors = tuple(predecessors)
        self.successors = tuple(map(tuple, successors))
        self.in_degrees = tuple(map(len, predecessors))
        return tuple(open_stages)

    def _find_stream_edges(self) -> dict[tuple[int, int], frozenset[str]]:
        """Return the edges over which only streams are read, with the keys of these."""
        found: dict[tuple[int, int], frozenset[str]] = {}
        for number, before in enumerate(self.predecessors):
            inputs = frozenset(self.specs[number].inputs)
            for predecessor in before:
                spec = self.specs[predecessor]
                keys = inputs.intersection(spec.streams)
                if keys and inputs.isdisjoint(spec.outputs):
                    found[predecessor, number] = keys
        return found

    def _find_routes(self) -> dict[str, StreamRoute]:
        """Return the readers of each stream, back-pressured or buffered.

        In the graph of waits, each stage waits for its dependencies and each producer for its
        back-pressured readers. A reader is back-pressured only if that adds no cycle, as stages on
        a cycle may wait forever.
        """
        waits_for: list[set[int]] = [set(before) for before in self.predecessors]
        readers: dict[str, list[int]] = {}
        for number, spec in enumerate(self.specs):
            for key in spec.inputs:
                readers.setdefault(key, []).append(number)
        routes: dict[str, StreamRoute] = {}
        for producer in self.order:
            spec = self.specs[producer]
            for key in spec.streams:
                pressed: list[int] = []
                for reader in readers.get(key, ()):
                    alone = self.stream_edges.get((producer, reader)) == frozenset((key,))
                    if alone and not _leads(waits_for, reader, producer):
                        waits_for[producer].add(reader)
                        pressed.append(reader)
                buffered = [reader for reader in readers.get(key, ()) if reader not in pressed]
                routes[key] = StreamRoute(spec.name, self._names(pressed), self._names(buffered))
        return routes

    def _names(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.specs[number].name for number in numbers)

    def _sort(self) -> tuple[int, ...]:
        """Return Kahn's order (CACM 5(11), 1962), without the stages on a cycle or behind one."""
        waiting = list(self.in_degrees)
        order = [number for number, count in enumerate(waiting) if not count]
        # The list is also the queue: stages that become ready are appended while it is iterated.
        for number in order:
            for successor in self.successors[number]:
                waiting[successor] -= 1
                if not waiting[successor]:
                    order.append(successor)
        return tuple(order)

    def __len__(self) -> int:
        return len(self.specs)

    def __contains__(self, name: object) -> bool:
        return name in self._index

    def __getitem__(self, name: str) -> StageSpec:
        try:
            return self.specs[self._index[name]]
        except KeyError:
            raise UnknownStageError(self.name, name, self._index) from None

    def __repr__(self) -> str:
        edges = sum(self.in_degrees)
        return f"StageGraph({self.name!r}, {len(self.specs)} stages, {edges} dependencies)"

    def has_cycles(self) -> bool:
        """Return whether a stage waits for itself, directly or through others."""
        return len(self.order) < len(self.specs)

    def topological_order(self) -> tuple[str, ...]:
        """Return the stages' names, each after those that it waits for."""
        return self._names(self.order)

    def cycles(self) -> tuple[tuple[str, ...], ...]:
        """Return a cycle for each strongly connected component: a path that ends where it began."""
        found: list[tuple[str, ...]] = []
        for component in sorted(self._components(), key=min):
            # Each stage of a component has a predecessor in it, so a walk backwards closes a cycle.
            walk: dict[int, int] = {}
            number = min(component)
            while number not in walk:
                walk[number] = len(walk)
                number = next(p for p in self.predecessors[number] if p in component)
            cycle = list(walk)[walk[number] :]
            names = self._names(reversed(cycle))
            found.append((*names, names[0]))
        return tuple(found)

    def _components(self) -> list[set[int]]:
        """Return the strongly connected components with a cycle, by Kosaraju's two searches."""
        taken = set(self.order)
        seen: set[int] = set()
        finished: list[int] = []
        for start in range(len(self.specs)):
            stack = [start] if start not in taken else []
            while stack:
                number = stack.pop()
                if number < 0:
                    finished.append(~number)
                elif number not in seen:
                    seen.add(number)
                    stack.append(~number)
                    stack.extend(self.successors[number])
        components: list[set[int]] = []
        for start in reversed(finished):
            component: set[int] = set()
            stack = [start]
            while stack:
                number = stack.pop()
                if number not in taken:
                    taken.add(number)
                    component.add(number)
                    stack.extend(self.predecessors[number])
            if any(number in component for number in self.predecessors[start]):
                components.append(component)
        return components

    def critical_path(self, weights: Mapping[str, float] | None = None) -> CriticalPath:
        """Return the heaviest chain of stages: no run is shorter, however many run at once.

        A stage that reads a stream overlaps with its producer, so its chain continues from the
        predecessor of the producer.

        Args:
            weights: Weight of each stage by name, usually its duration; a stage that is not
                listed weighs 0. Without weights, each stage weighs 1.
        """
        best = [0.0] * len(self.specs)
        began = [0.0] * len(self.specs)
        came_from: list[int | None] = [None] * len(self.specs)
        end: int | None = None
        for number in self.order:
            for predecessor in self.predecessors[number]:
                before: int | None = predecessor
                reached = best[predecessor]
                if (predecessor, number) in self.stream_edges:
                    before, reached = came_from[predecessor], began[predecessor]
                if came_from[number] is None or reached > best[number]:
                    best[number] = reached
                    came_from[number] = before
            began[number] = best[number]
            name = self.specs[number].name
            best[number] += 1.0 if weights is None else weights.get(name, 0.0)
            if end is None or best[number] >= best[end]:
                end = number
        length = best[end] if end is not None else 0.0
        path: list[int] = []
        while end is not None:
            path.append(end)
            end = came_from[end]
        return CriticalPath(self._names(reversed(path)), length)

    def to_mermaid(self) -> str:
        """Return the graph as a Mermaid flowchart.

        Optional stages have a dashed outline. Stream edges are thick and name their streams.
        """
        lines = ["flowchart LR"]
        for number, spec in enumerate(self.specs):
            lines.append(f'    s{number}["{spec.name}<br/><small>{spec.kind}</small>"]')
        for number, before in enumerate(self.predecessors):
            for predecessor in before:
                keys = ", ".join(sorted(self.stream_edges.get((predecessor, number), ())))
                # Characters that could end a label are escaped.
                label = re.sub(r"[^\w .,-]", lambda sign: f"#{ord(sign[0])};", keys)
                arrow = f"==>|{label}|" if label else "-->"
                lines.append(f"    s{predecessor} {arrow} s{number}")
        optional = [f"s{n}" for n, spec in enumerate(self.specs) if not spec.required]
        if optional:
            lines.append("    classDef optional stroke-dasharray: 5 5")
            lines.append(f"    class {','.join(optional)} optional")
        return "\n".join(lines) + "\n"


def _leads(waits_for: Sequence[set[int]], reader: int, producer: int) -> bool:
    """Return whether `reader` may wait for `producer` other than by the edge between them."""
    waiting = [number for number in waits_for[reader] if number != producer]
    seen = {reader, *waiting}
    while waiting:
        number = waiting.pop()
        if number == producer:
            return True
        new = waits_for[number] - seen
        seen |= new
        waiting.extend(new)
    return False
