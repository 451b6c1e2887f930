"""The onion around a stage: its order, its pairs, and what happens when a layer raises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial
from typing import Any

import pytest

from stageflow import (
    Interceptor,
    Pipeline,
    PipelineContext,
    RunResult,
    StageContext,
    StageOutput,
    StageSpec,
    StageStatus,
)
from stageflow.engine.interceptor import fold
from stageflow.errors import InvalidConfigError, StageTimeoutError
from stageflow.interceptors import CallNext
from stageflow.testing import ScriptedError, do_nothing
from tests.utils.errors import code_of
from tests.utils.factories import chain, make_pipeline, make_spec
from tests.utils.virtual_time import run_virtual


class Journal:
    """The calls that the interceptors of one test saw, in order."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def observer(self, name: str, *, raising: str = "") -> Interceptor:
        """One that only observes; `raising` names the hook that raises after taking its note."""
        note = self._note

        class Observer(Interceptor):
            def before(self, ctx: StageContext, /) -> None:
                note(name, "before", raising)

            def after(self, ctx: StageContext, output: StageOutput, /) -> None:
                note(name, "after", raising)

            def failed(self, ctx: StageContext, error: BaseException, /) -> None:
                note(name, f"failed({type(error).__name__})", raising)

        return Observer()

    def wrapper(self, name: str, *, raising: str = "", swallows: bool = False) -> Interceptor:
        """One that only wraps."""
        note = self._note

        class Wrapper(Interceptor):
            async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
                note(name, "enter", raising)
                try:
                    output = await call_next(ctx)
                except Exception as error:
                    note(name, f"caught({type(error).__name__})", raising)
                    if not swallows:
                        raise
                    return StageOutput.skip("swallowed")
                note(name, "leave", raising)
                return output

        return Wrapper()

    def both(self, name: str) -> Interceptor:
        """One that observes and wraps."""
        observer, wrapper = self.observer(name), self.wrapper(name)

        class Both(Interceptor):
            before = staticmethod(observer.before)
            after = staticmethod(observer.after)
            failed = staticmethod(observer.failed)
            around = staticmethod(wrapper.around)

        return Both()

    def _note(self, name: str, what: str, raising: str) -> None:
        self.lines.append(f"{name}.{what}")
        if raising and what.startswith(raising):
            raise ScriptedError(f"{name}.{what} raises")


def run(spec: StageSpec, interceptors: Sequence[Interceptor], **context: Any) -> RunResult:
    """Run one stage with these interceptors around it, the outermost first."""
    pipeline = make_pipeline(spec)
    return run_virtual(lambda: pipeline.run(PipelineContext(**context), interceptors=interceptors))


@pytest.fixture
def journal() -> Journal:
    return Journal()


def test_the_first_interceptor_is_the_outermost(journal: Journal) -> None:
    """Its before comes first, its after last."""
    result = run(make_spec("a"), [journal.observer(name) for name in "123"])
    assert journal.lines == [
        "1.before", "2.before", "3.before", "3.after", "2.after", "1.after",
    ]  # fmt: skip
    assert result.status == "completed"


def test_a_failure_unwinds_from_the_inside_out(journal: Journal) -> None:
    """Each one that was entered sees the stage's exception."""
    result = run(make_spec("a", ending="raise"), [journal.observer(name) for name in "12"])
    assert journal.lines == [
        "1.before", "2.before", "2.failed(ScriptedError)", "1.failed(ScriptedError)",
    ]  # fmt: skip
    assert result.error == "stage 'a': ScriptedError: a raises as its script says"


def test_observers_and_wrappers_keep_their_places(journal: Journal) -> None:
    """In any mix, the order is that of the list; `before` precedes the same one's `around`."""
    run(
        make_spec("a"),
        [journal.observer("1"), journal.wrapper("2"), journal.both("3"), journal.observer("4")],
    )
    assert journal.lines == [
        "1.before", "2.enter", "3.before", "3.enter", "4.before",
        "4.after", "3.leave", "3.after", "2.leave", "1.after",
    ]  # fmt: skip


def test_a_wrapper_that_swallows_a_failure_spares_those_outside_of_it(journal: Journal) -> None:
    """Inside it the stage has failed, outside it has not."""
    result = run(
        make_spec("a", ending="raise"),
        [journal.observer("1"), journal.wrapper("2", swallows=True), journal.observer("3")],
    )
    assert journal.lines == [
        "1.before", "2.enter", "3.before",
        "3.failed(ScriptedError)", "2.caught(ScriptedError)", "1.after",
    ]  # fmt: skip
    assert result.stages["a"].status is StageStatus.SKIPPED


@pytest.mark.parametrize(
    ("raising", "lines"),
    [
        # What is inside of a before that raised is never entered, and it has no pair itself.
        ("before", ["1.before", "2.before", "1.failed(ScriptedError)"]),
        # After raised: its own hook is done; those outside see the failure.
        (
            "after",
            ["1.before", "2.before", "3.before", "3.after", "2.after", "1.failed(ScriptedError)"],
        ),
    ],
)
def test_a_hook_that_raises_fails_the_stage(
    journal: Journal, raising: str, lines: list[str]
) -> None:
    """Those that were entered and not yet left learn of it, once each."""
    result = run(
        make_spec("a"),
        [journal.observer("1"), journal.observer("2", raising=raising), journal.observer("3")],
    )
    assert journal.lines == lines
    assert result.status == "failed"
    assert result.error is not None
    assert f"2.{raising} raises" in result.error


def test_a_hook_that_raises_in_failed_does_not_stop_the_others(
    journal: Journal,
) -> None:
    """Its error goes on in place of the first, with the first as its cause."""
    result = run(
        make_spec("a", ending="raise"),
        [journal.observer("1"), journal.observer("2", raising="failed"), journal.observer("3")],
    )
    assert journal.lines[3:] == [
        "3.failed(ScriptedError)", "2.failed(ScriptedError)", "1.failed(ScriptedError)",
    ]  # fmt: skip
    assert result.failure is not None
    cause = result.failure.__cause__
    assert str(cause) == "2.failed(ScriptedError) raises"
    assert str(getattr(cause, "__cause__", None)) == "a raises as its script says"


@pytest.mark.parametrize("raising", ["enter", "leave"])
def test_a_wrapper_that_raises_fails_the_stage(journal: Journal, raising: str) -> None:
    """Whether before or after the stage ran."""
    result = run(make_spec("a"), [journal.observer("1"), journal.wrapper("2", raising=raising)])
    assert journal.lines[-1] == "1.failed(ScriptedError)"
    assert result.error == f"stage 'a': ScriptedError: 2.{raising} raises"


@pytest.mark.simulate(order="asyncio")
async def test_a_cancelled_stage_reaches_its_observers_as_such(journal: Journal) -> None:
    """They learn of it as CancelledError, so that they can tell it from a failure."""
    pipeline = make_pipeline(
        make_spec("slow", pauses_s=(9.0,)), make_spec("broken", pauses_s=(1.0,), ending="raise")
    )

    class OnlySlow(Interceptor):
        def applies_to(self, spec: StageSpec) -> bool:
            return spec.name == "slow"

        def failed(self, ctx: StageContext, error: BaseException, /) -> None:
            journal.lines.append(type(error).__name__)

    await pipeline.run(interceptors=[OnlySlow()])
    assert journal.lines == ["CancelledError"]


@pytest.mark.parametrize("layers", ["observer", "two observers", "around", "inner around"])
@pytest.mark.parametrize("ending", ["returns", "raises"])
def test_a_stage_that_swallows_its_timeout_has_failed_for_every_interceptor(
    journal: Journal, layers: str, ending: str
) -> None:
    """As it has for the run: `after` is not called, and an ``around`` gets the timeout."""

    async def stubborn(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(9.0)
        except asyncio.CancelledError:
            if ending == "raises":
                raise ScriptedError("late") from None
        return StageOutput.ok()

    inner = journal.wrapper("2", swallows=True)
    around = {
        "observer": [journal.observer("1")],
        "two observers": [journal.observer("1"), journal.observer("2")],
        "around": [journal.wrapper("1")],
        "inner around": [journal.observer("1"), inner],
    }[layers]
    result = run(StageSpec("a", stubborn, timeout_s=1.0), around)
    assert isinstance(result.failure, StageTimeoutError)
    assert journal.lines[-1] in ("1.failed(StageTimeoutError)", *_CAUGHT)
    assert not [line for line in journal.lines if line.endswith(("after", "leave"))]


#: What a wrapper sees of a stage that is late: the timeout, or the error that the stage raised.
_CAUGHT = ("1.caught(StageTimeoutError)", "1.caught(ScriptedError)")


@pytest.mark.parametrize("hook", ["applies_to", "before", "after", "failed"])
def test_an_async_hook_is_refused(hook: str) -> None:
    """Nobody would await it; also one that is an async generator, or a callable object."""

    async def hooked(*_: object) -> None: ...

    async def yielding(*_: object) -> AsyncIterator[None]:
        yield None

    class Callable:
        async def __call__(self, *_: object) -> None: ...

    for function in (hooked, yielding, Callable(), staticmethod(partial(hooked))):
        interceptor: Any = type("Odd", (Interceptor,), {hook: function})()
        with pytest.raises(InvalidConfigError, match=f"interceptor Odd: {hook} .*def {hook}'"):
            make_pipeline(make_spec("a")).stage("a", interceptors=[interceptor])


@pytest.mark.simulate(order="asyncio")
async def test_an_interceptor_stands_only_where_it_applies() -> None:
    """It is asked once for each stage, when the graph is bound."""
    asked: list[str] = []
    seen: list[str] = []

    class Picky(Interceptor):
        def applies_to(self, spec: StageSpec) -> bool:
            asked.append(spec.name)
            return spec.name == "s1"

        def before(self, ctx: StageContext, /) -> None:
            seen.append(ctx.name)

    await chain(3).run(interceptors=[Picky()])
    assert (asked, seen) == (["s0", "s1", "s2"], ["s1"])


def test_without_interceptors_there_is_no_layer() -> None:
    """The engine calls the stage's own function; one that applies nowhere changes nothing."""

    class Nowhere(Interceptor):
        def applies_to(self, spec: StageSpec) -> bool:
            return False

        def before(self, ctx: StageContext, /) -> None:
            raise AssertionError("called where it does not apply")

    spec = StageSpec("a", do_nothing)
    assert fold(spec, []) is do_nothing
    assert fold(spec, [Nowhere()]) is do_nothing


def test_an_interceptor_that_overrides_nothing_changes_nothing() -> None:
    """The base lets everything through."""
    result = run(make_spec("a", outputs=("x",)), [Interceptor(), Interceptor()])
    assert result.outputs == {"x": "x by a"}
    assert repr(Interceptor()) == "Interceptor()"


class Polite(Interceptor):
    """Overrides every hook, and calls the base's as subclasses do."""

    def before(self, ctx: StageContext, /) -> None:
        super().before(ctx)

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        super().after(ctx, output)

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        super().failed(ctx, error)

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        return await super().around(ctx, call_next)


@pytest.mark.parametrize("ending", ["ok", "raise"])
def test_the_hooks_of_the_base_can_be_called(ending: str) -> None:
    """A subclass that calls them meets nothing unexpected."""
    spec = make_spec("a", ending=ending, outputs=("x",))
    plain, polite = run(spec, []), run(spec, [Polite()])
    assert (polite.status, polite.outputs) == (plain.status, plain.outputs)


class AfterOnly(Interceptor):
    def __init__(self) -> None:
        self.outputs: list[StageOutput] = []

    def after(self, ctx: StageContext, output: StageOutput, /) -> None:
        self.outputs.append(output)


class FailedOnly(Interceptor):
    def __init__(self) -> None:
        self.errors: list[BaseException] = []

    def failed(self, ctx: StageContext, error: BaseException, /) -> None:
        self.errors.append(error)


def test_an_observer_may_have_any_of_the_hooks() -> None:
    """An observer of ends only, or of failures only, gets just these calls."""
    after, failed = AfterOnly(), FailedOnly()
    run(make_spec("a", outputs=("x",)), [failed, after])
    assert (after.outputs, failed.errors) == ([StageOutput.ok(x="x by a")], [])
    run(make_spec("a", ending="raise"), [after, failed])
    assert len(after.outputs) == 1
    assert [type(error) for error in failed.errors] == [ScriptedError]


class Returning(Interceptor):
    def __init__(self, output: Any) -> None:
        self._output = output

    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        return self._output  # type: ignore[no-any-return]


async def returning_no_output(ctx: StageContext) -> StageOutput:
    return {"x": 1}  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("spec", "inside", "code"),
    [
        (make_spec("a", ending="fail"), [], "stage_failed"),
        (make_spec("a", pauses_s=(9.0,), timeout_s=1), [], "stage_timeout"),
        (StageSpec("a", returning_no_output), [], "invalid_output"),
        (make_spec("a"), [Returning(None)], "invalid_output"),
        (make_spec("a"), [Returning(StageOutput.fail("no"))], "stage_failed"),
    ],
    ids=["returned", "timeout", "no output", "no output of a wrapper", "returned by a wrapper"],
)
def test_however_a_stage_fails_interceptors_meet_an_exception(
    spec: StageSpec, inside: list[Interceptor], code: str
) -> None:
    """Of what it is, and never an invalid success, or the cancellation behind a timeout."""
    after, failed = AfterOnly(), FailedOnly()
    result = run(spec, [after, failed, *inside])
    assert after.outputs == []
    assert [code_of(error) for error in failed.errors] == [code]
    assert code_of(result.failure) == code


def test_a_wrapper_may_answer_in_the_stages_place() -> None:
    """The stage then does not run at all, and its declared outputs are still checked."""
    spec = make_spec("a", ending="raise", outputs=("x",))
    assert run(spec, [Returning(StageOutput.ok(x=5))]).outputs == {"x": 5}
    mismatch = run(spec, [Returning(StageOutput.ok(y=5))])
    assert mismatch.failure is not None
    assert mismatch.failure.code == "output_mismatch"


class Twice(Interceptor):
    async def around(self, ctx: StageContext, call_next: CallNext, /) -> StageOutput:
        try:
            return await call_next(ctx)
        except ScriptedError:
            return await call_next(ctx)


def test_a_wrapper_may_call_what_is_inside_again(journal: Journal) -> None:
    """The observers inside see both calls, each with its pair."""
    attempts: list[int] = []

    async def flaky(ctx: StageContext) -> StageOutput:
        attempts.append(1)
        if len(attempts) == 1:
            raise ScriptedError("first time")
        return StageOutput.ok()

    result = run(StageSpec("a", flaky), [journal.observer("1"), Twice(), journal.observer("2")])
    assert journal.lines == [
        "1.before", "2.before", "2.failed(ScriptedError)", "2.before", "2.after", "1.after",
    ]  # fmt: skip
    assert result.status == "completed"


@pytest.mark.simulate(order="asyncio")
async def test_one_instance_serves_stages_that_run_at_the_same_time() -> None:
    """Each execution's hooks come in its own order, interleaved or not."""
    lines: list[str] = []

    class Noting(Interceptor):
        def before(self, ctx: StageContext, /) -> None:
            lines.append(f"{ctx.name}.before")

        def after(self, ctx: StageContext, output: StageOutput, /) -> None:
            lines.append(f"{ctx.name}.after")

    pipeline = Pipeline("p", [make_spec(f"s{n}", pauses_s=(3.0 - n,)) for n in range(3)])
    await pipeline.run(interceptors=[Noting()])
    assert lines == ["s0.before", "s1.before", "s2.before", "s2.after", "s1.after", "s0.after"]
