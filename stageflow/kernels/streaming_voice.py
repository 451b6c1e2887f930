"""A voice turn that speaks while the model answers: stt → profile ∥ memory → llm ⇒ tts ⇒ speak.

The model's answer flows on as sentences, each is synthesised while the one before sounds, and the
user hears the first as soon as it is made. Whoever cancels the run (barge-in) has silence at once,
and the conversation keeps what was really heard. If model or synthesis fail in the middle of the
answer, the whole sentences before that are heard to their end; then the run fails, and what was
heard is kept as well.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import TypeAlias

from stageflow.classification import classify
from stageflow.context import StageContext
from stageflow.errors import InvalidReplyError
from stageflow.events import Event
from stageflow.kernels.conversation import conversation, remember
from stageflow.kernels.sentences import SentenceSplitter
from stageflow.kernels.voice import NOTHING_HEARD, memory, profile, stt
from stageflow.pipeline import Pipeline
from stageflow.providers.ports import Audio
from stageflow.providers.replies import Checked, valid_sound
from stageflow.providers.resilience import Watched
from stageflow.stage import StageKind, StageOutput, stage
from stageflow.stream import StreamWriter

#: The model is not held back by how long its answer sounds: that many sentences may wait.
WAITING_SENTENCES = 1_000

#: How many sentences that are made may wait, beside the one that sounds and the one that is made.
WAITING_SOUND = 1

#: How long the model may add nothing to its answer, how long one sentence may take to be made, and
#: all of the answer to be heard, in seconds.
PROGRESS_S = 15.0
SENTENCE_S = 5.0
ANSWER_S = 300.0

#: How long a turn that was cancelled may take to keep what was said, in seconds.
KEEPING_S = 1.0

_WORD = re.compile(r"\S+")


#: A sentence, and its sound; a plain pair, so that a dead letter can hold it.
Utterance: TypeAlias = tuple[str, Audio]


class Mark(asyncio.Event):
    """Put behind what was said, it is set once all before it has been heard."""


# ── the answer, sentence by sentence ────────────────────────────────────────────────────────


@stage(
    dependencies=["profile", "memory"],
    inputs=["transcript", "profile", "history"],
    outputs=["answer"],
    streams=["sentences"],
    kind=StageKind.AGENT,
    timeout_s=ANSWER_S,
    provider="llm",
)
async def llm(ctx: StageContext) -> StageOutput:
    """The answer, each sentence as soon as it is whole; a request to repeat if nothing was said."""
    sentences = ctx.open("sentences", capacity=WAITING_SENTENCES)
    transcript = ctx["transcript"]
    if not transcript:
        await sentences.put(NOTHING_HEARD)
        return StageOutput.ok(answer=NOTHING_HEARD)
    messages = conversation(transcript, ctx.get("history"), ctx.get("profile"))
    model = Checked(Watched(ctx.llm, PROGRESS_S, name="the language model"))
    splitter, answer, blank = SentenceSplitter(), "", ""
    async with _heard_before_it_fails(ctx, sentences), aclosing(model.stream(messages)) as pieces:
        async for piece in pieces:
            answer += piece
            for sentence in splitter.feed(piece):
                blank += sentence
                if not blank.isspace():
                    await sentences.put(blank)
                    blank = ""
    rest = blank + splitter.finish()
    if rest.strip():
        await sentences.put(rest)
    return StageOutput.ok(answer=answer)


@stage(
    dependencies=["llm"],
    inputs=["sentences"],
    outputs=["speech"],
    streams=["sound"],
    timeout_s=ANSWER_S,
    provider="tts",
)
async def tts(ctx: StageContext) -> StageOutput:
    """The answer as sound: each sentence made while the one before sounds, and all of them."""
    sound = ctx.open("sound", capacity=WAITING_SOUND)
    service = Watched(ctx.tts, SENTENCE_S, name="text to speech")
    made: list[Audio] = []
    async for sentence in ctx["sentences"]:
        if isinstance(sentence, Mark):
            await sound.put(sentence)
            continue
        async with _heard_before_it_fails(ctx, sound):
            audio = valid_sound(await service.synthesize(sentence))
        made.append(audio)
        await sound.put((sentence, audio))
    async with _heard_before_it_fails(ctx, sound):
        speech = joined(made)
    return StageOutput.ok(speech=speech)


@asynccontextmanager
async def _heard_before_it_fails(ctx: StageContext, writer: StreamWriter) -> AsyncIterator[None]:
    """Hold a failure back until all that was put before it is heard: it stops what sounds.

    If nothing was put, it goes on at once, and the stage may be tried again.
    """
    try:
        yield
    except Exception:
        if not ctx.repeatable:
            mark = Mark()
            if await writer.put(mark):
                await mark.wait()
        raise


def joined(pieces: Sequence[Audio]) -> Audio:
    """Sound after sound, at least one, as one.

    Raises:
        InvalidReplyError: They differ in their sample rate.
    """
    rates = {piece.sample_rate_hz for piece in pieces}
    if len(rates) > 1:
        raise InvalidReplyError(
            f"text to speech changed its sample rate within an answer, between {sorted(rates)} Hz"
        )
    return Audio(b"".join(piece.pcm for piece in pieces), rates.pop())


# ── what is heard ───────────────────────────────────────────────────────────────────────────


@dataclass
class Said:
    """What of the answer has been heard, by the clock while a sentence sounds.

    Attributes:
        text: The sentences that were heard to their end.
    """

    text: str = ""
    _sounding: Utterance | None = None
    _since: float = 0.0

    def begin(self, utterance: Utterance, now: float) -> None:
        """It begins to sound."""
        self._sounding, self._since = utterance, now

    def end(self, sentence: str) -> None:
        """It has sounded."""
        self.text += sentence
        self._sounding = None

    def until(self, now: float) -> str:
        """All that has been heard, to the last whole word of the sentence that sounds."""
        if self._sounding is None:
            return self.text
        text, audio = self._sounding
        return self.text + words_within(text, (now - self._since) / audio.duration_s)


def words_within(sentence: str, share: float) -> str:
    """The words of a sentence that have sounded when a share of its sound has.

    A word is taken to sound for as long as it takes bytes in UTF-8: letters of an alphabet are one
    or two, a Chinese character, which is a syllable, is three. In a script without spaces it is
    all of the sentence or nothing.
    """
    # What is lost by adding up fractions of a second must not cost a word.
    heard = round(share * len(sentence.encode("utf-8", "surrogatepass")), 6)
    end = 0
    for word in _WORD.finditer(sentence):
        if len(sentence[: word.end()].encode("utf-8", "surrogatepass")) > heard:
            break
        end = word.end()
    return sentence[:end]


@stage(
    dependencies=["tts"],
    inputs=["user_id", "transcript", "sound"],
    kind=StageKind.WORK,
    timeout_s=ANSWER_S,
    provider="speaker",
)
async def speak(ctx: StageContext) -> StageOutput:
    """The sound, heard; if that is cut short, the part that was heard is kept for the next turn.

    Where no speaker is registered, a sentence counts as said once its sound is made.
    """
    speaker = ctx.run.providers.get("speaker")
    said = Said()
    try:
        async for item in ctx["sound"]:
            if isinstance(item, Mark):
                item.set()
                continue
            sentence, audio = item
            if speaker is not None:
                said.begin((sentence, audio), ctx.now())
                await speaker.play(audio)
            said.end(sentence)
    except (Exception, asyncio.CancelledError):
        await _keep_cut(ctx, said.until(ctx.now()))
        raise
    return StageOutput.ok()


async def _keep_cut(ctx: StageContext, heard: str) -> None:
    """Keep a turn that was cut short, if anything of the answer was heard."""
    if ctx["transcript"] and heard.strip():
        user = ctx["transcript"]
        await _in_time(ctx, remember(ctx, user=user, assistant=heard, interrupted=True))


async def _in_time(ctx: StageContext, keeping: Awaitable[None]) -> None:
    """Keep a turn while the stage cleans up, for no longer than `KEEPING_S`."""
    try:
        async with asyncio.timeout(KEEPING_S):
            await keeping
    except Exception as error:
        # Why the stage has to end is what the run has to tell; this comes beside it.
        failure = classify(error)
        ctx.emit("not_kept", error_code=failure.code, error_message=str(failure))


@stage(
    dependencies=["llm", "speak"],
    inputs=["user_id", "transcript", "sentences"],
    kind=StageKind.WORK,
    required=False,
    timeout_s=2.0,
    provider="db",
)
async def persist(ctx: StageContext) -> StageOutput:
    """The turn, which was heard to its end, kept for the next one.

    It reads the sentences, and not the answer, so that they are all kept until then: a synthesis
    that failed can be tried again, and a replay need not ask the model once more.
    """
    if not ctx["transcript"]:
        return StageOutput.skip("nothing was said")
    answer = "".join([sentence async for sentence in ctx["sentences"]])
    keeping = asyncio.ensure_future(remember(ctx, user=ctx["transcript"], assistant=answer))
    try:
        await asyncio.wait([keeping])
    except asyncio.CancelledError:
        # It was heard, and is not to be torn or lost.
        await _in_time(ctx, keeping)
        raise
    keeping.result()
    return StageOutput.ok()


# ── the turn ────────────────────────────────────────────────────────────────────────────────


def streaming_voice() -> Pipeline:
    """The streaming voice kernel.

    Inputs and outputs of a run are those of `stageflow.kernels.voice.voice`; beside them stand the
    streams ``sentences`` (strings) and ``sound`` (`Utterance`). Whoever wants to hear the sound as
    it is made registers a ``speaker``; without one the run ends when all sound is made.
    Without a database the turn goes on, without memory.
    """
    return Pipeline(
        "streaming_voice",
        [stt, profile, memory, llm, tts, speak, persist],
        inputs=["audio", "user_id"],
    )


def first_audio_ms(events: Iterable[Event]) -> float | None:
    """When the first sound of a voice turn was there, of either kernel.

    Args:
        events: Those of a run, in order.

    Returns:
        Milliseconds since the run's start; None if there never was any sound.
    """
    for event in events:
        if event.type in ("stage.tts.stream_first_item", "stage.tts.completed"):
            return event.offset_ms
    return None
