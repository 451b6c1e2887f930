"""`@skip_contract_tests` in a user's project: a marked stage is skipped, others are tested."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import pytest

from stageflow import Pipeline, StageContext, StageOutput, StageSpec, stage
from stageflow.testing import get_all_stages, overrides_contract, skip_contract_tests
from tests.utils.plugin_project import project, run_tests

pytest_plugins = ["pytester"]

__all__ = ["project"]

SHOP = """\
from stageflow import Pipeline, StageOutput, StageSpec, stage
from stageflow.testing.contracts import skip_contract_tests


@stage(inputs=["words"], outputs=["count"])
async def right(ctx):
    return StageOutput.ok(count=len(ctx["words"]))


@skip_contract_tests(reason="it needs the till")
@stage(inputs=["words"], outputs=["nothing"])
async def marked_spec(ctx):
    return StageOutput.ok()


@stage(inputs=["words"], outputs=["nothing2"])
@skip_contract_tests(reason="it needs the scales")
async def marked_function(ctx):
    return StageOutput.ok()


@skip_contract_tests(reason="it needs the drawer")
class Drawer:
    async def execute(self, ctx):
        return StageOutput.ok()


shop = Pipeline(
    "shop",
    [
        right,
        marked_spec,
        marked_function,
        StageSpec("drawer", Drawer(), inputs=("words",), outputs=("nothing3",)),
    ],
    inputs=["words"],
)
"""


def test_a_mark_below_the_decorator_is_found() -> None:
    """The runner of a function with parameters is not the function itself."""

    @stage
    @skip_contract_tests(reason="it needs the clerk")
    async def marked(words: list[str]) -> int:
        return len(words)

    (found,) = get_all_stages(Pipeline("p", [marked]))
    assert found.skipped == "it needs the clerk"


REASONS = ("it needs the till", "it needs the scales", "it needs the drawer")

#: The ways by which users have a contract test each stage.
WAYS = {
    "parametrize": """
@pytest.mark.parametrize("found", get_all_stages(shop), ids=str)
class TestStages(StageContractTest):
    @pytest.fixture(autouse=True)
    def _take(self, found):
        self.found = found

    def make_stage(self):
        return StageCase(self.found.pipeline, self.found.name, {"words": ["a"]})
""",
    "fixture": """
class TestStages(StageContractTest):
    @pytest.fixture(params=get_all_stages(shop), ids=str, autouse=True)
    def _take(self, request):
        self.found = request.param

    def make_stage(self):
        return StageCase(self.found.pipeline, self.found.name, {"words": ["a"]})
""",
    "inputs of tested stages only": """
@pytest.fixture(params=get_all_stages(shop), ids=str)
def found(request):
    return request.param


@pytest.fixture
def inputs(found):
    return {"right": {"words": ["a"]}}[found.name]


class TestStages(StageContractTest):
    @pytest.fixture(autouse=True)
    def _take(self, found, inputs):
        self.found, self.inputs = found, inputs

    def make_stage(self):
        return StageCase(self.found.pipeline, self.found.name, self.inputs)
""",
    "module": """
import shop as module


@pytest.mark.parametrize("found", get_all_stages(module), ids=str)
class TestStages(StageContractTest):
    @pytest.fixture(autouse=True)
    def _take(self, found):
        self.found = found

    def make_stage(self):
        return StageCase(self.found.pipeline, self.found.name, {"words": ["a"]})
""",
    "by name": """
class Named:
    def make_stage(self):
        return StageCase(shop, self.name, {"words": ["a"]})


class TestRight(Named, StageContractTest):
    name = "right"


class TestMarked(Named, StageContractTest):
    name = "marked_spec"


class TestReal(TestMarked):
    real_io = True
    name = "marked_function"


class TestDrawer(StageContractTest):
    def make_stage(self):
        return StageCase(shop, "drawer", {"words": ["a"]})
""",
}

HEAD = """\
import pytest
from shop import shop

from stageflow.testing.contracts import StageCase, StageContractTest, get_all_stages
"""


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_marked_stage_is_skipped_with_its_reason(project: pytest.Pytester, way: str) -> None:
    """Its tests do not run, however it is handed over; those of other stages do."""
    project.makepyfile(shop=SHOP)
    result = run_tests(project, HEAD + way, "-rs")
    outcomes = result.parseoutcomes()
    tests = outcomes["passed"]
    assert tests >= 15
    assert outcomes == {"passed": tests, "skipped": 3 * tests}
    result.stdout.fnmatch_lines_random([f"SKIPPED*: {reason}" for reason in REASONS])


def test_a_stage_without_the_mark_is_tested(project: pytest.Pytester) -> None:
    """The same stages fail the contract once their marks are gone."""
    lines = [line for line in SHOP.splitlines() if not line.startswith("@skip")]
    project.makepyfile(shop="\n".join(lines))
    outcomes = run_tests(project, HEAD + WAYS["parametrize"]).parseoutcomes()
    assert outcomes["failed"] >= 9
    assert "skipped" not in outcomes


def test_a_test_that_is_not_of_a_contract_keeps_its_marked_stages(
    project: pytest.Pytester,
) -> None:
    """The mark says nothing about other tests that are parametrised by stages."""
    project.makepyfile(shop=SHOP)
    tests = """
@pytest.mark.parametrize("found", get_all_stages(shop), ids=str)
def test_each_stage_has_a_name(found):
    assert found.name
"""
    assert run_tests(project, HEAD + tests).parseoutcomes() == {"passed": 4}


@pytest.mark.parametrize("decorator", [skip_contract_tests, overrides_contract])
def test_a_decorator_without_parentheses_says_how_to_write_it(decorator: Any) -> None:
    """Bare, or with a positional reason, it is a TypeError that shows the right form."""
    name = decorator.__name__
    with pytest.raises(TypeError, match=rf'write @{name}\(reason="…"\)'):
        decorator(lambda ctx: None)

    with pytest.raises(TypeError, match=rf'write @{name}\(reason="…"\)'):
        decorator("it needs the till")
    for reason in ({}, {"reason": ""}, {"reason": " \n"}):
        with pytest.raises(ValueError, match=rf'say why: @{name}\(reason="…"\)'):
            decorator(**reason)


@pytest.mark.parametrize("marked", ["class", "base", "mixin"])
def test_a_marked_test_class_is_skipped(project: pytest.Pytester, marked: str) -> None:
    """With its reason, wherever the mark is among its bases; other classes are tested."""
    mark = '@skip_contract_tests(reason="no till here")'
    lines = [f"{mark if marked == name else ''}\n{line}" for name, line in CLASSES.items()]
    project.makepyfile(shop=SHOP)
    head = HEAD + "from stageflow.testing.contracts import skip_contract_tests\n"
    result = run_tests(project, head + "\n".join(lines), "-rs", "-k", "TestLast or TestOther")
    tests = result.parseoutcomes()["passed"]
    assert result.parseoutcomes()["skipped"] == tests >= 15
    result.stdout.fnmatch_lines(["SKIPPED*: no till here"])


CLASSES = {
    "mixin": """\
class Right:
    def make_stage(self):
        return StageCase(shop, "right", {"words": ["a"]})
""",
    "base": """\
class TestBase(Right, StageContractTest):
    pass
""",
    "class": """\
class TestLast(TestBase):
    pass
""",
    "other": """\
class TestOther(StageContractTest):
    def make_stage(self):
        return StageCase(shop, "right", {"words": ["a"]})
""",
}


class Till:
    async def ring(self, ctx: StageContext) -> StageOutput:
        return StageOutput.ok(rung=True)


def test_only_the_marked_spec_is_skipped() -> None:
    """Not another stage of the same function; a spec can mark a method, and still runs it."""
    till = Till()
    first, second = (StageSpec(name, till.ring, outputs=("rung",)) for name in ("first", "second"))
    marked = skip_contract_tests(reason="it needs the till")(first)
    found = get_all_stages(Pipeline("a", [marked]), Pipeline("b", [second]))
    assert [stage.skipped for stage in found] == ["it needs the till", None]
    result = asyncio.run(Pipeline("a", [marked]).run())
    assert result.outputs == {"rung": True}


@pytest.mark.parametrize("marked", [Pipeline("p", []), 7, "stage", sys], ids=repr)
def test_what_is_not_a_stage_cannot_be_marked(marked: Any) -> None:
    """A mark that nobody reads would skip nothing."""
    with pytest.raises(TypeError, match="is not a stage; mark a StageSpec, its runner, or a test"):
        skip_contract_tests(reason="it needs the till")(marked)


def test_a_method_cannot_carry_a_mark() -> None:
    """The error says what can."""
    with pytest.raises(TypeError, match="cannot carry a mark; mark the StageSpec"):
        skip_contract_tests(reason="it needs the till")(Till().ring)
