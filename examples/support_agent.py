"""A support agent with two tools: it looks up an order, and refunds one, once.

The model is a stand-in that reads the conversation as a real one does. The service of the refund
fails at first; the call is made again with the same key, so that no money is paid twice.

    user: Where is order A7?
    bot:  Order A7 is delayed.
    user: I want my money back for A7!
    bot:  You get 20 EUR back for order A7.
    user: And for B9?
    bot:  I cannot: there is no order B9.
    paid: {'A7': 20}
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from stageflow import Message, ProviderRegistry
from stageflow.errors import ToolError
from stageflow.interceptors import RetryPolicy
from stageflow.kernels import chat
from stageflow.providers import FakeDatabase, FakeLLM, Tool, calling


@dataclass
class Order:
    """An order of the shop."""

    number: str
    state: Literal["sent", "delayed"]
    price_eur: int


ORDERS = {"A7": Order("A7", "delayed", 20)}
PAID: dict[str, int] = {}
KEYS: set[str] = set()
FAILURES = [ConnectionError("the bank does not answer")]


async def find_order(number: str) -> Order:
    """Return an order: its state and its price.

    Args:
        number: The order's number, such as "A7".
    """
    if number not in ORDERS:
        raise ToolError(f"there is no order {number}")
    return ORDERS[number]


async def refund(number: str, idempotency_key: str) -> str:
    """Pay the price of an order back.

    Args:
        number: The order's number.
        idempotency_key: Is the same each time that this call is made again.
    """
    order = await find_order(number)
    if idempotency_key not in KEYS:  # the bank remembers the keys
        KEYS.add(idempotency_key)
        PAID[number] = PAID.get(number, 0) + order.price_eur
    if FAILURES:
        raise FAILURES.pop()  # it has paid, and its answer is lost
    return f"{order.price_eur} EUR"


def model(messages: Sequence[Message]) -> str:
    """Ask for a call, or answer with its result."""
    question = next(m.content for m in reversed(messages) if m.role == "user")
    number = re.findall(r"[A-Z]\d", question)[-1]
    last = messages[-1]
    if last.role != "tool":
        return calling("find_order" if "Where" in question else "refund", number=number)
    if last.content.startswith("{"):
        found = json.loads(last.content)
        if "error" in found:
            return f"I cannot: {found['error']}."
        return f"Order {number} is {found['state']}."
    return f"You get {last.content} back for order {number}."


async def main() -> None:
    """Take three turns of one conversation."""
    again = Tool(refund, retry=RetryPolicy(attempts=3, base_delay_s=0))
    providers = ProviderRegistry(llm=FakeLLM(model), db=FakeDatabase())
    turn = chat(tools=[find_order, again]).bind(providers=providers)
    for text in ("Where is order A7?", "I want my money back for A7!", "And for B9?"):
        result = await turn.run(text=text, user_id="ada")
        print(f"user: {text}\nbot:  {result['answer']}")
    print(f"paid: {PAID}")


if __name__ == "__main__":
    asyncio.run(main())
