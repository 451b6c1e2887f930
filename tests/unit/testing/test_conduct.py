"""A contract's view of each call in its profiler: a tracer cannot look into a profiler."""

from __future__ import annotations

import io
import sys
import time
from collections import UserDict
from typing import Any
from unittest import mock

import pytest

from stageflow import PipelineContext, ProviderRegistry, StageContext
from stageflow.engine.bag import ContextBag
from stageflow.testing.contracts.conduct import Conduct
from tests.utils.stage_cases import counted, declared


class Client:
    """A provider that can be closed."""

    def ask(self) -> None: ...

    def close(self) -> None: ...


def conduct_of(runner: Any) -> tuple[Conduct, Any]:
    """How a stage conducts itself, and the context of its run."""
    case = declared(runner)()
    providers = ProviderRegistry(client=Client(), connection=io.BytesIO())
    run = PipelineContext({"words": [], "secret": 7}, providers=providers)
    conduct = Conduct(case.spec, run)
    conduct.ctx = mock.Mock(spec=StageContext, scope=mock.Mock(bag=ContextBag()))
    return conduct, run


def frame_of(function: Any, *args: Any, module: str = __name__) -> Any:
    """The frame of a call while it is under way, made by code of some module."""
    seen: list[Any] = []

    def see(frame: Any, event: str, _: object) -> None:
        if event == "call" and frame.f_code is function.__code__:
            seen.append((frame, dict(frame.f_locals), frame.f_back))

    scope = {"function": function, "args": args, "__name__": module}
    code = compile("try: function(*args)\nexcept Exception: pass", "made", "exec")
    before = sys.getprofile()
    sys.setprofile(see)
    try:
        exec(code, scope)
    finally:
        sys.setprofile(before)
    frame, held, caller = seen[0]
    return mock.Mock(f_code=frame.f_code, f_locals=held, f_back=caller, f_globals=caller.f_globals)


@pytest.mark.parametrize(
    ("event", "called", "module", "seen"),
    [
        ("c_call", time.time, "tests.utils.stage_cases", True),
        ("c_call", time.time, "tests.utils.other", True),
        ("c_call", time.time, "tests.utils", False),
        ("c_call", time.time, "tests.utilities", False),
        ("c_call", time.perf_counter, "tests.utils.stage_cases", False),
        ("c_return", time.time, "tests.utils.stage_cases", False),
        ("call", time.time, "tests.utils.stage_cases", False),
    ],
)
def test_clocks_are_those_of_the_stages_package(
    event: str, called: Any, module: str, seen: bool
) -> None:
    """With the place; what a library of others reads is not the stage's."""
    conduct, _ = conduct_of(counted)
    frame = mock.Mock(f_globals={"__name__": module}, f_lineno=3)
    frame.f_code.configure_mock(co_name="f", co_filename="x.py", co_qualname="f", co_argcount=0)
    conduct._see(frame, event, called)
    assert list(conduct.clocks) == (["time() at x.py:3 in f"] if seen else [])


def test_a_stage_of_no_package_has_the_clocks_of_its_module() -> None:
    """Not those of every module without a package."""
    conduct, _ = conduct_of(counted)
    conduct._module = "turn"
    for module, own in (("turn", True), ("turns", False), ("other", False), ("", False)):
        assert conduct._is_own(mock.Mock(f_globals={"__name__": module})) is own
    assert conduct._is_own(mock.Mock(f_globals={})) is False


def test_only_providers_are_closed() -> None:
    """By whatever they call it, in Python or in C."""
    conduct, run = conduct_of(counted)
    client, connection = run.providers["client"], run.providers["connection"]
    conduct._see(frame_of(Client.close, Client()), "call", None)
    conduct._see(mock.Mock(f_globals={}), "c_call", io.BytesIO().close)
    conduct._see(mock.Mock(f_globals={}), "c_call", connection.read)
    conduct._see(frame_of(Client.ask, client), "call", None)
    conduct._see(frame_of(Client.close, client), "return", None)
    assert conduct.closed == {}
    conduct._see(frame_of(Client.close, client), "call", None)
    assert list(conduct.closed) == ["client"]
    conduct._see(mock.Mock(f_globals={}), "c_call", connection.close)
    assert list(conduct.closed) == ["client", "connection"]


@pytest.mark.parametrize("name", ["close", "aclose", "disconnect", "shutdown"])
def test_words_for_closing(name: str) -> None:
    """Each of them closes a provider."""
    conduct, run = conduct_of(counted)
    frame = mock.Mock(f_locals={"self": run.providers["client"]}, f_globals={})
    frame.f_code.configure_mock(co_name=name, co_argcount=1, co_varnames=("self",))
    conduct._see(frame, "call", None)
    assert list(conduct.closed) == ["client"]


def test_only_what_belongs_to_the_run_is_read() -> None:
    """By the stage, and not by the engine for a child run; a key that is declared may be."""
    conduct, run = conduct_of(counted)
    inputs, bag = run.inputs, conduct.ctx.scope.bag
    engine = "stageflow.engine.pipeline"
    theirs: list[tuple[Any, Any, str, str]] = [
        (UserDict.__getitem__, inputs, "words", __name__),
        (UserDict.__getitem__, inputs, "secret", engine),
        (UserDict.__getitem__, UserDict({"secret": 7}), "secret", __name__),
        (ContextBag.get, ContextBag(), "secret", __name__),
        (ContextBag.writer_of, bag, "secret", __name__),
    ]
    for function, owner, key, module in theirs:
        conduct._see(frame_of(function, owner, key, module=module), "call", None)
    assert conduct.undeclared == {}
    own: list[tuple[Any, Any, str]] = [
        (UserDict.__getitem__, inputs, "secret"),
        (UserDict.__contains__, inputs, "a"),
        (ContextBag.get, bag, "b"),
        (ContextBag.read, bag, "c"),
        (ContextBag.__contains__, bag, "d"),
        (StageContext.__getitem__, conduct.ctx, "e"),
    ]
    for function, owner, key in own:
        conduct._see(frame_of(function, owner, key), "call", None)
    assert list(conduct.undeclared) == ["secret", "a", "b", "c", "d", "e"]
