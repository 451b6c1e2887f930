"""Cases of stages for tests of the stage contract, and contracts of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import Pipeline, ProviderRegistry, StageContext, StageOutput, stage
from stageflow.providers import FakeLLM
from stageflow.testing import StageCase, StageContractTest

WORDS = {"words": ["one", "two"], "secret": 7}
OTHER_WORDS = {"words": ["three"], "secret": 8}

both_loops = pytest.mark.parametrize("real_io", [True, False], ids=["real", "simulated"])


async def counted(ctx: StageContext) -> StageOutput:
    """Wait, and count the words."""
    await asyncio.sleep(0.001)
    return StageOutput.ok(count=len(ctx["words"]))


def declared(runner: Any, **fields: Any) -> Callable[[], StageCase]:
    """Makes a case of a runner that reads ``words`` and writes ``count``."""
    given = {"inputs": ["words"], "outputs": ["count"], "name": "count"} | fields

    def make() -> StageCase:
        spec = stage(**given)(runner() if isinstance(runner, type) else runner)
        pipeline = Pipeline("words", [spec], inputs=["words", "secret"])
        return StageCase(pipeline, "count", WORDS, ProviderRegistry(llm=FakeLLM("x")), OTHER_WORDS)

    return make


def streaming(runner: Any) -> Callable[[], StageCase]:
    """Makes a case of a runner that streams ``parts``, too."""
    return declared(runner, streams=["parts"])


def contract(make: Callable[[], StageCase], **fields: Any) -> StageContractTest:
    """The contract of a case."""
    methods = {"make_stage": lambda self: make(), **fields}
    made: StageContractTest = type("Contract", (StageContractTest,), methods)()
    return made


def names_of_tests(owner: type) -> set[str]:
    """The names of the tests of a class."""
    return {name for name in dir(owner) if name.startswith("test_")}
