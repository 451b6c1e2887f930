"""The work of a benchmark, counted by name: writes, switches, edges, stages, events, calls."""

from __future__ import annotations

import asyncio
import functools
import importlib
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Self
from unittest import mock

import stageflow as sf
from stageflow.engine import context, stream
from stageflow.events import EventDispatcher, EventLog
from stageflow.providers import FakeDatabase, FakeLLM, FakeSTT, FakeTTS
from stageflow.telemetry import SQLiteSink

_PROVIDERS = {
    FakeDatabase: ("get", "put"),
    FakeLLM: ("complete", "stream"),
    FakeSTT: ("transcribe",),
    FakeTTS: ("synthesize",),
}


class Work:
    """Counts what is done while it is entered.

    Attributes:
        done: By name: ``writes``, ``reads``, ``keys`` (different ones of both), ``switches`` (of
            tasks, between two writes), ``builds``, ``stages``, ``edges``, ``limits`` (stages with
            a timeout), ``composed`` (stages of composed pipelines), ``runs``, ``at once`` (most
            runs under way), ``sleeps``, ``sinks``, ``events read``, ``events stored``, ``items``,
            ``waits for room``;
            each event by its type, each hook of an interceptor as ``Observer.before``, each call
            of a provider as ``FakeLLM.complete``, each import as ``import stageflow``.
    """

    def __init__(self) -> None:
        self.done: Counter[str] = Counter()
        self._under_way = 0
        self._writer: object = None
        self._keys: set[str] = set()
        self._logs: list[tuple[Any, int]] = []
        self._patches = ExitStack()

    def begin(self) -> Counter[str]:
        """Count from 0, after what is made once has been made; returns what was counted so far."""
        made = self._counted()
        self.done.clear()
        self._keys.clear()
        self._writer = None
        return made

    def __enter__(self) -> Self:
        _forget_what_was_made()
        bag = sf.ContextBag
        self._after(bag, "write", lambda _, __, key, *___: self._written([key]))
        self._after(bag, "put", lambda _, __, key, *___: self._written([key]))
        self._after(bag, "put_all", lambda _, __, outputs, *___: self._written(outputs))
        self._after(bag, "__getitem__", lambda _, __, key: self._read(key))
        self._after(stream.StreamWriter, "put", lambda *_: self._add("items"))
        self._after(stream.Stream, "_wait_for_room", lambda *_: self._add("waits for room"))
        self._after(
            sf.Pipeline, "compose", lambda made, *_: self._add("composed", len(made.stages))
        )
        self._after(sf.StageGraph, "__init__", lambda _, graph, *__: self._built(graph))
        self._after(EventLog, "event_at", lambda *_: self._add("events read"))
        self._after(
            EventDispatcher, "__init__", lambda _, __, sinks, **___: self._add("sinks", len(sinks))
        )
        self._after(
            SQLiteSink, "write", lambda _, __, events: self._add("events stored", len(events))
        )
        self._after(asyncio, "sleep", lambda *_: self._add("sleeps"))
        self._after(importlib, "import_module", lambda _, name: self._add(f"import {name}"))
        for provider, calls in _PROVIDERS.items():
            for call in calls:
                name = f"{provider.__name__}.{call}"
                self._after(provider, call, functools.partial(self._called, name))
        self._replace(sf.PipelineOrchestrator, "__init__", self._bind)
        self._replace(sf.PipelineOrchestrator, "run", self._run)
        for module in (context, *_benchmarks()):
            if hasattr(module, "EventLog"):
                self._patches.enter_context(mock.patch.object(module, "EventLog", self._log))
        return self

    def __exit__(self, *_: object) -> None:
        self._patches.close()
        self._counted()
        _forget_what_was_made()

    def _counted(self) -> Counter[str]:
        for number, (log, begin) in enumerate(self._logs):
            self.done.update(raw[0] for raw in log._raw[begin:])
            self._logs[number] = log, len(log._raw)
        self.done["keys"] = len(self._keys)
        return self.done.copy()

    def _replace(self, owner: Any, name: str, instead: Callable[..., Any]) -> None:
        original = getattr(owner, name)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            return instead(original, *args, **kwargs)

        self._patches.enter_context(mock.patch.object(owner, name, call))

    def _after(self, owner: Any, name: str, note: Callable[..., object]) -> None:
        def noting(original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            result = original(*args, **kwargs)
            note(result, *args)
            return result

        self._replace(owner, name, noting)

    def _called(self, name: str, *_: object) -> None:
        self._add(name)

    def _add(self, name: str, count: int = 1) -> None:
        self.done[name] += count

    def _log(self, *args: Any) -> EventLog:
        log = EventLog(*args)
        self._logs.append((log, 0))
        return log

    def _written(self, keys: Any) -> None:
        self._add("writes", len(keys))
        self._keys.update(keys)
        task = asyncio.current_task()
        self._add("switches", int(self._writer not in (None, task)))
        self._writer = task

    def _read(self, key: str) -> None:
        self._add("reads")
        self._keys.add(key)

    def _built(self, graph: sf.StageGraph) -> None:
        self._add("builds")
        self._add("stages", len(graph.specs))
        self._add("edges", sum(graph.in_degrees))
        self._add("limits", sum(spec.timeout_s is not None for spec in graph.specs))

    async def _run(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        self._add("runs")
        self._under_way += 1
        self.done["at once"] = max(self.done["at once"], self._under_way)
        try:
            return await original(*args, **kwargs)
        finally:
            self._under_way -= 1

    def _bind(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        for one in kwargs.get("interceptors", ()):
            self._count_hooks(one)
        original(*args, **kwargs)

    def _count_hooks(self, interceptor: Any) -> None:
        cls = type(interceptor)

        def counting(hook: str) -> Callable[..., Any]:
            original = getattr(cls, hook)

            def call(*args: Any) -> Any:
                self._add(f"{cls.__name__}.{hook}")
                return original(*args)

            async def around(*args: Any) -> Any:
                return await call(*args)

            # The engine refuses a plain `around`.
            return around if hook == "around" else call

        overridden = [
            hook
            for hook in ("before", "after", "around")
            if getattr(cls, hook) is not getattr(sf.Interceptor, hook)
        ]
        hooks = {hook: counting(hook) for hook in overridden}
        interceptor.__class__ = type(cls.__name__, (cls,), {"__slots__": (), **hooks})


def _benchmarks() -> list[Any]:
    return [m for name, m in list(sys.modules.items()) if name.startswith("benchmarks.")]


def _forget_what_was_made() -> None:
    """Empty the caches of the benchmarks, so that what is counted does not outlive the counting."""
    kept = {"event_loop", "precise_loop", "folder"}
    for module in _benchmarks():
        for name, value in vars(module).items():
            if hasattr(value, "cache_clear") and name not in kept:
                value.cache_clear()
