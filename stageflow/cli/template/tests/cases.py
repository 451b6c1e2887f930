"""What the tests start from: inputs and providers with which a turn goes well."""

from __future__ import annotations

from stageflow import ProviderRegistry
from stageflow.providers.fake import FakeDatabase, FakeLLM
from stageflow.providers.latency import LatencyProfile

LLM_MS = 800.0
DB_MS = 50.0


def inputs() -> dict[str, str]:
    """A question of a customer who is known."""
    return {"text": "When do you open?", "user_id": "u1"}


def providers(reply: str = "At nine.") -> ProviderRegistry:
    """A model that gives that reply and a database with one customer, as slow as real ones."""
    return ProviderRegistry(
        llm=FakeLLM(reply, latency=LatencyProfile.fixed(LLM_MS)),
        db=FakeDatabase({"profiles": {"u1": {"name": "Ada"}}}, read=LatencyProfile.fixed(DB_MS)),
    )
