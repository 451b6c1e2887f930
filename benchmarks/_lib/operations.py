"""The operations that the gate looks at, by name: what is counted, timed in pairs, and profiled.

Each is one small thing that stageflow does. `calls` calls of what `make` returns are a block, so
that what an operation needs (a bag to write into, a context to run in) is made outside of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import importlib
import math
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import stageflow as sf
from benchmarks._lib.handwritten import BareGraph
from benchmarks._lib.support import missing
from benchmarks._lib.turns import (
    NEEDS,
    STREAMING,
    TALK,
    chat_inputs,
    given,
    instant_providers,
    kernel,
    voice_inputs,
)
from benchmarks._lib.workloads import (
    SHAPES,
    TIMEOUT_S,
    NullTracer,
    define_and_build,
    full_bag,
    keys,
    layered,
    layers_of,
    logging,
    measuring,
    no_op,
    observer,
    orchestrator,
    parent,
    pipeline,
    specs,
    suspending,
)

# An older commit may lack it; what needs it is then left out before anything here is called.
with contextlib.suppress(ImportError):
    from stageflow.events import EventLog

#: One or more operations, ready to be awaited; and what makes them.
Call: TypeAlias = Callable[[], Awaitable[Any]]
Maker: TypeAlias = Callable[[], Call]

RUN = ("PipelineOrchestrator", "PipelineContext")
STREAMS = (*RUN, "Stream")
INTERCEPTED = "chain of 10"


@dataclasses.dataclass(frozen=True)
class Operation:
    """An operation.

    Attributes:
        name: The layer, a dot, and what is done there.
        what: One line: what is measured, and why.
        make: Prepares a block of calls.
        calls: How many calls a block holds.
        per_call: How many operations a call does.
        needs: What stageflow must have for it; see `benchmarks._lib.support.requires`.
        timed: Whether it is timed, too: an operation as short as reading a clock is only counted.
        without: The name of the same operation without what this one is about. The difference is
            what is counted.
    """

    name: str
    what: str
    make: Maker
    calls: int
    per_call: int = 1
    needs: tuple[str, ...] = RUN
    timed: bool = True
    without: str | None = None

    @property
    def per_block(self) -> int:
        """How many operations a block does."""
        return self.calls * self.per_call

    def missing(self) -> list[str]:
        """Return the names that it needs and this commit of stageflow lacks."""
        return missing(*self.needs)

    async def do(self, call: Call) -> None:
        """Do a block of operations with what `make` has made (outside of any event loop)."""
        for _ in range(self.calls):
            await call()


def named(name: str) -> Operation:
    """The operation of that name, growing ones as ``build.stages@100``.

    Raises:
        KeyError: There is none.
    """
    what, at, size = name.partition("@")
    return growing(what, int(size)) if at else OPERATIONS[what]


# ── pipelines and bags ──────────────────────────────────────────────────────────────────────


def _build(stages: int) -> Maker:
    def make() -> Call:
        layers_of(stages)

        async def call() -> None:
            define_and_build(stages)

        return call

    return make


def _compose() -> Call:
    first, second = (
        sf.Pipeline("part", layers_of(20)[:10]),
        sf.Pipeline("part", layers_of(20)[10:]),
    )

    async def call() -> None:
        first.compose(second)

    return call


def _bag_write() -> Call:
    bag, names = sf.ContextBag(), iter(keys())

    async def call() -> None:
        await bag.write(next(names), None, "writer")

    return call


def _bag_read() -> Call:
    bag, names = full_bag(), iter(keys())

    async def call() -> None:
        bag[next(names)]

    return call


# ── events ──────────────────────────────────────────────────────────────────────────────────


def _append_event() -> Call:
    log = EventLog("run", 0.0, 0.0)
    event = ("stage.name.emitted", 0.0, "name", None)

    async def call() -> None:
        log.append(event)

    return call


def _emit(events: int) -> Maker:
    async def emitting(ctx: sf.StageContext) -> sf.StageOutput:
        for _ in range(events):
            ctx.emit("progressed", part=1)
        return sf.StageOutput.ok()

    return lambda: _runs(_bound("emitting", [sf.StageSpec("emitting", emitting)]))


def _read_events() -> Call:
    bound = orchestrator("dense 4x5")

    async def call() -> None:
        result = await bound.run(sf.PipelineContext())
        tuple(result.events)

    return call


# ── runs ────────────────────────────────────────────────────────────────────────────────────


def _bound(name: str, stages: list[Any], *interceptors: Any) -> sf.PipelineOrchestrator:
    return sf.PipelineOrchestrator(sf.Pipeline(name, stages).build(), interceptors=interceptors)


def _runs(bound: sf.PipelineOrchestrator, at_once: int = 1) -> Call:
    async def one() -> None:
        await bound.run(sf.PipelineContext())

    async def several() -> None:
        await asyncio.gather(*(bound.run(sf.PipelineContext()) for _ in range(at_once)))

    return one if at_once == 1 else several


def _shape(shape: str, make: Any = no_op, at_once: int = 1) -> Maker:
    return lambda: _runs(orchestrator(shape, make), at_once)


def _failing() -> Call:
    async def fail(_ctx: sf.StageContext) -> sf.StageOutput:
        raise ValueError("on purpose")

    return _runs(_bound("failing", [sf.StageSpec("failing", fail)]))


# ── streams ─────────────────────────────────────────────────────────────────────────────────


def _handing_over(items: int, capacity: int = 16) -> Call:
    """A run of two stages, of which one hands so many items to the other."""

    async def putting(ctx: sf.StageContext) -> sf.StageOutput:
        stream = ctx.open("items", capacity=capacity)
        for item in range(items):
            await stream.put(item)
        return sf.StageOutput.ok()

    async def reading(ctx: sf.StageContext) -> sf.StageOutput:
        async for _ in ctx["items"]:
            pass
        return sf.StageOutput.ok()

    return _runs(
        _bound(
            "handing over",
            [
                sf.StageSpec("putting", putting, streams=("items",)),
                sf.StageSpec("reading", reading, dependencies=("putting",), inputs=("items",)),
            ],
        )
    )


# ── interceptors ────────────────────────────────────────────────────────────────────────────


def _module(name: str) -> Any:
    return importlib.import_module(f"stageflow.interceptors.{name}")


#: What is put around each of ten stages, by its name.
INTERCEPTORS: dict[str, Callable[[], Any]] = {
    "observer": observer,
    "tracing": lambda: sf.TracingInterceptor(NullTracer()),
    "metrics": measuring,
    "logging": logging,
    "timeout": lambda: sf.TimeoutInterceptor(TIMEOUT_S),
    "retry": lambda: _module("retry").RetryInterceptor(),
    "breaker": lambda: _module("breaker").BreakerInterceptor(),
    "usage": lambda: _module("usage").UsageInterceptor(),
}


@functools.cache
def _intercepted(*names: str) -> sf.PipelineOrchestrator:
    stages = [dataclasses.replace(spec, provider="llm") for spec in pipeline(INTERCEPTED).stages]
    return _bound("intercepted", stages, *(INTERCEPTORS[name]() for name in names))


# ── stages and turns of the kernels ─────────────────────────────────────────────────────────


def _stage(pipeline_name: str, stage: str) -> Maker:
    def make() -> Call:
        context = sf.PipelineContext(given(pipeline_name), providers=instant_providers())
        bound = kernel(pipeline_name).stage(stage)

        async def call() -> None:
            await bound.execute(context)

        return call

    return make


def _turn(pipeline_name: str) -> Maker:
    def make() -> Call:
        makers = {"voice": voice_inputs, "chat": chat_inputs}
        makers["streaming_voice"] = lambda: voice_inputs(TALK)
        inputs = makers[pipeline_name]()
        bound = kernel(pipeline_name)

        async def call() -> None:
            await bound.run(sf.PipelineContext(inputs, providers=instant_providers()))

        return call

    return make


def _import() -> Call:
    async def call() -> None:
        kept = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_ours(name)}
        try:
            importlib.import_module("stageflow")
        finally:
            sys.modules.update(kept)

    return call


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == "stageflow"


# ── all of them ─────────────────────────────────────────────────────────────────────────────


def _by_hand() -> Call:
    graph = BareGraph(SHAPES["dense 4x5"], suspend=True)

    async def call() -> None:
        await graph.run()

    return call


def _all() -> list[Operation]:
    building = ("Pipeline", "StageSpec", "StageOutput", "PipelineOrchestrator")
    bag = ("ContextBag",)
    events = (*RUN, "events")
    found = [
        # What this interpreter takes for asyncio, dicts and calls: nothing of stageflow.
        Operation(
            "reference.by_hand", "20 stages that suspend, by hand", _by_hand, 20, 1, (), False
        ),
        Operation(
            "build.simple",
            "three stages in a row: checks and compilation",
            _build(3),
            20,
            1,
            building,
        ),
        Operation(
            "build.medium", "ten stages that depend on two each", _build(10), 15, 1, building
        ),
        Operation(
            "build.complex", "20 stages that depend on two each", _build(20), 10, 1, building
        ),
        Operation("build.compose", "joining two pipelines of ten", _compose, 10, 1, building),
        Operation("bag.write", "one write: what a stage pays an output", _bag_write, 1_000, 1, bag),
        Operation(
            "bag.read", "one read: what a stage pays an input", _bag_read, 1_000, 1, bag, False
        ),
        Operation(
            "event.append", "one event put on record", _append_event, 1_000, 1, events, False
        ),
        Operation("event.emit", "an event of a stage's own", _emit(500), 1, 500, events, False),
        Operation("event.read", "a run of 20 stages, its 42 events read", _read_events, 5),
        Operation("run.chain", "ten stages in a row", _shape("chain of 10"), 15),
        Operation("run.fan", "a stage, ten side by side, a stage", _shape("fan 1+10+1"), 15),
        Operation("run.dense", "four layers of five, each on all before", _shape("dense 4x5"), 10),
        Operation("run.suspending", "the same, each suspends", _shape("dense 4x5", suspending), 5),
        Operation(
            "run.concurrent", "ten such runs at once", _shape("dense 4x5", suspending, 10), 1, 10
        ),
        Operation("run.child", "ten stages in a child run", lambda: _runs(parent(1)), 10),
        Operation("run.failing", "a stage that raises: classified, reported", _failing, 20),
        Operation(
            "stream.item",
            "an item put and read, with room for 16",
            lambda: _handing_over(500),
            calls=1,
            per_call=500,
            needs=STREAMS,
        ),
        Operation(
            "stream.waiting",
            "the same with room for one: the producer waits for its reader each time",
            lambda: _handing_over(500, 1),
            calls=1,
            per_call=500,
            needs=STREAMS,
        ),
    ]
    found += [
        Operation(
            f"interceptor.{name}",
            "what it adds to a stage",
            functools.partial(lambda *names: _runs(_intercepted(*names)), *chain),
            calls=10,
            per_call=10,
            needs=(*RUN, *needs),
            timed=False,
            without="interceptor.none" if chain else None,
        )
        for name, chain, needs in [
            ("none", (), ()),
            *(
                (
                    name,
                    (name,),
                    ("interceptors.usage" if name == "usage" else "interceptors.retry",),
                )
                for name in INTERCEPTORS
            ),
        ]
    ]
    found += [
        Operation(
            f"stage.{where}.{stage}", "the stage, alone", _stage(where, stage), 15, needs=NEEDS
        )
        for where, stages in STAGES.items()
        for stage in stages
    ]
    return [
        *found,
        Operation(
            "turn.voice", "a voice turn whose providers answer at once", _turn("voice"), 5, 1, NEEDS
        ),
        Operation(
            "turn.streaming_voice",
            "a streaming turn of three sentences, whose providers answer at once",
            _turn("streaming_voice"),
            5,
            1,
            STREAMING,
        ),
        Operation(
            "turn.chat", "a chat turn whose providers answer at once", _turn("chat"), 5, 1, NEEDS
        ),
        # The last one: what was made before belongs to modules that it loads anew.
        Operation(
            "start.import",
            "import stageflow, in a process that has asyncio",
            _import,
            1,
            timed=False,
        ),
    ]


STAGES = {
    "voice": ("stt", "profile", "memory", "llm", "tts", "persist"),
    "chat": ("guard", "memory", "llm", "persist"),
}
OPERATIONS = {operation.name: operation for operation in _all()}


# ── what grows ──────────────────────────────────────────────────────────────────────────────


def _layered_run(stages: int) -> Call:
    return _runs(_bound("layered", specs(layered([10] * (stages // 10), fan_in=2))))


def _dense_build(edges: int) -> Call:
    dense = specs(layered([math.isqrt(edges)] * 2))

    async def call() -> None:
        sf.Pipeline("dense", dense).build()

    return call


def _growing_bag(writes: int) -> Call:
    async def call() -> None:
        bag = sf.ContextBag()
        for key in keys()[:writes]:
            await bag.write(key, None, "writer")

    return call


def _observed(observers: int) -> Call:
    return _runs(_intercepted(*["observer"] * observers))


@dataclasses.dataclass(frozen=True)
class Growth:
    """An operation that can be done at any size.

    Attributes:
        what: One line: what grows.
        make: Prepares a call of a size.
        sizes: Where it is counted, the smallest first.
        needs: What stageflow must have for it.
        beyond: A size whose cost is taken off that of the others, where it would hide them.
    """

    what: str
    make: Callable[[int], Call]
    sizes: tuple[int, ...]
    needs: tuple[str, ...] = RUN
    beyond: int | None = None


GROWTH = {
    "build.stages": Growth(
        "stages that depend on two each", lambda n: _build(n)(), (20, 40, 80, 160)
    ),
    "build.edges": Growth(
        "edges between two layers, each stage on all before", _dense_build, (64, 256, 1_024)
    ),
    "run.stages": Growth("stages of a run", _layered_run, (20, 40, 80, 160)),
    "run.concurrent": Growth(
        "runs at once", lambda n: _shape("dense 4x5", suspending, n)(), (2, 4, 8, 16)
    ),
    "run.interceptors": Growth(
        "observers around each of ten stages, beyond none", _observed, (1, 2, 4, 8), beyond=0
    ),
    "run.events": Growth("events that a stage emits", lambda n: _emit(n)(), (50, 100, 200, 400)),
    "run.items": Growth("items of a stream", _handing_over, (50, 100, 200, 400), STREAMS),
    "bag.writes": Growth(
        "writes into one bag", _growing_bag, (100, 200, 400, 800), ("ContextBag",)
    ),
}


def growing(what: str, size: int) -> Operation:
    """The operation `what` of `GROWTH`, of that size."""
    growth = GROWTH[what]
    return Operation(
        f"{what}@{size}",
        growth.what,
        lambda: growth.make(size),
        calls=1,
        needs=growth.needs,
        timed=False,
    )
