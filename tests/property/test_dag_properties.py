"""Graphs: valid definitions build and have an order; of broken ones the defect is named."""

from __future__ import annotations

import graphlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow import Pipeline, PipelineDefinitionError, StageGraph, StageSpec
from stageflow.testing import do_nothing
from stageflow.testing.invariants import dependencies_of
from tests.property.strategies import Broken, broken_specs, stage_specs

pytestmark = pytest.mark.untraced


@given(stage_specs())
def test_a_valid_definition_builds_without_cycles(specs: list[StageSpec]) -> None:
    """The graph has each stage, and an independent sorter finds no cycle either."""
    graph = Pipeline("test", specs).build()
    assert not graph.has_cycles()
    assert graph.cycles() == ()
    assert [spec.name for spec in graph.specs] == [spec.name for spec in specs]
    graphlib.TopologicalSorter(dependencies_of(specs)).prepare()


@given(stage_specs())
def test_the_order_has_every_stage_once_and_behind_what_it_waits_for(
    specs: list[StageSpec],
) -> None:
    """A topological order, whatever order the specs came in."""
    order = Pipeline("test", specs).build().topological_order()
    position = {name: number for number, name in enumerate(order)}
    assert sorted(order) == sorted(spec.name for spec in specs)
    for spec in specs:
        assert all(
            position[before] < position[spec.name] for before in dependencies_of(specs)[spec.name]
        )


@given(stage_specs())
def test_numbers_mirror_names(specs: list[StageSpec]) -> None:
    """The compiled edges are the declared ones, in both directions."""
    graph = Pipeline("test", specs).build()
    edges = dependencies_of(specs)
    declared = {(before, name) for name, befores in edges.items() for before in befores}
    names = [spec.name for spec in graph.specs]
    forwards = {(names[n], names[m]) for n, after in enumerate(graph.successors) for m in after}
    backwards = {(names[m], names[n]) for n, bef in enumerate(graph.predecessors) for m in bef}
    assert forwards == backwards == declared
    assert graph.in_degrees == tuple(len(edges[spec.name]) for spec in specs)


@given(broken_specs())
def test_of_a_broken_definition_exactly_the_defect_is_reported(broken: Broken) -> None:
    """One defect, one problem of its code, at its stage, with pipeline and stage in the text."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("test", broken.specs).build()
    (problem,) = caught.value.problems
    assert problem.code == broken.defect
    assert problem.stage in broken.stages
    assert problem.pipeline == "test"
    assert "'test'" in str(caught.value)
    assert repr(problem.stage) in str(caught.value)


@st.composite
def any_edges(draw: st.DrawFn) -> dict[str, tuple[str, ...]]:
    """Up to seven stages that depend on any of them, themselves included."""
    size = draw(st.integers(1, 7))
    names = [f"s{number}" for number in range(size)]
    some = st.sets(st.sampled_from(names), max_size=3).map(lambda chosen: tuple(sorted(chosen)))
    return {name: draw(some) for name in names}


def reachable(edges: dict[str, tuple[str, ...]], start: str) -> frozenset[str]:
    """Return the stages that can be reached from `start` in one step or more."""
    found: set[str] = set()
    left = list(edges[start])
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left.extend(edges[name])
    return frozenset(found)


@given(any_edges())
def test_each_component_of_stages_is_reported_by_one_cycle(
    edges: dict[str, tuple[str, ...]],
) -> None:
    """Stages that reach each other form a component; each component has a path that exists."""
    graph = StageGraph([StageSpec(name, do_nothing, before) for name, before in edges.items()])
    reach = {name: reachable(edges, name) for name in edges}
    components = {
        frozenset(other for other in reach[name] if name in reach[other])
        for name in edges
        if name in reach[name]
    }
    reported = graph.cycles()
    for path in reported:
        assert path[0] == path[-1]
        assert len(set(path)) == len(path) - 1
        assert all(first in edges[second] for first, second in pairwise(path))
    hit = [component for path in reported for component in components if set(path) <= component]
    assert len(hit) == len(reported)
    assert set(hit) == components
    assert len(hit) == len(components)
    assert graph.has_cycles() is bool(components)


@given(stage_specs(max_size=7), st.data())
def test_the_critical_path_is_the_heaviest_of_all_paths(
    specs: list[StageSpec], data: st.DataObject
) -> None:
    """As heavy as the heaviest path that an exhaustive search finds, and a path itself."""
    weights = {spec.name: float(data.draw(st.integers(0, 9))) for spec in specs}
    before = dependencies_of(specs)

    def heaviest(name: str) -> float:
        return weights[name] + max((heaviest(other) for other in before[name]), default=0.0)

    path = Pipeline("test", specs).build().critical_path(weights)
    assert path.length == max(map(heaviest, before))
    assert path.length == sum(weights[name] for name in path.stages)
    for first, second in pairwise(path.stages):
        assert first in before[second]
