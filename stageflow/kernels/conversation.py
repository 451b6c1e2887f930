"""The memory of a conversation, and what the model receives of it.

The database holds by user ``profiles`` (``{"name": …}``), which the kernels only read, and
``conversations`` (``{"turns": [turn, …]}``) with the newest turns.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias
from uuid import UUID
from weakref import WeakValueDictionary

from stageflow._utils.text import printable
from stageflow.decorator import stage
from stageflow.engine.stage import StageKind
from stageflow.engine.stage_context import StageContext
from stageflow.errors import InvalidContextError, InvalidReplyError, shown
from stageflow.providers.ports import Answer, Message, valid_record

PROFILES = "profiles"
"""The collection of users in the database."""
CONVERSATIONS = "conversations"

MAX_NAME_CHARS = 80

#: How many turns are stored, and so how many the model can receive.
KEPT_TURNS = 20

SYSTEM_PROMPT = "You are a friendly assistant. Answer briefly."
"""The system prompt of the kernels."""

INTERRUPTED = "[interrupted here; the user has not heard the rest]"
"""What the model receives behind an answer that was interrupted."""

#: One turn: ``user`` and ``assistant`` are their texts, ``refused`` is whether the guard answered.
#: With ``interrupted``, ``assistant`` is only the part of the answer that the user heard.
Turn: TypeAlias = Mapping[str, Any]
History: TypeAlias = Sequence[Turn]


#: Keeps turns of one user that end at the same time from overwriting each other.
_appending: WeakValueDictionary[tuple[asyncio.AbstractEventLoop, int, str], asyncio.Lock]
_appending = WeakValueDictionary()


def user_key(user_id: object) -> str | None:
    """Return the key of a user in the database; None for an anonymous user, who has no memory."""
    if isinstance(user_id, UUID) or type(user_id) is int:
        return str(user_id)
    if user_id is not None and not isinstance(user_id, str):
        fix = "give a string, a whole number, a UUID or None"
        raise InvalidContextError(f"the input 'user_id' is {shown(user_id)}; {fix}")
    return user_id or None


async def recall(ctx: StageContext, user_id: str) -> list[Turn]:
    """Return the newest turns of a user, oldest first; raise `InvalidReplyError` for other data."""
    key = user_key(user_id)
    record = None if key is None else valid_record(await ctx.db.get(CONVERSATIONS, key))
    if record is None:
        return []
    turns = record.get("turns")
    if not isinstance(turns, list):
        raise InvalidReplyError(
            f"the record of a conversation holds no list of turns: {shown(turns)}"
        )
    return list(turns)


@stage(outputs=["history"], kind=StageKind.ENRICH, required=False, timeout_s=1.0, provider="db")
async def memory(ctx: StageContext, user_id: str) -> History:
    """Return the earlier turns."""
    return await recall(ctx, user_id)


async def remember(
    ctx: StageContext,
    user_id: str,
    *,
    user: str,
    assistant: str,
    refused: bool = False,
    interrupted: bool = False,
) -> None:
    """Append a turn to the stored ones, read again as the memory stage may have failed."""
    turn: dict[str, Any] = {"user": user, "assistant": assistant, "refused": refused}
    if interrupted:
        turn["interrupted"] = True
    key = user_key(user_id)
    if key is not None:
        database = id(ctx.run.providers.registered("db"))
        where = asyncio.get_running_loop(), database, key
        async with _appending.setdefault(where, asyncio.Lock()):
            turns = [*await recall(ctx, user_id), turn]
            await ctx.db.put(CONVERSATIONS, key, {"turns": turns[-KEPT_TURNS:]})


def complete_text(ctx: StageContext, answer: str) -> str:
    """Return an answer as plain text; emit ``answer_cut`` if the service cut it."""
    if isinstance(answer, Answer) and answer.cut:
        ctx.emit("answer_cut", finish_reason=answer.finish_reason)
    return str(answer)


def conversation(
    text: str, history: History | None, profile: Mapping[str, Any] | None = None
) -> list[Message]:
    """Return the prompt, the earlier turns that were not refused, and the newest text."""
    found = (profile or {}).get("name")
    # A name must not look like instructions.
    name = " ".join(printable(found).split())[:MAX_NAME_CHARS] if isinstance(found, str) else ""
    prompt = f"{SYSTEM_PROMPT} The user's name is {name}." if name else SYSTEM_PROMPT
    messages = [Message("system", prompt)]
    for turn in history or ():
        if not turn["refused"]:
            messages.append(Message("user", turn["user"]))
            cut = f" {INTERRUPTED}" if turn.get("interrupted") else ""
            messages.append(Message("assistant", f"{turn['assistant']}{cut}"))
    messages.append(Message("user", text))
    return messages
