"""A turn of a voice conversation: stt → profile ∥ memory → llm → tts → persist."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any

from stageflow.decorator import stage
from stageflow.engine import Pipeline, StageContext, StageKind, StageOutput, StageSpec
from stageflow.errors import InvalidContextError, shown
from stageflow.events.log import FIRST_AUDIO
from stageflow.kernels import conversation as any_turn
from stageflow.kernels.agent import CACHED_STAGES, Tools, answering, model_stage
from stageflow.kernels.conversation import (
    PROFILES,
    SYSTEM_PROMPT,
    History,
    complete_text,
    conversation,
    remember,
    user_key,
)
from stageflow.kernels.history import require_prompting
from stageflow.kernels.speech import SpokenForm
from stageflow.providers.ports import (
    Audio,
    is_speakable,
    valid_answer,
    valid_record,
    valid_sound,
    valid_transcript,
)
from stageflow.providers.tools import Toolbox

NOTHING_HEARD = "Sorry, I did not hear anything. Please say it again."
"""The answer to a turn in which nothing was heard."""


@stage(outputs=["transcript"], timeout_s=5.0, provider="stt")
async def stt(ctx: StageContext, audio: Audio) -> str:
    """Return what the user says; "" for silence, or if the provider ``vad`` finds no speech."""
    given: object = audio
    if not isinstance(given, Audio):
        raise InvalidContextError(f"the input 'audio' is {shown(given)}; give Audio")
    vad = ctx.run.providers.get("vad")
    if not audio.pcm.strip(b"\0") or (vad is not None and not await vad.speech(audio)):
        return ""
    return valid_transcript(await ctx.stt.transcribe(audio)).strip()


@stage(after=["stt"], kind=StageKind.ENRICH, required=False, timeout_s=1.0, provider="db")
async def profile(ctx: StageContext, user_id: str) -> Mapping[str, Any] | StageOutput:
    """Return what the database knows of the user."""
    key = user_key(user_id)
    record = None if key is None else valid_record(await ctx.db.get(PROFILES, key))
    return record if record is not None else StageOutput.skip("the user has no profile")


#: It reads the database only after speech to text.
memory = replace(any_turn.memory, dependencies=("stt",))


@lru_cache(CACHED_STAGES)
def llm_stage(
    history_tokens: int | None, system_prompt: str, tools: Toolbox | None, /
) -> StageSpec:
    """Return the stage that calls the model; see `Fitted`."""
    require_prompting(history_tokens, system_prompt)

    async def answer(
        ctx: StageContext,
        transcript: str,
        history: History | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> str:
        if not transcript:
            return NOTHING_HEARD
        model = answering(ctx, ctx.llm, history_tokens, tools)
        messages = conversation(transcript, history, profile, system_prompt)
        return complete_text(ctx, valid_answer(await model.complete(messages)))

    return model_stage(answer, tools, timeout_s=15.0)


llm = llm_stage(None, SYSTEM_PROMPT, None)  # for contracts, which look for the stages of a module


@stage(outputs=["speech"], timeout_s=5.0, provider="tts")
async def tts(ctx: StageContext, answer: str) -> Audio:
    """Return the answer as sound, which has no samples if there is nothing to say."""
    text = SpokenForm().of(answer)
    if not is_speakable(text):
        return Audio(b"")
    speech = valid_sound(await ctx.tts.synthesize(text))
    ctx.emit(FIRST_AUDIO)
    return speech


@stage(after=["tts"], kind=StageKind.WORK, required=False, timeout_s=2.0, provider="db")
async def persist(
    ctx: StageContext, user_id: str, transcript: str, answer: str
) -> StageOutput | None:
    """Store the turn."""
    if not transcript:
        return StageOutput.skip("nothing was said")
    await remember(ctx, user_id, user=transcript, assistant=answer)
    return None


def voice(
    *,
    history_tokens: int | None = None,
    system_prompt: str = SYSTEM_PROMPT,
    memory: StageSpec = memory,
    tools: Tools = None,
) -> Pipeline:
    """Return the voice kernel.

    Inputs of a run: ``audio`` (`Audio`) and ``user_id`` (see `chat`). Outputs: ``transcript``,
    ``profile`` (absent if there is none), ``history``, ``answer`` and ``speech`` (`Audio`, without
    samples for an answer such as "😊"). Its arguments are those of `chat`.
    """
    answer = llm_stage(history_tokens, system_prompt, Toolbox.of(tools))
    stages = (stt, profile, memory, answer, tts, persist)
    return Pipeline("voice", stages, inputs=["audio", "user_id"])
