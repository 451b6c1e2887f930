"""The strategies draw each range from end to end, and nothing outside of it."""

from __future__ import annotations

import dataclasses
import json
from collections import defaultdict
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from stageflow import StageSpec
from stageflow.testing import ScriptedStage
from stageflow.testing import strategies as drawn_stages
from stageflow.testing.strategies import (
    context_values,
    fault_plans,
    pipelines,
    scenarios,
    stage_specs,
)

pytestmark = pytest.mark.untraced

ALL = ("ok", "raise", "fail", "skip")
DURATIONS_MS = {0, 1, 500, 3_000, 60_000}


def drawn(strategy: st.SearchStrategy[Any], count: int = 400) -> list[Any]:
    """Return `count` values, the same each time."""
    found: list[Any] = []

    @settings(database=None, derandomize=True, max_examples=count, phases=[Phase.generate])
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found


def test_the_options_of_faults() -> None:
    """Each kind of fault has its own options, with all their values; no fault lacks one."""
    options: dict[tuple[str, str], set[Any]] = defaultdict(set)
    plans = drawn(fault_plans(providers=("search",), max_size=2), 700)
    for plan in plans:
        for fault in plan.faults:
            kind = str(fault.options.get("fault", fault.fault_type))
            for name, value in fault.options.items():
                if name not in ("fault", "script"):
                    options[kind, name].add(value)
    assert options == {
        ("timeout", "duration_ms"): DURATIONS_MS,
        ("slow", "duration_ms"): DURATIONS_MS,
        ("error", "status_code"): {503, 500, 429, 400, 401},
        ("rate_limited", "retry_after_s"): {None, 0, 1, 30},
        ("stall", "after_pieces"): {0, 1, 2},
        ("cut", "after_pieces"): {0, 1, 2},
        ("disconnect", "after_call"): {True, False},
        ("empty", "reply"): {"", "???"},
        ("invalid", "reply"): {"", "???"},
    }
    assert {len(plan.faults) for plan in plans} == {0, 1, 2}
    scripts = {f.options["script"] for p in plans for f in p.faults if "script" in f.options}
    assert {len(script.split(",")) for script in scripts} == {1, 2, 3, 4, 5}
    assert set(",".join(scripts).split(",")) == {"fail", "ok"}


def test_the_ranges_of_scenarios() -> None:
    """A cancellation comes at one of the steps that were asked for, or not at all."""
    found = drawn(scenarios(max_steps=7))
    assert {one.cancel_at_step for one in found} == {None, *range(1, 8)}
    assert {one.cancel_at_step for one in drawn(scenarios(), 50)} == {None}
    assert min(one.switches for one in found) == 0
    assert 150 < max(one.switches for one in found) <= 200
    assert 9_000 < max(one.seed for one in found) < 10_000


def test_the_stages_of_pipelines_that_can_be_composed() -> None:
    """A stage's name fixes its dependencies, and inputs have three names."""
    before = {"a": "", "b": "a", "c": "ab", "d": "", "e": "cd", "f": "de", "g": "", "h": "fg"}
    found = drawn(pipelines(), 100)
    stages = {spec.name: spec.dependencies for one in found for spec in one.stages}
    assert stages == {name: tuple(names) for name, names in before.items()}
    assert {key for one in found for key in one.inputs} == {"x", "y", "z"}
    assert {len(one.stages) for one in drawn(pipelines(max_size=2), 50)} == {0, 1, 2}


def test_context_values_are_json() -> None:
    """All types of JSON are drawn, and no number that JSON cannot write."""
    found = drawn(context_values(), 200)
    for value in found:
        assert json.loads(json.dumps(value, allow_nan=False)) == value
    kinds = {type(value) for value in found}
    assert kinds == {type(None), bool, int, float, str, list, dict}


def test_the_ranges_of_specs() -> None:
    """Stages pause, write, read, end and are limited in every way that there is."""
    lists = drawn(stage_specs(endings=ALL, max_size=6), 200)
    specs = [spec for one in lists for spec in one]
    assert {pause_s for spec in specs for pause_s in spec.runner.pauses_s} == {0.0, 1.0, 2.0, 5.0}
    assert {len(spec.runner.pauses_s) for spec in specs} == {0, 1, 2}
    assert {len(spec.outputs) for spec in specs} == {0, 1, 2}
    assert {spec.runner.ending for spec in specs} == set(ALL)
    assert {spec.timeout_s for spec in specs} == {None, 1.5, 100.0}
    assert {spec.required for spec in specs} == {True, False}
    assert {spec.condition is None for spec in specs} == {True, False}
    assert all(spec.runner.outputs == spec.outputs for spec in specs)
    assert {len(one) for one in lists} == {1, 2, 3, 4, 5, 6}
    plain = [spec for one in drawn(stage_specs(), 100) for spec in one]
    assert {(s.required, s.condition, s.timeout_s) for s in plain} == {(True, None, None)}


def test_stages_often_follow_each_other_in_any_order() -> None:
    """A tenth of all edges and of all orders is much; none would make the drawn graphs useless."""
    lists = drawn(stage_specs(min_size=5), 100)
    specs = [spec for one in lists for spec in one]
    assert sum(bool(spec.dependencies) for spec in specs) > len(specs) / 5
    backwards = 0
    for one in lists:
        place = {spec.name: number for number, spec in enumerate(one)}
        backwards += any(place[d] > place[s.name] for s in one for d in s.dependencies)
    assert backwards > len(lists) / 5
    assert any("-" in spec.name for spec in specs)
    assert {len(spec.inputs) for spec in specs} == {0, 1, 2}


def test_the_simplest_stage() -> None:
    """A stage about which nothing matters is called ``a``, and does nothing."""
    assert find(stage_specs(), lambda _: True) == [StageSpec("a", ScriptedStage())]


def test_a_stage_may_leave_out_what_it_reads_and_names_the_rest() -> None:
    """Of two producers, the one that is read is found by the key, the other one by its name."""
    pair = [drawn_stages._Drawn(name, n, (), (), 1, (), "ok", 0) for n, name in enumerate("ab")]
    reader = drawn_stages._Drawn("c", 2, (0, 1), (0,), 0, (), "ok", 0, names_all=False)
    read = drawn_stages._placed([*pair, reader])[-1]
    assert (read.inputs, read.dependencies) == (("a.0",), ("b",))
    named = drawn_stages._placed([*pair, dataclasses.replace(reader, names_all=True)])[-1]
    assert (named.inputs, named.dependencies) == (("a.0",), ("a", "b"))
