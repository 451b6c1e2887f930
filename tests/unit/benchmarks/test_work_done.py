"""Each benchmark does the work that its name says: so many writes, edges, stages, calls."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from asv_runner.discovery import disc_benchmarks  # type: ignore[import-untyped]

from benchmarks import bag, engine, events, stages, voice
from benchmarks._lib import operations, turns, workloads
from benchmarks._lib.support import run
from benchmarks._lib.workloads import SHAPES, write_dict_with_check
from tests.utils.virtual_time import run_virtual
from tests.utils.work_done import Work

Done = Mapping[str, int]

FOLDER = Path(__file__).resolve().parents[3] / "benchmarks"
VOICE = ("stt", "profile", "memory", "llm", "tts", "persist")
STREAMING = (*VOICE, "speak")
CHAT = ("guard", "memory", "llm", "persist")


def ran(stages: tuple[str, ...], times: int, **others: int) -> Done:
    """Each of these stages completed so often, and no other did."""
    ends = {f"stage.{stage}.completed": times for stage in stages}
    return {"completed": times * len(stages), **ends, **others}


def shape(name: str, times: int, **others: int) -> Done:
    """The stages of one of `SHAPES`, with one output each."""
    names = SHAPES[name].names
    return ran(names, times, writes=times * len(names), keys=len(names), **others)


def built(stages: int, edges: int, times: int = 1) -> Done:
    return {"builds": times, "stages": stages * times, "edges": edges * times}


def hooks(times: int, *names: str) -> Done:
    return {"hooks": times * len(names), **dict.fromkeys(names, times)}


HOOKS = {
    "none": (),
    "observer": ("Observer.before", "Observer.after"),
    "tracing": ("TracingInterceptor.before", "TracingInterceptor.after"),
    "metrics": ("Measuring.after",),
    "logging": ("Logging.before", "Logging.after"),
    "timeout": ("TimeoutInterceptor.around",),
    "retry": ("RetryInterceptor.around",),
    "breaker": ("BreakerInterceptor.around",),
    "usage": ("UsageInterceptor.around",),
}

#: What a block of each operation does.
OPERATIONS: dict[str, Done] = {
    "reference.by_hand": {"runs": 0, "sleeps": 400},
    "build.simple": built(3, 2, 20),
    "build.medium": built(10, 16, 15),
    "build.complex": built(20, 20, 10),
    "build.compose": {"composed": 200},
    "bag.write": {"writes": 1_000, "keys": 1_000},
    "bag.read": {"reads": 1_000, "keys": 1_000, "writes": 0},
    "event.append": {"stage.name.emitted": 1_000},
    "event.emit": ran(("emitting",), 1, **{"stage.emitting.progressed": 500}),
    "event.read": shape("dense 4x5", 5, **{"events read": 210}),
    "run.chain": shape("chain of 10", 15, runs=15, sleeps=0),
    "run.fan": shape("fan 1+10+1", 15, runs=15, sleeps=0),
    "run.dense": shape("dense 4x5", 10, runs=10, sleeps=0),
    "run.suspending": shape("dense 4x5", 5, runs=5, sleeps=100, switches=84),
    "run.concurrent": shape("dense 4x5", 10, runs=10, sleeps=200, switches=199, **{"at once": 10}),
    "run.child": ran((*SHAPES["chain of 10"].names, "child"), 10, runs=20),
    "run.failing": {"stage.failing.failed": 20, "pipeline.failed": 20, "runs": 20},
    "stream.item": ran(("putting", "reading"), 1, items=500, **{"waits for room": 31}),
    "stream.waiting": ran(("putting", "reading"), 1, items=500, **{"waits for room": 499}),
    "turn.voice": ran(VOICE, 5, runs=5, **{"FakeLLM.complete": 5, "FakeDatabase.put": 5}),
    "turn.streaming_voice": ran(STREAMING, 5, runs=5, **{"FakeTTS.synthesize": 15}),
    "turn.chat": ran(CHAT, 5, runs=5, **{"FakeLLM.complete": 5, "FakeDatabase.put": 5}),
    "start.import": {"import stageflow": 1},
    **{
        f"interceptor.{name}": {**shape("chain of 10", 10), **hooks(100, *called)}
        for name, called in HOOKS.items()
    },
    **{
        f"stage.{kernel}.{stage}": ran((stage,), 15, runs=0)
        for kernel, stages in {"voice": VOICE, "chat": CHAT}.items()
        for stage in stages
    },
}

#: What an operation of a size does.
GROWING: dict[str, Callable[[int], Done]] = {
    "build.stages": lambda n: built(n, 2 * (n - 10)),
    "build.edges": lambda n: built(2 * math.isqrt(n), n),
    "run.stages": lambda n: {"completed": n, "runs": 1, "writes": n},
    "run.concurrent": lambda n: shape("dense 4x5", n, sleeps=20 * n, **{"at once": n}),
    "run.interceptors": lambda n: hooks(10 * n, *HOOKS["observer"]) if n else {"hooks": 0},
    "run.events": lambda n: {"stage.emitting.progressed": n},
    "run.items": lambda n: ran(("putting", "reading"), 1, items=n),
    "bag.writes": lambda n: {"writes": n, "keys": n},
}


def thousand(graph: str, **others: int) -> Done:
    """So many runs as make 1,000 stages."""
    times = max(1, 1_000 // len(SHAPES[graph]))
    return shape(graph, times, runs=times, **others)


CHAINS = {
    "none": (),
    "one observer": ("observer",),
    "four observers": ("observer",) * 4,
    "all four": ("tracing", "metrics", "logging", "timeout"),
    "both": ("retry", "breaker"),
}


def chained(chain: str) -> Done:
    """Ten runs of 100 stages with that chain around each."""
    names = [hook for part in CHAINS.get(chain, (chain,)) for hook in HOOKS[part]]
    counted = {hook: 1_000 * number for hook, number in Counter(names).items()}
    return {**shape("layered 10x10", 10), "hooks": 1_000 * len(names), **counted}


EDGES = {3: 2, 10: 16, 20: 20}
DENSE = SHAPES["dense 4x5"].names

#: What one execution of a timed benchmark does.
TIMED: dict[str, Callable[..., Done]] = {
    "build.Small.track_define_and_build": lambda n: built(n, EDGES[n]),
    "build.Small.track_orchestrator": lambda n: built(n, EDGES[n]),
    "build.Growth.track_define_and_build": lambda n: built(n, 2 * (n - 10)),
    "build.Compose.track_compose_ten_of_ten": lambda: {"composed": 540},
    "bag.Write.track_10k_sequential": lambda: {"writes": 10_000, "keys": 10_000, "switches": 0},
    "bag.Write.track_10k_by_10_tasks": lambda: {
        "writes": 10_000,
        "keys": 10_000,
        "switches": 9_999,
    },
    "bag.Write.track_10k_dict_with_check": lambda: {"writes": 0},
    "bag.Read.track_100k": lambda: {"reads": 100_000, "keys": 10_000},
    "bag.Read.track_100k_dict": lambda: {"reads": 0},
    "engine.NoOp.track_1000_stages": lambda graph: thousand(graph, sleeps=0),
    "engine.Suspending.track_1000_stages": lambda graph: {
        **thousand(graph),
        "sleeps": thousand(graph)["completed"],
    },
    "engine.Unlimited.track_1000_stages": lambda graph: thousand(graph, sleeps=0),
    "engine.Concurrent.track_1000_runs_of_20": lambda: ran(DENSE, 1_000, **{"at once": 1_000}),
    "engine.Concurrent.track_200_runs_of_20_suspending": lambda: ran(
        DENSE, 200, sleeps=4_000, **{"at once": 200}
    ),
    "interceptors.Overhead.track_1000_stages": chained,
    "interceptors.Resilience.track_1000_stages": chained,
    "stages.Voice.track_10_executions": lambda stage: ran((stage,), 10),
    "stages.Chat.track_10_executions": lambda stage: ran((stage,), 10),
    "voice.Cpu.track_20_turns": lambda: ran(VOICE, 20, **{"FakeLLM.complete": 20}),
    "voice.Cpu.track_20_turns_by_hand": lambda: {
        "FakeSTT.transcribe": 20,
        "FakeLLM.complete": 20,
        "FakeTTS.synthesize": 20,
        "FakeDatabase.get": 60,
        "FakeDatabase.put": 20,
        "completed": 0,
    },
    "chat.Cpu.track_20_turns": lambda: ran(CHAT, 20, **{"FakeLLM.complete": 20}),
    "events.Emission.track_run": lambda _: shape("1,000 stages", 1),
    "events.Dispatch.track_run_and_flush": lambda: shape(
        "1,000 stages", 1, sinks=1, **{"events read": 2_002}
    ),
    "events.Reading.track_run_and_read": lambda: shape("1,000 stages", 1, **{"events read": 2_002}),
    "subpipelines.Nested.track_100_runs": lambda levels: {
        "runs": 100 * (levels + 1),
        "completed": 100 * (levels + 10),
        "stage.child.completed": 100 * levels,
        "stage.s9_0.completed": 100,
    },
    "telemetry.Writing.track_batch": lambda: {"events stored": 2_520},
    "simulation.Cpu.track_20_runs": lambda: ran(
        tuple(f"s{n}" for n in range(8)), 20, runs=20, sleeps=160
    ),
}

FOUND = {benchmark.name: benchmark for benchmark in disc_benchmarks(str(FOLDER))}
TIMED_CASES = [
    pytest.param(name, choice, id=f"{name}{list(choice) or ''}")
    for name in TIMED
    for choice in itertools.product(*FOUND[name]._params)
]


def total(done: Counter[str]) -> Counter[str]:
    """With the sums over all stages and all hooks."""
    ends = [name for name in done if name.startswith("stage.") and name.endswith(".completed")]
    called = {hook for names in HOOKS.values() for hook in names}
    done["completed"] = sum(done[name] for name in ends)
    done["hooks"] = sum(done[name] for name in called)
    return done


def assert_counted(done: Counter[str], expected: Done) -> None:
    """Compare the counts one by one: the difference of two long mappings takes minutes to draw."""
    wrong = [
        f"{name}: {done[name]}, not {count}"
        for name, count in expected.items()
        if done[name] != count
    ]
    assert not wrong, "; ".join(wrong[:20])


def assert_operation_done(operation: operations.Operation, expected: Done) -> None:
    with Work() as counting:
        call = operation.make()
        counting.begin()
        run(operation.do(call))
    assert_counted(total(counting.done), expected)


def assert_done(work: Callable[[], object], expected: Done) -> Counter[str]:
    """Do it twice, since the first time makes what is kept; returns what was made."""
    with Work() as counting:
        work()
        made = counting.begin()
        work()
    assert_counted(total(counting.done), expected)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_does_what_it_is_called(name: str) -> None:
    """A block of it, without what is prepared."""
    assert_operation_done(operations.named(name), OPERATIONS[name])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "size"),
    [
        (name, size)
        for name, growth in operations.GROWTH.items()
        for size in (*growth.sizes, *([] if growth.beyond is None else [growth.beyond]))
    ],
)
def test_an_operation_grows_with_its_size(name: str, size: int) -> None:
    """It does that much, once."""
    assert_operation_done(operations.growing(name, size), GROWING[name](size))


def test_every_operation_is_checked() -> None:
    """A new one has to say what it does."""
    assert OPERATIONS.keys() == operations.OPERATIONS.keys()
    assert GROWING.keys() == operations.GROWTH.keys()
    timed = {name for name, found in FOUND.items() if hasattr(found.func, "__wrapped__")}
    # What telemetry reads it looks at itself, and other tests hold hand-written code to ours.
    elsewhere = {name for name in timed if name.startswith(("telemetry.Reading.", "ratios."))}
    assert timed - elsewhere == TIMED.keys()


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize(("name", "choice"), TIMED_CASES)
def test_a_timed_benchmark_does_what_it_is_called(name: str, choice: tuple[Any, ...]) -> None:
    """One execution, once what is kept has been made."""
    method = FOUND[name].func
    work = method.__wrapped__
    made = assert_done(lambda: work(method.__self__, *choice), TIMED[name](*choice))
    if name.startswith("engine."):
        limited = made["stages"] if "Unlimited" not in name else 0
        assert made["limits"] == limited
    if name == "events.Emission.track_run":
        assert made["sinks"] == choice[0]
        if choice[0]:  # its sinks would read the rest of its events while others are counted
            dispatcher = events.dispatched(*choice)._dispatcher
            assert dispatcher is not None
            dispatcher.close()
            events.dispatched.cache_clear()


# ── what is compared with ours ──────────────────────────────────────────────────────────────


class _Counting(dict[str, str]):
    def __init__(self, items: Mapping[str, str]) -> None:
        super().__init__(items)
        self.read: list[str] = []

    def __getitem__(self, key: str) -> str:
        self.read.append(key)
        return super().__getitem__(key)


def test_plain_dicts_are_written_and_read_as_often(monkeypatch: pytest.MonkeyPatch) -> None:
    """10,000 writes of as many keys, and ten times as many reads."""
    written = write_dict_with_check()
    assert len(written) == 10_000
    counting = _Counting(written)
    monkeypatch.setattr(bag, "dict_of_keys", lambda: counting)
    bag.Read.track_100k_dict.__wrapped__(bag.Read())  # type: ignore[attr-defined]
    assert Counter(counting.read) == Counter(dict.fromkeys(written, 10))
    writing = mock.Mock(wraps=write_dict_with_check)
    monkeypatch.setattr(bag, "write_dict_with_check", writing)
    bag.Write.track_10k_dict_with_check.__wrapped__(bag.Write())  # type: ignore[attr-defined]
    assert writing.call_count == 1


# ── turns in virtual time, and memory ───────────────────────────────────────────────────────


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize("name", [name for name in FOUND if name.startswith("simulation.")])
def test_turns_in_virtual_time_are_200_different_ones(name: str) -> None:
    """And those of each stage, kernel or stream are its own."""
    if name in TIMED:
        return
    found = FOUND[name]
    samples = [found.func(*choice)["samples"] for choice in itertools.product(*found._params)]
    for of_one in samples:
        assert len(of_one) == 200
    assert len({tuple(of_one) for of_one in samples}) == len(samples)
    assert max(len(set(of_one)) for of_one in samples) > 150


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize(("kernel", "stages"), [("voice", VOICE), ("chat", CHAT)])
def test_latencies_are_those_of_200_turns(
    kernel: str, stages: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of the kernel's own, in full."""
    monkeypatch.setattr(turns, "run", lambda main: run_virtual(lambda: main))
    track = FOUND[f"{kernel}.Latency.track_turn"].func
    with Work() as counting:
        samples = track()["samples"]
    assert len(samples) == 200
    done = total(counting.done)
    assert [done[f"stage.{stage}.completed"] for stage in stages] == [200] * len(stages)


@pytest.mark.slow
@pytest.mark.untraced
@pytest.mark.parametrize(
    ("name", "expected"),
    {
        "nothing": {"runs": 0},
        "run_of_1000_stages": shape("1,000 stages", 1, runs=1),
        "1000_runs_of_20": ran(DENSE, 1_000, **{"at once": 1_000}),
        "1000_runs_of_20_suspending": ran(DENSE, 1_000, sleeps=20_000, **{"at once": 1_000}),
    }.items(),
)
def test_the_peak_of_memory_is_that_of_its_runs(name: str, expected: Done) -> None:
    """So many runs, at once."""
    with Work() as counting:
        FOUND[f"memory.Peak.peakmem_{name}"].func()
    assert_counted(total(counting.done), expected)


# ── what would measure less ─────────────────────────────────────────────────────────────────


def _unlinked(stages: int) -> tuple[Any, ...]:
    return tuple(workloads.no_op(f"s{number}") for number in range(stages))


PLANTED: dict[str, tuple[Any, str, Any, str, tuple[Any, ...]]] = {
    "fewer writes": (workloads, "WRITES", 1_000, "bag.Write.track_10k_sequential", ()),
    "one key": (bag, "keys", lambda: ("key0",) * 10_000, "bag.Read.track_100k", ()),
    "one task": (bag, "TASKS", 1, "bag.Write.track_10k_by_10_tasks", ()),
    "one stage": (
        *(stages, "execute", lambda *_: _EXECUTE("voice", "stt")),
        *("stages.Voice.track_10_executions", ("llm",)),
    ),
    "no chain": (
        *(workloads, "CHAINS", dict.fromkeys(workloads.CHAINS, lambda: ())),
        *("interceptors.Overhead.track_1000_stages", ("all four",)),
    ),
    "none suspends": (
        *(engine, "suspending", workloads.no_op),
        *("engine.Suspending.track_1000_stages", ("dense 4x5",)),
    ),
    "one turn": (
        *(voice, "repeat", lambda make, _: turns.repeat(make, 1)),
        *("voice.Cpu.track_20_turns", ()),
    ),
    "no edges": (workloads, "layers_of", _unlinked, "build.Small.track_define_and_build", (10,)),
    "another graph": (
        *(events, "dispatched", lambda _: workloads.orchestrator("dense 4x5")),
        *("events.Emission.track_run", (1,)),
    ),
}
_EXECUTE: Any = stages.execute


@pytest.mark.slow
@pytest.mark.parametrize("planted", PLANTED)
def test_less_work_is_noticed(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each benchmark that does less than its name says fails the test above."""
    owner, attribute, less, name, choice = PLANTED[planted]
    monkeypatch.setattr(owner, attribute, less)
    method = FOUND[name].func
    with pytest.raises(AssertionError):
        assert_done(lambda: method.__wrapped__(method.__self__, *choice), TIMED[name](*choice))
