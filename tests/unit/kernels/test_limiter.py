"""One turn of a conversation at a time: the others wait, are refused, or take its place."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

import pytest

from stageflow.errors import InvalidConfigError
from stageflow.kernels import TurnLimiter, TurnLimitError, default_providers, streaming_voice
from stageflow.providers import speech_of_text
from tests.utils.driving import this_task
from tests.utils.errors import raises_code


class Log:
    """Turns that take a second each, and a tenth of a second to clean up."""

    def __init__(self, limiter: TurnLimiter) -> None:
        self.limiter = limiter
        self.told: list[str] = []

    async def turn(self, name: str, conversation: Any = "ada") -> str:
        async with self.limiter.turn(conversation):
            self.told.append(f"{name} begins")
            try:
                await asyncio.sleep(1.0)
            except asyncio.CancelledError:
                await asyncio.sleep(0.1)
                self.told.append(f"{name} is cleaned up")
                raise
            self.told.append(f"{name} ends")
        return name

    async def all(self, *names: str) -> list[Any]:
        """Begin them a twentieth of a second apart; return results, or codes of errors."""

        async def late(number: int, name: str) -> str:
            await asyncio.sleep(number * 0.05)
            return await self.turn(name)

        turns = (late(*each) for each in enumerate(names))
        found = await asyncio.gather(*turns, return_exceptions=True)
        return [getattr(one, "code", one) for one in found]


@pytest.mark.simulate(order="asyncio")
async def test_turns_wait_in_order() -> None:
    """One begins when the one before has ended."""
    log = Log(TurnLimiter())
    assert await log.all("a", "b", "c") == ["a", "b", "c"]
    assert log.told == ["a begins", "a ends", "b begins", "b ends", "c begins", "c ends"]


@pytest.mark.simulate(order="asyncio")
@pytest.mark.parametrize(
    ("users", "at_once"),
    [((None, None), True), (("", ""), True), ((42, "42"), False), ((UUID(int=1),) * 2, False)],
)
async def test_a_user_is_one_as_in_the_kernels(users: tuple[Any, Any], at_once: bool) -> None:
    """Anonymous users are many, and an id is one user whatever its type."""
    log = Log(TurnLimiter())
    await asyncio.gather(log.turn("a", users[0]), log.turn("b", users[1]))
    assert (log.told[1] == "b begins") is at_once
    assert not log.limiter._turns


@pytest.mark.simulate(order="asyncio")
async def test_conversations_do_not_wait_for_each_other() -> None:
    """Each has turns of its own, and leaves nothing behind."""
    log = Log(TurnLimiter())
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(log.turn("x", user) for user in ("ada", 7, None)))
    assert asyncio.get_running_loop().time() - began == pytest.approx(1.0)
    assert log.limiter._turns == {}


@pytest.mark.simulate(order="asyncio")
async def test_a_busy_conversation_refuses() -> None:
    """At once; when its turn has ended, it takes the next."""
    log = Log(TurnLimiter("refuse"))
    assert await log.all("a", "b") == ["a", "conversation_busy"]
    assert await log.turn("c") == "c"


@pytest.mark.simulate(order="asyncio")
async def test_the_newest_turn_replaces_all_earlier_ones() -> None:
    """The running one cleans up before the newest begins; one that waits never begins."""
    log = Log(TurnLimiter("replace"))
    assert await log.all("a", "b", "c") == ["turn_replaced", "turn_replaced", "c"]
    assert log.told == ["a begins", "a is cleaned up", "c begins", "c ends"]
    assert log.limiter._turns == {}


@pytest.mark.simulate(order="asyncio")
async def test_few_may_wait() -> None:
    """More are refused, and a place becomes free when one is cancelled."""
    log = Log(TurnLimiter(max_waiting=1))
    tasks = [asyncio.ensure_future(log.turn(name)) for name in "abc"]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    with raises_code("conversation_busy", match="'ada' is running"):
        tasks[2].result()
    tasks[1].cancel()
    await asyncio.wait([tasks[1]])
    assert tasks[1].cancelled()
    assert await log.turn("d") == "d"
    assert await tasks[0] == "a"


@pytest.mark.parametrize("when_busy", ["wait", "replace"])
@pytest.mark.simulate(order="asyncio")
async def test_a_turn_within_a_turn_is_refused(when_busy: Any) -> None:
    """It would wait for itself, or cancel itself."""
    limiter = TurnLimiter(when_busy)
    async with limiter.turn("ada"):
        with raises_code("conversation_busy"):
            async with limiter.turn("ada"):
                pass
    async with limiter.turn("ada"):
        pass


@pytest.mark.simulate(order="asyncio")
async def test_a_cancellation_from_outside_is_one() -> None:
    """Also of a turn that is replaced at the same time; a replaced one can be caught."""
    log = Log(TurnLimiter("replace"))
    first = asyncio.ensure_future(log.turn("a"))
    await asyncio.sleep(0.5)
    second = asyncio.ensure_future(log.turn("b"))
    await asyncio.sleep(0)
    first.cancel()
    await asyncio.wait([first])
    assert first.cancelled()
    assert await second == "b"


@pytest.mark.simulate(order="asyncio")
async def test_after_its_replacement_a_task_goes_on() -> None:
    """Its cancellation is over, as after a timeout."""
    log, resting = Log(TurnLimiter("replace")), asyncio.Event()

    async def first() -> int:
        with pytest.raises(TurnLimitError):
            await log.turn("a")
        resting.set()
        await asyncio.sleep(5.0)
        return this_task().cancelling()

    going_on = asyncio.ensure_future(first())
    await asyncio.sleep(0.5)
    await log.turn("b")
    assert resting.is_set()
    assert await going_on == 0


@pytest.mark.simulate(order="asyncio")
async def test_barge_in() -> None:
    """The newer question stops the answer, and the model's history has the part that was heard."""
    providers = default_providers()
    voice = streaming_voice().bind(providers=providers)
    limiter = TurnLimiter("replace")

    async def turn(text: str) -> str:
        async with limiter.turn("ada"):
            result = await voice.run(audio=speech_of_text(text), user_id="ada")
        return str(result["answer"])

    first = asyncio.ensure_future(turn("Tell me a long story. " * 20))
    await asyncio.sleep(3.0)
    assert providers["speaker"].sounding
    assert "(Before that: Tell me" in await turn("Stop!")
    with pytest.raises(TurnLimitError):
        await first
    record = await providers.db.get("conversations", "ada")
    assert record is not None
    assert [turn.get("interrupted", False) for turn in record["turns"]] == [True, False]


@pytest.mark.parametrize(
    ("make", "field"),
    [
        (lambda: TurnLimiter("later"), "when_busy"),  # type: ignore[arg-type]
        (lambda: TurnLimiter(max_waiting=0), "max_waiting"),
    ],
)
def test_wrong_settings_are_refused(make: Callable[[], Awaitable[None]], field: str) -> None:
    """Each by its name."""
    with pytest.raises(InvalidConfigError, match=field):
        make()
