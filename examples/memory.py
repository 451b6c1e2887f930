"""A chat that remembers: it keeps the conversation in a SQLite file.

The model is a stand-in that knows only the messages that it is given, and each turn opens the file
again, as a program does that was restarted.

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

from stageflow import Message, Pipeline, ProviderRegistry, StageContext, stage
from stageflow.providers import SqlDatabase


@stage(required=False, timeout_s=1.0, provider="db")
async def history(ctx: StageContext, user_id: str) -> list[str]:
    """Return what the user said before."""
    record = await ctx.db.get("chats", user_id)
    return record["said"] if record else []


@stage(timeout_s=10.0, provider="llm")
async def answer(ctx: StageContext, text: str, history: Sequence[str] = ()) -> str:
    """Return the model's answer to the whole conversation; without `history` if that has failed."""
    return await ctx.llm.complete([Message("user", said) for said in (*history, text)])


@stage(after=["answer"], required=False, timeout_s=1.0, provider="db")
async def remember(ctx: StageContext, user_id: str, text: str, history: list[str]) -> None:
    """Store the conversation; skipped if it could not be read, so that nothing is lost."""
    await ctx.db.put("chats", user_id, {"said": [*history, text]})


chat = Pipeline("chat", [history, answer, remember])


class Listener:
    """A model that knows nothing but the conversation."""

    async def complete(self, messages: Sequence[Message]) -> str:
        """Answer the last message."""
        told = re.findall(r"My name is (\w+)", " ".join(m.content for m in messages))
        if "What is my name?" in messages[-1].content:
            return f"You are {told[-1]}." if told else "I do not know."
        return "Nice to meet you!"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """Yield the same in one piece."""
        yield await self.complete(messages)


async def turn(file: Path, text: str) -> str:
    """Run a turn of Ada's chat."""
    async with SqlDatabase(f"sqlite:///{file}") as database:
        bound = chat.bind(providers=ProviderRegistry(llm=Listener(), db=database))
        return str((await bound.run(user_id="ada", text=text))["answer"])


def main() -> None:
    """Run two turns, one after another."""
    with TemporaryDirectory() as folder:
        for text in ("My name is Ada.", "What is my name?"):
            print(f"user: {text}")
            print(f"bot:  {asyncio.run(turn(Path(folder) / 'chats.db', text))}")


if __name__ == "__main__":
    main()
