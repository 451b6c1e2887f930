"""Hypothesis strategies for everything that a pipeline is made of.

Whatever is drawn comes from Hypothesis alone, so a failure replays. The names are those of the
specification; `open_pipelines` and `broken_specs` stand beside them.
"""

from __future__ import annotations

import dataclasses
import math
import string
from collections.abc import Callable, Sequence
from typing import Any

from hypothesis import strategies as st

from stageflow import ContextBag, Event, Pipeline, PipelineContext, RunResult, StageSpec
from stageflow import errors as err
from tests.utils.factories import do_nothing
from tests.utils.mocks import ScriptedStage
from tests.utils.virtual_time import run_virtual

Draw = Callable[[st.SearchStrategy[Any]], Any]

_HEAD = string.ascii_letters + string.digits + "_"


def stage_names() -> st.SearchStrategy[str]:
    """Valid names of stages."""
    tails = st.text(_HEAD + "-", max_size=6)
    return st.builds(str.__add__, st.sampled_from(_HEAD), tails)


def dependencies(candidates: Sequence[str]) -> st.SearchStrategy[tuple[str, ...]]:
    """Some of `candidates`, none twice."""
    if not candidates:
        return st.just(())
    some = st.lists(st.sampled_from(candidates), unique=True, max_size=min(4, len(candidates)))
    return some.map(tuple)


def _runners(outputs: tuple[str, ...], endings: Sequence[str]) -> st.SearchStrategy[ScriptedStage]:
    pauses = st.lists(st.sampled_from([0.0, 1.0, 2.0, 5.0]), max_size=2).map(tuple)
    return st.builds(
        ScriptedStage, st.just(outputs), pauses_s=pauses, ending=st.sampled_from(endings)
    )


@st.composite
def stage_specs(
    draw: Draw, *, min_size: int = 1, max_size: int = 10, endings: Sequence[str] = ("ok",)
) -> list[StageSpec]:
    """The specs of a closed, acyclic pipeline, in any order.

    Each depends on some that were drawn before it, and reads some outputs of its ancestors.

    Args:
        draw: From Hypothesis.
        min_size: How many stages at least.
        max_size: How many stages at most.
        endings: How stages may end, as `ScriptedStage` has it; anything but "ok" also makes some
            of them optional, conditional or limited in time.
    """
    names = draw(st.lists(stage_names(), min_size=min_size, max_size=max_size, unique=True))
    calm = tuple(endings) == ("ok",)
    specs: list[StageSpec] = []
    readable: dict[str, set[str]] = {}
    for position, name in enumerate(names):
        before = draw(dependencies(names[:position]))
        inherited = sorted(set().union(*(readable[other] for other in before)))
        outputs = tuple(f"{name}.{n}" for n in range(draw(st.integers(0, 2))))
        readable[name] = {*inherited, *outputs}
        spec = StageSpec(
            name,
            draw(_runners(outputs, endings)),
            before,
            inputs=draw(dependencies(inherited)),
            outputs=outputs,
        )
        specs.append(spec if calm else _unsettled(draw, spec))
    return list(draw(st.permutations(specs)))


def _never(ctx: object) -> bool:
    return False


def _unsettled(draw: Draw, spec: StageSpec) -> StageSpec:
    return dataclasses.replace(
        spec,
        required=draw(st.booleans()),
        condition=draw(st.sampled_from([None, None, None, _never])),
        timeout_s=draw(st.sampled_from([None, 1.5, 100.0])),
    )


@st.composite
def pipelines(draw: Draw, *, max_size: int = 8) -> Pipeline:
    """Closed, acyclic pipelines that do nothing, over few names, so that two of them overlap.

    A stage depends on stages of earlier letters only, and a name always means the same stage,
    so any number of them can be composed.
    """
    letters = string.ascii_lowercase[:max_size]
    chosen = draw(st.sets(st.sampled_from(letters), max_size=max_size))
    # What a stage depends on is fixed by its name, and comes with it.
    universe = {x: tuple(letters[:n][-2:]) if n % 3 else () for n, x in enumerate(letters)}
    while missing := {d for name in chosen for d in universe[name]} - chosen:
        chosen |= missing
    order = draw(st.permutations(sorted(chosen)))
    specs = [StageSpec(x, do_nothing, universe[x], outputs=(f"{x}.out",)) for x in order]
    return Pipeline(draw(stage_names()), specs, inputs=draw(dependencies(["x", "y", "z"])))


@st.composite
def open_pipelines(draw: Draw) -> Pipeline:
    """Pipelines whose dependencies may be missing, and that may conflict with one another.

    Each is sound in itself. Composed, two of them may define a stage differently, close a cycle,
    or produce the same output.
    """
    letters = draw(st.permutations("abcde"))
    names = letters[: draw(st.integers(0, 4))]
    keys = ["k", "l", "m"]
    free = draw(st.permutations(keys))
    specs = []
    for position, name in enumerate(names):
        # Earlier ones here, or ones that are not here: no cycle within this pipeline.
        candidates = [*names[:position], *letters[len(names) :]]
        outputs = tuple(free.pop() for _ in range(draw(st.integers(0, 1))) if free)
        before = draw(dependencies(candidates))
        specs.append(StageSpec(name, do_nothing, before, outputs=outputs))
    return Pipeline(
        draw(st.sampled_from(["p", "q"])), specs, inputs=draw(dependencies(sorted(free)))
    )


@st.composite
def pipeline_pairs(draw: Draw) -> tuple[Pipeline, Pipeline]:
    """Two open pipelines that together are closed, and compose without conflict.

    The stages of one closed pipeline, each given to one of the two, or to both.
    """
    specs = draw(stage_specs(max_size=8))
    shares = draw(st.lists(st.sampled_from("lrb"), min_size=len(specs), max_size=len(specs)))
    left = [spec for spec, share in zip(specs, shares, strict=True) if share in "lb"]
    right = [spec for spec, share in zip(specs, shares, strict=True) if share in "rb"]
    return Pipeline("left", left), Pipeline("right", right)


# ── broken definitions ──────────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class Broken:
    """Specs with exactly one defect.

    Attributes:
        specs: The specs.
        defect: The class of the error that has to be reported, and the only one.
        stages: The stages that the report may name; with a cycle it may name any on it.
    """

    specs: tuple[Any, ...]
    defect: type[err.DefinitionError]
    stages: frozenset[str]


def _replaced(specs: Sequence[StageSpec], at: int, **fields: Any) -> list[StageSpec]:
    changed = list(specs)
    changed[at] = dataclasses.replace(specs[at], **fields)
    return changed


def _ancestors(specs: Sequence[StageSpec], name: str) -> set[str]:
    by_name = {spec.name: spec for spec in specs}
    found: set[str] = set()
    left = [name]
    while left:
        for before in by_name[left.pop()].dependencies:
            if before not in found:
                found.add(before)
                left.append(before)
    return found


def _close_a_cycle(draw: Draw, specs: list[StageSpec]) -> Broken | None:
    pairs = [
        (start, end)
        for start, spec in enumerate(specs)
        for end in range(len(specs))
        if spec.name in _ancestors(specs, specs[end].name)
    ]
    if not pairs:
        return None
    start, end = draw(st.sampled_from(pairs))
    first, last = specs[start], specs[end]
    before = (*first.dependencies, last.name)
    between = {s.name for s in specs if first.name in _ancestors(specs, s.name)}
    on_cycle = (between & _ancestors(specs, last.name)) | {first.name, last.name}
    changed = _replaced(specs, start, dependencies=before)
    return Broken(tuple(changed), err.CycleError, frozenset(on_cycle))


def _misplace_a_producer(draw: Draw, specs: list[StageSpec]) -> Broken | None:
    pairs = [
        (reader, key)
        for reader, spec in enumerate(specs)
        for other in specs
        for key in other.outputs
        if other.name not in _ancestors(specs, spec.name) and key not in spec.inputs
    ]
    if not pairs:
        return None
    reader, key = draw(st.sampled_from(pairs))
    changed = _replaced(specs, reader, inputs=(*specs[reader].inputs, key))
    return Broken(tuple(changed), err.MissingProducerError, frozenset({specs[reader].name}))


def _spoil_one(draw: Draw, specs: list[StageSpec]) -> Broken:
    at = draw(st.integers(0, len(specs) - 1))
    spec = specs[at]
    unknown = draw(stage_names().filter(lambda name: name not in {s.name for s in specs}))
    twice = (*spec.inputs, unknown, unknown)
    spoilt: list[tuple[type[err.DefinitionError], dict[str, Any]]] = [
        (err.SelfDependencyError, {"dependencies": (*spec.dependencies, spec.name)}),
        (err.UnknownDependencyError, {"dependencies": (*spec.dependencies, unknown)}),
        (err.MissingProducerError, {"inputs": (*spec.inputs, unknown)}),
        (err.InvalidDeclarationError, {"inputs": twice}),
        (err.InvalidDeclarationError, {"outputs": "text"}),
        (err.InvalidDeclarationError, {"inputs": (*spec.inputs, 5)}),
        (err.InvalidRunnerError, {"runner": print}),
        (err.InvalidTimeoutError, {"timeout_s": draw(st.sampled_from([0, -1, math.nan, "1"]))}),
    ]
    defect, fields = draw(st.sampled_from(spoilt))
    return Broken(tuple(_replaced(specs, at, **fields)), defect, frozenset({spec.name}))


def _repeat_a_name(draw: Draw, specs: list[StageSpec]) -> Broken:
    twin = draw(st.sampled_from(specs))
    extra = StageSpec(twin.name, do_nothing)
    return Broken((*specs, extra), err.DuplicateStageError, frozenset({twin.name}))


def _rename_badly(draw: Draw, specs: list[StageSpec]) -> Broken:
    name = draw(st.sampled_from(["", "a b", "a.b", "-a", "ü", "a\n"]))
    spec = StageSpec(name, do_nothing)
    return Broken((*specs, spec), err.InvalidNameError, frozenset({name}))


def _repeat_an_output(draw: Draw, specs: list[StageSpec]) -> Broken | None:
    keys = [key for spec in specs for key in spec.outputs]
    if not keys:
        return None
    name = draw(stage_names().filter(lambda name: name not in {s.name for s in specs}))
    extra = StageSpec(name, do_nothing, outputs=(draw(st.sampled_from(keys)),))
    return Broken((*specs, extra), err.DuplicateOutputError, frozenset({name}))


def _no_spec(draw: Draw, specs: list[StageSpec]) -> Broken:
    intruder = draw(st.sampled_from([5, "llm", None, do_nothing]))
    name = getattr(intruder, "__name__", type(intruder).__name__)
    return Broken((*specs, intruder), err.InvalidSpecError, frozenset({name}))


_DEFECTS = (
    _close_a_cycle,
    _misplace_a_producer,
    _spoil_one,
    _repeat_a_name,
    _rename_badly,
    _repeat_an_output,
    _no_spec,
)


@st.composite
def broken_specs(draw: Draw) -> Broken:
    """Valid specs, into which exactly one defect has been put."""
    specs = draw(stage_specs(min_size=2, max_size=8))
    broken = draw(st.sampled_from(_DEFECTS))(draw, specs)
    # Where the specs offer no place for that defect, another one fits any.
    return broken if broken is not None else _spoil_one(draw, specs)


# ── runs and their events ───────────────────────────────────────────────────────────────────


@dataclasses.dataclass(frozen=True)
class RecordedRun:
    """A run that has been, of a pipeline that was drawn."""

    pipeline: Pipeline
    result: RunResult

    @property
    def events(self) -> tuple[Event, ...]:
        return self.result.events


@st.composite
def event_sequences(draw: Draw) -> RecordedRun:
    """Real runs in virtual time: stages that sleep, fail, are skipped, time out or may fail."""
    endings = draw(st.sampled_from([("ok",), ("ok", "ok", "ok", "raise", "fail", "skip")]))
    pipeline = Pipeline("drawn", draw(stage_specs(endings=endings)))
    deadline_s = draw(st.sampled_from([None, None, 0.5, 3.5]))
    ctx = PipelineContext(deadline_s=deadline_s, seed=draw(st.integers(0, 2**32)))
    return RecordedRun(pipeline, run_virtual(lambda: pipeline.run(ctx)))


def events() -> st.SearchStrategy[tuple[Event, ...]]:
    """The events of real runs, in order."""
    return event_sequences().map(lambda run: run.events)


# ── the bag ─────────────────────────────────────────────────────────────────────────────────


def context_keys() -> st.SearchStrategy[str]:
    """Any string is a key."""
    return st.text(max_size=8)


def context_values() -> st.SearchStrategy[Any]:
    """Values that can be written as JSON."""
    plain = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text()
    return st.recursive(
        plain,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=5,
    )


@st.composite
def context_bags(draw: Draw) -> ContextBag:
    """Bags into which some writers have written."""
    bag = ContextBag()
    for key, value in draw(st.dictionaries(context_keys(), context_values(), max_size=6)).items():
        bag.put(key, value, draw(stage_names()))
    return bag
