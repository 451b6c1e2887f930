"""The provider registry against a dict, and adapters against a stack for each name."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractContextManager
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stageflow import ProviderRegistry
from stageflow.errors import UnknownProviderError
from stageflow.providers import adapted
from tests.utils.errors import raises_code

pytestmark = pytest.mark.untraced

NAMES = st.sampled_from(["llm", "search", "bank", "db"])


class Everything:
    """A provider for any port."""

    def __init__(self, number: int) -> None:
        self.number = number

    async def complete(self, *_: Any) -> str:
        return ""

    async def stream(self, *_: Any) -> AsyncIterator[str]:
        yield ""

    transcribe = synthesize = get = put = complete


class RegistryAgainstDict(RuleBasedStateMachine):
    """For any registrations and adapters, the right provider answers."""

    def __init__(self) -> None:
        super().__init__()
        self.registry = ProviderRegistry()
        self.expected: dict[str, Any] = {}
        #: From the outermost block to the innermost.
        self.blocks: list[tuple[str, int, AbstractContextManager[None]]] = []

    @rule(name=NAMES, number=st.integers(0, 99))
    def register(self, name: str, number: int) -> None:
        """A provider takes the place of the one before."""
        provider = Everything(number)
        self.registry.register(name, provider)
        self.expected[name] = provider

    @rule(name=st.sampled_from(["llm", "stt", "tts", "db"]))
    def register_what_does_not_fit(self, name: str) -> None:
        """A provider that lacks a port's methods is refused, and nothing changes."""
        with raises_code("invalid_provider"):
            self.registry.register(name, object())

    @rule(name=NAMES, number=st.integers(100, 199))
    def enter(self, name: str, number: int) -> None:
        """An adapter goes around whatever has that name."""
        block = adapted(name, lambda provider: (number, provider))
        block.__enter__()
        self.blocks.append((name, number, block))

    @precondition(lambda self: self.blocks)
    @rule()
    def leave(self) -> None:
        """The innermost block is left."""
        self.blocks.pop()[2].__exit__(None, None, None)

    @invariant()
    def the_right_one_answers(self) -> None:
        """The innermost adapter is the outermost layer."""
        assert set(self.registry) == set(self.expected)
        assert len(self.registry) == len(self.expected)
        for name in ("llm", "search", "bank", "db", "nobody"):
            if name not in self.expected:
                assert name not in self.registry
                assert self.registry.get(name) is None
                with pytest.raises(UnknownProviderError):
                    self.registry[name]
                continue
            found = self.registry[name]
            for adapter in reversed([n for key, n, _ in self.blocks if key == name]):
                number, found = found
                assert number == adapter
            assert found is self.expected[name]

    def teardown(self) -> None:
        """Leave what is still entered, from the inside out."""
        while self.blocks:
            self.blocks.pop()[2].__exit__(None, None, None)


TestRegistryAgainstDict = RegistryAgainstDict.TestCase
