"""The strategies themselves: what they draw is valid, shrinks to little, and can be drawn again."""

from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st
from hypothesis.errors import InvalidArgument

from stageflow import Event, Pipeline, PipelineDefinitionError, StageSpec
from stageflow.testing import (
    FaultInjector,
    FaultPlan,
    Scenario,
    ScriptedStage,
    Token,
    do_nothing,
    strategies,
)
from stageflow.testing.strategies import (
    RecordedRun,
    context_bags,
    dependencies,
    event_sequences,
    fault_plans,
    pipelines,
    scenarios,
    stage_names,
    stage_specs,
)
from tests.property.strategies import Broken, broken_specs, open_pipelines, pipeline_pairs

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

PROVIDERS = ("llm", "stt", "tts", "db", "search")
QUIET = settings(database=None, max_examples=300, derandomize=True)


@given(fault_plans(providers=PROVIDERS))
def test_every_drawn_fault_fits_its_provider(plan: FaultPlan) -> None:
    """All of a plan can be injected together, and it survives being written down."""
    with plan.injected() as injectors:
        assert all(isinstance(injector, FaultInjector) for injector in injectors)
        assert [i.provider for i in injectors] == [fault.provider for fault in plan.faults]
    assert FaultPlan.from_dict(plan.to_dict()).to_dict() == plan.to_dict()


@given(scenarios(providers=PROVIDERS, max_steps=100))
def test_a_scenario_travels_in_a_token(scenario: Scenario) -> None:
    """Written as a token and read again, it says the same."""
    again = Token.parse(str(Token(scenario))).scenario
    assert again.to_dict() == scenario.to_dict()


@given(broken_specs())
def test_the_named_defect_is_the_one_that_is_found(broken: Broken) -> None:
    """The build reports no second defect."""
    with pytest.raises(PipelineDefinitionError) as caught:
        Pipeline("broken", broken.specs).build()
    assert {problem.code for problem in caught.value.problems} == {broken.defect}


class SmallEnough(BaseException):
    """Ends a search; an `Exception` would be one more failure to shrink."""


def shrinks(
    strategy: st.SearchStrategy[Any],
    wanted: Callable[[Any], bool],
    small: Callable[[Any], bool],
) -> bool:
    """Return whether Hypothesis makes something small of the first example that is wanted.

    What it does after that is its own: to shorten the last names takes most of the time.
    """

    def is_wanted(drawn: Any) -> bool:
        if wanted(drawn) and small(drawn):
            raise SmallEnough
        return wanted(drawn)

    try:
        print("shrinks only to", find(strategy, is_wanted, settings=QUIET))
    except SmallEnough:
        return True
    return False


def test_specs_shrink_to_the_stages_that_matter() -> None:
    """A dependency needs two stages, a chain of three needs three, and names get short."""

    def are_plain(specs: list[StageSpec]) -> bool:
        short = len(specs) == 2 and sum(len(spec.name) for spec in specs) <= 3
        return short and all(not s.outputs and s.runner == ScriptedStage() for s in specs)

    assert shrinks(stage_specs(), lambda specs: any(s.dependencies for s in specs), are_plain)

    def has_chain(specs: list[StageSpec]) -> bool:
        before = {spec.name: spec.dependencies for spec in specs}
        return any(before[middle] for names in before.values() for middle in names)

    assert shrinks(stage_specs(), has_chain, lambda specs: len(specs) == 3)


@pytest.mark.parametrize(
    ("strategy", "wanted", "size"),
    [
        (pipelines(), lambda drawn: len(drawn.stages) > 0, lambda drawn: len(drawn.stages)),
        (open_pipelines(), lambda drawn: len(drawn.stages) > 0, lambda drawn: len(drawn.stages)),
        (
            pipeline_pairs(),
            lambda pair: any(s.dependencies for s in pair[0].stages),
            lambda pair: len(pair[0].stages) - 1,
        ),
        (context_bags(), lambda bag: len(bag) > 0, len),
        (fault_plans(), lambda plan: bool(plan.faults), lambda plan: len(plan.faults)),
        (scenarios(), lambda scenario: scenario.switches > 0, lambda found: found.switches),
        (
            stage_specs(endings=("ok", "fail", "raise")),
            lambda specs: any(spec.runner.ending == "raise" for spec in specs),
            len,
        ),
    ],
    ids=["pipelines", "open", "pairs", "bags", "faults", "scenarios", "specs"],
)
def test_what_is_drawn_shrinks_to_one(
    strategy: st.SearchStrategy[Any],
    wanted: Callable[[Any], bool],
    size: Callable[[Any], int],
) -> None:
    """Where one of something is enough, one is left."""
    assert shrinks(strategy, wanted, lambda drawn: size(drawn) == 1)


def ends(run: RecordedRun) -> set[str]:
    """How the stages of a run ended."""
    return {event.what for event in run.events if event.stage}


@pytest.mark.parametrize(
    "wanted",
    [
        lambda run: "failed" in ends(run),
        lambda run: "skipped" in ends(run),
        lambda run: "cancelled" in ends(run),
        lambda run: "failed" in ends(run) and run.result.status == "completed",
        lambda run: any(e.data.get("error_code") == "stage_timeout" for e in run.events),
        lambda run: "deadline" in str(run.result.error),
    ],
    ids=["failed", "skipped", "cancelled", "optional failed", "timed out", "deadline"],
)
def test_a_run_shrinks_to_the_stage_that_matters(wanted: Callable[[RecordedRun], bool]) -> None:
    """A stage's failure shrinks to a run with this stage alone."""
    assert shrinks(
        event_sequences(),
        wanted,
        lambda run: [spec.dependencies for spec in run.pipeline.stages] == [()],
    )


def test_a_scenario_shrinks_to_a_calm_one() -> None:
    """No fault, no cancellation, no switch, unless they matter."""
    drawn = scenarios(providers=PROVIDERS, max_steps=50)
    assert shrinks(drawn, lambda _: True, lambda found: found == Scenario(seed=0, switches=0))


def test_the_same_seed_draws_the_same_runs() -> None:
    """Ids, time stamps and orders included: a failure that was seen once can be seen again."""

    def drawn() -> list[tuple[Event, ...]]:
        seen: list[tuple[Event, ...]] = []

        @settings(database=None, max_examples=30, derandomize=True, phases=[Phase.generate])
        @given(event_sequences())
        def collect(run: RecordedRun) -> None:
            seen.append(run.events)

        collect()
        return seen

    first, second = drawn(), drawn()
    assert first == second
    stamps = {event.timestamp for events in first for event in events}
    assert min(stamps) >= dt.datetime(2001, 9, 9, tzinfo=dt.UTC)


@given(st.sets(stage_names(), max_size=20))
def test_every_drawn_name_names_a_stage(names: set[str]) -> None:
    """A pipeline takes it."""
    Pipeline("named", [StageSpec(name, do_nothing) for name in sorted(names)]).build()


STRATEGIES = [name for name in strategies.__all__ if name.islower()]


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_strategy_needs_no_argument(name: str) -> None:
    """Called bare, each draws something."""
    seen: list[object] = []

    @settings(database=None, max_examples=3)
    @given(getattr(strategies, name)())
    def draws(drawn: object) -> None:
        seen.append(drawn)

    draws()
    assert seen


@settings(max_examples=20)
@given(event_sequences())
def test_a_recorded_run_is_the_sequence_of_its_events(run: RecordedRun) -> None:
    """Length, indices from both ends, slices, iteration and membership are those of the events."""
    assert [run[i].sequence for i in range(len(run))] == list(range(1, len(run) + 1))
    assert tuple(run) == run.events == run[:]
    assert (run[-1], run[1:-1]) == (run.events[-1], run.events[1:-1])
    assert tuple(reversed(run)) == run.events[::-1]
    assert run[0] in run
    assert run.index(run[1]) == 1


@given(st.data())
def test_dependencies_are_valid_names_none_twice(data: st.DataObject) -> None:
    """Without candidates they are any names, and else some of these, whatever holds them."""
    bare = data.draw(dependencies())
    Pipeline("named", [StageSpec(name, do_nothing) for name in bare]).build()
    for candidates in (["a", "b", "a"], {"a", "b"}, (letter for letter in "ab"), {"a": 1, "b": 2}):
        drawn = data.draw(dependencies(candidates))
        assert len(set(drawn)) == len(drawn)
        assert set(drawn) <= {"a", "b"}


@pytest.mark.parametrize(
    ("strategy", "only"),
    [
        (dependencies([]), ()),
        (stage_specs(min_size=0, max_size=0), []),
        (fault_plans(providers=()), FaultPlan()),
        (fault_plans(max_size=0), FaultPlan()),
        (pipelines(max_size=0).map(lambda pipeline: pipeline.stages), ()),
        (scenarios(max_steps=0).map(lambda scenario: scenario.cancel_at_step), None),
    ],
)
def test_what_can_be_nothing_is(strategy: st.SearchStrategy[Any], only: object) -> None:
    """With nothing to choose from, the one value that is left is drawn."""

    @settings(database=None, max_examples=10)
    @given(strategy)
    def draws(drawn: object) -> None:
        assert drawn == only

    draws()


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: dependencies("stt"), "candidates='stt' is one string: give a list"),
        (lambda: fault_plans(providers="llm"), "providers='llm' is one string: give a list"),
        (lambda: scenarios(providers="llm"), "providers='llm' is one string: give a list"),
        (lambda: stage_specs(endings="ok"), "endings='ok' is one string: give a list"),
        (lambda: stage_specs(endings=["okay"]), "give 'ok', 'raise', 'fail' or 'skip'"),
        (lambda: stage_specs(endings=[]), "give 'ok', 'raise', 'fail' or 'skip'"),
    ],
)
def test_a_wrong_argument_is_refused_at_once(call: Callable[[], object], told: str) -> None:
    """A string is a sequence of letters, which nobody means."""
    with pytest.raises(InvalidArgument, match=told):
        call()
