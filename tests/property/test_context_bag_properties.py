"""The bag against a dict, whatever is done to it in whatever order."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, rule

from stageflow import ContextBag, DataConflictError
from stageflow.errors import MissingKeyError
from tests.property.strategies import context_bags, context_keys, context_values, stage_names
from tests.utils.errors import raises_code

pytestmark = pytest.mark.untraced


def at_once(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run what must not suspend; a write that awaited in its middle would need a lock."""
    with pytest.raises(StopIteration):
        coroutine.send(None)


@given(context_keys(), context_values(), context_values(), stage_names(), stage_names())
def test_writing_a_key_twice_always_raises(
    key: str, first: object, second: object, writer: str, other: str
) -> None:
    """For any writers and values, the first value stays."""
    bag = ContextBag()
    asyncio.run(bag.write(key, first, writer))
    with pytest.raises(DataConflictError) as caught:
        asyncio.run(bag.write(key, second, other))
    assert (caught.value.existing_writer, caught.value.new_writer) == (writer, other)
    assert bag.read(key) is first


@given(st.dictionaries(context_keys(), context_values()), stage_names())
def test_writing_different_keys_never_raises(content: dict[str, object], writer: str) -> None:
    """And the bag then holds just what was written, in that order."""
    bag = ContextBag()
    for key, value in content.items():
        at_once(bag.write(key, value, writer))
    assert dict(bag) == content
    assert list(bag) == list(content)


@given(context_keys(), context_values())
def test_reading_gives_what_was_written(key: str, value: object) -> None:
    """The very object, by every way of reading."""
    bag = ContextBag()
    at_once(bag.write(key, value, "stage"))
    assert bag.read(key) is value
    assert bag[key] is value
    assert bag.get(key) is value


@given(context_bags(), context_values())
def test_no_key_of_a_bag_can_be_written_again(bag: ContextBag, value: object) -> None:
    """Neither alone nor among others, and a refusal changes nothing at all."""
    content = dict(bag)
    writers = {key: bag.writer_of(key) for key in bag}
    for key in content:
        with pytest.raises(DataConflictError):
            bag.put_all({f"new {key}": value, key: value}, "late")
    assert dict(bag) == content
    assert {key: bag.writer_of(key) for key in bag} == writers


@given(st.lists(context_keys(), min_size=2, max_size=20))
def test_of_tasks_that_race_for_keys_each_key_has_one_winner(keys: list[str]) -> None:
    """As many writes succeed as there are keys, and each key's value is its winner's."""
    bag = ContextBag()

    async def write(key: str, number: int) -> bool:
        await asyncio.sleep(0)
        try:
            await bag.write(key, number, f"task {number}")
        except DataConflictError:
            return False
        return True

    async def race() -> list[bool]:
        return await asyncio.gather(*[write(key, number) for number, key in enumerate(keys)])

    assert sum(asyncio.run(race())) == len(set(keys)) == len(bag)
    assert all(bag.writer_of(key) == f"task {bag[key]}" for key in bag)


class BagAgainstDict(RuleBasedStateMachine):
    """Every operation is done to a bag and to two dicts, and they must agree."""

    keys = Bundle("keys")

    def __init__(self) -> None:
        super().__init__()
        self.bag = ContextBag()
        self.values: dict[str, Any] = {}
        self.writers: dict[str, str] = {}

    @rule(target=keys, key=context_keys())
    def choose(self, key: str) -> str:
        return key

    @rule(key=keys, value=context_values(), writer=stage_names(), awaited=st.booleans())
    def write(self, key: str, value: object, writer: str, awaited: bool) -> None:
        def do() -> None:
            if awaited:
                at_once(self.bag.write(key, value, writer))
            else:
                self.bag.put(key, value, writer)

        if key in self.values:
            with pytest.raises(DataConflictError):
                do()
        else:
            do()
            self.values[key], self.writers[key] = value, writer

    @rule(some=st.lists(keys, max_size=4), value=context_values(), writer=stage_names())
    def write_several(self, some: list[str], value: object, writer: str) -> None:
        outputs = dict.fromkeys(some, value)
        if outputs.keys() & self.values.keys():
            with pytest.raises(DataConflictError):
                self.bag.put_all(outputs, writer)
        else:
            self.bag.put_all(outputs, writer)
            self.values.update(outputs)
            self.writers.update(dict.fromkeys(outputs, writer))

    @rule(key=st.integers() | st.binary() | st.none(), value=context_values())
    def write_under_no_string(self, key: Any, value: object) -> None:
        with raises_code("invalid_key"):
            self.bag.put(key, value, "stage")

    @rule(key=keys)
    def read(self, key: str) -> None:
        default = object()
        assert self.bag.get(key, default) is self.values.get(key, default)
        assert (key in self.bag) is (key in self.values)
        if key in self.values:
            assert self.bag.read(key) is self.values[key]
            assert self.bag.writer_of(key) == self.writers[key]
        else:
            for look in (self.bag.read, self.bag.writer_of):
                with pytest.raises(MissingKeyError):
                    look(key)

    @invariant()
    def agrees(self) -> None:
        assert list(self.bag.items()) == list(self.values.items())
        assert len(self.bag) == len(self.values)


TestBagAgainstDict = BagAgainstDict.TestCase
TestBagAgainstDict.settings = settings(stateful_step_count=25)
