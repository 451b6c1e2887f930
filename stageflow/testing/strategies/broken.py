"""Specs with one defect, and the defect by its name."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st

from stageflow import errors as err
from stageflow.stage import StageSpec
from stageflow.testing.scripted import do_nothing
from stageflow.testing.strategies.definitions import Draw, stage_names, stage_specs


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
