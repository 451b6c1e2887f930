"""The contracts of models, speech services, databases and speakers."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

from stageflow.errors import ToolError
from stageflow.providers import LLM, STT, TTS, Audio, Database, Message, Speaker, Tool
from stageflow.testing.contracts.base import LoopContract, on_subject
from stageflow.testing.contracts.probes import Waits

_ASKED = [Message("user", "Say hello.")]
#: A twentieth of a second of a 200 Hz square wave.
_SOUND = Audio((b"\x00\x10" * 40 + b"\x00\xf0" * 40) * 10)


class ProviderContractTest(LoopContract):
    """Base of the contracts of providers.

    They run on a real loop, as a client does; ``real_io = False`` puts a fake in simulated time.
    What a maker opens, `resources` closes::

        async def make_llm(self) -> LLM:
            return await self.resources.enter_async_context(MyModel(key="…"))
    """

    real_io = True

    #: Name of the method that makes what is under test.
    _maker: str

    async def _subject(self) -> Any:
        if not hasattr(self, self._maker):
            raise self._unwritten(self._maker)
        return await getattr(self, self._maker)()

    def _cancel(self, call: Callable[[Any], Awaitable[object]]) -> None:
        for point in self._points():
            if not self._run(self._cancelled(call, point)):
                return

    async def _cancelled(self, call: Callable[[Any], Awaitable[object]], point: int) -> bool:
        """Cancel a call at its n-th wait, then make another; False if it has fewer waits."""
        provider = await self._subject()
        waits = Waits(call(provider), point, lambda: task.cancel())  # noqa: PLW0108 - not there yet
        task = asyncio.ensure_future(waits)
        await asyncio.wait([task])
        if task.cancelled():
            await call(provider)
            return True
        task.result()
        where = f"where it waited (wait {point})"
        assert waits.count < point, f"cancelled {where}, and went on: let CancelledError pass"
        return False


async def _whole(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])


class LlmContractTest(ProviderContractTest):
    """The contract of a language model: `make_llm`."""

    _maker = "make_llm"

    @on_subject
    async def test_completes_with_text(self, llm: LLM) -> None:
        """The answer is text that is not empty."""
        answer = await llm.complete(_ASKED)
        assert isinstance(answer, str), f"complete() gave a {type(answer).__name__}"
        assert answer, "complete() gave an empty answer"

    @on_subject
    async def test_streams_text(self, llm: LLM) -> None:
        """The pieces are text, and together they are not empty."""
        pieces = [piece async for piece in llm.stream(_ASKED)]
        wrong = [piece for piece in pieces if not isinstance(piece, str)]
        assert not wrong, f"stream() gave {wrong[0]!r}, which is not text"
        assert "".join(pieces), "stream() gave nothing"

    @on_subject
    async def test_a_stream_can_be_left(self, llm: LLM) -> None:
        """A reader may stop after the first piece; the next call is answered completely."""
        stream = llm.stream(_ASKED)
        async for _ in stream:
            break
        close = getattr(stream, "aclose", None)
        assert close is not None, "stream() gave something that cannot be closed"
        await close()
        assert [piece async for piece in llm.stream(_ASKED)], "the stream after it gave nothing"

    def test_can_be_cancelled(self) -> None:
        """A cancelled call ends as cancelled wherever it waits; the next one is answered."""
        self._cancel(lambda llm: llm.complete(_ASKED))

    def test_a_stream_can_be_cancelled(self) -> None:
        """A cancelled stream ends as cancelled wherever it waits; the next one is answered."""
        self._cancel(lambda llm: _whole(llm.stream(_ASKED)))

    @on_subject
    async def test_calls_at_once_are_answered(self, llm: LLM) -> None:
        """Each of several concurrent calls gets its answer."""
        answers = await asyncio.gather(*(llm.complete(_ASKED) for _ in range(5)))
        assert all(isinstance(a, str) and a for a in answers), f"several at once got {answers}"


class ToolContractTest(ProviderContractTest):
    """The contract of a tool: `make_tool`, and `make_arguments` for what it is called with.

    Attributes:
        repeatable: Whether two calls with one idempotency key must have the same result.
    """

    repeatable: bool = True

    _maker = "make_tool"

    def make_arguments(self) -> dict[str, Any]:
        """Return arguments that it takes, as JSON holds them."""
        raise self._unwritten("make_arguments")

    async def _subject(self) -> Any:
        made = await super()._subject()
        return made if isinstance(made, Tool) else Tool(made)

    async def _called(self, tool: Tool, key: str = "one") -> str:
        arguments = tool.read(json.dumps(self.make_arguments()))
        return await tool.call(arguments, idempotency_key=key)

    @on_subject
    async def test_is_described(self, tool: Tool) -> None:
        """The model learns what the tool does, and the type of each argument."""
        assert tool.description.strip(), f"{tool.name} has no docstring and no description"
        assert json.loads(json.dumps(tool.to_dict())) == tool.to_dict(), "its schema is not JSON"

    @on_subject
    async def test_refuses_other_arguments(self, tool: Tool) -> None:
        """The error names the arguments that do not fit."""
        for text in (json.dumps({**self.make_arguments(), "no_such": 1}), "[]", "{"):
            with suppress(ToolError):
                tool.read(text)
                raise AssertionError(f"it takes {text}")

    @on_subject
    async def test_a_call_made_again_has_the_same_result(self, tool: Tool) -> None:
        """Calls with one idempotency key have one result, unless `repeatable` is false."""
        first, second = await self._called(tool), await self._called(tool)
        if self.repeatable:
            assert first == second, f"the first call returned {first!r}, the second {second!r}"

    @on_subject
    async def test_calls_at_once_have_results(self, tool: Tool) -> None:
        """Each of several concurrent calls gets its result."""
        results = await asyncio.gather(*(self._called(tool, str(n)) for n in range(5)))
        assert all(isinstance(result, str) for result in results), f"several got {results}"

    def test_can_be_cancelled(self) -> None:
        """A cancelled call ends as cancelled wherever it waits; the next one has a result."""
        self._cancel(self._called)


class SttContractTest(ProviderContractTest):
    """The contract of speech to text: `make_stt`, and `make_audio` for what it is to hear."""

    _maker = "make_stt"

    def make_audio(self) -> Audio:
        """Return speech that it understands."""
        raise self._unwritten("make_audio")

    @on_subject
    async def test_gives_text(self, stt: STT) -> None:
        """The transcript is text."""
        heard = await stt.transcribe(self.make_audio())
        assert isinstance(heard, str), f"transcribe() gave a {type(heard).__name__}"
        assert heard.strip(), "transcribe() heard nothing"

    @on_subject
    async def test_hears_the_same_again(self, stt: STT) -> None:
        """A call leaves nothing behind that changes the next one."""
        audio = self.make_audio()
        first, second = await stt.transcribe(audio), await stt.transcribe(audio)
        assert first == second, f"heard {first!r}, then {second!r}"

    def test_can_be_cancelled(self) -> None:
        """A cancelled call ends as cancelled wherever it waits; the next one is answered."""
        self._cancel(lambda stt: stt.transcribe(self.make_audio()))


class TtsContractTest(ProviderContractTest):
    """The contract of text to speech: `make_tts`."""

    _maker = "make_tts"

    @on_subject
    async def test_gives_sound(self, tts: TTS) -> None:
        """The answer is an `Audio` that is not empty."""
        spoken = await tts.synthesize("Hello.")
        assert isinstance(spoken, Audio), f"synthesize() gave a {type(spoken).__name__}"
        assert spoken.pcm, "synthesize() gave silence of no length"

    def test_can_be_cancelled(self) -> None:
        """A cancelled call ends as cancelled wherever it waits; the next one is answered."""
        self._cancel(lambda tts: tts.synthesize("Hello."))


class SpeakerContractTest(ProviderContractTest):
    """The contract of a speaker: `make_speaker`.

    Attributes:
        scale: How many seconds a second of sound takes; less than 1 for a fake.
    """

    scale: float = 1.0

    _maker = "make_speaker"

    @on_subject
    async def test_returns_when_it_has_sounded(self, speaker: Speaker) -> None:
        """A call does not return early: a cancelled turn computes what was heard from the time."""
        clock = asyncio.get_running_loop().time
        began = clock()
        await speaker.play(_SOUND)
        took_s, lasts_s = clock() - began, _SOUND.duration_s * self.scale
        assert took_s >= lasts_s * 0.9, f"play() took {took_s:g} s, the sound {lasts_s:g} s"

    @on_subject
    async def test_plays_one_after_another(self, speaker: Speaker) -> None:
        """Sounds of different lengths and rates are played in turn."""
        for audio in (_SOUND, Audio(_SOUND.pcm[:2]), Audio(_SOUND.pcm, 48_000), _SOUND):
            await speaker.play(audio)

    def test_can_be_cancelled(self) -> None:
        """A cancelled call ends as cancelled while it sounds; the next sound is played."""
        self._cancel(lambda speaker: speaker.play(_SOUND))


class DatabaseContractTest(ProviderContractTest):
    """The contract of a database: `make_database`, empty."""

    _maker = "make_database"

    @on_subject
    async def test_a_missing_record_is_none(self, db: Database) -> None:
        """A record that is missing is not an error."""
        got = await db.get("users", "nobody")
        assert got is None, f"get() gave {got!r} for a key that nobody has put"

    @on_subject
    async def test_a_stored_record_is_returned(self, db: Database) -> None:
        """The record is equal, for each value that JSON can hold and each key."""
        record = {"name": "Ada", "turns": [1, 2.5, None, {"ü": True}], "": "empty"}
        for key in ("ada", "Ünï cödé", "a'b\"c;--", "x" * 200):
            await db.put("users", key, record)
            assert await db.get("users", key) == record, f"not what was put under {key!r}"

    @on_subject
    async def test_a_later_record_replaces_the_earlier_one(self, db: Database) -> None:
        """No field of the earlier record is left."""
        await db.put("users", "ada", {"a": 1, "b": 2})
        await db.put("users", "ada", {"a": 3})
        got = await db.get("users", "ada")
        assert got == {"a": 3}, f"{got!r} is there after {{'a': 3}} was put in its place"

    @on_subject
    async def test_collections_are_separate(self, db: Database) -> None:
        """One key in two collections names two records."""
        await db.put("users", "ada", {"a": 1})
        await db.put("turns", "ada", {"b": 2})
        got = [await db.get(name, "ada") for name in ("users", "turns")]
        assert got == [{"a": 1}, {"b": 2}], f"two collections have {got}"

    @on_subject
    async def test_records_are_copies(self, db: Database) -> None:
        """Changing a record that was put or got does not change the stored one."""
        put: dict[str, Any] = {"turns": [1]}
        await db.put("users", "ada", put)
        put["turns"].append(2)
        got = await db.get("users", "ada")
        assert got == {"turns": [1]}, "what was put is kept, and not a copy of it"
        got["turns"].append(3)
        assert await db.get("users", "ada") == {"turns": [1]}, "what was got is what is kept"

    @on_subject
    async def test_writes_at_once_are_all_kept(self, db: Database) -> None:
        """Concurrent writes under different keys are all stored."""
        await asyncio.gather(*(db.put("users", str(n), {"n": n}) for n in range(20)))
        found = [await db.get("users", str(n)) for n in range(20)]
        assert found == [{"n": n} for n in range(20)], f"twenty writes at once left {found}"

    def test_can_be_cancelled(self) -> None:
        """A cancelled write is made completely or not at all; the next one succeeds."""

        async def write(db: Database) -> None:
            assert await db.get("users", "ada") in (None, {"a": 1, "b": 2}), "half of it is there"
            await db.put("users", "ada", {"a": 1, "b": 2})

        self._cancel(write)
