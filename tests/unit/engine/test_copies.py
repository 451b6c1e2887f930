"""Results of runs, with all that they hold, can be pickled and copied."""

from __future__ import annotations

import asyncio
import copy
import pickle
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest

from stageflow import (
    EventDispatcher,
    Pipeline,
    PipelineContext,
    PipelineDefinitionError,
    PipelineOrchestrator,
    StageContext,
    StageOutput,
    StageSpec,
    Stream,
)
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.errors import StageRaisedError
from tests.unit.errors.test_errors import fields


async def _write(ctx: StageContext) -> StageOutput:
    words = ctx.open("words")
    await words.put("Hello")
    ctx.emit("greeted", words=["Hello"])
    return StageOutput.ok(text="Hello")


async def _skip(ctx: StageContext) -> StageOutput:
    return StageOutput.skip("nothing to do")


async def _fail(ctx: StageContext) -> StageOutput:
    raise ConnectionError("refused")


PIPELINE = Pipeline(
    "p",
    [
        StageSpec("write", _write, streams=("words",), outputs=("text",)),
        StageSpec("skip", _skip),
        StageSpec("fail", _fail, dependencies=("write",)),
    ],
)


def unwrap() -> dict[str, Any]:
    """Run the pipeline and raise its failure; called in another process."""
    return asyncio.run(PIPELINE.run()).unwrap()


def everything() -> dict[str, Any]:
    """Return what a failed run leaves behind, by name."""
    ctx = PipelineContext({"q": 1}, dead_letters=InMemoryDeadLetterStore())
    with EventDispatcher([]) as dispatcher:
        orchestrator = PipelineOrchestrator(PIPELINE.build(), dispatcher=dispatcher)
        result = asyncio.run(orchestrator.run(ctx))
    with pytest.raises(PipelineDefinitionError) as raised:
        Pipeline("broken", [StageSpec("a", _skip, dependencies=("a",))])
    assert ctx.dlq_entry is not None
    return {
        "result": result,
        "stages": result.stages,
        "log": result.log,
        "outputs": result.outputs,
        "bag": result.bag,
        "letter": ctx.dlq_entry,
        "output": StageOutput.ok(a=1),
        "problems": raised.value.problems,
        "definition": raised.value,
        "statistics": dispatcher.stats(),
    }


def plain(value: Any) -> Any:
    """Return an object as its class and the values of its fields, so that it can be compared."""
    if isinstance(value, Stream):
        return Stream, value.key, value.producer, value.outcome, value.items()
    if isinstance(value, BaseException):
        return fields(value)
    if hasattr(value, "__dataclass_fields__"):
        return type(value), [plain(getattr(value, name)) for name in value.__dataclass_fields__]
    if hasattr(value, "items"):
        return type(value), [(key, plain(item)) for key, item in value.items()]
    return value


@pytest.mark.parametrize(
    "copied", [lambda value: pickle.loads(pickle.dumps(value)), copy.copy, copy.deepcopy]
)
def test_a_copy_is_equal_in_every_field(copied: Callable[[Any], Any]) -> None:
    """Also read-only mappings of events and streams of the bag."""
    for name, value in everything().items():
        assert plain(copied(value)) == plain(value), name


def test_a_copied_log_is_a_log_of_its_own() -> None:
    """An event that is appended to a copy does not reach the original."""
    log = everything()["log"]
    for twin in (copy.copy(log), copy.deepcopy(log)):
        assert twin == log
        twin.append(("stage.a.late", 1.0, "a", None))
        assert len(twin) == len(log) + 1
        assert twin != log


def test_a_failure_crosses_a_process_pool() -> None:
    """The error arrives with its class, code and stage; the pool goes on."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        for _ in range(2):
            with pytest.raises(StageRaisedError, match="refused") as raised:
                pool.submit(unwrap).result()
            assert (raised.value.code, raised.value.stage) == ("connection_failed", "fail")
