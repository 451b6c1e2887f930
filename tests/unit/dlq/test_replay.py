"""Replay a dead letter: resume at the failed stage, once, under a lease."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest

from stageflow import (
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    StageContext,
    StageOutput,
    stage,
)
from stageflow import errors as err
from stageflow.dlq import (
    Claim,
    DeadLetter,
    DeadLetterState,
    DeadLetterStore,
    InMemoryDeadLetterStore,
    Unstorable,
    check_fits,
    replay,
    replay_context,
)
from tests.utils.assertions import assert_events_sound
from tests.utils.dead_letters import NOON, Clock, make_letter
from tests.utils.errors import raises_code
from tests.utils.shop import BROKE, Shop, context
from tests.utils.virtual_time import run_virtual


async def failed_once(shop: Shop, store: DeadLetterStore, **failing: Exception) -> DeadLetter:
    """The letter of a run of `shop` in which those stages fail; afterwards nothing does."""
    shop.failing = failing or {"pay": BROKE}
    ctx = context(deadline_s=60.0)
    await shop.orchestrator(store).run(ctx)
    shop.failing = {}
    shop.ran.clear()
    assert ctx.dlq_entry is not None
    return ctx.dlq_entry


@pytest.mark.simulate(order="asyncio")
async def test_a_replay_resumes_at_the_failed_stage() -> None:
    """Finished stages do not run; their outputs are there, with writers; their events say why."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    letter = await failed_once(shop, store, pay=BROKE, taste=ValueError("bitter"))
    result = await replay(letter, shop.orchestrator(store), store)
    assert shop.ran == ["pay", "ship"]
    assert result.outputs == {
        "picked": ("tea", b"\0"),
        "paid": (("tea", b"\0"), None, None),
        "shipped": True,
    }
    assert (result.bag.writer_of("picked"), result.bag.writer_of("paid")) == ("pick", "pay")
    assert_events_sound(shop.pipeline, result.events)
    stages = result.stages
    assert list(stages) == ["pick", "taste", "quote", "pay", "ship"]
    for name, ending in (("pick", "completed"), ("taste", "failed"), ("quote", "skipped")):
        assert str(stages[name].status) == "skipped"
        assert stages[name].detail["reason"] == (f"restored from dead letter {letter.id}: {ending}")
    assert result.pipeline_run_id != letter.pipeline_run_id
    kept = await store.get(letter.id)
    assert (kept.state, kept.replay_run_id) == (
        DeadLetterState.REPLAYED,
        result.pipeline_run_id,
    )
    assert len(await store.letters()) == 1


@pytest.mark.simulate(order="asyncio")
async def test_replaying_twice_has_one_effect() -> None:
    """The second replay runs nothing and names the run that completed the first."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    letter = await failed_once(shop, store)
    result = await replay(letter.id, shop.orchestrator(), store)
    with pytest.raises(err.DeadLetterReplayedError, match=result.pipeline_run_id):
        await replay(letter, shop.orchestrator(), store)
    assert shop.ran == ["pay", "ship"]


@pytest.mark.parametrize("lease_s", [0, -1.0, float("inf"), float("nan"), True, "60"])
@pytest.mark.simulate(order="asyncio")
async def test_a_lease_that_is_none_is_refused_before_anything_is_claimed(lease_s: Any) -> None:
    """One of no length would be renewed without a pause, and hold nothing."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    letter = await failed_once(shop, store)
    with pytest.raises(err.InvalidConfigError, match=r"replay: lease_s is .*; give a positive"):
        await replay(letter, shop.orchestrator(), store, lease_s=lease_s)
    assert (await store.get(letter.id)).attempts == letter.attempts
    assert shop.ran == []


@pytest.mark.simulate(order="asyncio")
async def test_of_two_replays_at_once_one_runs() -> None:
    """The other's error says that the letter is claimed, and it runs nothing."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    letter = await failed_once(shop, store)
    both = [replay(letter, shop.orchestrator(), store) for _ in range(2)]
    outcomes = await asyncio.gather(*both, return_exceptions=True)
    assert sorted(type(o).__name__ for o in outcomes) == [
        "DeadLetterClaimedError",
        "RunResult",
    ]
    assert shop.ran == ["pay", "ship"]


@pytest.mark.simulate(order="asyncio")
async def test_a_replay_that_fails_leaves_the_one_letter_waiting_with_what_it_learnt() -> None:
    """New error, one attempt more, and what finished meanwhile is not run a third time."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    first = await failed_once(shop, store)
    orchestrator = shop.orchestrator(store)
    shop.failing = {"ship": ValueError("no cart")}
    failed = await replay(first, orchestrator, store)
    (letter,) = await store.letters()
    assert (letter.id, letter.state, letter.attempts) == (first.id, DeadLetterState.WAITING, 1)
    assert (letter.failed_stage, letter.error.code) == ("ship", "stage_raised")
    assert letter.pipeline_run_id == first.pipeline_run_id
    assert letter.created_at == first.created_at
    assert letter.events == (*first.events, *failed.events)
    assert sorted(letter.finished) == ["pay", "pick", "quote", "taste"]
    failed = await replay(first, orchestrator, store)
    assert (await store.get(first.id)).events == (*first.events, *failed.events)
    shop.failing = {}
    shop.ran.clear()
    result = await replay(first, orchestrator, store)
    assert shop.ran == ["ship"]
    assert set(result.outputs) == {"picked", "flavour", "paid", "shipped"}
    assert (await store.get(first.id)).attempts == 3


def test_a_replay_takes_chance_and_identity_from_the_letter() -> None:
    """Two simulations of the same replay have the same run id; inputs and limits are those."""

    async def main() -> str:
        shop, store, seen = Shop(), InMemoryDeadLetterStore(), []
        letter = await failed_once(shop, store)
        providers = ProviderRegistry(bank="a bank")

        @stage(dependencies=["taste", "quote"], inputs=["items"], outputs=["paid"], provider="bank")
        async def pay(ctx: StageContext) -> StageOutput:
            run = ctx.run
            seen.append((run.inputs["items"], run.deadline_s, run.correlation_id))
            assert ctx.provider("bank") == "a bank"
            return StageOutput.ok(paid=True)

        specs = [pay if spec.name == "pay" else spec for spec in shop.pipeline.stages]
        changed = Pipeline("shop", specs, inputs=["items"])
        orchestrator = PipelineOrchestrator(changed.build())
        result = await replay(letter, orchestrator, store, providers=providers)
        assert result.failure is None
        assert seen == [(["tea"], 60.0, letter.correlation_id)]
        return result.pipeline_run_id

    assert run_virtual(main) == run_virtual(main)


@pytest.mark.simulate(order="asyncio")
async def test_a_context_of_ones_own_can_be_prepared() -> None:
    """The factory of the context gets the claimed letter and the providers."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    letter = await failed_once(shop, store)

    def prepare(claimed: DeadLetter, providers: ProviderRegistry | None) -> PipelineContext:
        assert (claimed.id, claimed.attempts, providers) == (letter.id, 1, None)
        return PipelineContext(claimed.inputs, correlation_id="mine")

    result = await replay(letter, shop.orchestrator(), store, prepare=prepare)
    assert result.events[0].data["correlation_id"] == "mine"


@pytest.mark.simulate(order="asyncio")
async def test_a_cancelled_replay_gives_its_letter_back() -> None:
    """It waits again as it was, with the attempt counted; it had been held for a minute."""
    shop, store = Shop(), InMemoryDeadLetterStore(wall_clock=Clock())
    letter = await failed_once(shop, store)
    replaying = asyncio.ensure_future(replay(letter, shop.orchestrator(), store))
    await asyncio.sleep(0.05)
    held = (await store.get(letter.id)).lease_expires_at
    assert held == datetime.fromtimestamp(NOON + 60, UTC)
    replaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replaying
    assert await store.get(letter.id) == replace(letter, attempts=1)


class SlowEnding(InMemoryDeadLetterStore):
    """Takes a second to record an outcome, and may fail to."""

    broken = False

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        await asyncio.sleep(1)
        await super().finish(claim, replay_run_id)

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        if self.broken:
            raise err.DeadLetterStoreError("write", "memory", "no room")
        await super().put_back(claim, letter)


@pytest.mark.simulate(order="asyncio")
async def test_an_outcome_is_recorded_in_spite_of_a_cancellation() -> None:
    """The run has had its effect, so that it has been replayed must not get lost."""
    shop, store = Shop(), SlowEnding()
    letter = await failed_once(shop, store)
    replaying = asyncio.ensure_future(replay(letter, shop.orchestrator(), store))
    await asyncio.sleep(0.5)
    replaying.cancel()
    with pytest.raises(asyncio.CancelledError):
        await replaying
    assert (await store.get(letter.id)).state is DeadLetterState.REPLAYED


@pytest.mark.simulate(order="asyncio")
async def test_a_replay_that_cannot_give_its_letter_back_says_so() -> None:
    """The cancellation goes on, with a note that the letter stays claimed until its lease ends."""
    shop, store = Shop(), SlowEnding()
    letter = await failed_once(shop, store)
    store.broken = True
    replaying = asyncio.ensure_future(replay(letter, shop.orchestrator(), store))
    await asyncio.sleep(0.05)
    replaying.cancel()
    with pytest.raises(asyncio.CancelledError) as caught:
        await replaying
    (note,) = caught.value.__notes__
    assert letter.id in note
    assert "no room" in note
    assert (await store.get(letter.id)).state is DeadLetterState.REPLAYING


def loop_clock() -> float:
    """A wall clock that goes with the loop."""
    return NOON + asyncio.get_running_loop().time()


@pytest.mark.simulate(order="asyncio")
async def test_a_long_replay_renews_its_lease() -> None:
    """A replay of ten leases keeps its letter all the time, and its outcome is recorded."""
    shop, store = Shop(), InMemoryDeadLetterStore(wall_clock=loop_clock)
    letter = await failed_once(shop, store)
    shop.pauses_s = {"pay": 30.0}
    replaying = asyncio.ensure_future(replay(letter, shop.orchestrator(), store, lease_s=3.0))
    for _ in range(29):
        await asyncio.sleep(1)
        with pytest.raises(err.DeadLetterClaimedError):
            await store.claim(letter.id, lease_s=1)
    await replaying
    assert (await store.get(letter.id)).state is DeadLetterState.REPLAYED


class Forgetful(InMemoryDeadLetterStore):
    """Cannot renew leases while this is set."""

    broken = True

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        if self.broken:
            raise err.DeadLetterStoreError("write", "memory", "no room")
        await super().renew(claim, lease_s=lease_s)


@pytest.mark.simulate(order="asyncio")
async def test_a_replay_that_lost_its_lease_gets_an_error(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else took over while the store could not be written: that one's outcome counts."""
    shop, store = Shop(), Forgetful(wall_clock=loop_clock)
    letter = await failed_once(shop, store)
    shop.pauses_s = {"pay": 10.0}
    replaying = asyncio.ensure_future(replay(letter, shop.orchestrator(), store, lease_s=3.0))
    await asyncio.sleep(4)
    other = await store.claim(letter.id, lease_s=60)
    store.broken = False
    with pytest.raises(err.DeadLetterLeaseLostError, match=letter.id):
        await replaying
    await store.finish(other, "run-of-the-other")
    kept = await store.get(letter.id)
    assert (kept.replay_run_id, kept.attempts) == ("run-of-the-other", 2)
    gc.collect()
    (said,) = {(r.name, r.levelno, r.getMessage()) for r in caplog.records}
    name, level, message = said
    assert (name, level) == ("stageflow.dlq", logging.WARNING)
    dead_letter_id, _, why = message.removeprefix("dead letter ").partition(": ")
    assert (len(dead_letter_id), why.split(";")[0]) == (
        32,
        "cannot write the dead letters in memory (no room)",
    )


class SlowRenewal(InMemoryDeadLetterStore):
    """Needs a while to stop a renewal that it has begun, as a store with a thread does."""

    def __init__(self) -> None:
        super().__init__(wall_clock=loop_clock)
        self.done: list[str] = []

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        try:
            await asyncio.sleep(9)
        finally:
            await asyncio.sleep(1)
            self.done.append("renewal")

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        self.done.append("finish")
        await super().finish(claim, replay_run_id)


@pytest.mark.simulate(order="asyncio")
async def test_no_renewal_is_under_way_when_the_outcome_is_recorded() -> None:
    """One that came later would hold a letter that has been replayed."""
    shop, store = Shop(), SlowRenewal()
    letter = await failed_once(shop, store)
    shop.pauses_s = {"pay": 2.0}
    await replay(letter, shop.orchestrator(), store, lease_s=3.0)
    assert store.done == ["renewal", "finish"]


class Changing(InMemoryDeadLetterStore):
    """Somebody replays each letter, and fails, just before it is claimed."""

    async def claim(self, dead_letter_id: str, *, lease_s: float) -> Claim:
        other = await super().claim(dead_letter_id, lease_s=lease_s)
        await super().put_back(other, replace(other.letter, failed_stage="gone"))
        return await super().claim(dead_letter_id, lease_s=lease_s)


@pytest.mark.simulate(order="asyncio")
async def test_what_was_claimed_is_checked_as_well() -> None:
    """It may be newer than what was looked at before; then the letter is given back."""
    shop, store = Shop(), Changing()
    letter = await failed_once(shop, store)
    with raises_code("dead_letter_mismatch", match="no stage 'gone', which failed"):
        await replay(letter, shop.orchestrator(), store)
    assert shop.ran == []
    assert (await store.get(letter.id)).state is DeadLetterState.WAITING


def test_a_letter_without_a_seed_is_replayed_without_one() -> None:
    """So that its replays have ids of their own; with one, each attempt has another."""
    assert replay_context(make_letter(seed=None), None).seed is None
    seeds = {replay_context(make_letter(attempts=n), None).seed for n in (1, 1, 2)}
    assert len(seeds) == 2


def test_a_letter_that_cannot_be_replayed_says_which_and_why() -> None:
    """Word for word: the letter, the pipeline, and what is wrong."""
    graph = Shop().pipeline.build()
    letter = make_letter(pipeline="bazaar")
    with raises_code("dead_letter_mismatch") as misfit:
        check_fits(letter, graph)
    assert str(misfit.value).startswith(
        f"dead letter {letter.id!r} does not fit pipeline 'shop': it is of pipeline 'bazaar';"
    )
    letter = make_letter(inputs={"items": Unstorable("m.T", "t")})
    with raises_code("unstorable_value") as lost:
        check_fits(letter, graph)
    assert str(lost.value).startswith(
        f"dead letter {letter.id!r} cannot be run again: inputs['items'] (of type m.T: t) could not"
        " be stored;"
    )


@pytest.mark.simulate(order="asyncio")
async def test_a_letter_that_lacks_a_value_is_not_replayed() -> None:
    """The letter is kept all the same; the replay names the key and counts no attempt."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    shop.picked = {"tea": object()}
    letter = await failed_once(shop, store)
    with raises_code("unstorable_value", match=r"outputs\['picked'\]\['tea'\].*object"):
        await replay(letter, shop.orchestrator(), store)
    assert shop.ran == []
    kept = await store.get(letter.id)
    assert (kept.state, kept.attempts) == (DeadLetterState.WAITING, 0)


def changed(shop: Shop, **changes: Any) -> Pipeline:
    """The shop with other fields in some stages; None leaves a stage out."""
    specs = [
        replace(spec, **changes.get(spec.name, {}))
        for spec in shop.pipeline.stages
        if changes.get(spec.name, {}) is not None
    ]
    return Pipeline("shop", specs, inputs=["items"])


@pytest.mark.parametrize(
    ("change", "fragment"),
    [
        (lambda shop: Pipeline("other", shop.pipeline.stages, inputs=["items"]), "'shop'"),
        (lambda shop: changed(shop, quote=None, pay={"dependencies": ("taste",),
                                                     "inputs": ()}), "'quote'"),
        (lambda shop: changed(shop, pay=None, ship={"dependencies": ()}), "'pay'"),
        (lambda shop: changed(shop, pick={"outputs": ("chosen",)},
                              pay={"inputs": ()}), "'chosen'"),
        (lambda shop: Pipeline("shop", shop.pipeline.stages, inputs=["items", "who"]), "'who'"),
    ],
    ids=["pipeline", "finished stage gone", "failed stage gone", "outputs", "inputs"],
)  # fmt: skip
@pytest.mark.simulate(order="asyncio")
async def test_a_letter_that_does_not_fit_the_pipeline_is_not_replayed(
    change: Callable[[Shop], Pipeline], fragment: str
) -> None:
    """The error names what has changed; nothing runs, and no attempt is counted."""
    shop, store = Shop(), InMemoryDeadLetterStore()
    letter = await failed_once(shop, store)
    orchestrator = PipelineOrchestrator(change(shop).build())
    with raises_code("dead_letter_mismatch", match=fragment):
        await replay(letter, orchestrator, store)
    assert shop.ran == []
    assert await store.get(letter.id) == letter
