"""A voice turn that speaks while the model answers: stt → profile ∥ memory → llm ⇒ tts ⇒ speak.

Each sentence is synthesised while the one before is played. If the run is cancelled (barge-in), the
sound stops at once, and the part that was heard is stored. If the model or the synthesis fails
within the answer, the sentences before are played and stored before the run fails.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Iterable, Mapping
from contextlib import asynccontextmanager
from functools import lru_cache
from typing import Any, TypeAlias

from stageflow._utils.closing import closing_stream
from stageflow.decorator import stage
from stageflow.engine import Pipeline, StageContext, StageKind, StageOutput, StageSpec
from stageflow.engine.stream import StreamReader, StreamWriter
from stageflow.events.log import FIRST_AUDIO, Event
from stageflow.kernels import conversation as any_turn
from stageflow.kernels.agent import CACHED_STAGES, Tools, answering, model_stage
from stageflow.kernels.history import require_prompting
from stageflow.kernels.sentences import SentenceSplitter
from stageflow.kernels.speech import SpokenForm
from stageflow.kernels.voice import NOTHING_HEARD, memory, profile, stt
from stageflow.providers import Checked, IdleTimeout, Toolbox
from stageflow.providers.audio import at_rate
from stageflow.providers.ports import Audio, is_speakable, valid_sound
from stageflow.resilience.classification import classify

#: How many sentences may wait to be spoken. The model does not wait for the sound of its answer.
WAITING_SENTENCES = 1_000

#: A longer first sentence is spoken in parts: about five seconds of speech.
FIRST_BYTES = 80

#: How many sounds may wait, besides the one that is played and the one that is synthesised.
WAITING_SOUND = 1

#: Limits in seconds: of the model between two pieces of the answer, of the synthesis of a sentence,
#: and of playing the whole answer.
PROGRESS_S = 15.0
SENTENCE_S = 5.0
ANSWER_S = 300.0

KEEPING_S = 1.0
"""How long a cancelled turn may take to store what was said, in seconds."""

_WORD = re.compile(r"\S+")

#: A sentence and its sound; a pair, so that a dead letter can hold it.
Utterance: TypeAlias = tuple[str, Audio]


class Mark(asyncio.Event):
    """A mark in a stream, which is set once everything before it has been played."""


@lru_cache(CACHED_STAGES)
def llm_stage(
    history_tokens: int | None, system_prompt: str, tools: Toolbox | None, /
) -> StageSpec:
    """Return the stage that streams the sentences of the answer; see `Fitted`.

    Text without a letter or digit is joined to the next sentence. At the end of the answer it is an
    item of its own, which is shown and stored but not spoken.
    """
    require_prompting(history_tokens, system_prompt)

    async def stream(
        ctx: StageContext,
        transcript: str,
        history: any_turn.History | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> str:
        sentences = ctx.open("sentences", capacity=WAITING_SENTENCES)
        if not transcript:
            await sentences.put(NOTHING_HEARD)
            return NOTHING_HEARD
        watched = Checked(IdleTimeout(ctx.llm, PROGRESS_S, name="the language model"))
        model = answering(ctx, watched, history_tokens, tools)
        answers = model.stream(any_turn.conversation(transcript, history, profile, system_prompt))
        splitter, answer, unsaid = SentenceSplitter(first_bytes=FIRST_BYTES), "", ""
        async with _heard_before_it_fails(ctx, sentences), closing_stream(answers) as pieces:
            async for piece in pieces:
                answer += any_turn.complete_text(ctx, piece)
                for sentence in splitter.feed(piece):
                    unsaid += sentence
                    if is_speakable(sentence):
                        await sentences.put(unsaid)
                        unsaid = ""
        rest = unsaid + splitter.finish()
        if rest.strip():
            await sentences.put(rest)
        return answer

    return model_stage(stream, tools, timeout_s=ANSWER_S, streams=["sentences"])


llm = llm_stage(
    None, any_turn.SYSTEM_PROMPT, None
)  # for contracts, which look for the stages of a module


@stage(outputs=["speech"], streams=["sound"], timeout_s=ANSWER_S, provider="tts")
async def tts(ctx: StageContext, sentences: StreamReader) -> Audio:
    """Stream the sound of each sentence, and return the sound of the whole answer."""
    sound = ctx.open("sound", capacity=WAITING_SOUND)
    service = IdleTimeout(ctx.tts, SENTENCE_S, name="text to speech")
    made: list[Audio] = []
    form, shown = SpokenForm(), ""
    async for sentence in sentences:
        if isinstance(sentence, Mark):
            await sound.put(sentence)
            continue
        shown += sentence
        text = form.of(sentence)
        if not is_speakable(text):
            continue
        async with _heard_before_it_fails(ctx, sound):
            audio = valid_sound(await service.synthesize(text))
        if made:  # a fallback may have another rate
            audio = at_rate(audio, made[0].sample_rate_hz)
        else:
            ctx.emit(FIRST_AUDIO)
        made.append(audio)
        await sound.put((shown, audio))
        shown = ""
    return Audio(b"".join(audio.pcm for audio in made), *{audio.sample_rate_hz for audio in made})


@asynccontextmanager
async def _heard_before_it_fails(ctx: StageContext, writer: StreamWriter) -> AsyncIterator[None]:
    """Delay a failure until what was put is played, as a failed run stops the sound."""
    try:
        yield
    except Exception:
        if not ctx.repeatable:
            mark = Mark()
            if await writer.put(mark):
                await mark.wait()
        raise


def words_within(sentence: str, share: float) -> str:
    """Return the words of a sentence that were heard when a share of its sound was.

    A word's share is that of its UTF-8 bytes: a Chinese character, which is a syllable, has three.
    """
    # Rounding removes the errors of fractions of a second.
    heard = round(share * len(sentence.encode("utf-8", "surrogatepass")), 6)
    end = 0
    for word in _WORD.finditer(sentence):
        if len(sentence[: word.end()].encode("utf-8", "surrogatepass")) > heard:
            break
        end = word.end()
    return sentence[:end]


@stage(kind=StageKind.WORK, timeout_s=ANSWER_S, provider="speaker")
async def speak(ctx: StageContext, user_id: str, transcript: str, sound: StreamReader) -> None:
    """Play the sound; if interrupted, store the part that was heard (without a speaker: made)."""
    speaker = ctx.run.providers.get("speaker")
    heard, playing, since = "", None, 0.0
    try:
        async for item in sound:
            if isinstance(item, Mark):
                item.set()
                continue
            if speaker is not None:
                playing, since = item, ctx.now()
                await speaker.play(item[1])
            heard, playing = heard + item[0], None
    except (Exception, asyncio.CancelledError):
        if playing is not None:
            sentence, audio = playing
            heard += words_within(sentence, (ctx.now() - since) / audio.duration_s)
        if transcript and heard.strip():
            keeping = any_turn.remember(
                ctx, user_id, user=transcript, assistant=heard, interrupted=True
            )
            await _in_time(ctx, keeping)
        raise


async def _in_time(ctx: StageContext, keeping: Awaitable[None]) -> None:
    """Store a turn while the stage cleans up, for at most `KEEPING_S`."""
    try:
        async with asyncio.timeout(KEEPING_S):
            await keeping
    except Exception as error:
        # The run fails for the reason of the interruption; this is an event.
        failure = classify(error)
        ctx.emit("not_kept", error_code=failure.code, error_message=str(failure))


@stage(after=["speak"], kind=StageKind.WORK, required=False, timeout_s=2.0, provider="db")
async def persist(
    ctx: StageContext, user_id: str, transcript: str, sentences: StreamReader
) -> StageOutput | None:
    """Store the turn; as it reads the sentences, the stream keeps them for retries and replays."""
    if not transcript:
        return StageOutput.skip("nothing was said")
    answer = "".join([sentence async for sentence in sentences])
    keeping = asyncio.ensure_future(
        any_turn.remember(ctx, user_id, user=transcript, assistant=answer)
    )
    try:
        await asyncio.wait([keeping])
    except asyncio.CancelledError:
        # The user has heard the answer, so it must be stored.
        await _in_time(ctx, keeping)
        raise
    return keeping.result()


def streaming_voice(
    *,
    history_tokens: int | None = None,
    system_prompt: str = any_turn.SYSTEM_PROMPT,
    memory: StageSpec = memory,
    tools: Tools = None,
) -> Pipeline:
    """Return the streaming voice kernel.

    It is `voice` with the streams ``sentences`` (strings) and ``sound`` (`Utterance`). A registered
    ``speaker`` plays the sound; without one, the run ends when all sound is made.
    """
    answer = llm_stage(history_tokens, system_prompt, Toolbox.of(tools))
    stages = (stt, profile, memory, answer, tts, speak, persist)
    return Pipeline("streaming_voice", stages, inputs=["audio", "user_id"])


def first_audio_ms(events: Iterable[Event]) -> float | None:
    """Return the milliseconds from a run's start to ``first_audio``; None without sound."""
    return next((event.offset_ms for event in events if event.what == FIRST_AUDIO), None)
