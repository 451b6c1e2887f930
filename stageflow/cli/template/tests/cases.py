"""Inputs and providers with which a turn succeeds."""

from __future__ import annotations

from stageflow import ProviderRegistry
from stageflow.providers import FakeDatabase, FakeLLM, LatencyProfile

LLM_MS = 800.0
DB_MS = 50.0


def inputs() -> dict[str, str]:
    """Return a question of a known customer."""
    return {"text": "When do you open?", "user_id": "u1"}


def providers(reply: str = "At nine.") -> ProviderRegistry:
    """Return a model with this reply and a database with one customer, as slow as real ones."""
    return ProviderRegistry(
        llm=FakeLLM(reply, latency=LatencyProfile.fixed(LLM_MS)),
        db=FakeDatabase({"profiles": {"u1": {"name": "Ada"}}}, read=LatencyProfile.fixed(DB_MS)),
    )
