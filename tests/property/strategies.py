"""The strategies of this repository's property tests: those that the package ships, and more.

What only the engine's own tests need is here: definitions with one defect, and pairs to compose.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from stageflow import Pipeline, StageSpec
from stageflow.errors import ProblemCode
from stageflow.testing import do_nothing
from stageflow.testing.invariants import dependencies_of
from stageflow.testing.strategies import *  # noqa: F403
from stageflow.testing.strategies import Draw, dependencies, stage_names, stage_specs


@st.composite
def open_pipelines(draw: Draw) -> Pipeline:
    """Valid pipelines whose dependencies may be missing.

    Two of them may define a stage differently, close a cycle, or produce the same output.
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
    """Two parts of one closed pipeline; they may share stages, and compose without conflict."""
    specs = draw(stage_specs(max_size=8))
    shares = draw(st.lists(st.sampled_from("lrb"), min_size=len(specs), max_size=len(specs)))
    left = [spec for spec, share in zip(specs, shares, strict=True) if share in "lb"]
    right = [spec for spec, share in zip(specs, shares, strict=True) if share in "rb"]
    return Pipeline("left", left), Pipeline("right", right)


@dataclasses.dataclass(frozen=True)
class Broken:
    """Specs with exactly one defect."""

    specs: tuple[Any, ...]
    defect: ProblemCode  # of the only problem that has to be reported
    stages: frozenset[str]  # that the report may name


def _replaced(specs: Sequence[StageSpec], at: int, **fields: Any) -> tuple[StageSpec, ...]:
    return (*specs[:at], dataclasses.replace(specs[at], **fields), *specs[at + 1 :])


def _ancestors(specs: Sequence[StageSpec], name: str) -> set[str]:
    edges = dependencies_of(specs)
    found: set[str] = set()
    left = [name]
    while left:
        new = edges[left.pop()] - found
        found |= new
        left.extend(new)
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
    between = {s.name for s in specs if first.name in _ancestors(specs, s.name)}
    on_cycle = (between & _ancestors(specs, last.name)) | {first.name, last.name}
    keys = [key for key in last.outputs if key not in first.inputs]
    key = draw(st.sampled_from([None, *keys]))
    if key is None:
        changed = _replaced(specs, start, dependencies=(*first.dependencies, last.name))
    else:
        changed = _replaced(specs, start, inputs=(*first.inputs, key))
    return Broken(changed, "cycle", frozenset(on_cycle))


def _read_own_output(draw: Draw, specs: list[StageSpec]) -> Broken | None:
    pairs = [(reader, key) for reader, spec in enumerate(specs) for key in spec.outputs]
    if not pairs:
        return None
    reader, key = draw(st.sampled_from(pairs))
    changed = _replaced(specs, reader, inputs=(*specs[reader].inputs, key))
    return Broken(changed, "missing_producer", frozenset({specs[reader].name}))


def _spoil_one(draw: Draw, specs: list[StageSpec]) -> Broken:
    at = draw(st.integers(0, len(specs) - 1))
    spec = specs[at]
    unknown = draw(stage_names().filter(lambda name: name not in {s.name for s in specs}))
    twice = (*spec.inputs, unknown, unknown)
    spoilt: list[tuple[ProblemCode, dict[str, Any]]] = [
        ("self_dependency", {"dependencies": (*spec.dependencies, spec.name)}),
        ("unknown_dependency", {"dependencies": (*spec.dependencies, unknown)}),
        ("invalid_declaration", {"inputs": twice}),
        ("invalid_declaration", {"outputs": "text"}),
        ("invalid_declaration", {"inputs": (*spec.inputs, 5)}),
        ("invalid_runner", {"runner": print}),
        ("invalid_timeout", {"timeout_s": draw(st.sampled_from([0, -1, math.nan, "1"]))}),
    ]
    defect, fields = draw(st.sampled_from(spoilt))
    return Broken(_replaced(specs, at, **fields), defect, frozenset({spec.name}))


def _add_one(draw: Draw, specs: list[StageSpec]) -> Broken:
    twin = draw(st.sampled_from(specs)).name
    bad = draw(st.sampled_from(["", "a b", "a.b", "-a", "ü", "a\n"]))
    intruder = draw(st.sampled_from([5, "llm", None, do_nothing]))
    unknown = draw(stage_names().filter(lambda name: name not in {s.name for s in specs}))
    added: list[tuple[ProblemCode, Any, str]] = [
        ("duplicate_stage", StageSpec(twin, do_nothing), twin),
        ("invalid_name", StageSpec(bad, do_nothing), bad),
        ("invalid_spec", intruder, getattr(intruder, "__name__", type(intruder).__name__)),
    ]
    if keys := [key for spec in specs for key in spec.outputs]:
        repeats = StageSpec(unknown, do_nothing, outputs=(draw(st.sampled_from(keys)),))
        added.append(("duplicate_output", repeats, unknown))
    defect, extra, name = draw(st.sampled_from(added))
    return Broken((*specs, extra), defect, frozenset({name}))


@st.composite
def broken_specs(draw: Draw) -> Broken:
    """Valid specs with exactly one defect."""
    specs = draw(stage_specs(min_size=2, max_size=8))
    defects = [_close_a_cycle, _read_own_output, _spoil_one, _add_one, _add_one]
    # Where the specs offer no place for a defect, another one fits any.
    return draw(st.sampled_from(defects))(draw, specs) or _spoil_one(draw, specs)
