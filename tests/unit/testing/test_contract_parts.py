"""The parts of the contracts, each by itself: they are run by hundreds of tests, and slowly."""

from __future__ import annotations

import asyncio
import gc
import io
import logging
import os
import random
import re
import signal
import socket
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from stageflow import Pipeline, StageContext, StageOutput, StageSpec, Stream
from stageflow.errors import StageDefectError
from stageflow.testing import (
    DatabaseContractTest,
    InterceptorContractTest,
    LlmContractTest,
    SinkContractTest,
    SpeakerContractTest,
    StageCase,
    StageContractTest,
    StoreContractTest,
    SttContractTest,
    ToolContractTest,
    TtsContractTest,
    do_nothing,
)
from stageflow.testing.contracts.base import Contract
from stageflow.testing.contracts.conduct import every_call_awaited, restored, surroundings
from stageflow.testing.contracts.probes import (
    CancellationProbe,
    Picture,
    Reader,
    Waits,
    copied,
    read_by,
)
from stageflow.testing.contracts.stage import _comparable
from tests.utils.mocks import RecordingSink


async def nothing() -> None: ...


def forgets_two() -> None:
    """Drop two calls, one of them twice."""
    for _ in range(2):
        nothing()  # type: ignore[unused-coroutine]
    asyncio.sleep(0)  # type: ignore[unused-coroutine]
    gc.collect()


def test_calls_that_nobody_awaits_are_named_once() -> None:
    """With the place and the fix."""
    with pytest.raises(AssertionError) as caught, every_call_awaited():
        forgets_two()
    place = rf"{re.escape(__file__)}:\d+ in forgets_two"
    said = rf"nobody awaited nothing\(…\), called at {place}, sleep\(…\), called at {place}"
    assert re.fullmatch(f"write await before the call: {said}", str(caught.value))


def test_the_error_of_a_block_precedes_those_of_its_calls() -> None:
    """The depth of tracking is what it was, and other warnings come as they were."""
    depth = sys.get_coroutine_origin_tracking_depth()
    with suppress(ZeroDivisionError), every_call_awaited():
        forgets_two()
        raise ZeroDivisionError
    assert sys.get_coroutine_origin_tracking_depth() == depth
    source = object()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with every_call_awaited():
            warnings.warn("old", DeprecationWarning, stacklevel=1, source=source)
    (warning,) = caught
    assert (str(warning.message), warning.source) == ("old", source)
    assert warning.filename == __file__


def test_ends_are_compared_without_addresses() -> None:
    """Of an error code and text, of an output status and values; anything else as it is."""
    error = StageDefectError("<a at 0x7f00> <b at 0xaf>", code="invalid_output")
    assert _comparable(error) == ("invalid_output", "<a at 0x…> <b at 0x…>")
    assert _comparable(StageOutput.ok(a=1)) == ("completed", {"a": 1})
    assert _comparable(StageOutput.skip("x")) == ("skipped", {})
    assert _comparable(7) == 7


def test_surroundings_show_what_is_shared() -> None:
    """Random generators only if they are asked for."""
    state = str(np.random.get_state())
    plain, full = surroundings(chance=False), surroundings(chance=True)
    assert plain["os.environ"] == dict(os.environ)
    assert plain["the working directory"] == str(Path.cwd())
    assert plain["sys.path"] == sys.path
    assert plain["sys.path"] is not sys.path
    assert {name: full[name] for name in plain} == plain
    assert full["the global random generator (take ctx.random)"] == random.getstate()
    numpy = full["numpy's global random generator (make one from ctx.random)"]
    assert numpy == state
    with mock.patch.dict(sys.modules):
        del sys.modules["numpy.random"]
        assert len(surroundings(chance=True)) == len(plain) + 1


@pytest.mark.parametrize("raises", [(), (ZeroDivisionError,)])
def test_the_process_is_restored(raises: Any, tmp_path: Path) -> None:
    """Variables that are set, changed and deleted, the folder, the generator, and so on."""
    before = surroundings(chance=True)
    with suppress(*raises), restored():
        os.environ["NEW"] = "1"
        os.environ["PATH"] = "elsewhere"
        del os.environ["HOME"]
        os.chdir(tmp_path)
        random.random()
        sys.path.append("elsewhere")
        sys.stdout, sys.stderr = io.StringIO(), io.StringIO()
        sys.setrecursionlimit(sys.getrecursionlimit() + 1)
        logging.root.setLevel(logging.root.level + 1)
        socket.setdefaulttimeout(7.0)
        signal.signal(signal.SIGUSR2, print)
        for error in raises:
            raise error
    assert surroundings(chance=True) == before


def raised_in(module: str) -> BaseException:
    """An error that code of that module has caught."""
    scope: dict[str, Any] = {"__name__": module}
    exec("try: raise ValueError\nexcept ValueError as error: caught = error", scope)
    caught: BaseException = scope["caught"]
    return caught


def test_asyncio_may_swallow_a_cancellation() -> None:
    """And a group that says so; nobody else."""
    probe, own = CancellationProbe(1), raised_in("turn")
    assert [probe._is_excused(raised_in(module)) for module in ("asyncio.tasks", "asyncio2")] == [
        True,
        False,
    ]
    assert not probe._is_excused(ValueError())
    assert not probe._is_excused(own)
    probe._excused.append(own)
    assert probe._is_excused(own)
    assert not probe._is_excused(raised_in("turn"))


@pytest.mark.parametrize(
    ("stopping", "cancelled", "swallowed"),
    [
        (True, ["turn"], True),
        (True, ["asyncio.tasks", "turn"], True),
        (True, ["asyncio.tasks"], False),
        (True, [], False),
        (False, ["turn"], False),
    ],
)
def test_what_is_swallowed(stopping: bool, cancelled: list[str], swallowed: bool) -> None:
    """A cancellation of a run that stops, if its own code caught it."""
    probe: Any = CancellationProbe(1)
    work = SimpleNamespace(cancelled=list(map(raised_in, cancelled)))
    probe._look(SimpleNamespace(scope=SimpleNamespace(stopping=stopping)), work)
    assert probe.swallowed is swallowed
    probe._look(SimpleNamespace(scope=SimpleNamespace(stopping=False)), work)
    assert probe.swallowed is swallowed, "another stage has not swallowed it as well"


@pytest.mark.simulate(order="asyncio")
async def test_what_fails_while_a_cancellation_is_aimed_fails_as_it_does() -> None:
    """A stage with its own error, and a group with its own."""

    async def failing(ctx: StageContext) -> StageOutput:
        raise ZeroDivisionError

    async def breaks() -> None:
        raise ZeroDivisionError

    probe = CancellationProbe(10**9)
    result = await Pipeline("p", [StageSpec("s", failing)]).run(interceptors=[probe])
    assert result.error == "stage 's': ZeroDivisionError"
    with probe.excusing_groups(), pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(breaks())


@pytest.mark.parametrize(
    ("owner", "test", "method"),
    [
        (StageContractTest, "emits_a_started_event", "def make_stage"),
        (InterceptorContractTest, "a_completed_stage_stays_completed", "make_interceptors"),
        (StoreContractTest, "keeps_letters_in_order", "open_store"),
        (SinkContractTest, "takes_an_empty_batch", "make_sink"),
        (LlmContractTest, "completes_with_text", "make_llm"),
        (ToolContractTest, "is_described", "make_tool"),
        (SttContractTest, "gives_text", "make_stt"),
        (TtsContractTest, "gives_sound", "make_tts"),
        (SpeakerContractTest, "returns_when_it_has_sounded", "make_speaker"),
        (DatabaseContractTest, "a_stored_record_is_returned", "make_database"),
    ],
)
def test_a_contract_of_nothing_says_what_to_write(owner: Any, test: str, method: str) -> None:
    """The class and the method, not an error of something that is None."""
    text = f"^Empty does not say what is under test: write {method}"
    with pytest.raises(NotImplementedError, match=text):
        getattr(type("Empty", (owner,), {})(), f"test_{test}")()


@pytest.mark.parametrize(
    ("ask", "method"),
    [
        (lambda: SttContractTest().make_audio(), "make_audio"),
        (lambda: ToolContractTest().make_arguments(), "make_arguments"),
        (lambda: SinkContractTest().read(RecordingSink()), "read"),
    ],
)
def test_a_contract_names_the_other_methods_that_it_needs(
    ask: Callable[[], object], method: str
) -> None:
    """The sound that is to be heard, and how to read what a sink has passed on."""
    with pytest.raises(NotImplementedError, match=f"write {method}"):
        ask()


@pytest.mark.simulate(order="asyncio")
async def test_waits_are_counted_and_cancellations_kept() -> None:
    """The call comes at the wait that was chosen, once."""
    called: list[int] = []

    async def work() -> str:
        for _ in range(3):
            await asyncio.sleep(0)
        try:
            await asyncio.sleep(1)
        except asyncio.CancelledError:
            return "swallowed"
        return "done"

    waits = Waits(work(), 2, lambda: called.append(waits.count))
    task = asyncio.ensure_future(_await(waits))
    await asyncio.sleep(0.5)
    assert (called, waits.count, waits.cancelled) == ([2], 4, [])
    task.cancel()
    assert await task == "swallowed"
    assert [type(error) for error in waits.cancelled] == [asyncio.CancelledError]


async def _await(waits: Waits[str]) -> Any:
    return await waits


def test_pictures_of_plain_values() -> None:
    """Equal values show alike, and a stream shows its items once it is complete."""
    assert Picture(1).shows(1.0)
    assert not Picture(1).shows(2)
    assert Picture(Stream.of([1])).shows(Stream.of([1]))
    assert not Picture(Stream.of([1])).shows(Stream.of([2]))
    assert Picture({"a": [1]}).shows({"a": [1]})
    lock = threading.Lock()
    assert copied(lock) is lock
    words = ["a"]
    assert copied(words) == words
    assert copied(words) is not words


def test_a_reader_is_put_beside_a_stage_that_has_conditions() -> None:
    """It is run alone, whatever it depended on."""
    spec = StageSpec("s", do_nothing, ("x",), ("a",), condition=lambda ctx: False, streams=("t",))
    alone, reader = read_by(spec, Reader(("t",))).stages
    assert (alone.dependencies, alone.condition, alone.inputs) == ((), None, ("a",))
    assert (reader.name, reader.dependencies, reader.inputs) == ("s-reader", ("s",), ("t",))


def test_options_of_a_class_reach_its_other_bases() -> None:
    """A contract may have bases that take some."""

    class Base:
        def __init_subclass__(cls, **options: Any) -> None:
            cls.options = options  # type: ignore[attr-defined]

    made: Any = type("Made", (Contract, Base), {}, tag=1)
    assert made.options == {"tag": 1}
    stage: Any = type("Made", (StageContractTest, Base), {}, tag=2)
    assert stage.options == {"tag": 2}


def test_a_context_is_of_the_case_that_is_given() -> None:
    """Without one, the stage is made anew."""
    case = StageCase(Pipeline("p", [StageSpec("s", do_nothing)]), "s")
    made = type("Made", (StageContractTest,), {"make_stage": lambda self: case})()
    unmade = StageContractTest()
    for create in ("create_test_context", "create_failing_context"):
        assert getattr(unmade, create)(case).providers is case.providers
        assert getattr(made, create)().providers is case.providers
        with pytest.raises(NotImplementedError, match="write"):
            getattr(unmade, create)()
