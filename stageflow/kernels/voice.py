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
from stageflow.kernels.history import require_prompting
from stageflow.kernels.speech import SpokenForm
from stageflow.providers import ports
from stageflow.providers.tools import Toolbox

NOTHING_HEARD = "Sorry, I did not hear anything. Please say it again."
"""The answer to a turn in which nothing was heard."""


@stage(outputs=["transcript"], timeout_s=5.0, provider="stt")
async def stt(ctx: StageContext, audio: ports.Audio) -> str:
    """Return what the user says; "" for silence, or if the provider ``vad`` finds no speech."""
    given: object = audio
    if not isinstance(given, ports.Audio):
        raise InvalidContextError(f"the input 'audio' is {shown(given)}; give Audio")
    vad = ctx.run.providers.get("vad")
    if not audio.pcm.strip(b"\0") or (vad is not None and not await vad.speech(audio)):
        return ""
    return ports.valid_transcript(await ctx.stt.transcribe(audio)).strip()


@stage(after=["stt"], kind=StageKind.ENRICH, required=False, timeout_s=1.0, provider="db")
async def profile(ctx: StageContext, user_id: str) -> Mapping[str, Any] | StageOutput:
    """Return what the database knows of the user."""
    key = any_turn.user_key(user_id)
    record = None if key is None else ports.valid_record(await ctx.db.get(any_turn.PROFILES, key))
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
        history: any_turn.History | None = None,
        profile: Mapping[str, Any] | None = None,
    ) -> str:
        if not transcript:
            return NOTHING_HEARD
        model = answering(ctx, ctx.llm, history_tokens, tools)
        messages = any_turn.conversation(transcript, history, profile, system_prompt)
        return any_turn.complete_text(ctx, ports.valid_answer(await model.complete(messages)))

    return model_stage(answer, tools, timeout_s=15.0)


llm = llm_stage(
    None, any_turn.SYSTEM_PROMPT, None
)  # for contracts, which look for the stages of a module


@stage(outputs=["speech"], timeout_s=5.0, provider="tts")
async def tts(ctx: StageContext, answer: str) -> ports.Audio:
    """Return the answer as sound, which has no samples if there is nothing to say."""
    text = SpokenForm().of(answer)
    if not ports.is_speakable(text):
        return ports.Audio(b"")
    speech = ports.valid_sound(await ctx.tts.synthesize(text))
    ctx.emit(FIRST_AUDIO)
    return speech


@stage(after=["tts"], kind=StageKind.WORK, required=False, timeout_s=2.0, provider="db")
async def persist(
    ctx: StageContext, user_id: str, transcript: str, answer: str
) -> StageOutput | None:
    """Store the turn."""
    if not transcript:
        return StageOutput.skip("nothing was said")
    await any_turn.remember(ctx, user_id, user=transcript, assistant=answer)
    return None


def voice(
    *,
    history_tokens: int | None = None,
    system_prompt: str = any_turn.SYSTEM_PROMPT,
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
