"""The directed graph of a pipeline's stages, compiled to integers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stageflow.errors import UnknownStageError
from stageflow.stage import StageSpec
from stageflow.stream import StreamRoute


class CriticalPath(NamedTuple):
    """The chain of stages that bounds a run from below.

    Attributes:
        stages: Names in the order in which they run.
        length: Sum of their weights, in the unit of the weights.
    """

    stages: tuple[str, ...]
    length: float


class StageGraph:
    """Stages, and which of them wait for which.

    Stages are numbered in the order of the specs. The order of execution comes from Kahn's
    algorithm (A. B. Kahn, "Topological sorting of large networks", CACM 5(11), 1962), without
    recursion, in time proportional to stages plus dependencies.

    `Pipeline.build` is the usual way to get one; it has then been validated. Dependencies that
    are not among the specs are left out here.

    Attributes:
        name: Name of the pipeline.
        specs: The stages.
        inputs: Names of the inputs that a run must be given.
        successors: For each stage, the numbers of the stages that wait for it.
        predecessors: For each stage, the numbers of the stages that it waits for.
        in_degrees: For each stage, how many it waits for.
        streams: For each stream its producer and its readers, by key; see `StreamRoute`.
        stream_edges: For each stream edge, from producer to dependent, the keys of the streams
            that the dependent reads: it may start as soon as these are open.
    """

    __slots__ = (
        "_index",
        "_order",
        "in_degrees",
        "inputs",
        "name",
        "predecessors",
        "specs",
        "stream_edges",
        "streams",
        "successors",
    )

    def __init__(
        self, specs: Iterable[StageSpec], *, name: str = "graph", inputs: Sequence[str] = ()
    ) -> None:
        self.name = name
        self.inputs = tuple(inputs)
        self.specs = tuple(specs)
        index = {spec.name: number for number, spec in enumerate(self.specs)}
        successors: list[list[int]] = [[] for _ in self.specs]
        predecessors: list[tuple[int, ...]] = []
        streaming = False
        for number, spec in enumerate(self.specs):
            if spec.streams:
                streaming = True
            before = tuple(index[name] for name in spec.dependencies if name in index)
            predecessors.append(before)
            for predecessor in before:
                successors[predecessor].append(number)
        self._index = index
        self.predecessors = tuple(predecessors)
        self.successors = tuple(map(tuple, successors))
        self.in_degrees = tuple(map(len, predecessors))
        self._order = self._sort()
        self.streams: Mapping[str, StreamRoute] = {}
        self.stream_edges: Mapping[tuple[int, int], frozenset[str]] = {}
        if streaming:
            self.stream_edges = self._find_stream_edges()
            self.streams = self._find_routes()

    def _find_stream_edges(self) -> dict[tuple[int, int], frozenset[str]]:
        """The edges over which nothing but streams is read, with their keys."""
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
        """Who reads each stream, and who of these is live.

        A producer that waits for a reader must not be waited for by that reader in any other way
        than by the stream itself, else both may wait for ever. So a graph of who may wait for whom
        is kept: every stage for its dependencies, and every producer for its live readers. A
        reader becomes live only if that closes no circle in it.
        """
        waits_for: list[set[int]] = [set(before) for before in self.predecessors]
        readers: dict[str, list[int]] = {}
        for number, spec in enumerate(self.specs):
            for key in spec.inputs:
                readers.setdefault(key, []).append(number)
        routes: dict[str, StreamRoute] = {}
        for producer in self._order:
            spec = self.specs[producer]
            for key in spec.streams:
                live: list[int] = []
                for reader in readers.get(key, ()):
                    alone = self.stream_edges.get((producer, reader)) == frozenset((key,))
                    if alone and not _leads(waits_for, reader, producer):
                        waits_for[producer].add(reader)
                        live.append(reader)
                late = [reader for reader in readers.get(key, ()) if reader not in live]
                routes[key] = StreamRoute(spec.name, self._names(live), self._names(late))
        return routes

    def _names(self, numbers: Iterable[int]) -> tuple[str, ...]:
        return tuple(self.specs[number].name for number in numbers)

    def _sort(self) -> tuple[int, ...]:
        """Kahn's order; stages on a cycle, or behind one, are not in it."""
        waiting = list(self.in_degrees)
        order = [number for number, count in enumerate(waiting) if not count]
        # The list is its own queue: what is found ready is appended while it is walked.
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

    @property
    def order(self) -> tuple[int, ...]:
        """The stages' numbers, each after all that it waits for."""
        return self._order

    def has_cycles(self) -> bool:
        """Whether some stage waits for itself, directly or through others."""
        return len(self._order) < len(self.specs)

    def topological_order(self) -> tuple[str, ...]:
        """The stages' names, each after all that it waits for."""
        return tuple(self.specs[number].name for number in self._order)

    def cycles(self) -> tuple[tuple[str, ...], ...]:
        """One cycle for each knot of stages that wait for each other.

        Returns:
            Paths in the direction of the data, the first name repeated at the end.
        """
        found: list[tuple[str, ...]] = []
        for knot in sorted(self._knots(), key=min):
            # Each stage of a knot has a predecessor in it, so walking backwards must come back.
            walk: dict[int, int] = {}
            number = min(knot)
            while number not in walk:
                walk[number] = len(walk)
                number = next(p for p in self.predecessors[number] if p in knot)
            cycle = list(walk)[walk[number] :]
            names = [self.specs[member].name for member in reversed(cycle)]
            found.append((*names, names[0]))
        return tuple(found)

    def _knots(self) -> list[set[int]]:
        """The strongly connected components that hold a cycle.

        By two searches in depth, one along the data and one against it (S. R. Kosaraju; M. Sharir,
        "A strong-connectivity algorithm", Computers & Mathematics 7(1), 1981).
        """
        taken = set(self._order)
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
        knots: list[set[int]] = []
        for start in reversed(finished):
            knot: set[int] = set()
            stack = [start]
            while stack:
                number = stack.pop()
                if number not in taken:
                    taken.add(number)
                    knot.add(number)
                    stack.extend(self.predecessors[number])
            if any(number in knot for number in self.predecessors[start]):
                knots.append(knot)
        return knots

    def critical_path(self, weights: Mapping[str, float] | None = None) -> CriticalPath:
        """The heaviest chain of stages.

        A stage that reads a stream may start as soon as its producer has, so that they run side by
        side: the chain then goes on from what the producer waited for, without the producer.

        Args:
            weights: Weight of each stage by name, usually its duration; a stage that is not
                named weighs 0. Each stage weighs 1 if no weights are given.

        Returns:
            The chain and its weight; the shortest run takes that long however many stages run at
            once. Empty, with weight 0, for a graph without stages.
        """
        best = [0.0] * len(self.specs)
        began = [0.0] * len(self.specs)
        came_from: list[int | None] = [None] * len(self.specs)
        end: int | None = None
        for number in self._order:
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
        path: list[str] = []
        while end is not None:
            path.append(self.specs[end].name)
            end = came_from[end]
        return CriticalPath(tuple(reversed(path)), length)

    def to_mermaid(self) -> str:
        """The graph as a Mermaid flowchart.

        Optional stages have a dashed outline, stream edges are thick and name what flows.
        """
        lines = ["flowchart LR"]
        for number, spec in enumerate(self.specs):
            lines.append(f'    s{number}["{spec.name}<br/><small>{spec.kind}</small>"]')
        for number, before in enumerate(self.predecessors):
            lines.extend(
                f"    s{predecessor} {self._arrow(predecessor, number)} s{number}"
                for predecessor in before
            )
        optional = [f"s{n}" for n, spec in enumerate(self.specs) if not spec.required]
        if optional:
            lines.append("    classDef optional stroke-dasharray: 5 5")
            lines.append(f"    class {','.join(optional)} optional")
        return "\n".join(lines) + "\n"

    def _arrow(self, producer: int, dependent: int) -> str:
        keys = self.stream_edges.get((producer, dependent))
        return f"==>|{', '.join(sorted(keys))}|" if keys else "-->"


def _leads(waits_for: Sequence[set[int]], reader: int, producer: int) -> bool:
    """Whether `reader` may wait for `producer` by another way than the edge between them."""
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
