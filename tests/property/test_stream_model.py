"""Streams beside a model: a journal that stages keep themselves, and lists made from it.

Stages put, read, close and pause in any order that can be drawn: they read what is written last
first, fill one stream before they open another, and leave in the middle. Whatever they do, the run
ends, and each reader has seen what had been put, from the first item on.
"""

from __future__ import annotations

import asyncio
import weakref
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow import (
    Pipeline,
    RunResult,
    RunStatus,
    StageContext,
    StageGraph,
    StageOutput,
    StageSpec,
    Stream,
)
from stageflow.dlq import StageRecord
from stageflow.engine import StreamReader, StreamWriter
from stageflow.engine.capture import dead_letter_of_run
from stageflow.errors import AbsentInputError, StreamError, StreamFailedError
from stageflow.testing import Scenario, Simulation, check_events, check_run, simulate
from stageflow.testing.invariants import dependencies_of
from tests.utils.errors import raises_code

pytestmark = pytest.mark.untraced


@dataclass(frozen=True)
class Act:
    """One thing that a stage does: open, put, read, drain, close or pause.

    Attributes:
        what: Which.
        key: With which stream.
        times: How many items, or seconds.
    """

    what: str
    key: str = ""
    times: int = 1


@dataclass(frozen=True)
class Player:
    """A stage that plays its acts one after another, some of them in a task of their own."""

    name: str
    dependencies: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    streams: tuple[str, ...]
    acts: tuple[Act, ...]
    aside: tuple[Act, ...]
    ending: str
    required: bool
    capacity: int


@st.composite
def players(draw: st.DrawFn) -> list[Player]:
    """Two to six stages, each after some of those before it."""
    cast: list[Player] = []
    for number in range(draw(st.integers(2, 6))):
        before = draw(st.lists(st.sampled_from(cast), max_size=2, unique=True)) if cast else []
        names = {player.name for player in before}
        ancestors = _ancestors(cast, names)
        inputs = [
            key
            for producer in cast
            for key in producer.streams + producer.outputs
            if producer.name in ancestors and draw(_is_read(producer.name in names, key))
        ]
        streams = tuple(
            f"{number}{letter}" for letter in draw(st.sampled_from(["a", "", "a", "ab"]))
        )
        read = [key for key in inputs if not key.endswith("o")]
        cast.append(
            Player(
                name=f"s{number}",
                dependencies=tuple(sorted(names)),
                inputs=tuple(inputs),
                outputs=draw(st.sampled_from([(), (f"{number}o",)])),
                streams=streams,
                acts=draw(_acts(streams, read)),
                aside=draw(st.just(()) | _acts(streams, read)),
                ending=draw(st.sampled_from(["ok", "ok", "ok", "ok", "raise", "skip"])),
                required=draw(st.sampled_from([False, False, True])),
                capacity=draw(st.integers(1, 3)),
            )
        )
    return cast


def _is_read(near: bool, key: str) -> st.SearchStrategy[bool]:
    """Often, if it is a stream of a dependency: any other input makes a reader buffered."""
    often = near and not key.endswith("o")
    return st.integers(0, 7).map(lambda number: number < 7 if often else number == 7)


def _ancestors(cast: list[Player], names: set[str]) -> set[str]:
    found = set(names)
    for player in reversed(cast):
        if player.name in found:
            found |= set(player.dependencies)
    return found


@st.composite
def _acts(draw: st.DrawFn, streams: tuple[str, ...], read: list[str]) -> tuple[Act, ...]:
    possible = [st.builds(Act, st.just("pause"), times=st.integers(0, 2))]
    if streams:
        possible.append(st.builds(Act, st.just("open"), st.sampled_from(streams)))
        put = st.builds(Act, st.just("put"), st.sampled_from(streams), st.integers(1, 9))
        possible += [put, put, put]
    if read:
        possible.append(st.builds(Act, st.just("close"), st.sampled_from(read)))
        take = st.builds(Act, st.just("read"), st.sampled_from(read), st.integers(1, 4))
        drain = st.builds(Act, st.just("drain"), st.sampled_from(read))
        possible += [take, drain, drain, drain]
    return tuple(draw(st.lists(st.one_of(possible), min_size=1, max_size=6)))


class Item:
    """An item of a stream; a weak reference shows whether it is still alive."""

    def __init__(self, key: str, number: int) -> None:
        self.key = key
        self.number = number


@dataclass
class Journal:
    """The actions and observations of stages, in order: stage, action, stream, number or word."""

    lines: list[tuple[str, str, str, Any]] = field(default_factory=list)
    held: dict[str, list[weakref.ref[Item]]] = field(default_factory=lambda: defaultdict(list))
    counts: dict[str, int] = field(default_factory=lambda: defaultdict(int))

    def write(self, who: str, what: str, key: str = "", detail: Any = None) -> None:
        self.lines.append((who, what, key, detail))

    def alive(self, key: str) -> int:
        return sum(reference() is not None for reference in self.held[key])


class Stage:
    """Plays a player, and writes the journal."""

    def __init__(self, player: Player, journal: Journal) -> None:
        self.player = player
        self.journal = journal
        self.writers: dict[str, StreamWriter] = {}

    async def execute(self, ctx: StageContext, /) -> StageOutput:
        player = self.player
        try:
            aside = asyncio.ensure_future(self.play(ctx, player.aside))
            try:
                await self.play(ctx, player.acts)
                await aside
            finally:
                aside.cancel()
                await asyncio.wait([aside])
            if player.ending == "raise":
                raise ConnectionError(player.name)
            if player.ending == "skip":
                return StageOutput.skip("as drawn")
            for key in player.streams:
                self.writer(ctx, key)
            return StageOutput.ok(dict.fromkeys(player.outputs))
        finally:
            self.journal.write(player.name, "done")

    def writer(self, ctx: StageContext, key: str) -> StreamWriter:
        if key not in self.writers:
            self.writers[key] = ctx.open(key, capacity=self.player.capacity)
        return self.writers[key]

    async def play(self, ctx: StageContext, acts: tuple[Act, ...]) -> None:
        for act in acts:
            if act.what == "pause":
                await asyncio.sleep(act.times)
            elif act.what == "open":
                self.writer(ctx, act.key)
            elif act.what == "put":
                for _ in range(act.times):
                    await self.put(ctx, act.key)
            else:
                await self.read(ctx, act)

    async def put(self, ctx: StageContext, key: str) -> None:
        writer, journal, name = self.writer(ctx, key), self.journal, self.player.name
        journal.write(name, "putting", key)
        item = Item(key, -1)
        journal.held[key].append(weakref.ref(item))
        # Several tasks put at once: the order of the numbers is that in which they were taken.
        taken = await writer.put(item)
        if taken:
            item.number = journal.counts[key]
            journal.counts[key] += 1
        journal.write(name, "put", key, taken)
        del item
        journal.write(name, "alive", key, journal.alive(key))

    async def read(self, ctx: StageContext, act: Act) -> None:
        name, journal = self.player.name, self.journal
        try:
            reader = ctx[act.key]
        except AbsentInputError:
            journal.write(name, "absent", act.key)
            return
        assert isinstance(reader, StreamReader)
        if act.what == "close":
            await reader.aclose()
            journal.write(name, "closed", act.key)
            return
        for _ in range(act.times if act.what == "read" else 1_000):
            try:
                item = await anext(reader)
            except StopAsyncIteration:
                journal.write(name, "end", act.key, "completed")
                return
            except StreamFailedError:
                journal.write(name, "end", act.key, "failed")
                return
            assert item.key == act.key
            journal.write(name, "read", act.key)
            del item


def specs_of(cast: list[Player], journal: Journal) -> list[StageSpec]:
    return [
        StageSpec(
            player.name,
            Stage(player, journal),
            player.dependencies,
            inputs=player.inputs,
            outputs=player.outputs,
            streams=player.streams,
            required=player.required,
        )
        for player in cast
    ]


@given(players(), st.integers(0, 2**32), st.none() | st.none() | st.integers(1, 150))
def test_whatever_stages_do_the_run_ends_and_readers_have_seen_what_was_put(
    cast: list[Player], seed: int, cancel_at_step: int | None
) -> None:
    """No order, capacity, failure or cancellation makes a run stand still, or an item go astray."""
    journal = Journal()
    pipeline = Pipeline("drawn", specs_of(cast, journal))
    graph = pipeline.build()

    async def main(sim: Simulation) -> RunResult | None:
        context = sim.context()
        try:
            return await sim.interruptible(pipeline.run(context))
        except asyncio.CancelledError:
            return None

    scenario = Scenario(seed, cancel_at_step=cancel_at_step)
    outcome = simulate(main, scenario=scenario)
    result = outcome.value
    if outcome.events:
        check_events(pipeline, outcome.events)
    if result is not None:
        check_run(pipeline, result)
    ends = {e.stage: e.what for e in outcome.events if e.what in ENDS}
    lives = {e.data["stream"]: e.data for e in outcome.events if e.what == "stream_closed"}
    for player in cast:
        for key in player.streams:
            story = Story(journal, graph, player, key, ends)
            story.check_wanted()
            story.check_room()
            story.check_readers()
            assert lives.get(key, {"items": 0})["items"] == story.taken
            if result is not None and key in result.bag:
                check_kept(story, result.bag[key], result.status)


@given(players(), st.integers(0, 5), st.integers(0, 2**32))
def test_a_replay_runs_what_had_not_finished_and_nothing_else(
    cast: list[Player], victim: int, seed: int
) -> None:
    """Failed stages are repaired one by one, and what had finished once is not run again."""

    async def main(sim: Simulation) -> None:
        left, finished = list(cast), dict[str, StageRecord]()
        at = victim % len(left)
        left[at] = replace(left[at], ending="raise", required=True)
        for _ in range(len(cast) + 1):
            journal, context = Journal(), sim.context()
            pipeline = Pipeline("drawn", specs_of(left, journal))
            graph = pipeline.build()
            result = await pipeline.orchestrator.resume(context, finished, reason="replay")
            check_replay(journal, graph, left, finished, result)
            if result.failure is None:
                return
            letter = dead_letter_of_run(context, graph, result, finished)
            assert finished.keys() <= letter.finished.keys()
            finished = {name: stored(record) for name, record in letter.finished.items()}
            left = [
                replace(player, ending="ok") if player.name == letter.failed_stage else player
                for player in left
            ]
        raise AssertionError("a repaired stage failed")

    simulate(main, scenario=Scenario(seed))


def stored(record: StageRecord) -> StageRecord:
    """The record as it comes back from a store: with streams that nobody has read."""
    outputs = {
        key: Stream.of(value.items(), key=key) if isinstance(value, Stream) else value
        for key, value in record.outputs.items()
    }
    return replace(record, outputs=outputs)


def check_replay(
    journal: Journal,
    graph: StageGraph,
    cast: list[Player],
    finished: dict[str, StageRecord],
    result: RunResult,
) -> None:
    """Check that finished stages did not run again, and that the others have read every item."""
    assert finished.keys().isdisjoint(who for who, *_ in journal.lines)
    ends = {e.stage: e.what for e in result.events if e.what in ENDS}
    for player in cast:
        for key in player.streams:
            story = Story(journal, graph, player, key, ends)
            if player.name not in finished:
                story.check_wanted()
                story.check_room()
                story.check_readers()
                # Readers that do not run hold nobody back, and want nothing.
                assert (
                    not story.readers or not finished.keys() >= {*story.readers} or not story.taken
                )
                continue
            stream = finished[player.name].outputs.get(key)
            if isinstance(stream, Stream):
                story.taken = stream.count
                story.ends = {player.name: "completed"}
                story.check_readers()
            elif finished[player.name].ending == "completed":
                # A stage that still has to read a stream finds it.
                assert all(what != "absent" for _, what, _ in story.lines)


ENDS = {"completed", "failed", "skipped", "cancelled"}


class Story:
    """The journal's lines of one stream, and what follows from them."""

    def __init__(
        self,
        journal: Journal,
        graph: StageGraph,
        player: Player,
        key: str,
        ends: dict[str | None, str],
    ) -> None:
        self.player, self.key, self.ends = player, key, ends
        self.readers = [spec.name for spec in graph.specs if key in spec.inputs]
        self.back_pressured = graph.streams[key].back_pressured
        self.buffered = graph.streams[key].buffered
        assert sorted(self.back_pressured + self.buffered) == sorted(self.readers)
        self.lines = [
            (who, what, detail) for who, what, about, detail in journal.lines if about in ("", key)
        ]
        self.taken = sum(what == "put" and taken for _, what, taken in self.lines)

    def moments(self) -> Iterator[tuple[str, Any, int, dict[str, int], set[str]]]:
        """Each line, with how many had been put and read by then, and by whom no more is read."""
        put, read, gone = 0, dict.fromkeys(self.readers, 0), set[str]()
        for who, what, detail in self.lines:
            put += what == "put" and detail
            if what == "read":
                read[who] += 1
            if what in ("closed", "done"):
                gone.add(who)
            yield what, detail, put, read, gone

    def check_wanted(self) -> None:
        """An item is refused once nobody reads on, and never before."""
        refused = False
        started = {who for who, _, _ in self.lines}
        for what, taken, _, _, gone in self.moments():
            assert not (refused and what == "read"), "read on after an item had been refused"
            if what == "put" and taken:
                assert not refused
                assert not self.readers or not gone.issuperset(self.readers)
            elif what == "put":
                refused = True
                # Who never started had been skipped, or the run had stopped before.
                assert self.readers
                assert all(name in gone or name not in started for name in self.readers)

    def check_room(self) -> None:
        """Live readers are never further behind than the capacity, and nothing more is held."""
        capacity = self.player.capacity
        started = {who for who, _, _ in self.lines}
        for what, detail, put, read, gone in self.moments():
            if what == "put":
                waiting = [read[n] for n in self.back_pressured if n not in gone and n in started]
                assert all(put - position <= capacity for position in waiting)
            if what == "alive" and self.back_pressured and not self.buffered:
                in_flight = 2  # one in a put of the other task, and one in a reader's hands each
                assert detail <= capacity + in_flight + len(self.readers)

    def check_readers(self) -> None:
        """Check that a reader at the end has seen everything, and ended as the producer did."""
        read = dict.fromkeys(self.readers, 0)
        for who, what, detail in self.lines:
            if what == "read":
                read[who] += 1
            elif what == "end" and (who, "closed", None) not in self.lines:
                assert read[who] == self.taken
                ended = self.ends[self.player.name]
                assert (detail == "failed") == (ended == "failed")
            elif what == "absent":
                assert self.taken == 0
                assert self.ends[self.player.name] != "completed"
        assert all(count <= self.taken for count in read.values())


def check_kept(story: Story, stream: object, status: RunStatus) -> None:
    """Afterwards everything is there, or an error says that it is not."""
    assert isinstance(stream, Stream)
    refused = any(what == "put" and not taken for _, what, taken in story.lines)
    kept = bool(story.buffered or not story.back_pressured)
    whole = stream.outcome == "completed" and not refused and kept
    assert stream.whole == whole
    assert stream.kept == kept
    if whole:
        assert [item.number for item in stream.items()] == list(range(story.taken))
    else:
        with raises_code("stream_not_kept", match=story.key):
            stream.items()
    expected: str | None = None
    if not stream.kept and story.taken and stream.count > held(stream):
        expected = "stream_not_kept"
    elif stream.outcome == "failed":
        expected = "stream_failed"
    elif stream.outcome == "cancelled":
        expected = "stream_cancelled"
    seen, raised = asyncio.run(read_all(stream))
    assert raised == expected
    if expected != "stream_not_kept":
        assert seen == story.taken


def held(stream: Stream) -> int:
    return len(stream._items)


async def read_all(stream: Stream) -> tuple[int, str | None]:
    seen = 0
    try:
        async for _ in stream:
            seen += 1
    except StreamError as error:
        return seen, error.code
    return seen, None


@given(players())
def test_a_back_pressured_reader_waits_for_its_producer_by_the_stream_only(
    cast: list[Player],
) -> None:
    """The graph of waits has no cycle except that of a stream and its own reader."""
    graph = Pipeline("drawn", specs_of(cast, Journal())).build()
    edges = dependencies_of(graph.specs)
    waits = {(name, before) for name, befores in edges.items() for before in befores}
    pairs = {(r.producer, reader) for r in graph.streams.values() for reader in r.back_pressured}
    for producer, reader in pairs:
        assert not reaches(waits | pairs, {(reader, producer)}, reader, producer)
    for route in graph.streams.values():
        for reader in route.buffered:
            other_keys = {
                key
                for key, other in graph.streams.items()
                if other.producer == route.producer and key in graph[reader].inputs
            }
            outputs = set(graph[route.producer].outputs) & set(graph[reader].inputs)
            circle = reaches(waits | pairs, {(reader, route.producer)}, reader, route.producer)
            assert len(other_keys) > 1 or outputs or circle, "needlessly buffered"


def reaches(
    edges: set[tuple[str, str]], without: set[tuple[str, str]], start: str, goal: str
) -> bool:
    """Whether there is a way from `start` to `goal`, by the closure of the edges."""
    reached = {start}
    while True:
        more = {b for a, b in edges - without if a in reached} - reached
        if not more:
            return goal in reached
        reached |= more
