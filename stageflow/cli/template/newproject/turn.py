"""One turn: who is asking is looked up while the model drafts an answer, then both come together.

Try it::

    stageflow run newproject.turn:turn --text "When do you open?"
"""

from __future__ import annotations

from stageflow import Message, Pipeline, StageContext, StageKind, StageOutput, stage
from stageflow.providers.replies import valid_answer

APOLOGY = "Sorry, I cannot answer right now. Please try again in a minute."


@stage(
    inputs=["user_id"],
    outputs=["name"],
    kind=StageKind.ENRICH,
    required=False,
    timeout_s=1.0,
    provider="db",
)
async def customer(ctx: StageContext) -> StageOutput:
    """The customer's name, or None for somebody new."""
    record = await ctx.db.get("profiles", ctx["user_id"])
    return StageOutput.ok(name=record["name"] if record else None)


@stage(
    inputs=["text"],
    outputs=["draft"],
    kind=StageKind.AGENT,
    timeout_s=10.0,
    provider="llm",
)
async def draft(ctx: StageContext) -> StageOutput:
    """The model's answer, or an apology if the model cannot be reached."""
    try:
        answer = await ctx.llm.complete([Message("user", ctx["text"])])
    except ConnectionError:
        return StageOutput.ok(draft=APOLOGY)
    # A reply that is empty, or no text, fails the turn: the customer is told, in words.
    return StageOutput.ok(draft=valid_answer(answer))


@stage(dependencies=["customer", "draft"], inputs=["name", "draft"], outputs=["answer"])
async def answer(ctx: StageContext) -> StageOutput:
    """The draft, addressed to the customer by name if it is known."""
    # "customer" is not required: when it failed, its output is absent.
    name = ctx.get("name")
    return StageOutput.ok(answer=f"{name}: {ctx['draft']}" if name else ctx["draft"])


turn = Pipeline("turn", [customer, draft, answer], inputs=["text", "user_id"])
