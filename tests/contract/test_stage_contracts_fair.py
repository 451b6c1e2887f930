"""No test of the stage contract accuses a right stage, whatever values it reads and writes."""

from __future__ import annotations

import asyncio
import copy
import io
import threading
import weakref
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from types import MappingProxyType
from typing import Any
from unittest.mock import MagicMock

import numpy as np
import pytest

from stageflow import Pipeline, StageContext, StageOutput, StageSpec
from stageflow.codec import Codec, StoredType
from stageflow.testing import StageCase, StageContractTest
from stageflow.testing.contracts.probes import Picture, copied
from tests.utils.stage_cases import both_loops, contract, declared, names_of_tests

pytestmark = pytest.mark.untraced

NAN = float("nan")


class Order:
    """Has no equality, as most classes."""

    def __init__(self, *items: Any) -> None:
        self.items = list(items)

    @cached_property
    def total(self) -> int:
        return len(self.items)


class Account:
    """Cannot be copied."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.entries = [1, 2]


@dataclass
class Measured:
    samples: Any
    name: str = "m"


@dataclass
class Indexed:
    """Its equality leaves out what it computes."""

    words: list[str]
    _index: dict[str, int] = field(default_factory=dict, compare=False)

    def place(self, word: str) -> int:
        self._index.update({word: place for place, word in enumerate(self.words)})
        return self._index[word]


class Frame:
    """Compares element by element, as tables do."""

    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def __eq__(self, other: object) -> Any:
        return [one == other for one in self.values]

    __hash__ = None  # type: ignore[assignment]


class Slotted:
    __slots__ = ("inside",)

    def __init__(self, inside: Any) -> None:
        self.inside = inside


def recursive() -> Any:
    found: list[Any] = [1]
    found.append({"again": found})
    return found


def deep() -> Any:
    found: list[Any] = []
    for _ in range(1_000):
        found = [found]
    return found


def numbers() -> Any:
    yield from range(3)


#: Makes an input, and does with it what a right stage may do.
VALUES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "no equality": (lambda: Order(1, 2), lambda order: order.items[0]),
    "computed when it is read": (lambda: Order(1, 2), lambda order: order.total),
    "an index beside": (lambda: Indexed(["a", "b"]), lambda indexed: indexed.place("b")),
    "an exception": (lambda: ValueError("x"), str),
    "a group": (lambda: ExceptionGroup("g", [ValueError("x")]), str),
    "nan": (lambda: NAN, str),
    "another nan": (lambda: [float("nan"), Decimal("NaN"), complex(0, NAN)], len),
    "a signalling nan": (lambda: Decimal("sNaN"), str),
    "a set of nan": (lambda: {NAN, float("nan"), 1}, len),
    "an array": (lambda: np.arange(6).reshape(2, 3), lambda array: int(array.sum())),
    "arrays": (lambda: {"a": [np.zeros(3)], "b": (np.ones(2),)}, len),
    "an empty array": (lambda: np.array([]), len),
    "an array of objects": (lambda: np.array([None, [1]], dtype=object), len),
    "a data class with an array": (lambda: Measured(np.array([1.0, NAN])), lambda m: m.name),
    "a table": (lambda: Frame([1, 2]), lambda frame: frame.values[0]),
    "a lock": (threading.Lock, lambda lock: lock.locked()),
    "a lock that is taken": (threading.Lock, lambda lock: lock.acquire() and lock.release()),
    "a lock within": (Account, lambda account: len(account.entries)),
    "a generator": (numbers, list),
    "an iterator": (lambda: iter([1, 2]), list),
    "a file": (lambda: io.StringIO("a\nb"), lambda file: file.read()),
    "a mock": (MagicMock, lambda mock: mock.save(1)),
    "a function": (lambda: len, lambda function: function("ab")),
    "a bound method": (lambda: [].append, lambda append: append(1)),
    "a queue": (asyncio.Queue, lambda queue: queue.put_nowait(1)),
    "an event": (asyncio.Event, lambda event: event.set()),
    "a weak reference": (lambda: weakref.ref(Order), lambda ref: ref()),
    "itself": (recursive, len),
    "deep": (deep, len),
    "slots": (lambda: Slotted([1]), lambda slotted: slotted.inside[0]),
    "a mapping": (lambda: MappingProxyType({"a": [1]}), lambda mapping: mapping["a"]),
    "a deque": (lambda: deque([1, [2]], maxlen=3), len),
    "an object": (object, str),
    "a class": (lambda: Order, lambda cls: cls(1).total),
}


def reading(make: Callable[[], Any], use: Callable[[Any], Any]) -> Callable[[], StageCase]:
    """Makes a case of a stage that uses a value."""

    async def reads(ctx: StageContext) -> StageOutput:
        value = ctx["value"]
        await asyncio.sleep(0)
        use(value)
        await asyncio.sleep(0)
        return StageOutput.ok()

    def case() -> StageCase:
        spec = StageSpec("reads", reads, inputs=("value",))
        pipeline = Pipeline("p", [spec], inputs=["value"])
        return StageCase(pipeline, "reads", {"value": make()}, other_inputs={"value": make()})

    return case


@pytest.mark.parametrize("sort", VALUES)
def test_a_value_that_is_used_is_as_in_its_picture(sort: str) -> None:
    """Whether it can be copied or not."""
    make, use = VALUES[sort]
    value = make()
    picture = Picture(value)
    use(value)
    assert picture.shows(value)
    assert Picture(copied(value)).shows(value)


@pytest.mark.parametrize("sort", VALUES)
def test_a_stage_may_read_any_value(sort: str) -> None:
    """Every test of the contract passes: a value without equality, or without a copy, is fine."""
    made = contract(reading(*VALUES[sort]), orders=1)
    for name in sorted(names_of_tests(StageContractTest)):
        getattr(made, name)()


def appends(found: Any) -> None:
    found.append(1)


#: Makes an input, and changes it.
CHANGES: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "no equality": (lambda: Order(1, 2), lambda order: appends(order.items)),
    "another attribute": (lambda: Order(1, 2), lambda order: setattr(order, "late", 1)),
    "an exception": (lambda: ValueError("x"), lambda error: error.add_note("n")),
    "nan": (lambda: [NAN], lambda found: found.__setitem__(0, 1.0)),
    "a function": (lambda: [len], lambda found: found.__setitem__(0, str)),
    "an array": (lambda: np.zeros(3), lambda array: array.__setitem__(0, 1)),
    "an array in a data class": (lambda: Measured(np.zeros(3)), lambda m: m.samples.fill(2)),
    "a table": (lambda: Frame([1]), lambda frame: appends(frame.values)),
    "a lock within": (Account, lambda account: appends(account.entries)),
    "itself": (recursive, lambda found: found[1].update(more=1)),
    "slots": (lambda: Slotted([1]), lambda slotted: appends(slotted.inside)),
    "beneath a mapping": (lambda: MappingProxyType({"a": [1]}), lambda m: appends(m["a"])),
    "beneath a deque": (lambda: deque([1, [2]]), lambda found: appends(found[1])),
    "a set": (lambda: {1}, lambda found: found.add(2)),
    "shared": (lambda: [[1]] * 2, lambda found: appends(found[1])),
    "no longer shared": (lambda: [[1]] * 2, lambda found: found.__setitem__(1, [1, 2])),
}


@pytest.mark.parametrize("sort", CHANGES)
def test_a_value_that_is_changed_is_not_as_in_its_picture(sort: str) -> None:
    """Whether it can be copied or not."""
    make, change = CHANGES[sort]
    value = make()
    picture = Picture(value)
    change(value)
    assert not picture.shows(value)


@both_loops
@pytest.mark.parametrize("sort", CHANGES)
def test_a_changed_input_of_any_sort_is_found(sort: str, real_io: bool) -> None:
    """The error names its key."""
    made = contract(reading(*CHANGES[sort]), real_io=real_io)
    with pytest.raises(AssertionError, match=r"reads changed its inputs \['value'\]: copy"):
        made.test_leaves_its_inputs_as_they_are()


def test_a_picture_does_not_change_with_its_value() -> None:
    """Also where the value cannot be copied, and objects come and go meanwhile."""
    account = Account()
    picture = Picture(account)
    assert picture.shows(account)
    account.entries = [1, 2]
    assert picture.shows(account)
    account.entries = [1, 2, 3]
    assert not picture.shows(account)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([1], [1, 2]),
        ([1], (1,)),
        ({"a": NAN}, {"b": NAN}),
        ({NAN}, {1.0}),
        (np.zeros(2), np.zeros(3)),
        (np.zeros(2), np.zeros(2, dtype=np.float32)),
        (Order(1), Order(2)),
        (Order(1), Slotted(1)),
        (len, str),
        ([NAN], [0.0]),
        (NAN, "x"),
    ],
)
def test_what_differs_is_not_the_same(one: Any, other: Any) -> None:
    """Whichever comes first; each is the same as a copy of itself."""
    assert not Picture(one).shows(other)
    assert not Picture(other).shows(one)
    assert Picture(one).shows(copy.deepcopy(one))
    assert Picture(other).shows(copy.deepcopy(other))


@both_loops
@pytest.mark.parametrize(
    "output",
    [
        NAN,
        [NAN, {"x": -NAN}],
        Decimal("NaN"),
        {"one": Measured(np.array([1.0, NAN]))},
        [shared := Measured(np.zeros(2)), shared],
        Order(1, [2]),
    ],
)
def test_outputs_of_any_type_can_be_stored_and_compared(output: Any, real_io: bool) -> None:
    """With the codec that the user's store has; two runs at once that return the like are alike."""

    async def returns(ctx: StageContext) -> StageOutput:
        await asyncio.sleep(0)
        return StageOutput.ok(count=copy.deepcopy(output))

    codec = Codec(
        [
            StoredType("measured", Measured, lambda m: m.samples.tolist(), _measured),
            StoredType("order", Order, lambda o: o.items, lambda items: Order(*items)),
        ]
    )
    made = contract(declared(returns), codec=codec, real_io=real_io, orders=1)
    made.test_returns_outputs_that_can_be_stored()
    made.test_two_runs_at_once_do_not_mix()


def _measured(samples: list[float]) -> Measured:
    return Measured(np.array(samples))


def test_an_output_that_comes_back_otherwise_is_found() -> None:
    """With both values."""

    async def returns(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(count=Order(1))

    codec = Codec([StoredType("order", Order, lambda o: [], lambda _: Order())])
    with pytest.raises(AssertionError, match=r"the output .count. came back as .*Order object"):
        contract(declared(returns), codec=codec).test_returns_outputs_that_can_be_stored()


def test_an_output_that_cannot_be_stored_is_found_with_the_fix() -> None:
    """The error says what to set, and where."""

    async def returns(ctx: StageContext) -> StageOutput:
        return StageOutput.ok(count=Order(1))

    with pytest.raises(AssertionError, match=r"set codec = Codec\(\[StoredType\(…\)\]\)"):
        contract(declared(returns)).test_returns_outputs_that_can_be_stored()


# ── cancellation ────────────────────────────────────────────────────────────────────────────────


async def down() -> None:
    await asyncio.sleep(0.001)
    raise ConnectionError


async def catches_a_group(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(down())
    except* ConnectionError:
        pass
    await asyncio.sleep(0.001)
    return StageOutput.ok(count=len(words))


async def catches_a_group_around_its_wait(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(down())
            await asyncio.sleep(1)
    except* ConnectionError:
        pass
    return StageOutput.ok(count=len(words))


async def catches_groups_one_after_another(ctx: StageContext) -> StageOutput:
    for _ in range(3):
        await catches_a_group(ctx)
    return await catches_a_group_around_its_wait(ctx)


async def has_a_timeout(ctx: StageContext) -> StageOutput:
    words = ctx["words"]
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.001):
            await asyncio.sleep(1)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(1), 0.001)
    return StageOutput.ok(count=len(words))


async def waits_for_what_just_ended(ctx: StageContext) -> StageOutput:
    """Python 3.11's `wait_for` then returns it, cancelled or not."""
    await asyncio.wait_for(asyncio.sleep(0.001), 1)
    return StageOutput.ok(count=len(ctx["words"]))


async def stops_a_task_of_its_own(ctx: StageContext) -> StageOutput:
    task = asyncio.create_task(asyncio.sleep(60))
    try:
        await asyncio.sleep(0.001)
    finally:
        task.cancel()
    await asyncio.wait([task])
    return StageOutput.ok(count=len(ctx["words"]))


@both_loops
@pytest.mark.parametrize(
    "runner",
    [
        catches_a_group,
        catches_a_group_around_its_wait,
        catches_groups_one_after_another,
        has_a_timeout,
        waits_for_what_just_ended,
        stops_a_task_of_its_own,
    ],
)
def test_a_stage_may_cancel_what_is_its_own(runner: Any, real_io: bool) -> None:
    """Wherever the run is cancelled: what a group or a timeout asks for is not swallowed."""
    made = contract(declared(runner), real_io=real_io)
    made.test_can_be_cancelled_wherever_it_waits()
    made.test_keeps_no_context()
