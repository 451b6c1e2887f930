"""A turn of a chat: guard ∥ memory → llm → persist."""

from __future__ import annotations

import re
from functools import lru_cache

from stageflow._utils.closing import closing_stream
from stageflow.decorator import stage
from stageflow.engine import Pipeline, StageContext, StageKind, StageSpec
from stageflow.errors import InvalidContextError, shown
from stageflow.kernels import conversation as any_turn
from stageflow.kernels.agent import CACHED_STAGES, Tools, answering, model_stage
from stageflow.kernels.history import require_prompting
from stageflow.providers import Checked, Toolbox, valid_answer

MAX_TEXT_CHARS = 8_000
EMPTY_TEXT = "Please write something, and I will answer."
TOO_LONG = (
    f"That is more than I can read at once. Please keep it below {MAX_TEXT_CHARS} characters."
)
REFUSAL = "Sorry, I cannot help with that. Is there something else I can do for you?"

#: Phrases that the guard refuses, as an example of a policy.
REFUSED = re.compile(
    r"\bignore\s+(?:all\s+|any\s+)?(?:of\s+)?(?:your\s+|the\s+)?(?:previous|prior|earlier)\s+"
    r"instructions\b"
    r"|\b(?:build|make)\s+(?:a\s+)?(?:pipe\s+)?bombs?\b",
    re.IGNORECASE,
)


@stage(outputs=["refusal"], kind=StageKind.GUARD, timeout_s=1.0)
async def guard(text: str) -> str | None:
    """Return a polite refusal of the text, or None if the model may answer it."""
    given: object = text
    if not isinstance(given, str):
        raise InvalidContextError(f"the input 'text' is {shown(given)}; give a string")
    if not text.strip():
        return EMPTY_TEXT
    if len(text) > MAX_TEXT_CHARS:
        return TOO_LONG
    return REFUSAL if REFUSED.search(text) else None


@lru_cache(CACHED_STAGES)
def llm_stage(
    history_tokens: int | None, system_prompt: str, streaming: bool, tools: Toolbox | None, /
) -> StageSpec:
    """Return the stage that calls the model, or passes on the guard's refusal; see `Fitted`."""
    require_prompting(history_tokens, system_prompt)

    async def answer(
        ctx: StageContext, text: str, refusal: str | None, history: any_turn.History | None = None
    ) -> str:
        pieces = ctx.open("pieces") if streaming else None
        if refusal is not None:
            if pieces is not None:
                await pieces.put(refusal)
            return refusal
        model = answering(ctx, Checked(ctx.llm) if streaming else ctx.llm, history_tokens, tools)
        messages = any_turn.conversation(text, history, system_prompt=system_prompt)
        if pieces is None:
            return any_turn.complete_text(ctx, valid_answer(await model.complete(messages)))
        said = ""
        async with closing_stream(model.stream(messages)) as found:
            async for piece in found:
                said += any_turn.complete_text(ctx, piece)
                if piece:
                    await pieces.put(piece)
        return said

    if streaming:
        return model_stage(answer, tools, timeout_s=60.0, streams=["pieces"])
    return model_stage(answer, tools, timeout_s=15.0)


#: For contracts, which look for the stages of a module.
llm = llm_stage(None, any_turn.SYSTEM_PROMPT, False, None)


@stage(kind=StageKind.WORK, required=False, timeout_s=2.0, provider="db")
async def persist(
    ctx: StageContext, user_id: str, text: str, refusal: str | None, answer: str
) -> None:
    """Store the turn."""
    user = text[:MAX_TEXT_CHARS]  # a text may have been refused for its length
    await any_turn.remember(ctx, user_id, user=user, assistant=answer, refused=refusal is not None)


def chat(
    *,
    history_tokens: int | None = None,
    system_prompt: str = any_turn.SYSTEM_PROMPT,
    memory: StageSpec = any_turn.memory,
    streaming: bool = False,
    tools: Tools = None,
) -> Pipeline:
    """Return the chat kernel.

    Inputs of a run: ``text`` (a string) and ``user_id`` (a string, a whole number or a UUID; None
    or "" for an anonymous user, of whom nothing is stored). Outputs: ``refusal`` (None if the text
    was accepted), ``history`` and ``answer``. If the database fails, the turn has no memory.

    Args:
        history_tokens: The most tokens of earlier messages to send, 0 or more; see `Fitted`.
        system_prompt: The instructions of the model; "" for none.
        memory: The stage that writes ``history``, such as one that summarises earlier turns.
        streaming: Whether the answer also is a stream, ``pieces``.
        tools: Functions that the model may call, `Tool` or `Toolbox`; see `Agent`.
    """
    answer = llm_stage(history_tokens, system_prompt, streaming, Toolbox.of(tools))
    return Pipeline("chat", [guard, memory, answer, persist], inputs=["text", "user_id"])
