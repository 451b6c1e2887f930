"""A turn of a chat: guard ∥ memory → llm → persist."""

from __future__ import annotations

import re

from stageflow.context import StageContext
from stageflow.errors import InvalidContextError, shown
from stageflow.kernels.conversation import conversation, memory, remember
from stageflow.pipeline import Pipeline
from stageflow.providers.replies import valid_answer
from stageflow.stage import StageKind, StageOutput, stage

MAX_TEXT_CHARS = 8_000
EMPTY_TEXT = "Please write something, and I will answer."
TOO_LONG = (
    f"That is more than I can read at once. Please keep it below {MAX_TEXT_CHARS} characters."
)
REFUSAL = "Sorry, I cannot help with that. Is there something else I can do for you?"

#: What the guard refuses. It stands for a real policy: a few phrases, found wherever they occur.
REFUSED = re.compile(
    r"\bignore\s+(?:all\s+|any\s+)?(?:of\s+)?(?:your\s+|the\s+)?(?:previous|prior|earlier)\s+"
    r"instructions\b"
    r"|\b(?:build|make)\s+(?:a\s+)?(?:pipe\s+)?bombs?\b",
    re.IGNORECASE,
)


@stage(inputs=["text"], outputs=["refusal"], kind=StageKind.GUARD, timeout_s=1.0)
async def guard(ctx: StageContext) -> StageOutput:
    """A polite refusal of the text, or None if the model may answer it.

    A refusal is an answer, not a failure. Should the guard itself fail, the run does: nothing
    reaches the model unseen.
    """
    text = ctx["text"]
    if not isinstance(text, str):
        raise InvalidContextError(f"the input 'text' is {shown(text)}; give a string")
    if not text.strip():
        return StageOutput.ok(refusal=EMPTY_TEXT)
    if len(text) > MAX_TEXT_CHARS:
        return StageOutput.ok(refusal=TOO_LONG)
    return StageOutput.ok(refusal=REFUSAL if REFUSED.search(text) else None)


@stage(
    dependencies=["guard", "memory"],
    inputs=["text", "refusal", "history"],
    outputs=["answer"],
    kind=StageKind.AGENT,
    timeout_s=15.0,
    provider="llm",
)
async def llm(ctx: StageContext) -> StageOutput:
    """The model's answer, or the guard's refusal without the model having been asked."""
    if ctx["refusal"] is not None:
        return StageOutput.ok(answer=ctx["refusal"])
    messages = conversation(ctx["text"], ctx.get("history"))
    return StageOutput.ok(answer=valid_answer(await ctx.llm.complete(messages)))


@stage(
    dependencies=["llm"],
    inputs=["user_id", "text", "refusal", "answer"],
    kind=StageKind.WORK,
    required=False,
    timeout_s=2.0,
    provider="db",
)
async def persist(ctx: StageContext) -> StageOutput:
    """The turn, refused or not, kept for the next one."""
    # A text that was refused for its length is cut: the record has to stay small.
    said = ctx["text"][:MAX_TEXT_CHARS]
    refused = ctx["refusal"] is not None
    await remember(ctx, user=said, assistant=ctx["answer"], refused=refused)
    return StageOutput.ok()


def chat() -> Pipeline:
    """The chat kernel.

    Inputs of a run: ``text`` and ``user_id`` (strings). Outputs: ``refusal`` (None if the text
    was let through), ``history`` and ``answer``. It calls the language model and the database.
    Without a database the turn goes on, without memory.
    """
    return Pipeline("chat", [guard, memory, llm, persist], inputs=["text", "user_id"])
