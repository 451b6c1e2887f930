"""A forked process has threads and connections of its own, and loses nothing uncounted."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stageflow import (
    EventDispatcher,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    StageContext,
    StageOutput,
    StageSpec,
)
from stageflow.dlq import DeadLetterStore, InMemoryDeadLetterStore, SQLiteDeadLetterStore
from stageflow.providers.local.helper import SerialExecutor, Stop
from stageflow.resilience import CircuitBreaker
from stageflow.telemetry import JsonLinesSink, SQLiteSink, read_events
from tests.utils.factories import make_log
from tests.utils.mocks import GatedSink, RecordingSink

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]

NEVER_S = 3600.0


def in_child(work: Callable[[], object]) -> None:
    """Do some work in a forked process, which has to end well within a minute."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            threading.Timer(60.0, os._exit, (2,)).start()
            work()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


async def _fail(ctx: StageContext) -> StageOutput:
    raise ValueError("down")


def failing_run(store: DeadLetterStore, dispatcher: EventDispatcher | None = None) -> None:
    graph = Pipeline("p", [StageSpec("a", _fail)]).build()
    orchestrator = PipelineOrchestrator(graph, dispatcher=dispatcher)
    context = PipelineContext(dead_letters=store)
    result = asyncio.run(orchestrator.run(context))
    assert result.dead_letter_error is None


def test_a_store_serves_parent_and_child(tmp_path: Path) -> None:
    """Its thread and its connection are not shared; each letter is there."""
    store = SQLiteDeadLetterStore(tmp_path / "letters.db")
    failing_run(store)
    in_child(lambda: failing_run(store))
    failing_run(store)
    assert len(asyncio.run(store.letters())) == 3
    asyncio.run(store.close())


def fill(dispatcher: EventDispatcher, run_id: str, count: int) -> None:
    log = make_log(run_id=run_id)
    dispatcher.attach(log)
    for number in range(count):
        log.append((f"stage.s{number}.started", 100.0, f"s{number}", None))


def test_events_of_a_child_are_written_once(tmp_path: Path) -> None:
    """By the child; what waited at the fork is written by the parent alone."""
    path = tmp_path / "events.jsonl"
    with EventDispatcher([JsonLinesSink(path)], interval_s=NEVER_S) as dispatcher:
        fill(dispatcher, "parent", 3)

        def child() -> None:
            fill(dispatcher, "child", 2)
            dispatcher.close()
            (stats,) = dispatcher.stats()
            assert (stats.written, stats.dropped, stats.failed) == (2, 0, 0)

        in_child(child)
    runs = [event.pipeline_run_id for event in read_events(path)]
    assert sorted(runs) == ["child", "child", "parent", "parent", "parent"]


def test_a_sink_into_sqlite_opens_the_file_anew(tmp_path: Path) -> None:
    """A connection that two processes share would damage the file."""
    path = tmp_path / "telemetry.db"
    with EventDispatcher([SQLiteSink(path)], interval_s=NEVER_S) as dispatcher:

        def child() -> None:
            fill(dispatcher, "child", 2)
            dispatcher.close()

        in_child(child)
        fill(dispatcher, "parent", 3)
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (5,)


def test_a_child_of_a_closed_or_unused_dispatcher_starts_nothing() -> None:
    """Events that come after the close are counted; closing twice does no harm."""
    closed, unused = EventDispatcher([RecordingSink()]), EventDispatcher([RecordingSink()])
    closed.close()

    def child() -> None:
        fill(closed, "late", 2)
        assert closed.stats()[0].dropped == 2
        unused.close()
        fill(unused, "late", 1)
        assert unused.stats()[0].dropped == 1
        assert threading.active_count() == 2  # this one, and that which ends a child that hangs

    in_child(child)
    unused.close()


def test_a_sink_that_hangs_in_the_parent_does_not_hang_the_child() -> None:
    """The child does not wait for a lock that the sink's thread held at the fork."""
    sink = GatedSink()
    dispatcher = EventDispatcher([sink], interval_s=0.001)
    fill(dispatcher, "parent", 1)
    assert sink.entered.wait(30)
    in_child(lambda: dispatcher.close(timeout_s=30.0))
    sink.gate.set()
    dispatcher.close()


def test_an_executor_whose_place_was_taken_serves_a_child() -> None:
    """The work of the parent goes on there, and takes no place of the child."""
    executor, gate, entered = SerialExecutor("voice", most=1), threading.Event(), threading.Event()

    def wait(stop: Stop) -> bool:
        entered.set()
        return gate.wait(60)

    async def parent() -> None:
        working = asyncio.ensure_future(executor.run(wait))
        await asyncio.to_thread(entered.wait, 60)
        in_child(lambda: asyncio.run(executor.run(lambda _: 5)))
        gate.set()
        await working
        await executor.close()

    asyncio.run(parent())


def test_a_lock_that_a_thread_held_at_the_fork_does_not_hang_the_child() -> None:
    """Neither a breaker nor a store in memory waits for a thread that the child does not have."""
    breaker, store = CircuitBreaker("svc"), InMemoryDeadLetterStore()

    def child() -> None:
        breaker.force_open(lambda: 0.0)
        failing_run(store)

    with breaker._lock, store._lock:
        in_child(child)


SCRIPT = """\
import sys
from stageflow import EventDispatcher
from stageflow.telemetry import JsonLinesSink
from tests.unit.events.test_fork import NEVER_S, fill
fill(EventDispatcher([JsonLinesSink(sys.argv[1])], interval_s=NEVER_S), "run", 3)
"""


def test_a_script_that_closes_nothing_is_flushed(tmp_path: Path) -> None:
    """At its end, although nobody holds the dispatcher any more."""
    path = tmp_path / "events.jsonl"
    subprocess.run([sys.executable, "-c", SCRIPT, str(path)], check=True, cwd=Path.cwd())
    assert len(list(read_events(path))) == 3


def test_a_process_of_multiprocessing_is_flushed(tmp_path: Path) -> None:
    """Although it ends without calling the functions of atexit."""
    path = tmp_path / "events.jsonl"
    with EventDispatcher([JsonLinesSink(path)], interval_s=NEVER_S) as dispatcher:
        process = multiprocessing.get_context("fork").Process(
            target=fill, args=(dispatcher, "child", 3)
        )
        process.start()
        process.join(60)
    assert process.exitcode == 0
    assert len(list(read_events(path))) == 3
