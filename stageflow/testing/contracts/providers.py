"""What the engine expects of a model, of speech services, of a database, and of a speaker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

from stageflow.providers.ports import LLM, STT, TTS, Audio, Database, Message, Speaker
from stageflow.testing.contracts.cancellation import Waits
from stageflow.testing.contracts.loops import LoopContract

P = TypeVar("P")

_ASKED = [Message("user", "Say hello.")]
#: A twentieth of a second of a 200 Hz square wave.
_SOUND = Audio((b"\x00\x10" * 40 + b"\x00\xf0" * 40) * 10)


class ProviderContractTest(LoopContract):
    """What the contracts of providers have in common.

    They run on a real loop, as a client does; ``real_io = False`` puts a fake in simulated time.
    What a maker opens, `resources` closes::

        async def make_llm(self) -> LLM:
            return await self.resources.enter_async_context(MyModel(key="…"))
    """

    real_io = True

    def _with(
        self, make: Callable[[], Awaitable[P]], check: Callable[[P], Awaitable[None]]
    ) -> None:
        """Make a provider in a new event loop, and check it there."""

        async def main() -> None:
            await check(await make())

        self._run(main())

    def _cancel(
        self, make: Callable[[], Awaitable[P]], call: Callable[[P], Awaitable[object]]
    ) -> None:
        """See to it that a call ends when it is cancelled, wherever it waits, and the next goes."""
        for point in self._points():
            if not self._run(_cancelled(make, call, point)):
                return


async def _cancelled(
    make: Callable[[], Awaitable[P]], call: Callable[[P], Awaitable[object]], point: int
) -> bool:
    """Cancel one call at its n-th wait, and make another; False if it never waited so often."""
    provider = await make()

    async def wait() -> int:
        waits = Waits(call(provider), point, task.cancel)
        await waits
        return waits.count

    task = asyncio.ensure_future(wait())
    await asyncio.wait([task])
    if task.cancelled():
        await call(provider)
        return True
    assert task.result() < point, (
        f"a call was cancelled where it waited (wait {point}), and went on: let CancelledError pass"
    )
    return False


async def _whole(pieces: AsyncIterator[str]) -> str:
    return "".join([piece async for piece in pieces])


class LlmContractTest(ProviderContractTest):
    """The contract of a language model.

    Example:
        >>> class TestMyModel(LlmContractTest):
        ...     async def make_llm(self) -> LLM:
        ...         return MyModel(key="…")
    """

    async def make_llm(self) -> LLM:
        """The model under test, made anew.

        Raises:
            NotImplementedError: The subclass does not say which.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which: write make_llm")

    def test_completes_with_text(self) -> None:
        """Some text."""

        async def check(llm: LLM) -> None:
            answer = await llm.complete(_ASKED)
            assert isinstance(answer, str), f"complete() gave a {type(answer).__name__}"
            assert answer, "complete() gave an empty answer"

        self._with(self.make_llm, check)

    def test_streams_text(self) -> None:
        """In pieces that are text, and together not empty."""

        async def check(llm: LLM) -> None:
            pieces = [piece async for piece in llm.stream(_ASKED)]
            wrong = [piece for piece in pieces if not isinstance(piece, str)]
            assert not wrong, f"stream() gave {wrong[0]!r}, which is no text"
            assert "".join(pieces), "stream() gave nothing"

        self._with(self.make_llm, check)

    def test_a_stream_can_be_left(self) -> None:
        """After its first piece; the next call is answered in full."""

        async def check(llm: LLM) -> None:
            stream = llm.stream(_ASKED)
            async for _ in stream:
                break
            close = getattr(stream, "aclose", None)
            assert close is not None, "stream() gave something that cannot be closed"
            await close()
            assert [piece async for piece in llm.stream(_ASKED)]

        self._with(self.make_llm, check)

    def test_can_be_cancelled(self) -> None:
        """Wherever a call waits, it ends as cancelled; the next one is answered."""
        self._cancel(self.make_llm, lambda llm: llm.complete(_ASKED))

    def test_a_stream_can_be_cancelled(self) -> None:
        """The same, of an answer in pieces."""
        self._cancel(self.make_llm, lambda llm: _whole(llm.stream(_ASKED)))

    def test_calls_at_once_are_answered(self) -> None:
        """Each of several."""

        async def check(llm: LLM) -> None:
            answers = await asyncio.gather(*(llm.complete(_ASKED) for _ in range(5)))
            assert all(isinstance(answer, str) and answer for answer in answers), answers

        self._with(self.make_llm, check)


class SttContractTest(ProviderContractTest):
    """The contract of speech to text: `make_stt`, and `make_audio` for what it is to hear."""

    async def make_stt(self) -> STT:
        """The service under test, made anew; raises as `LlmContractTest.make_llm`."""
        raise NotImplementedError(f"{type(self).__name__} does not say which: write make_stt")

    def make_audio(self) -> Audio:
        """Speech that it understands; raises as `make_stt`."""
        raise NotImplementedError(f"{type(self).__name__} has nothing to hear: write make_audio")

    def test_gives_text(self) -> None:
        """What was said, as text."""

        async def check(stt: STT) -> None:
            heard = await stt.transcribe(self.make_audio())
            assert isinstance(heard, str), f"transcribe() gave a {type(heard).__name__}"
            assert heard.strip(), "transcribe() heard nothing"

        self._with(self.make_stt, check)

    def test_hears_the_same_again(self) -> None:
        """One call leaves nothing behind that changes the next."""

        async def check(stt: STT) -> None:
            audio = self.make_audio()
            first, second = await stt.transcribe(audio), await stt.transcribe(audio)
            assert first == second, f"heard {first!r}, then {second!r}"

        self._with(self.make_stt, check)

    def test_can_be_cancelled(self) -> None:
        """Wherever a call waits, it ends as cancelled; the next one is answered."""
        self._cancel(self.make_stt, lambda stt: stt.transcribe(self.make_audio()))


class TtsContractTest(ProviderContractTest):
    """The contract of text to speech: `make_tts`."""

    async def make_tts(self) -> TTS:
        """The service under test, made anew; raises as `LlmContractTest.make_llm`."""
        raise NotImplementedError(f"{type(self).__name__} does not say which: write make_tts")

    def test_gives_sound(self) -> None:
        """An `Audio` that holds something."""

        async def check(tts: TTS) -> None:
            spoken = await tts.synthesize("Hello.")
            assert isinstance(spoken, Audio), f"synthesize() gave a {type(spoken).__name__}"
            assert spoken.pcm, "synthesize() gave silence of no length"

        self._with(self.make_tts, check)

    def test_can_be_cancelled(self) -> None:
        """Wherever a call waits, it ends as cancelled; the next one is answered."""
        self._cancel(self.make_tts, lambda tts: tts.synthesize("Hello."))


class SpeakerContractTest(ProviderContractTest):
    """The contract of a speaker: `make_speaker`.

    Attributes:
        scale: How long a second of sound takes it, in seconds; less than 1 for one that only
            pretends.
    """

    scale: float = 1.0

    async def make_speaker(self) -> Speaker:
        """The speaker under test, made anew; raises as `LlmContractTest.make_llm`."""
        raise NotImplementedError(f"{type(self).__name__} does not say which: write make_speaker")

    def test_returns_when_it_has_sounded(self) -> None:
        """Not before: whoever cancels a turn goes by the clock for what was heard."""

        async def check(speaker: Speaker) -> None:
            clock = asyncio.get_running_loop().time
            began = clock()
            await speaker.play(_SOUND)
            took_s, lasts_s = clock() - began, _SOUND.duration_s * self.scale
            assert took_s >= lasts_s * 0.9, f"play() took {took_s:g} s, the sound {lasts_s:g} s"

        self._with(self.make_speaker, check)

    def test_plays_one_after_another(self) -> None:
        """Sound of each length and rate, again and again."""

        async def check(speaker: Speaker) -> None:
            for audio in (_SOUND, Audio(_SOUND.pcm[:2]), Audio(_SOUND.pcm, 48_000), _SOUND):
                await speaker.play(audio)

        self._with(self.make_speaker, check)

    def test_can_be_cancelled(self) -> None:
        """Wherever it sounds, it ends as cancelled; the next sound is played."""
        self._cancel(self.make_speaker, lambda speaker: speaker.play(_SOUND))


class DatabaseContractTest(ProviderContractTest):
    """The contract of a database: `make_database`, empty."""

    async def make_database(self) -> Database:
        """An empty database, made anew; raises as `LlmContractTest.make_llm`."""
        raise NotImplementedError(f"{type(self).__name__} does not say which: write make_database")

    def test_what_is_not_there_is_none(self) -> None:
        """And no error."""

        async def check(db: Database) -> None:
            assert await db.get("users", "nobody") is None

        self._with(self.make_database, check)

    def test_what_was_put_is_got(self) -> None:
        """Equal, whatever JSON can hold, under whatever key."""

        async def check(db: Database) -> None:
            record = {"name": "Ada", "turns": [1, 2.5, None, {"ü": True}], "": "empty"}
            for key in ("ada", "Ünï cödé", "a'b\"c;--", "x" * 200):
                await db.put("users", key, record)
                assert await db.get("users", key) == record, f"not what was put under {key!r}"

        self._with(self.make_database, check)

    def test_a_later_record_takes_the_place(self) -> None:
        """Of the earlier one, as a whole."""

        async def check(db: Database) -> None:
            await db.put("users", "ada", {"a": 1, "b": 2})
            await db.put("users", "ada", {"a": 3})
            assert await db.get("users", "ada") == {"a": 3}

        self._with(self.make_database, check)

    def test_collections_are_apart(self) -> None:
        """The same key in two of them is two records."""

        async def check(db: Database) -> None:
            await db.put("users", "ada", {"a": 1})
            await db.put("turns", "ada", {"b": 2})
            assert await db.get("users", "ada") == {"a": 1}
            assert await db.get("turns", "ada") == {"b": 2}

        self._with(self.make_database, check)

    def test_records_are_copies(self) -> None:
        """Whoever changes what was put or got does not change what is kept."""

        async def check(db: Database) -> None:
            put: dict[str, Any] = {"turns": [1]}
            await db.put("users", "ada", put)
            put["turns"].append(2)
            got = await db.get("users", "ada")
            assert got == {"turns": [1]}, "what was put is kept, and not a copy of it"
            got["turns"].append(3)
            assert await db.get("users", "ada") == {"turns": [1]}, "what was got is what is kept"

        self._with(self.make_database, check)

    def test_writes_at_once_are_all_kept(self) -> None:
        """Each under its key."""

        async def check(db: Database) -> None:
            await asyncio.gather(*(db.put("users", str(n), {"n": n}) for n in range(20)))
            found = [await db.get("users", str(n)) for n in range(20)]
            assert found == [{"n": n} for n in range(20)]

        self._with(self.make_database, check)

    def test_can_be_cancelled(self) -> None:
        """Wherever a write waits, it is cancelled, and made wholly or not at all; the next goes."""

        async def write(db: Database) -> None:
            assert await db.get("users", "ada") in (None, {"a": 1, "b": 2}), "half of it is there"
            await db.put("users", "ada", {"a": 1, "b": 2})

        self._cancel(self.make_database, write)
