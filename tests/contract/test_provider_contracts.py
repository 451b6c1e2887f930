"""The providers of this package keep the contracts of their ports; wrong ones are found."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from stageflow import Audio, Message
from stageflow.providers import (
    FakeDatabase,
    FakeLLM,
    FakeSpeaker,
    FakeSTT,
    FakeTTS,
    Fallback,
    LatencyProfile,
    ProviderRegistry,
    SqlDatabase,
    speech_of_text,
)
from stageflow.testing import (
    DatabaseContractTest,
    LeftBehindError,
    LlmContractTest,
    LlmFaultInjector,
    RealIOError,
    Recorder,
    SpeakerContractTest,
    SttContractTest,
    ToolContractTest,
    TtsContractTest,
)
from tests.utils.http_llm import HttpLLM
from tests.utils.llm_server import LlmServer
from tests.utils.postgres import PostgresServer

SOON = LatencyProfile.fixed(1.0)
SLOW = LatencyProfile.fixed(60_000.0)
HELLO = speech_of_text("hello")


class TestFakeLLM(LlmContractTest):
    async def make_llm(self) -> Any:
        return FakeLLM("Hello there.", latency=SOON, first_piece=SOON)


class TestTool(ToolContractTest):
    async def make_tool(self) -> Any:
        async def find_order(number: str) -> str:
            """Return where an order is."""
            await asyncio.sleep(0.001)
            return number

        return find_order

    def make_arguments(self) -> dict[str, Any]:
        return {"number": "A7"}


class TestFakeLLMInSimulatedTime(LlmContractTest):
    real_io = False

    async def make_llm(self) -> Any:
        return FakeLLM("Hello there.", latency=SLOW, first_piece=SLOW)


class TestHttpLLM(LlmContractTest):
    """Over real HTTP."""

    async def make_llm(self) -> Any:
        server = await self.resources.enter_async_context(LlmServer())
        return await self.resources.enter_async_context(HttpLLM(server.port))


class TestFallback(LlmContractTest):
    async def make_llm(self) -> Any:
        return Fallback(FakeLLM("Hello."), FakeLLM("Good day."))


class TestFaultyProviderWithoutItsFault(LlmContractTest):
    async def make_llm(self) -> Any:
        return LlmFaultInjector("error").around(FakeLLM("Hello."))


class TestRecordedLLM(LlmContractTest):
    async def make_llm(self) -> Any:
        providers = ProviderRegistry(llm=FakeLLM("Hello."))
        with Recorder(providers):
            return providers.llm


class TestFakeSTT(SttContractTest):
    async def make_stt(self) -> Any:
        return FakeSTT(latency=SOON)

    def make_audio(self) -> Audio:
        return HELLO


class TestFakeTTS(TtsContractTest):
    async def make_tts(self) -> Any:
        return FakeTTS(latency=SOON)


class TestFakeSpeaker(SpeakerContractTest):
    async def make_speaker(self) -> Any:
        return FakeSpeaker()


class TestFakeSpeakerInSimulatedTime(SpeakerContractTest):
    real_io = False
    scale = 600.0

    async def make_speaker(self) -> Any:
        return FakeSpeaker(scale=600.0)


class TestFakeDatabase(DatabaseContractTest):
    async def make_database(self) -> Any:
        return FakeDatabase(read=SOON, write=SOON)


class TestFakeDatabaseInSimulatedTime(DatabaseContractTest):
    real_io = False

    async def make_database(self) -> Any:
        return FakeDatabase(read=SLOW, write=SLOW)


class TestSQLiteDatabase(DatabaseContractTest):
    """A file."""

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        self.folder_of_files = tmp_path

    async def make_database(self) -> Any:
        path = self.folder_of_files / f"{uuid.uuid4().hex}.db"
        return await self.resources.enter_async_context(SqlDatabase(f"sqlite:///{path}"))


class TestPostgresDatabase(DatabaseContractTest):
    """A server."""

    @pytest.fixture(autouse=True)
    def running(self, postgres: PostgresServer) -> None:
        self.server = postgres

    async def make_database(self) -> Any:
        url = await self.server.make_database()
        return await self.resources.enter_async_context(SqlDatabase(url))


class Stubborn:
    """Does not let itself be cancelled, whatever is asked of it."""

    async def _call(self, *_: Any) -> Any:
        try:
            await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            return "x"
        return "x"

    complete = transcribe = synthesize = play = _call

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield await self._call()


class Odd:
    """Gives the wrong things."""

    calls = 0

    async def complete(self, messages: Sequence[Message]) -> Any:
        return None

    def stream(self, messages: Sequence[Message]) -> Any:
        return _Pieces()

    async def transcribe(self, audio: Audio) -> Any:
        self.calls += 1
        return " " * self.calls

    async def synthesize(self, text: str) -> Any:
        return b""

    async def play(self, audio: Audio) -> None:
        assert len(audio.pcm) > 2, "a click is not speech"


class _Pieces:
    """An iterator that cannot be closed, over values that are not text."""

    def __init__(self) -> None:
        self.left = [1, 2]

    def __aiter__(self) -> _Pieces:
        return self

    async def __anext__(self) -> int:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop()


class Sloppy:
    """A database that mixes collections up, merges records, keeps what it is given, and forgets."""

    def __init__(self) -> None:
        self.records: dict[str, Any] = {}

    async def get(self, collection: str, key: str) -> Any:
        await asyncio.sleep(0)
        return self.records.get(key[:100], {} if key == "nobody" else None)

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        kept = dict(self.records)
        await asyncio.sleep(0)
        old = kept.get(key[:100])
        kept[key[:100]] = record if old is None else {**old, **record, "merged": True}
        self.records = kept


class Halving(Sloppy):
    """Writes a record in two halves."""

    async def put(self, collection: str, key: str, record: Mapping[str, Any]) -> None:
        for length in (1, len(record)):
            await asyncio.sleep(0.001)
            self.records[key] = dict(list(record.items())[:length])


class Poisoned:
    """Answers nobody any more once a call was cancelled, as a pool does that loses connections."""

    def __init__(self) -> None:
        self.connection = asyncio.Lock()

    async def complete(self, messages: Sequence[Message]) -> str:
        await self.connection.acquire()
        await asyncio.sleep(0.001)
        self.connection.release()
        return "x"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        yield await self.complete(messages)


class Untidy:
    """Answers, and leaves a task behind that never ends, or an error that nobody handles."""

    def __init__(self, *, task: bool) -> None:
        self.task = task

    async def complete(self, messages: Sequence[Message]) -> str:
        loop = asyncio.get_running_loop()
        if self.task:
            self.left = loop.create_task(asyncio.sleep(60.0))
        else:
            loop.call_soon(lambda: 1 / 0)
            await asyncio.sleep(0)
        return "x"


WRONG: dict[Any, dict[str, Any]] = {
    LlmContractTest: {
        "test_can_be_cancelled": Stubborn,
        "test_a_stream_can_be_cancelled": Stubborn,
        "": Odd,
    },
    SttContractTest: {"test_can_be_cancelled": Stubborn, "": Odd},
    TtsContractTest: {"test_can_be_cancelled": Stubborn, "": Odd},
    SpeakerContractTest: {"test_can_be_cancelled": Stubborn, "": Odd},
    DatabaseContractTest: {
        # Of the keys that it is put, only the first hundred signs count.
        "test_a_stored_record_is_returned": type(
            "Forgetful", (Sloppy,), {"put": lambda self, *_: asyncio.sleep(0)}
        ),
        "test_can_be_cancelled": Halving,
        "": Sloppy,
    },
}
CASES = [
    (owner, name) for owner in WRONG for name in sorted(vars(owner)) if name.startswith("test_")
]


def contract(owner: Any, provider: Any, **fields: Any) -> Any:
    """The contract of whatever `provider()` makes."""

    async def make(self: object) -> Any:
        return provider()

    ports = ["make_llm", "make_stt", "make_tts", "make_database", "make_speaker"]
    makers = dict.fromkeys(ports, make)
    return type("Made", (owner,), {**makers, "make_audio": lambda self: HELLO, **fields})()


both_loops = pytest.mark.parametrize("real_io", [True, False], ids=["real", "simulated"])


@both_loops
@pytest.mark.parametrize(
    ("owner", "name"), CASES, ids=lambda value: getattr(value, "__name__", None)
)
def test_a_wrong_provider_is_found(owner: Any, name: str, real_io: bool) -> None:
    """By each test of each contract, on a real loop and in simulated time."""
    made = contract(owner, WRONG[owner].get(name, WRONG[owner][""]), real_io=real_io)
    with pytest.raises(AssertionError):
        getattr(made, name)()


@pytest.mark.parametrize(
    ("name", "place"),
    [
        ("test_can_be_cancelled", "Poisoned.complete"),
        # What an asynchronous generator waits for, it does not tell.
        ("test_a_stream_can_be_cancelled", "_whole"),
    ],
)
def test_a_provider_that_a_cancellation_breaks_is_found(name: str, place: str) -> None:
    """The call after it hangs, and the place is named."""
    made = contract(LlmContractTest, Poisoned, patience_s=0.2)
    with pytest.raises(AssertionError, match=rf"after 0\.2 s:\n.*in {place}"):
        getattr(made, name)()


def test_a_provider_that_hangs_and_cannot_be_ended_is_found() -> None:
    """Also if it swallows every cancellation: the test ends, and so does the loop."""

    class Immortal:
        async def complete(self, messages: Sequence[Message]) -> str:
            while True:
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.get_running_loop().create_future()

    with pytest.raises(AssertionError, match=r"goes on after 0\.1 s"):
        contract(LlmContractTest, Immortal, patience_s=0.1).test_completes_with_text()


@both_loops
def test_a_provider_that_leaves_something_behind_is_found(real_io: bool) -> None:
    """A task that goes on, or an error in a callback."""
    untidy = Untidy(task=True)
    task = contract(LlmContractTest, lambda: untidy, real_io=real_io)
    with pytest.raises(LeftBehindError, match="sleep"):
        task.test_completes_with_text()
    assert untidy.left.cancelled(), "it was dropped in the middle"
    error = contract(LlmContractTest, lambda: Untidy(task=False), real_io=real_io)
    with pytest.raises(ExceptionGroup) as caught:
        error.test_completes_with_text()
    assert [type(found) for found in caught.value.exceptions] == [ZeroDivisionError]


def test_nothing_of_a_real_loop_outlives_its_test() -> None:
    """No thread of the loop, and no generator that was left in the middle."""
    closed: list[str] = []

    async def pieces() -> AsyncIterator[str]:
        try:
            yield "x"
        finally:
            closed.append("generator")

    class Threaded(FakeLLM):
        async def complete(self, messages: Sequence[Message]) -> str:
            self.pieces = pieces()
            loop = asyncio.get_running_loop()
            self.at_work = loop.run_in_executor(None, sum, range(5_000_000))
            return await anext(self.pieces)

    before = set(threading.enumerate())
    model = Threaded()
    contract(LlmContractTest, lambda: model).test_completes_with_text()
    assert closed == ["generator"]
    assert set(threading.enumerate()) == before


def test_a_cancellation_is_tried_at_so_many_places_and_no_more() -> None:
    """A call that waits without end is cut off; each attempt has a provider of its own."""
    made: list[Patient] = []

    class Patient(FakeLLM):
        async def complete(self, messages: Sequence[Message]) -> str:
            made.append(self)
            for _ in range(100):
                await asyncio.sleep(0)
            return "x"

    contract(LlmContractTest, Patient, most_cancellations=3).test_can_be_cancelled()
    assert len(made) == 6, "each of three providers is called again after its cancellation"
    assert len(set(map(id, made))) == 3


def test_real_io_in_simulated_time_is_refused_with_the_fix() -> None:
    """The error says which attribute to set."""

    class Connected(FakeLLM):
        async def complete(self, messages: Sequence[Message]) -> str:
            await asyncio.open_connection("127.0.0.1", 9)
            return "x"

    made = contract(LlmContractTest, Connected, real_io=False)
    with pytest.raises(RealIOError, match="real_io = True"):
        made.test_completes_with_text()
