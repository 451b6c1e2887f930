"""Stores and sinks keep their contracts; wrong ones are found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from logging.handlers import BufferingHandler
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from stageflow import EventDispatcher
from stageflow.dlq import (
    Claim,
    InMemoryDeadLetterStore,
    PostgresDeadLetterStore,
    SQLiteDeadLetterStore,
)
from stageflow.events import TERMINAL
from stageflow.telemetry import (
    JsonLinesSink,
    LoggingSink,
    ObservedDeadLetterStore,
    OpenTelemetrySink,
    PostgresSink,
    PrometheusSink,
    SQLiteSink,
    TelemetryStore,
    read_events,
)
from stageflow.testing import SinkContractTest, StoreContractTest, overrides_contract
from tests.utils.mocks import BrokenSink, RecordingSink
from tests.utils.postgres import PostgresServer


class TestInMemoryStore(StoreContractTest):
    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Any]:
        yield InMemoryDeadLetterStore()


class TestSQLiteStore(StoreContractTest):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "letters.db"

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Any]:
        async with SQLiteDeadLetterStore(self.path) as store:
            yield store


class TestPostgresStore(StoreContractTest):
    @pytest.fixture(autouse=True)
    def server(self, postgres: PostgresServer) -> None:
        self.postgres = postgres

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Any]:
        async with PostgresDeadLetterStore(await self.postgres.make_database()) as store:
            yield store


class TestRecordingSink(SinkContractTest):
    def make_sink(self) -> Any:
        return RecordingSink()

    def read(self, sink: Any) -> Sequence[str]:
        return [event.type for event in sink.events]


class TestObservedStore(StoreContractTest):
    """A wrapper keeps the contract of what it wraps."""

    @asynccontextmanager
    async def open_store(self) -> AsyncIterator[Any]:
        with EventDispatcher([RecordingSink()]) as dispatcher:
            yield ObservedDeadLetterStore(InMemoryDeadLetterStore(), dispatcher)


class TestSQLiteSink(SinkContractTest):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "telemetry.db"

    def make_sink(self) -> Any:
        return SQLiteSink(self.path)

    def read(self, sink: Any) -> Sequence[str]:
        with TelemetryStore(self.path) as store:
            window = store.covered()
            run = store.run_at(window, "p", 0.5) if window else None
        return [event.type for event in run.events] if run else []


class TestPostgresSink(SinkContractTest):
    @pytest.fixture(autouse=True)
    def server(self, postgres: PostgresServer) -> None:
        self.url = asyncio.run(postgres.make_database())

    def make_sink(self) -> Any:
        return PostgresSink(self.url)

    def read(self, sink: Any) -> Sequence[str]:
        with TelemetryStore(self.url) as store:
            window = store.covered()
            run = store.run_at(window, "p", 0.5) if window else None
        return [event.type for event in run.events] if run else []


class TestJsonLinesSink(SinkContractTest):
    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "events.jsonl"

    def make_sink(self) -> Any:
        return JsonLinesSink(self.path)

    def read(self, sink: Any) -> Sequence[str]:
        return [event.type for event in read_events(self.path)]


class TestLoggingSink(SinkContractTest):
    def make_sink(self) -> Any:
        self.handler = BufferingHandler(capacity=100)
        logger = logging.Logger("test", logging.DEBUG)
        logger.addHandler(self.handler)
        return LoggingSink(logger)

    def read(self, sink: Any) -> Sequence[str]:
        messages = [record.getMessage().split() for record in self.handler.buffer]
        return [f"stage.{stage}.{what.rstrip(':')}" for _, stage, what, *_ in messages]

    @overrides_contract(reason="the log has the stages, and not the run")
    def test_passes_every_event_on_once_and_in_order(self) -> None:
        sink = self.make_sink()
        stages = [event.type for event in self._run(sink) if event.stage is not None]
        assert list(self.read(sink)) == stages


class TestPrometheusSink(SinkContractTest):
    def make_sink(self) -> Any:
        return PrometheusSink()

    def read(self, sink: Any) -> Sequence[str]:
        ends: list[str] = []
        for family in sink.registry.collect():
            for sample in family.samples:
                if sample.name in ("stageflow_stage_total", "stageflow_run_total"):
                    where = sample.labels.get("stage")
                    name = f"stage.{where}" if where else "pipeline"
                    ends += [f"{name}.{sample.labels['outcome']}"] * int(sample.value)
        return ends

    @overrides_contract(reason="metrics count ends, and know no order")
    def test_passes_every_event_on_once_and_in_order(self) -> None:
        sink = self.make_sink()
        ends = [event.type for event in self._run(sink) if event.what in TERMINAL]
        assert sorted(self.read(sink)) == sorted(ends)


class TestOpenTelemetrySink(SinkContractTest):
    def make_sink(self) -> Any:
        self.exporter = InMemorySpanExporter()
        self.provider = TracerProvider(shutdown_on_exit=False, resource=Resource.get_empty())
        self.provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        return OpenTelemetrySink(self.provider.get_tracer("test"))

    def read(self, sink: Any) -> Sequence[str]:
        self.provider.shutdown()
        return [span.name for span in self.exporter.get_finished_spans()]

    @overrides_contract(reason="a span stands for two events, and is passed on when it ends")
    def test_passes_every_event_on_once_and_in_order(self) -> None:
        sink = self.make_sink()
        ends = [event for event in self._run(sink) if event.what in TERMINAL]
        names = [f"stage {event.stage}" if event.stage else "run p" for event in ends]
        assert list(self.read(sink)) == names


class WrongStore:
    """Keeps everything, in any order, for everybody."""

    def __init__(self) -> None:
        self.kept: list[Any] = []

    async def put(self, letter: Any) -> None:
        self.kept.insert(0, letter)

    async def get(self, dead_letter_id: str) -> Any:
        return next((letter for letter in self.kept if letter.id == dead_letter_id), None)

    async def letters(self, state: Any = None) -> tuple[Any, ...]:
        return tuple(self.kept)

    async def claim(self, dead_letter_id: str, *, lease_s: float) -> Claim:
        await asyncio.sleep(0)
        return Claim(self.kept[0], 1)

    async def finish(self, claim: Claim, replay_run_id: str) -> None: ...

    async def delete(self, dead_letter_id: str) -> None: ...


class WrongSink(RecordingSink):
    """Passes on more than it was given, and then breaks."""

    def write(self, events: Sequence[Any]) -> None:
        super().write([*events, *events])
        if not events:
            raise OSError("nothing to write")
        BrokenSink().write(events)


def names_of_tests(owner: type) -> list[str]:
    """The names of the tests of a contract."""
    return sorted(name for name in vars(owner) if name.startswith("test_"))


@pytest.mark.parametrize("name", names_of_tests(StoreContractTest))
def test_a_wrong_store_is_found(name: str) -> None:
    """By each test of the contract."""

    @asynccontextmanager
    async def open_store(self: object) -> AsyncIterator[Any]:
        yield WrongStore()

    made = type("Wrong", (StoreContractTest,), {"open_store": open_store})()
    with pytest.raises(AssertionError):
        getattr(made, name)()


@pytest.mark.parametrize("name", names_of_tests(SinkContractTest))
def test_a_wrong_sink_is_found(name: str) -> None:
    """By each test of the contract."""
    made = type(
        "Wrong",
        (SinkContractTest,),
        {
            "make_sink": lambda self: WrongSink(),
            "read": lambda self, sink: [event.type for event in sink.events],
        },
    )()
    with pytest.raises((AssertionError, OSError)):
        getattr(made, name)()
