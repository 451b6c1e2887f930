"""Which runs leave a dead letter, what it holds, and what happens when the store fails."""

from __future__ import annotations

import asyncio
import logging
from functools import partial

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    StageContext,
    StageOutput,
    StageSpec,
    StageStatus,
    run_child,
    stage,
)
from stageflow import errors as err
from stageflow.dlq import DeadLetter, DeadLetterState, InMemoryDeadLetterStore, replay
from tests.utils.dead_letters import NOON
from tests.utils.driving import cleaning_up_for
from tests.utils.errors import code_of
from tests.utils.shop import BROKE, Shop, context
from tests.utils.virtual_time import run_virtual


def entry(ctx: PipelineContext) -> DeadLetter | None:
    return ctx.dlq_entry


@pytest.mark.simulate(order="asyncio")
async def test_a_run_that_fails_for_good_leaves_a_letter() -> None:
    """Before run() returns, the store holds who, what, why, and all that was finished."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    shop.failing = {"pay": BROKE, "taste": ValueError("bitter")}
    ctx = context(deadline_s=9.0, correlation_id="c-1")
    result = await shop.orchestrator(store).run(ctx)
    (letter,) = await store.letters()
    assert ctx.dlq_entry == letter
    assert result.dead_letter_error is None
    assert (letter.pipeline, letter.failed_stage) == ("shop", "pay")
    assert letter.pipeline_run_id == result.pipeline_run_id
    assert (letter.correlation_id, letter.seed, letter.deadline_s) == ("c-1", 7, 9.0)
    assert letter.created_at == result.events[-1].timestamp
    error = letter.error
    assert (error.code, error.category, error.message) == (
        "stage_failed",
        "permanent",
        "no money",
    )
    assert (error.user_message, error.provider) == (BROKE.user_message, "bank")
    assert error.retryable is False
    assert letter.inputs == {"items": ["tea"]}
    assert letter.outputs == {"picked": ("tea", b"\0")}
    assert letter.events == result.events
    assert {name: (str(r.ending), r.final) for name, r in letter.stages.items()} == {
        "pick": ("completed", True),
        "taste": ("failed", True),
        "quote": ("skipped", True),
        "pay": ("failed", False),
        "ship": ("skipped", False),
    }
    assert letter.stages["quote"].reason == "no discount today"
    assert letter.stages["pay"].reason == "no money"
    assert letter.stages["taste"].reason == "ValueError: bitter"
    assert letter.state is DeadLetterState.WAITING


@pytest.mark.simulate(order="asyncio")
async def test_the_context_alone_can_name_the_store() -> None:
    """Pipeline.run() with a context that has a letter box keeps the letter there."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    shop.failing = {"pick": BROKE}
    ctx = context(dead_letters=store)
    await shop.pipeline.run(ctx)
    assert [ctx.dlq_entry] == list(await store.letters())


@pytest.mark.simulate(order="asyncio")
async def test_the_entry_is_that_of_the_latest_run() -> None:
    """None before a run, set by a failure, None again from the start of the next run on."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    orchestrator, ctx = shop.orchestrator(store), context()
    assert entry(ctx) is None
    shop.failing = {"pay": BROKE}
    await orchestrator.run(ctx)
    assert entry(ctx) is not None
    shop.failing = {}
    running = asyncio.ensure_future(orchestrator.run(ctx))
    await asyncio.sleep(0.01)
    assert entry(ctx) is None
    assert (await running).failure is None
    assert entry(ctx) is None
    assert len(await store.letters()) == 1


class Refused(err.StageError):
    code = "refused_on_purpose"
    category = err.ErrorCategory.POLICY


@pytest.mark.parametrize(
    ("error", "kept"),
    [
        (BROKE, True),
        (TimeoutError("slow"), True),
        (ValueError("bug"), True),
        (OSError(28, "disk full"), True),
        (Refused("no"), False),
    ],
    ids=["permanent", "transient", "logic", "systemic", "policy"],
)
@pytest.mark.simulate(order="asyncio")
async def test_every_failure_but_a_refusal_leaves_a_letter(error: Exception, kept: bool) -> None:
    """A refusal on purpose is not a failure, and needs no replay."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    shop.failing = {"pay": error}
    ctx = context()
    await shop.orchestrator(store).run(ctx)
    assert (ctx.dlq_entry is not None, len(await store.letters())) == (kept, int(kept))


@pytest.mark.simulate(order="asyncio")
async def test_a_cancelled_run_and_a_completed_one_leave_none() -> None:
    """Only failures leave letters."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    orchestrator, ctx = shop.orchestrator(store), context()
    running = asyncio.ensure_future(orchestrator.run(ctx))
    await asyncio.sleep(0.15)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ctx.dlq_entry is None
    await orchestrator.run(ctx)
    assert await store.letters() == ()


@pytest.mark.simulate(order="asyncio")
async def test_a_stage_that_is_run_on_its_own_leaves_none() -> None:
    """Its letter could not be replayed, as it is not a run of the pipeline."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    shop.failing = {"pick": BROKE}
    ctx = context(dead_letters=store)
    with pytest.raises(err.StageFailedError):
        await shop.pipeline.stage("pick").execute(ctx)
    assert (ctx.dlq_entry, await store.letters()) == (None, ())


@pytest.mark.simulate(order="asyncio")
async def test_a_child_run_leaves_none_of_its_own() -> None:
    """The parent's letter is the only one, and names the parent's stage."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    shop.failing = {"pay": BROKE}
    child = shop.orchestrator(store)

    @stage(inputs=["items"])
    async def order(ctx: StageContext) -> StageOutput:
        await run_child(ctx, child)
        return StageOutput.ok()

    @stage(inputs=["items"])
    async def unwrapped(ctx: StageContext) -> StageOutput:
        below = ctx.run.child({"items": []}, parent=ctx.scope, stage=ctx.name)
        (await child.run(below)).unwrap()
        return StageOutput.ok()

    for spec in (order, unwrapped):
        parent = Pipeline("parent", [spec], inputs=["items"])
        ctx = context(dead_letters=store)
        await parent.run(ctx)
        assert ctx.dlq_entry is not None
        assert (ctx.dlq_entry.pipeline, ctx.dlq_entry.failed_stage) == ("parent", spec.name)
    assert len(await store.letters()) == 2


@pytest.mark.simulate(order="asyncio")
async def test_a_run_past_its_deadline_leaves_a_letter_without_a_failed_stage() -> None:
    """A stage that was running has no final result, nor has one that failed by a cancellation."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    shop.pauses_s = {"quote": 9.0}
    shop.failing = {"taste": ValueError("bitter")}
    ctx = context(deadline_s=1.0)
    result = await shop.orchestrator(store).run(ctx)
    assert result.failure is not None
    assert result.failure.code == "deadline_exceeded"
    letter = ctx.dlq_entry
    assert letter is not None
    assert letter.failed_stage is None
    assert {name for name, record in letter.stages.items() if record.final} == {
        "pick",
        "taste",
    }
    assert letter.stages["quote"].ending is StageStatus.CANCELLED
    shop.pauses_s = {}
    again = await replay(letter, shop.orchestrator(), store)
    assert again.outputs["paid"] == (("tea", b"\0"), None, None)


@pytest.mark.simulate(order="asyncio")
async def test_an_optional_stage_that_answers_its_cancellation_with_an_error_is_not_final() -> None:
    """It was stopped by the run's failure, so a replay runs it again."""
    store = InMemoryDeadLetterStore()

    @stage(required=False)
    async def grumble(ctx: StageContext) -> StageOutput:
        try:
            await asyncio.sleep(9)
        except asyncio.CancelledError:
            raise ValueError("leave me alone") from None
        return StageOutput.ok()

    @stage()
    async def fail(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(1)
        raise BROKE

    for deadline_s in (None, 0.5):
        ctx = context(dead_letters=store, deadline_s=deadline_s)
        await Pipeline("p", [grumble, fail]).run(ctx)
        assert ctx.dlq_entry is not None
        record = ctx.dlq_entry.stages["grumble"]
        assert (record.ending, record.final) == (StageStatus.FAILED, False)


class Crash(BaseException):
    """Not an `Exception`, as what ``pytest.fail`` raises."""


@pytest.mark.parametrize("after_s", [0, 1])
@pytest.mark.simulate(order="asyncio")
async def test_what_had_finished_before_an_optional_stage_broke_the_run_off_is_final(
    after_s: float,
) -> None:
    """The letter names the stage that broke the run off, and a replay runs that one again."""

    @stage(required=False)
    async def first(ctx: StageContext) -> StageOutput:
        raise BROKE

    @stage(dependencies=["first"], required=False)
    async def crash(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(after_s)
        raise Crash

    ctx = context(dead_letters=InMemoryDeadLetterStore())
    with pytest.raises(Crash):
        await Pipeline("p", [first, crash]).run(ctx)
    letter = ctx.dlq_entry
    assert letter is not None
    assert letter.failed_stage == "crash"
    assert {name: record.final for name, record in letter.stages.items()} == {
        "first": True,
        "crash": False,
    }


@pytest.mark.simulate(order="asyncio")
async def test_a_reason_that_is_not_text_is_kept_as_text() -> None:
    """For any reason of a skipped stage, the letter can be stored."""
    reason = ValueError("nothing to do")

    async def skip(ctx: StageContext) -> StageOutput:
        return StageOutput.skip(reason)  # type: ignore[arg-type]

    async def fail(ctx: StageContext) -> StageOutput:
        raise BROKE

    ctx = context(dead_letters=InMemoryDeadLetterStore())
    specs = [StageSpec("skip", skip), StageSpec("fail", fail, dependencies=("skip",))]
    result = await Pipeline("p", specs).run(ctx)
    assert result.stages["skip"].detail["reason"] == repr(reason)
    assert result.dead_letter_error is None


class BadStore:
    """Fails in its own way, after a while."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
        self.offered: list[DeadLetter] = []

    async def put(self, letter: DeadLetter) -> None:
        self.offered.append(letter)
        await asyncio.sleep(1)
        raise self.error


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (err.DeadLetterStoreError("write", "letters.db", "disk full"), "dead_letter_store_failed"),
        (OSError(28, "no space left"), "storage_failed"),
        (ValueError("a bug"), "stage_raised"),
        (asyncio.CancelledError(), "stray_cancellation"),
    ],
    ids=["typed", "disk full", "bug", "cancelled"],
)
@pytest.mark.simulate(order="asyncio")
async def test_a_store_that_fails_masks_nothing(
    error: BaseException, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run ends with its own failure, and says twice that it was not kept."""
    # One of its own: an error keeps the place where it was raised first.
    broke = err.StageFailedError("no money")
    shop, ctx = Shop(), context()
    shop.failing = {"pay": broke}
    with caplog.at_level(logging.CRITICAL, logger="stageflow.dlq"):
        result = await shop.orchestrator(BadStore(error)).run(ctx)
    assert result.failure is broke
    assert result.dead_letter_error is not None
    assert result.dead_letter_error.code == code
    assert ctx.dlq_entry is None
    (record,) = [record for record in caplog.records if record.name == "stageflow.dlq"]
    assert record.levelno == logging.CRITICAL
    said, _, why = record.getMessage().rpartition(": ")
    assert said.startswith(
        f"DEAD LETTER LOST: run {result.pipeline_run_id} of pipeline 'shop' failed"
        " (stage 'pay': no money), and its dead letter was not kept"
    )
    assert record.exc_info is not None
    lost = record.exc_info[1]
    assert str(lost).endswith(why)
    if isinstance(error, asyncio.CancelledError):
        assert code_of(lost) == "stray_cancellation"
    else:
        assert type(lost) is type(error)


class SlowStore(InMemoryDeadLetterStore):
    """Takes a second for each letter."""

    async def put(self, letter: DeadLetter) -> None:
        await asyncio.sleep(1)
        await super().put(letter)


@pytest.mark.parametrize("cancelled_at_s", [0.35, 0.95, 1.25])
@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_waits_for_the_letter(cancelled_at_s: float) -> None:
    """Cancelled (twice) while the letter is being written: it is written, then the caller hears."""
    shop, store, ctx = Shop(), SlowStore(), context()
    shop.failing = {"pay": BROKE}  # at 0.3 s; the letter takes until 1.3 s
    running = asyncio.ensure_future(shop.orchestrator(store).run(ctx))
    await asyncio.sleep(cancelled_at_s)
    running.cancel()
    await asyncio.sleep(0.01)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert asyncio.get_running_loop().time() == pytest.approx(1.3)
    assert [ctx.dlq_entry] == list(await store.letters())


@pytest.mark.simulate(order="asyncio")
async def test_a_failed_run_leaves_a_letter_although_its_caller_was_cancelled() -> None:
    """The run had failed before; the cancellation only came while a sibling cleaned up."""
    store, ctx = InMemoryDeadLetterStore(), context()

    @stage()
    async def fail(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(1)
        raise BROKE

    tidy = StageSpec("tidy", cleaning_up_for(1))
    orchestrator = PipelineOrchestrator(Pipeline("p", [fail, tidy]).build(), dead_letters=store)
    running = asyncio.ensure_future(orchestrator.run(ctx))
    await asyncio.sleep(1.5)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert ctx.dlq_entry is not None
    assert ctx.dlq_entry.failed_stage == "fail"


@pytest.mark.parametrize(
    "moments", [(NOON, NOON + 1, NOON + 2), (NOON, NOON, NOON)], ids=["later", "same"]
)
def test_seeded_runs_that_repeat_their_ids_leave_a_letter_each(
    moments: tuple[float, ...],
) -> None:
    """The same run id thrice, even at the same moment: different runs, so three letters."""

    async def main() -> list[str]:
        shop, store = Shop(), InMemoryDeadLetterStore()
        shop.failing = {"pay": BROKE}
        for number, at in enumerate(moments):
            ctx = PipelineContext({"items": number}, seed=7, wall_clock=partial(float, at))
            result = await shop.orchestrator(store).run(ctx)
            assert result.dead_letter_error is None
        letters = await store.letters()
        assert len({letter.pipeline_run_id for letter in letters}) == 1
        assert len({letter.id for letter in letters}) == 3
        assert all(len(letter.id) == 32 and int(letter.id, 16) for letter in letters)
        assert [letter.inputs["items"] for letter in letters] == [0, 1, 2]
        return [letter.id for letter in letters]

    assert run_virtual(main) == run_virtual(main)


@pytest.mark.simulate(order="asyncio")
async def test_a_store_that_has_every_id_already_loses_the_letter_loudly() -> None:
    """Looking for a free id comes to an end: after a hundred others than the first."""
    taken = BadStore(err.DuplicateDeadLetterError("a1", "memory"))

    shop, ctx = Shop(), context()
    shop.failing = {"pay": BROKE}
    result = await shop.orchestrator(taken).run(ctx)
    assert isinstance(result.dead_letter_error, err.DuplicateDeadLetterError)
    assert len(taken.offered) == len({letter.id for letter in taken.offered}) == 101


@pytest.mark.simulate(order="asyncio")
async def test_a_value_that_cannot_be_stored_is_named_at_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """By its path, in the result and in the log; the letter is kept for a look."""
    shop, store, ctx = Shop(), InMemoryDeadLetterStore(), context()
    shop.picked, shop.failing = {"tea": [1, object()]}, {"pay": BROKE}
    result = await shop.orchestrator(store).run(ctx)
    assert code_of(result.dead_letter_error) == "unstorable_value"
    assert "outputs['picked']['tea'][1] (of type builtins.object" in str(result.dead_letter_error)
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    (letter,) = await store.letters()
    assert entry(ctx) is not None
    assert letter.id == entry(ctx).id  # type: ignore[union-attr]
