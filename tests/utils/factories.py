"""Specs, pipelines and events made in a few words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from stageflow import Pipeline, StageContext, StageGraph, StageKind, StageOutput, StageSpec, stage
from stageflow.events import EventLog
from stageflow.testing import ScriptedStage, do_nothing


def make_spec(
    name: str,
    *dependencies: str,
    pauses_s: tuple[float, ...] = (),
    ending: str = "ok",
    outputs: tuple[str, ...] = (),
    **fields: Any,
) -> StageSpec:
    """A scripted stage; `fields` are those of `StageSpec`."""
    runner = fields.pop("runner", None) or ScriptedStage(outputs, pauses_s, ending)
    return StageSpec(name, runner, dependencies, outputs=outputs, **fields)


def make_pipeline(*specs: StageSpec, name: str = "test", inputs: Sequence[str] = ()) -> Pipeline:
    """A pipeline of `specs`."""
    return Pipeline(name, specs, inputs=inputs)


def shape(graph: StageGraph) -> dict[str, tuple[set[str], bool]]:
    """Return what each stage of a graph waits for, and whether it is required."""
    return {
        spec.name: ({graph.specs[number].name for number in before}, spec.required)
        for spec, before in zip(graph.specs, graph.predecessors, strict=True)
    }


def chain(length: int, *, name: str = "chain") -> Pipeline:
    """Stages ``s0`` to ``s<length-1>``, each after the one before."""
    return Pipeline(
        name,
        (StageSpec(f"s{n}", do_nothing, (f"s{n - 1}",) if n else ()) for n in range(length)),
    )


def wide(width: int, *, name: str = "wide") -> Pipeline:
    """A stage ``source``, `width` stages after it, and a stage ``sink`` after all of these."""
    middle = [StageSpec(f"m{n}", do_nothing, ("source",)) for n in range(width)]
    sink = StageSpec("sink", do_nothing, tuple(spec.name for spec in middle))
    return Pipeline(name, [StageSpec("source", do_nothing), *middle, sink])


def layered(layers: int, width: int, *, name: str = "layered") -> Pipeline:
    """`layers` layers of `width` stages, each stage after every one of the layer before."""
    specs = [
        StageSpec(
            f"l{layer}n{n}",
            do_nothing,
            tuple(f"l{layer - 1}n{m}" for m in range(width)) if layer else (),
        )
        for layer in range(layers)
        for n in range(width)
    ]
    return Pipeline(name, specs)


def make_log(*raw: tuple[Any, ...], run_id: str = "run-1", started_at: float = 100.0) -> EventLog:
    """A log of raw events whose wall clock stood at 1,000,000 s when it began."""
    log = EventLog(run_id, started_at, 1_000_000.0)
    for event in raw:
        log.append(event)
    return log


def sample_pipeline() -> Pipeline:
    """One stage of each sort that a contract can meet."""

    @stage(inputs=["text"], outputs=["words"], kind=StageKind.TRANSFORM)
    async def split(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(words=ctx["text"].split())

    @stage(dependencies=["split"], inputs=["words"], outputs=["count"], kind=StageKind.ENRICH)
    async def count(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(count=len(ctx["words"]))

    @stage(dependencies=["split"], inputs=["words"], kind=StageKind.GUARD, required=False)
    async def guard(ctx: StageContext) -> StageOutput:
        if "please" not in ctx["words"]:
            return StageOutput.fail("impolite")
        return StageOutput.ok()

    return Pipeline("sample", [split, count, guard], inputs=["text"])


def names(specs: Iterable[StageSpec]) -> list[str]:
    """The names of some specs."""
    return [spec.name for spec in specs]
