"""A fallback between two models: the second answers while the first is in trouble.

After three failures the first model's breaker opens: for ten seconds nobody waits for it any more,
then one call tries whether it is back. The ten seconds pass in virtual time.

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

from stageflow import Message, Pipeline, ProviderRegistry, StageContext, StageOutput, stage
from stageflow.breaker import BreakerPolicy
from stageflow.providers.resilience import Fallback, Watched
from stageflow.testing.simulation import Simulation, simulate


@stage(inputs=["text"], outputs=["answer"], timeout_s=10.0, provider="llm")
async def reply(ctx: StageContext) -> StageOutput:
    """The answer of whichever model it is."""
    return StageOutput.ok(answer=await ctx.llm.complete([Message("user", ctx["text"])]))


turn = Pipeline("turn", [reply], inputs=["text"])


class Model:
    """A model that can be unplugged."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.plugged = True

    async def complete(self, messages: Sequence[Message]) -> str:
        """Its name, and a greeting."""
        if not self.plugged:
            raise ConnectionError(f"the {self.name} is unplugged")
        return f"{self.name}: {messages[-1].content}!"

    async def stream(self, messages: Sequence[Message]) -> AsyncIterator[str]:
        """The same, in one piece."""
        yield await self.complete(messages)


async def day(sim: Simulation) -> None:
    """What happens to the large model in the course of a day, and who answers."""
    large, small = Model("large model"), Model("small model")
    # Watched: a model that shows no progress for two seconds counts as one that failed.
    llm = Fallback(Watched(large, 2.0), small, policy=BreakerPolicy(failures=3, cooldown_s=10.0))
    providers = ProviderRegistry(llm=llm)

    async def ask(when: str) -> None:
        result = await turn.run(sim.context({"text": "Hello"}, providers=providers))
        state = "" if llm.breaker.state == "closed" else f"  (breaker {llm.breaker.state})"
        print(f"{when:<16} {result.unwrap()['answer']}{state}")

    await ask("all is well")
    large.plugged = False
    for when in ("it is gone", "still gone", "still gone", "not even asked"):
        await ask(when)
    large.plugged = True
    await asyncio.sleep(10.0)
    await ask("ten seconds on")


if __name__ == "__main__":
    simulate(day)
