"""A fallback between two models: the second answers while the first is in trouble.

After three failures the breaker of the first model opens: for ten seconds no call waits for it,
then one call tests whether it is back. The ten seconds pass in virtual time.

    all is well      large model: Hello!
    it is gone       small model: Hello!
    still gone       small model: Hello!
    still gone       small model: Hello!  (breaker open)
    not even asked   small model: Hello!  (breaker open)
    ten seconds on   large model: Hello!
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from stageflow import Message, Pipeline, ProviderRegistry, StageContext, stage
from stageflow.providers import Fallback, IdleTimeout
from stageflow.resilience import BreakerPolicy
from stageflow.testing import Simulation, simulate


@stage(timeout_s=10.0, provider="llm")
async def answer(ctx: StageContext, text: str) -> str:
    """Return the model's answer."""
    return await ctx.llm.complete([Message("user", text)])


turn = Pipeline("turn", [answer])


class Model:
    """A model that can be unplugged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plugged = True

    async def complete(self, messages: Sequence[Message]) -> str:
        """Return its name, and a greeting."""
        if not self.plugged:
            raise ConnectionError(f"the {self.name} is unplugged")
        return f"{self.name}: {messages[-1].content}!"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """Yield the same in one piece."""
        yield await self.complete(messages)


async def day(sim: Simulation) -> None:
    """Unplug the large model, plug it in again, and print who answers."""
    large, small = Model("large model"), Model("small model")
    # IdleTimeout: a model that shows no progress for two seconds counts as one that failed.
    llm = Fallback(
        IdleTimeout(large, 2.0), small, policy=BreakerPolicy(failures=3, cooldown_s=10.0)
    )
    providers = ProviderRegistry(llm=llm)

    async def ask(when: str) -> None:
        result = await turn.run(sim.context({"text": "Hello"}, providers=providers))
        state = "" if llm.breaker.state == "closed" else f"  (breaker {llm.breaker.state})"
        print(f"{when:<16} {result['answer']}{state}")

    await ask("all is well")
    large.plugged = False
    for when in ("it is gone", "still gone", "still gone", "not even asked"):
        await ask(when)
    large.plugged = True
    await asyncio.sleep(10.0)
    await ask("ten seconds on")


if __name__ == "__main__":
    simulate(day)
