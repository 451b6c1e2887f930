"""A turn of a voice conversation: stt → profile ∥ memory → llm → tts → persist."""

from __future__ import annotations

from dataclasses import replace

from stageflow.context import StageContext
from stageflow.kernels import conversation as any_turn
from stageflow.kernels.conversation import PROFILES, conversation, remember
from stageflow.pipeline import Pipeline
from stageflow.providers.replies import (
    valid_answer,
    valid_record,
    valid_sound,
    valid_transcript,
)
from stageflow.stage import StageKind, StageOutput, stage

NOTHING_HEARD = "Sorry, I did not hear anything. Please say it again."


@stage(inputs=["audio"], outputs=["transcript"], timeout_s=5.0, provider="stt")
async def stt(ctx: StageContext) -> StageOutput:
    """What the user says."""
    transcript = valid_transcript(await ctx.stt.transcribe(ctx["audio"]))
    return StageOutput.ok(transcript=transcript.strip())


@stage(
    dependencies=["stt"],
    inputs=["user_id"],
    outputs=["profile"],
    kind=StageKind.ENRICH,
    required=False,
    timeout_s=1.0,
    provider="db",
)
async def profile(ctx: StageContext) -> StageOutput:
    """Who the user is."""
    record = valid_record(await ctx.db.get(PROFILES, ctx["user_id"]))
    if record is None:
        return StageOutput.skip("the user has no profile")
    return StageOutput.ok(profile=record)


#: As in any turn, but asked for once something was said.
memory = replace(any_turn.memory, dependencies=("stt",))


@stage(
    dependencies=["profile", "memory"],
    inputs=["transcript", "profile", "history"],
    outputs=["answer"],
    kind=StageKind.AGENT,
    timeout_s=15.0,
    provider="llm",
)
async def llm(ctx: StageContext) -> StageOutput:
    """The answer; if nothing was said, a request to say it again."""
    transcript = ctx["transcript"]
    if not transcript:
        return StageOutput.ok(answer=NOTHING_HEARD)
    messages = conversation(transcript, ctx.get("history"), ctx.get("profile"))
    return StageOutput.ok(answer=valid_answer(await ctx.llm.complete(messages)))


@stage(dependencies=["llm"], inputs=["answer"], outputs=["speech"], timeout_s=5.0, provider="tts")
async def tts(ctx: StageContext) -> StageOutput:
    """The answer as sound."""
    return StageOutput.ok(speech=valid_sound(await ctx.tts.synthesize(ctx["answer"])))


@stage(
    dependencies=["tts"],
    inputs=["user_id", "transcript", "answer"],
    kind=StageKind.WORK,
    required=False,
    timeout_s=2.0,
    provider="db",
)
async def persist(ctx: StageContext) -> StageOutput:
    """The turn, kept for the next one."""
    if not ctx["transcript"]:
        return StageOutput.skip("nothing was said")
    await remember(ctx, user=ctx["transcript"], assistant=ctx["answer"])
    return StageOutput.ok()


def voice() -> Pipeline:
    """The voice kernel.

    Inputs of a run: ``audio`` (`Audio`) and ``user_id`` (a string). Outputs: ``transcript``,
    ``profile`` (absent if there is none), ``history``, ``answer`` and ``speech`` (`Audio`).
    It calls a model, both speech services and a database. Without a database the turn goes on,
    without memory.
    """
    return Pipeline("voice", [stt, profile, memory, llm, tts, persist], inputs=["audio", "user_id"])
