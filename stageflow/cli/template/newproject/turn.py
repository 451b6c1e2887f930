"""A turn: it looks the customer up while the model drafts an answer, then joins both.

Try it::

    stageflow run newproject.turn:turn --text "When do you open?"
"""

from __future__ import annotations

from stageflow import Message, Pipeline, StageContext, StageKind, stage
from stageflow.providers import valid_answer

APOLOGY = "Sorry, I cannot answer right now. Please try again in a minute."


@stage(kind=StageKind.ENRICH, required=False, timeout_s=1.0, provider="db")
async def customer(ctx: StageContext, user_id: str) -> str | None:
    """Return the customer's name, or None for a new customer."""
    record = await ctx.db.get("profiles", user_id)
    return record["name"] if record else None


@stage(kind=StageKind.AGENT, timeout_s=10.0, provider="llm")
async def draft(ctx: StageContext, text: str) -> str:
    """Return the model's answer, or an apology if the model cannot be reached."""
    try:
        reply = await ctx.llm.complete([Message("user", text)])
    except ConnectionError:
        return APOLOGY
    # An empty reply, or one that is not a text, fails the turn with a message for the customer.
    return valid_answer(reply)


@stage
async def answer(draft: str, customer: str | None = None) -> str:
    """Address the draft to the customer; without a name if "customer" failed or found none."""
    return f"{customer}: {draft}" if customer else draft


turn = Pipeline("turn", [customer, draft, answer], inputs=["text", "user_id"])
