"""Subjects of benchmarks: graphs as data and as pipelines, bags, interceptors and child runs.

Each exists once, for the charts, the instruction counts and the paired timings alike.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from logging import getLogger
from typing import Any

import stageflow as sf
from benchmarks._lib.support import run

#: Declared for every stage and never reached: what is measured is the keeping of a limit.
TIMEOUT_S = 30.0


@dataclasses.dataclass(frozen=True, slots=True)
class Shape:
    """A graph without its code.

    Attributes:
        layers: Names of the stages; those of one layer may run at once, after the layer before.
        dependencies: For each stage, those it waits for, all in the layer before.
    """

    layers: tuple[tuple[str, ...], ...]
    dependencies: dict[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        """All stages, layer by layer."""
        return tuple(self.dependencies)

    def __len__(self) -> int:
        return len(self.dependencies)


def layered(widths: Sequence[int], fan_in: int | None = None) -> Shape:
    """A graph of layers.

    Args:
        widths: Stages in each layer.
        fan_in: How many stages of the layer before each one waits for; None for all.
    """
    layers: list[tuple[str, ...]] = []
    dependencies: dict[str, tuple[str, ...]] = {}
    for depth, width in enumerate(widths):
        layer = tuple(f"s{depth}_{place}" for place in range(width))
        for place, name in enumerate(layer):
            above = layers[-1] if layers else ()
            wanted = len(above) if fan_in is None else min(fan_in, len(above))
            waits_for = (above[(place + step) % len(above)] for step in range(wanted))
            dependencies[name] = tuple(waits_for)
        layers.append(layer)
    return Shape(tuple(layers), dependencies)


#: The graphs by the name under which they are reported. The 1,000 stages stand in 100 layers.
SHAPES = {
    "chain of 10": layered([1] * 10),
    "chain of 100": layered([1] * 100),
    "fan 1+10+1": layered([1, 10, 1]),
    "dense 4x5": layered([5] * 4),
    "layered 10x10": layered([10] * 10, fan_in=2),
    "1,000 stages": layered([10] * 100, fan_in=2),
}


def output_of(stage: str) -> str:
    """The key under which a stage writes its one output."""
    return f"{stage}_out"


def no_op(name: str) -> sf.StageSpec:
    """A stage that does nothing but write its output; with a timeout."""
    key = output_of(name)

    async def execute(_ctx: sf.StageContext) -> sf.StageOutput:
        return sf.StageOutput.ok({key: name})

    return sf.StageSpec(name, execute, outputs=(key,), timeout_s=TIMEOUT_S)


def suspending(name: str) -> sf.StageSpec:
    """A stage that lets the loop turn once before it writes its output; with a timeout."""
    key = output_of(name)

    async def execute(_ctx: sf.StageContext) -> sf.StageOutput:
        await asyncio.sleep(0)
        return sf.StageOutput.ok({key: name})

    return sf.StageSpec(name, execute, outputs=(key,), timeout_s=TIMEOUT_S)


#: Ways to make the stage of a name. The spec returned has no dependencies yet.
StageMaker = Callable[[str], "sf.StageSpec"]


def specs(shape: Shape, make: StageMaker = no_op) -> list[sf.StageSpec]:
    """The stages of a shape, each declaring what it depends on and reads from there."""
    return [
        dataclasses.replace(
            make(name), dependencies=waits_for, inputs=tuple(map(output_of, waits_for))
        )
        for name, waits_for in shape.dependencies.items()
    ]


def unlimited(name: str) -> sf.StageSpec:
    """The stage of `no_op` without a timeout."""
    return dataclasses.replace(no_op(name), timeout_s=None)


@functools.cache
def pipeline(shape: str, make: StageMaker = no_op) -> sf.Pipeline:
    """The pipeline of one of `SHAPES`; made once."""
    return sf.Pipeline("bench", specs(SHAPES[shape], make))


@functools.cache
def orchestrator(shape: str, make: StageMaker = no_op) -> sf.PipelineOrchestrator:
    """Return an orchestrator of one of `SHAPES`, without interceptors; made once."""
    return sf.PipelineOrchestrator(pipeline(shape, make).build())


async def run_times(orchestrator: sf.PipelineOrchestrator, times: int) -> sf.RunResult:
    """Run a graph `times` times, one run after another; returns the last result."""
    for _ in range(times):
        result = await orchestrator.run(sf.PipelineContext())
    return result


async def run_at_once(orchestrator: sf.PipelineOrchestrator, runs: int) -> list[sf.RunResult]:
    """Run a graph `runs` times at once; all results are kept until the last run has ended."""
    return await asyncio.gather(*(orchestrator.run(sf.PipelineContext()) for _ in range(runs)))


# ── building ─────────────────────────────────────────────────────────────────────────────────

WIDTH = 10


@functools.cache
def layers_of(stages: int) -> tuple[sf.StageSpec, ...]:
    """Return specs in layers; each depends on, and reads from, two of the layer before.

    Layers are ten wide; those of few stages are narrower, so that these have edges too.
    """
    width = min(WIDTH, max(1, stages // 5)) if stages < 2 * WIDTH else WIDTH
    widths = [width] * (stages // width)
    if stages % width:
        widths.append(stages % width)
    return tuple(specs(layered(widths, fan_in=2)))


def define_and_build(stages: int) -> sf.StageGraph:
    """Define a pipeline and build its graph."""
    return sf.Pipeline("bench", layers_of(stages)).build()


# ── bags ─────────────────────────────────────────────────────────────────────────────────────

WRITES = 10_000


@functools.cache
def keys() -> tuple[str, ...]:
    """Return the keys that are written."""
    return tuple(f"key{number}" for number in range(WRITES))


@functools.cache
def full_bag() -> sf.ContextBag:
    """Return a bag that holds all keys."""
    bag = sf.ContextBag()
    run(write_all(bag, keys()))
    return bag


async def write_all(bag: sf.ContextBag, names: tuple[str, ...]) -> None:
    """Write each key once, awaited."""
    for key in names:
        await bag.write(key, key, "writer")


def write_sequentially() -> sf.ContextBag:
    """Write all keys one after another, in one entry of the loop."""
    bag = sf.ContextBag()
    run(write_all(bag, keys()))
    return bag


def write_dict_with_check() -> dict[str, Any]:
    """Write all keys to a dict with a check before each: `write_sequentially` by hand."""
    values: dict[str, Any] = {}

    async def write_all_by_hand() -> None:
        for key in keys():
            if key in values:
                raise KeyError(key)
            values[key] = key

    run(write_all_by_hand())
    return values


# ── interceptors ─────────────────────────────────────────────────────────────────────────────

INTERCEPTED_GRAPH = "layered 10x10"

_log = getLogger("benchmarks")


class NullTracer:
    """Takes spans and drops them."""

    def start(self, name: str, parent: Any | None, attributes: Mapping[str, Any]) -> str:
        """Open a span that is nothing but its name."""
        return name

    def end(self, span: Any, error_code: str | None) -> None:
        """Drop a span."""


def observer() -> sf.Interceptor:
    """Return a synchronous interceptor whose two hooks do nothing."""

    # Not at the top of the module: on commits without interceptors it has to be importable.
    class Observer(sf.Interceptor):
        def before(self, ctx: sf.StageContext, /) -> None:
            pass

        def after(self, ctx: sf.StageContext, output: sf.StageOutput, /) -> None:
            pass

    return Observer()


def measuring() -> sf.Interceptor:
    """Return an application's own interceptor that measures how long a stage takes."""

    class Measuring(sf.Interceptor):
        taken_s = 0.0

        def after(self, ctx: sf.StageContext, output: sf.StageOutput, /) -> None:
            self.taken_s += ctx.now() - ctx.started_at

    return Measuring()


def logging() -> sf.Interceptor:
    """Return an application's own interceptor that logs a stage's ends at a level that is off."""

    class Logging(sf.Interceptor):
        def before(self, ctx: sf.StageContext, /) -> None:
            _log.debug("stage %s started", ctx.name)

        def after(self, ctx: sf.StageContext, output: sf.StageOutput, /) -> None:
            _log.debug("stage %s %s", ctx.name, output.status)

    return Logging()


def real() -> tuple[sf.Interceptor, ...]:
    """Return tracing, measuring, logging and timeout, the outermost first."""
    return (
        sf.TracingInterceptor(NullTracer()),
        measuring(),
        logging(),
        sf.TimeoutInterceptor(TIMEOUT_S),
    )


#: The interceptors around each stage, the outermost first, by the name of their series.
CHAINS: dict[str, Callable[[], tuple[sf.Interceptor, ...]]] = {
    "none": lambda: (),
    "one observer": lambda: (observer(),),
    "four observers": lambda: tuple(observer() for _ in range(4)),
    "tracing": lambda: real()[:1],
    "metrics": lambda: real()[1:2],
    "logging": lambda: real()[2:3],
    "timeout": lambda: real()[3:],
    "all four": real,
}


@functools.cache
def intercepted(chain: str) -> sf.PipelineOrchestrator:
    """Return an orchestrator with one of `CHAINS` around each stage; made once."""
    return sf.PipelineOrchestrator(
        pipeline(INTERCEPTED_GRAPH).build(), interceptors=CHAINS[chain]()
    )


# ── child runs ───────────────────────────────────────────────────────────────────────────────

CHILD = "chain of 10"


@functools.cache
def parent(depth: int) -> sf.PipelineOrchestrator:
    """Return pipelines of one stage, nested `depth` deep, with ten stages innermost."""
    innermost = orchestrator(CHILD)
    outputs = pipeline(CHILD).stages[-1].outputs
    for level in range(depth):
        stage = sf.subpipeline("child", innermost, outputs=outputs, timeout_s=TIMEOUT_S)
        innermost = sf.PipelineOrchestrator(sf.Pipeline(f"level{level}", [stage]).build())
    return innermost
