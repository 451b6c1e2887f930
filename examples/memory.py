"""A chat that remembers, in a SQLite file: what was said in one turn is known in the next.

The model is a stand-in that only knows what it is told, so that the memory has to be real: each
turn opens the file anew, as a program does that was started again.

    user: My name is Ada.
    bot:  Nice to meet you!
    user: What is my name?
    bot:  You are Ada.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from stageflow import (
    Message,
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    StageContext,
    StageOutput,
    stage,
)
from stageflow.providers.database import SqlDatabase


@stage(inputs=["user_id"], outputs=["history"], required=False, timeout_s=1.0, provider="db")
async def recall(ctx: StageContext) -> StageOutput:
    """What was said before; nothing is no failure."""
    record = await ctx.db.get("chats", ctx["user_id"])
    return StageOutput.ok(history=record["said"] if record else [])


@stage(
    dependencies=["recall"],
    inputs=["text", "history"],
    outputs=["answer"],
    timeout_s=10.0,
    provider="llm",
)
async def reply(ctx: StageContext) -> StageOutput:
    """The model's answer to the whole conversation."""
    # Without "required" the memory may fail, and is then absent: the chat goes on without.
    said = [*ctx.get("history", []), ctx["text"]]
    return StageOutput.ok(answer=await ctx.llm.complete([Message("user", text) for text in said]))


@stage(
    dependencies=["recall", "reply"],
    inputs=["user_id", "text", "history"],
    required=False,
    timeout_s=1.0,
    provider="db",
)
async def remember(ctx: StageContext) -> StageOutput:
    """Keep the turn for the next one."""
    said = [*ctx.get("history", []), ctx["text"]]
    await ctx.db.put("chats", ctx["user_id"], {"said": said})
    return StageOutput.ok()


chat = Pipeline("chat", [recall, reply, remember], inputs=["user_id", "text"])


class Listener:
    """A model that knows what stands in the conversation, and nothing else."""

    async def complete(self, messages: Sequence[Message]) -> str:
        """An answer to the last message."""
        told = re.findall(r"My name is (\w+)", " ".join(m.content for m in messages))
        if "What is my name?" in messages[-1].content:
            return f"You are {told[-1]}." if told else "I do not know."
        return "Nice to meet you!"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The same, in one piece."""
        yield await self.complete(messages)


async def turn(file: Path, text: str) -> str:
    """One turn of Ada's chat."""
    async with SqlDatabase(f"sqlite:///{file}") as database:
        providers = ProviderRegistry(llm=Listener(), db=database)
        context = PipelineContext({"user_id": "ada", "text": text}, providers=providers)
        result = await chat.run(context)
    return str(result.unwrap()["answer"])


def main() -> None:
    """Two turns, one after another."""
    with TemporaryDirectory() as folder:
        for text in ("My name is Ada.", "What is my name?"):
            print(f"user: {text}")
            print(f"bot:  {asyncio.run(turn(Path(folder) / 'chats.db', text))}")


if __name__ == "__main__":
    main()
