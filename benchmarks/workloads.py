"""The shapes of graphs that are measured, as plain data, and as pipelines of stageflow."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
from collections.abc import Callable, Sequence

import stageflow as sf

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
    """What runs one of `SHAPES`, without interceptors; made once."""
    return sf.PipelineOrchestrator(pipeline(shape, make).build())


async def run_times(orchestrator: sf.PipelineOrchestrator, times: int) -> sf.RunResult:
    """Run a graph `times` times, one run after another; returns the last result."""
    for _ in range(times):
        result = await orchestrator.run(sf.PipelineContext())
    return result


async def run_at_once(orchestrator: sf.PipelineOrchestrator, runs: int) -> list[sf.RunResult]:
    """Run a graph `runs` times at once; all results are kept until the last run has ended."""
    return await asyncio.gather(*(orchestrator.run(sf.PipelineContext()) for _ in range(runs)))
