"""Contexts: what a run and a stage can see, and where chance comes from."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import pytest

from stageflow import (
    LLM,
    Pipeline,
    PipelineContext,
    ProviderRegistry,
    RunStatus,
    StageContext,
    StageOutput,
    StageSpec,
    run_child,
)
from stageflow.dlq import InMemoryDeadLetterStore
from stageflow.engine import RunScope
from stageflow.errors import (
    AbsentInputError,
    InvalidContextError,
    StageDefectError,
    StageflowError,
    UnknownProviderError,
)
from stageflow.testing import do_nothing
from tests.utils.errors import raises_code
from tests.utils.factories import chain, make_pipeline, make_spec
from tests.utils.mocks import FakeDatabase
from tests.utils.virtual_time import run_virtual


def see(look: Any, ctx: PipelineContext | None = None, *, inputs: tuple[str, ...] = ()) -> Any:
    """Return the result of `look` inside a stage with these declared inputs."""
    seen: list[Any] = []

    async def execute(stage: StageContext) -> StageOutput:
        try:
            seen.append(look(stage))
        except StageflowError as error:
            seen.append(error)
        return StageOutput.ok()

    given = ctx if ctx is not None else PipelineContext()
    declared = [key for key in inputs if key in given.inputs]
    optional = [key for key in inputs if key not in given.inputs]
    absent = StageSpec("absent", do_nothing, outputs=tuple(optional), condition=lambda _: False)
    looker = StageSpec("looker", execute, ("absent",), inputs=inputs)
    run_virtual(lambda: Pipeline("p", [absent, looker], inputs=declared).run(given))
    return seen[0]


def test_a_context_keeps_its_own_read_only_copy_of_the_inputs() -> None:
    """Neither the caller's dict nor a stage can change what a run was given."""
    given = {"text": "hello"}
    ctx = PipelineContext(given)
    given["text"] = "changed"
    assert ctx.inputs == {"text": "hello"}
    with pytest.raises(TypeError):
        ctx.inputs["text"] = "changed"  # type: ignore[index]


def test_before_the_first_run_a_context_is_empty() -> None:
    """Everything that speaks of the latest run has an answer before there is one."""
    ctx = PipelineContext()
    assert ctx.status is RunStatus.CREATED
    assert (ctx.pipeline_run_id, ctx.correlation_id, ctx.parent_run_id) == (None, None, None)
    assert (ctx.parent, ctx.parent_stage_id) == (None, None)
    assert (dict(ctx.bag), ctx.get_events(), dict(ctx.parent_outputs)) == ({}, (), {})


@pytest.mark.simulate(order="asyncio")
async def test_each_run_of_a_context_has_an_id_a_bag_and_events_of_its_own() -> None:
    """A second run does not meet the first one's outputs."""
    ctx = PipelineContext()
    pipeline = chain(2)
    first = await pipeline.run(ctx)
    second = await pipeline.run(ctx)
    assert first.pipeline_run_id != second.pipeline_run_id == ctx.pipeline_run_id
    assert first.bag is not second.bag
    assert ctx.bag is second.bag
    assert ctx.get_events() == second.events
    assert ctx.status is RunStatus.COMPLETED


@pytest.mark.simulate(order="asyncio")
async def test_a_context_carries_one_run_at_a_time() -> None:
    """A second run at the same time is refused, naming the first; the first goes on."""
    ctx = PipelineContext()
    release = asyncio.Event()

    async def wait(stage: StageContext) -> StageOutput:
        await release.wait()
        return StageOutput.ok()

    first = asyncio.create_task(Pipeline("slow", [StageSpec("wait", wait)]).run(ctx))
    await asyncio.sleep(1)
    with raises_code("context_in_use", match=r"'chain'.*context of its own") as caught:
        await chain(1).run(ctx)
    assert caught.value.pipeline_run_id == ctx.pipeline_run_id
    assert ctx.status is RunStatus.RUNNING
    release.set()
    assert (await first).status is RunStatus.COMPLETED


def test_a_seed_makes_ids_repeat() -> None:
    """Equal seeds give equal ids in order, and different seeds different ones."""

    def ids(seed: int | None) -> list[str]:
        ctx = PipelineContext(seed=seed)
        return [ctx.new_id() for _ in range(3)]

    assert ids(7) == ids(7)
    assert len({*ids(7), *ids(8), *ids(None), *ids(None)}) == 12
    assert all(len(each) == 32 and int(each, 16) >= 0 for each in (*ids(7), *ids(None)))


@pytest.mark.simulate(order="asyncio")
async def test_the_correlation_id_is_given_or_the_first_runs_own() -> None:
    """A run of its own correlates with itself."""
    own, given = PipelineContext(), PipelineContext(correlation_id="call-5")
    await chain(1).run(own)
    await chain(1).run(given)
    assert own.correlation_id == own.pipeline_run_id
    assert given.correlation_id == "call-5"


@pytest.mark.simulate(order="asyncio")
async def test_the_wall_clock_is_read_once_a_run() -> None:
    """However many events a run has, their stamps come from one reading."""
    readings = iter([1_000.0])
    ctx = PipelineContext(wall_clock=lambda: next(readings))
    await chain(5).run(ctx)
    assert [event.timestamp.timestamp() for event in ctx.get_events()] == [1_000.0] * 12


def test_a_stage_reads_inputs_of_the_run() -> None:
    """Both forms of reading give the value that was passed in."""
    ctx = PipelineContext({"text": "hello"})
    assert see(lambda s: (s["text"], s.get("text")), ctx, inputs=("text",)) == ("hello", "hello")


@pytest.mark.parametrize("key", ["text", 5, []], ids=repr)
@pytest.mark.parametrize("look", [lambda s, key: s[key], lambda s, key: s.get(key, 5)])
def test_an_input_that_is_not_declared_cannot_be_read(look: Any, key: Any) -> None:
    """Not even with a default: a typo must not look like an absence. A key may be of any type."""
    error = see(lambda stage: look(stage, key), PipelineContext({"text": "hello"}))
    assert isinstance(error, StageDefectError)
    assert (error.code, error.keys) == ("undeclared_input", (key,))


def test_a_declared_input_that_nobody_provided_is_absent() -> None:
    """Reading it strictly raises and says how to read it; with a default it gives that."""
    error = see(lambda s: s["text"], inputs=("text",))
    assert isinstance(error, AbsentInputError)
    assert error.key == "text"
    assert "stage 'absent', which provides it, was skipped (its condition" in str(error)
    assert see(lambda s: (s.get("text"), s.get("text", 5)), inputs=("text",)) == (None, 5)


def test_a_stage_knows_where_it_is() -> None:
    """Names and ids are those of its run."""
    ctx = PipelineContext(correlation_id="call-5")
    seen = see(
        lambda s: (s.name, s.pipeline_name, s.pipeline_run_id, s.correlation_id, s.run is ctx), ctx
    )
    assert seen == ("looker", "p", ctx.pipeline_run_id, "call-5", True)


def test_a_stages_random_numbers_repeat_with_the_seed() -> None:
    """They depend on the run and the stage, not on who drew before."""

    def draw(seed: int) -> Any:
        def look(stage: StageContext) -> tuple[float, bool]:
            return stage.random.random(), stage.random is stage.random

        return see(look, PipelineContext(seed=seed))

    assert draw(7) == draw(7)
    assert draw(7)[1] is True
    assert draw(7)[0] != draw(8)[0]


def test_a_stage_knows_the_loops_time_and_what_is_left_of_the_deadline() -> None:
    """Time is the loop's, and without a deadline there is no remainder."""
    assert see(lambda s: (s.now(), s.started_at, s.remaining_s())) == (0.0, 0.0, None)
    assert see(lambda s: s.remaining_s(), PipelineContext(deadline_s=5)) == 5.0


@pytest.mark.simulate(order="asyncio")
async def test_what_is_left_of_the_deadline_goes_down() -> None:
    """A stage that starts after two seconds of five has three."""
    seen: list[float | None] = []

    async def look(ctx: StageContext) -> StageOutput:
        seen.append(ctx.remaining_s())
        return StageOutput.ok()

    pipeline = make_pipeline(make_spec("a", pauses_s=(2.0,)), StageSpec("b", look, ("a",)))
    await pipeline.run(PipelineContext(deadline_s=5))
    assert seen == [3.0]


class Everything:
    """A provider of every port."""

    async def complete(self, messages: object) -> str:
        return ""

    def stream(self, messages: object) -> None: ...

    async def transcribe(self, audio: object) -> str:
        return ""

    async def synthesize(self, text: str) -> None: ...


def test_a_stage_reaches_the_providers_of_its_run() -> None:
    """The ports by their names, others by name."""
    one, database, other = Everything(), FakeDatabase(), object()
    providers = ProviderRegistry(llm=one, stt=one, tts=one, db=database, other=other)
    seen = see(
        lambda s: (s.llm, s.stt, s.tts, s.db, s.provider("other")),
        PipelineContext(providers=providers),
    )
    assert seen == (one, one, one, database, other)


def test_a_provider_that_is_not_there_is_named() -> None:
    """The error says which name, and how to register one."""

    def look(stage: StageContext) -> LLM:
        return stage.llm

    error = see(look)
    assert isinstance(error, UnknownProviderError)
    assert error.name == "llm"


@pytest.mark.parametrize("what", ["started", "failed", "x.failed", "", "two words"])
@pytest.mark.simulate(order="asyncio")
async def test_a_stage_cannot_emit_what_looks_like_the_engines_own_events(what: str) -> None:
    """No event of a stage's own can be taken for a step of its life."""

    async def emitting(ctx: StageContext) -> StageOutput:
        ctx.emit(what)
        return StageOutput.ok()

    result = await Pipeline("p", [StageSpec("a", emitting)]).run()
    assert result.failure is not None
    assert result.failure.code == "invalid_context"
    assert [e.what for e in result.events if e.stage == "a"] == ["started", "failed"]


@pytest.mark.simulate(order="asyncio")
async def test_nothing_is_emitted_once_the_run_has_ended() -> None:
    """Its last event stays the last; a sink would take a later one for a run of its own."""

    async def later(ctx: StageContext) -> None:
        await asyncio.sleep(1)
        with pytest.raises(InvalidContextError, match="'cached' after its run had completed"):
            ctx.emit("cached")

    tasks: list[asyncio.Task[None]] = []

    async def starting(ctx: StageContext) -> StageOutput:
        tasks.append(asyncio.create_task(later(ctx)))
        return StageOutput.ok()

    result = await Pipeline("p", [StageSpec("a", starting)]).run()
    await asyncio.gather(*tasks)
    assert result.events[-1].type == "pipeline.completed"


@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_has_ended_does_nothing_more_in_its_run() -> None:
    """Though the run goes on: it emits nothing and starts no child run."""

    async def later(ctx: StageContext) -> None:
        ctx.emit("half_completed")
        await asyncio.sleep(1)
        with pytest.raises(InvalidContextError, match="'cached' after it had ended: let the stage"):
            ctx.emit("cached")
        with pytest.raises(InvalidContextError, match="started a child run after it had ended"):
            await run_child(ctx, Pipeline("child", []))

    tasks: list[asyncio.Task[None]] = []

    async def starting(ctx: StageContext) -> StageOutput:
        tasks.append(asyncio.create_task(later(ctx)))
        await asyncio.sleep(0)
        return StageOutput.ok()

    async def slow(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(2)
        return StageOutput.ok()

    result = await Pipeline("p", [StageSpec("a", starting), StageSpec("b", slow)]).run()
    await asyncio.gather(*tasks)
    words = [event.what for event in result.events if event.stage == "a"]
    assert words == ["started", "half_completed", "completed"]


@pytest.mark.simulate(order="asyncio")
async def test_a_stage_can_emit_events_of_its_own() -> None:
    """Its events are between its start and its end, with its data."""

    async def emitting(ctx: StageContext) -> StageOutput:
        ctx.emit("half_way", done=5)
        return StageOutput.ok()

    result = await Pipeline("p", [StageSpec("a", emitting)]).run()
    assert [e.type for e in result.events][1:4] == [
        "stage.a.started",
        "stage.a.half_way",
        "stage.a.completed",
    ]
    assert dict(result.events[2].data) == {"done": 5}


_LIMIT = "give a positive number of seconds, or None"


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"inputs": ["q"]}, "inputs is ['q']; give a mapping of keys to values"),
        ({"inputs": {5: 1}}, "the input 5 has no string as its key"),
        ({"providers": {}}, "providers is a dict; give ProviderRegistry(llm=…, …)"),
        ({"seed": [1]}, "seed is [1]; give an integer, or None"),
        ({"seed": True}, "seed is True; give an integer, or None"),
        *(
            ({"deadline_s": limit_s}, f"deadline_s is {limit_s!r}; {_LIMIT}")
            for limit_s in (0, -1, math.inf, math.nan, "5", True)
        ),
    ],
)
def test_a_context_refuses_by_naming_what_was_given(given: dict[str, Any], text: str) -> None:
    """When it is made, with the argument, its value, and what to give."""
    with pytest.raises(InvalidContextError) as caught:
        PipelineContext(**given)
    assert str(caught.value) == text


def test_a_status_reads_as_its_word() -> None:
    """In text and in JSON."""
    words = ["created", "running", "completed", "failed", "cancelled"]
    assert [str(status) for status in RunStatus] == words
    assert str(PipelineContext().status) == "created"


def test_the_error_of_a_word_that_cannot_be_emitted_lists_which_can() -> None:
    """The text names the stage, the word, and the words that are taken."""
    error = see(lambda s: s.emit("failed"))
    assert str(error) == (
        "stage 'looker' emitted 'failed': give a word of letters, digits and '_' other than"
        " started, cancelled, completed, failed, skipped,"
        " stream_opened, stream_first_item, stream_closed"
    )


ABSENT: list[tuple[str, list[tuple[str, dict[str, str]]], str]] = [
    ("given", [], "the run was started without it"),
    ("made", [], "stage 'maker', which provides it, has not run"),
    (
        "made",
        [("failed", {"error_message": "no luck", "reason": "-"})],
        "stage 'maker', which provides it, failed (no luck)",
    ),
    (
        "made",
        [("skipped", {"reason": "no need"})],
        "stage 'maker', which provides it, was skipped (no need)",
    ),
    (
        "made",
        [("started", {}), ("cancelled", {})],
        "stage 'maker', which provides it, was cancelled (no reason given)",
    ),
    (
        "made",
        [("skipped", {"reason": "no need"}), ("retrying", {"reason": "slow"})],
        "stage 'maker', which provides it, retrying (slow)",
    ),
]


@pytest.mark.simulate(order="asyncio")
async def test_an_absent_input_says_why_it_is() -> None:
    """From the last that the log knows of the stage that provides it, and of no other."""
    loop = asyncio.get_running_loop()
    for key, events, why in ABSENT:
        scope = RunScope(PipelineContext(), "p", loop, {"made": "maker", "other": "else"})
        for what, data in events:
            scope.log.append((f"stage.maker.{what}", 0.0, "maker", data))
        scope.log.append(("stage.else.failed", 0.0, "else", {"error_message": "not this"}))
        stage = StageContext(scope, "looker", frozenset({key}), 0.0)
        with pytest.raises(AbsentInputError) as caught:
            stage[key]
        assert str(caught.value) == (
            f"the input {key!r} is absent: {why}; read it with ctx.get({key!r}) and handle None"
        )


@pytest.mark.simulate(order="asyncio")
async def test_a_child_has_what_its_parent_hands_down() -> None:
    """Providers, clock and correlation; inputs and a limit of its own; no box for dead letters."""
    providers = ProviderRegistry(other=5)
    parent = PipelineContext(
        {"a": 1}, providers=providers, deadline_s=9, correlation_id="call-5",
        wall_clock=lambda: 1_000.0, dead_letters=InMemoryDeadLetterStore(),
    )  # fmt: skip
    scope = RunScope(parent, "p", asyncio.get_running_loop())
    child = parent.child({"b": 2}, parent=scope, stage="branch", deadline_s=3)
    assert (child.inputs, child.deadline_s, child.seed) == ({"b": 2}, 3, None)
    assert (child.providers, child.correlation_id) == (providers, "call-5")
    assert (child.parent, child.parent_stage_id) == (scope, "branch")
    assert (child.wall_clock(), child.dead_letters) == (1_000.0, None)


def test_a_seeded_parent_has_children_that_repeat_and_differ() -> None:
    """Each child has a seed of its own, drawn from the parent's."""

    def seeds(seed: int) -> list[int | None]:
        async def main() -> list[int | None]:
            parent = PipelineContext(seed=seed)
            scope = RunScope(parent, "p", asyncio.get_running_loop())
            return [parent.child({}, parent=scope, stage="branch").seed for _ in range(20)]

        return run_virtual(main)

    assert seeds(7) == seeds(7)
    assert len({*seeds(7), *seeds(8)}) == 40
    assert all(isinstance(one, int) and one < 2**64 for one in seeds(7))


@pytest.mark.parametrize(
    ("own_s", "parents_s", "until", "own_until"),
    [
        (None, None, None, None),
        (5, None, 5.0, 5.0),
        (None, 7, 7.0, None),
        (5, 7, 5.0, 5.0),
        (7, 7, 7.0, None),
        (9, 7, 7.0, None),
    ],
)
@pytest.mark.simulate(order="asyncio")
async def test_a_run_ends_by_the_earlier_of_its_own_limit_and_its_parents(
    own_s: float | None, parents_s: float | None, until: float | None, own_until: float | None
) -> None:
    """And keeps it itself only where the parent does not do so as early."""
    loop = asyncio.get_running_loop()
    parent = PipelineContext(deadline_s=parents_s)
    scope = RunScope(parent, "p", loop)
    context = parent.child({}, parent=scope, stage="branch", deadline_s=own_s)
    child = RunScope(context, "c", loop)
    assert (child.deadline, child.own_deadline) == (until, own_until)
