"""The laws of composition, also for open pipelines, and for those that conflict."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import event, given

from stageflow import ComposeConflictError, Pipeline, PipelineDefinitionError, StageSpec
from tests.property.strategies import open_pipelines, pipeline_pairs, pipelines

pytestmark = pytest.mark.untraced


def attempt(compose: Callable[[], Pipeline]) -> Pipeline | None:
    """Return the composition; None if it is refused."""
    try:
        return compose()
    except (ComposeConflictError, PipelineDefinitionError) as error:
        event(type(error).__name__)
        return None


@given(pipelines(), pipelines(), pipelines())
def test_composition_is_associative(a: Pipeline, b: Pipeline, c: Pipeline) -> None:
    """Either grouping gives the same pipeline, and it builds."""
    left = a.compose(b).compose(c)
    assert left == a.compose(b.compose(c))
    assert len(left.build()) == len({spec.name for p in (a, b, c) for spec in p.stages})


@given(open_pipelines(), open_pipelines(), open_pipelines())
def test_composition_is_associative_also_in_its_refusals(
    a: Pipeline, b: Pipeline, c: Pipeline
) -> None:
    """Both groupings are refused, or both give the same."""
    left = attempt(lambda: a.compose(b).compose(c))
    right = attempt(lambda: a.compose(b.compose(c)))
    event("refused" if left is None else "composed")
    assert left == right


@given(pipelines())
def test_composing_a_pipeline_with_itself_changes_nothing(a: Pipeline) -> None:
    """Idempotent, in name, stages, their order, and inputs."""
    assert a.compose(a) == a


@given(open_pipelines())
def test_composing_an_open_pipeline_with_itself_changes_nothing(a: Pipeline) -> None:
    """It stays as open as it was."""
    assert a.compose(a) == a


@given(pipelines())
def test_the_empty_pipeline_adds_nothing(a: Pipeline) -> None:
    """It is neutral on the right; on the left it gives its name."""
    empty = Pipeline("empty", [])
    assert a.compose(empty) == a
    assert empty.compose(a) == Pipeline("empty", a.stages, inputs=a.inputs)


@given(open_pipelines(), open_pipelines())
def test_composition_keeps_all_stages_of_both_or_is_refused_with_cause(
    a: Pipeline, b: Pipeline
) -> None:
    """Each stage of either is there; a conflict is reported exactly when there is one."""
    own = {spec.name: spec for spec in a.stages}
    other = {spec.name: spec for spec in b.stages}
    conflicts = [name for name in other if name in own and own[name] != other[name]]
    if conflicts:
        with pytest.raises(ComposeConflictError) as caught:
            a.compose(b)
        assert list(caught.value.stages) == conflicts
        assert (caught.value.left, caught.value.right) == (a.name, b.name)
    elif (both := attempt(lambda: a.compose(b))) is not None:
        assert both.name == a.name
        assert both.stages[: len(a.stages)] == a.stages
        assert {spec.name: spec for spec in both.stages} == own | other
        assert set(both.inputs) == {*a.inputs, *b.inputs}


@given(open_pipelines(), open_pipelines())
def test_a_refusal_does_not_depend_on_the_side(a: Pipeline, b: Pipeline) -> None:
    """A composition that is refused one way is refused the other way."""
    there, back = attempt(lambda: a.compose(b)), attempt(lambda: b.compose(a))
    assert (there is None) is (back is None)
    if there is not None and back is not None:
        by_name: Callable[[StageSpec], str] = lambda spec: spec.name  # noqa: E731
        assert sorted(there.stages, key=by_name) == sorted(back.stages, key=by_name)


@given(pipeline_pairs())
def test_two_parts_of_one_pipeline_compose_to_what_builds(
    pair: tuple[Pipeline, Pipeline],
) -> None:
    """However its stages were shared out, and whatever was missing in either part."""
    left, right = pair
    whole = left.compose(right).build()
    assert set(whole.specs) == {*left.stages, *right.stages}
    assert not whole.has_cycles()
