"""What a voice turn and a chat turn have in common: memory, the model, and how a turn is kept.

The database holds two collections, both by user: ``profiles``, which the kernels only read
(``{"name": …}``), and ``conversations``, which holds the newest turns (``{"turns": [turn, …]}``).
Turns of one user are taken one after another; two at the same moment could lose one of them, as
the port has no atomic append.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stageflow.context import StageContext
from stageflow.errors import InvalidReplyError, shown
from stageflow.providers.ports import Message
from stageflow.providers.replies import valid_record
from stageflow.stage import StageKind, StageOutput, stage

PROFILES = "profiles"
CONVERSATIONS = "conversations"

#: How many turns a conversation's record keeps, and so how many the model is reminded of.
KEPT_TURNS = 20

SYSTEM_PROMPT = "You are a friendly assistant. Answer briefly."

#: How the model is told that its answer broke off.
INTERRUPTED = "[interrupted here; the user has not heard the rest]"

#: One exchange: ``user`` and ``assistant`` hold what was said, ``refused`` whether the guard
#: answered in place of the model, and ``interrupted``, if it is there, that ``assistant`` is only
#: what the user heard of the answer.
Turn = Mapping[str, Any]


async def recall(ctx: StageContext) -> list[Turn]:
    """The newest turns of the run's user, oldest first; empty at the first turn.

    Raises:
        InvalidReplyError: The database holds something else.
    """
    record = valid_record(await ctx.db.get(CONVERSATIONS, ctx["user_id"]))
    if record is None:
        return []
    turns = record.get("turns")
    if not isinstance(turns, list):
        raise InvalidReplyError(
            f"the record of a conversation holds no list of turns: {shown(turns)}"
        )
    return list(turns)


@stage(
    inputs=["user_id"],
    outputs=["history"],
    kind=StageKind.ENRICH,
    required=False,
    timeout_s=1.0,
    provider="db",
)
async def memory(ctx: StageContext) -> StageOutput:
    """What was said before."""
    return StageOutput.ok(history=await recall(ctx))


async def remember(
    ctx: StageContext,
    *,
    user: str,
    assistant: str,
    refused: bool = False,
    interrupted: bool = False,
) -> None:
    """Append a turn to the conversation of the run's user.

    The conversation is read anew: what the memory stage saw may be absent, and writing it back
    would then wipe out what the database holds.
    """
    turn: dict[str, Any] = {"user": user, "assistant": assistant, "refused": refused}
    if interrupted:
        turn["interrupted"] = True
    turns = [*await recall(ctx), turn]
    await ctx.db.put(CONVERSATIONS, ctx["user_id"], {"turns": turns[-KEPT_TURNS:]})


def conversation(
    text: str, history: Sequence[Turn] | None, profile: Mapping[str, Any] | None = None
) -> list[Message]:
    """What the model is given: the prompt, the earlier turns, and what the user says now.

    What the guard once refused is left out, or it would reach the model with the next turn.
    """
    name = (profile or {}).get("name")
    prompt = f"{SYSTEM_PROMPT} The user's name is {name}." if name else SYSTEM_PROMPT
    messages = [Message("system", prompt)]
    for turn in history or ():
        if not turn["refused"]:
            messages.append(Message("user", turn["user"]))
            cut = f" {INTERRUPTED}" if turn.get("interrupted") else ""
            messages.append(Message("assistant", f"{turn['assistant']}{cut}"))
    messages.append(Message("user", text))
    return messages
