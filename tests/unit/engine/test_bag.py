"""The bag: each key once, and who wrote it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from stageflow import ContextBag, DataConflictError
from stageflow.errors import BagError, MissingKeyError, StageflowError
from tests.utils.errors import raises_code


def write(bag: ContextBag, key: Any, value: object, writer: str) -> None:
    asyncio.run(bag.write(key, value, writer))


def put(bag: ContextBag, key: Any, value: object, writer: str) -> None:
    bag.put(key, value, writer)


def put_all(bag: ContextBag, key: Any, value: object, writer: str) -> None:
    bag.put_all({key: value}, writer)


Write = Callable[[ContextBag, Any, object, str], None]
every_way = pytest.mark.parametrize("way", [write, put, put_all], ids=lambda way: way.__name__)


@every_way
def test_what_is_written_can_be_read_with_its_writer(way: Write) -> None:
    """A read gives the very object that was written."""
    bag, value = ContextBag(), object()
    way(bag, "text", value, "stt")
    assert bag.read("text") is bag["text"] is bag.get("text") is value
    assert bag.writer_of("text") == "stt"
    assert ("text" in bag, len(bag), list(bag)) == (True, 1, ["text"])


@every_way
@pytest.mark.parametrize("second_writer", ["llm", "stt"])
def test_a_second_write_is_refused_and_changes_nothing(way: Write, second_writer: str) -> None:
    """The first value and the first writer stay."""
    bag = ContextBag()
    way(bag, "text", "first", "stt")
    with pytest.raises(DataConflictError) as caught:
        way(bag, "text", "second", second_writer)
    error = caught.value
    assert (error.key, error.existing_writer, error.new_writer) == ("text", "stt", second_writer)
    assert dict(bag) == {"text": "first"}
    assert bag.writer_of("text") == "stt"


@every_way
@pytest.mark.parametrize("key", [5, None, b"text", ("text",)], ids=repr)
def test_a_key_that_is_not_a_string_is_refused(way: Write, key: object) -> None:
    """Keys are strings, and the refusal names the key and who used it."""
    bag = ContextBag()
    with pytest.raises(BagError) as caught:
        way(bag, key, "value", "stt")
    assert (caught.value.code, caught.value.key) == ("invalid_key", key)
    assert caught.value.stage == "stt"
    assert "'stt' used the key" in str(caught.value)
    assert len(bag) == 0


@pytest.mark.parametrize("way", [write, put], ids=lambda way: way.__name__)
def test_a_key_that_cannot_be_hashed_is_refused_alike(way: Write) -> None:
    """A list as a key gets the same typed error, not a bare TypeError."""
    with raises_code("invalid_key"):
        way(ContextBag(), ["text"], "value", "stt")


class Text(str):
    """A string of a subclass."""

    __slots__ = ()


@every_way
def test_a_subclass_of_str_is_a_key_like_any_other(way: Write) -> None:
    """It is taken, and it conflicts with the plain string that it equals."""
    bag = ContextBag()
    way(bag, Text("text"), 1, "stt")
    assert bag["text"] == 1
    with pytest.raises(DataConflictError):
        way(bag, Text("text"), 2, "llm")


@pytest.mark.parametrize("bad", ["taken", 5])
def test_several_keys_are_written_all_or_none(bad: object) -> None:
    """When one of them is refused, those before it are not written either."""
    bag = ContextBag()
    bag.put("taken", 0, "a")
    with pytest.raises(StageflowError):
        bag.put_all({"new": 1, bad: 2, "later": 3}, "b")  # type: ignore[dict-item]
    assert dict(bag) == {"taken": 0}
    with pytest.raises(MissingKeyError):
        bag.writer_of("new")


def test_each_of_several_keys_knows_its_writer() -> None:
    """Writing together is writing each."""
    bag = ContextBag()
    bag.put_all({"a": 1, "b": 2}, "stt")
    bag.put_all({}, "nobody")
    assert dict(bag) == {"a": 1, "b": 2}
    assert [bag.writer_of(key) for key in bag] == ["stt", "stt"]


@pytest.mark.parametrize("key", ["txet", 5, ["text"]], ids=repr)
def test_reading_what_nobody_wrote_names_what_is_there(key: Any) -> None:
    """All three ways to read strictly raise the same typed error, whatever the key."""
    bag = ContextBag()
    bag.put("text", 1, "stt")
    for read in (bag.read, bag.__getitem__, bag.writer_of):
        with pytest.raises(MissingKeyError, match="written: 'text'") as caught:
            read(key)
        assert caught.value.key == key


def test_reading_with_a_default_never_raises() -> None:
    """An absent key gives the default, a present None gives None."""
    bag = ContextBag()
    bag.put("nothing", None, "stt")
    assert bag.get("absent") is None
    assert bag.get("absent", 5) == 5
    assert bag.get("nothing", 5) is None
    assert "absent" not in bag


def test_asking_whether_a_key_is_there_makes_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Membership is a look-up: no message is composed for the key that is not there."""
    monkeypatch.setattr("stageflow.engine.bag.MissingKeyError", None)
    assert "absent" not in ContextBag()


def test_the_bag_is_a_mapping_in_the_order_of_writing() -> None:
    """It equals a dict of the same content, and cannot be assigned to."""
    bag = ContextBag()
    for key in "cab":
        bag.put(key, key.upper(), "stage")
    assert bag == {"c": "C", "a": "A", "b": "B"}
    assert list(bag.items()) == [("c", "C"), ("a", "A"), ("b", "B")]
    with pytest.raises(TypeError):
        bag["d"] = 1  # type: ignore[index]


def test_repr_names_keys_and_writers_but_no_values() -> None:
    """So the words of a conversation do not get into a log by way of repr."""
    bag = ContextBag()
    bag.put("text", "a secret", "stt")
    bag.put("reply", "secret", "llm")
    assert repr(bag) == "ContextBag('text' by 'stt', 'reply' by 'llm')"


def test_one_bag_serves_several_loops_one_after_another() -> None:
    """No write binds the bag to the loop that it happened in."""
    bag = ContextBag()
    for number in range(3):
        asyncio.run(bag.write(f"key{number}", number, "stage"))
    assert dict(bag) == {"key0": 0, "key1": 1, "key2": 2}


def test_of_many_tasks_that_write_one_key_exactly_one_wins() -> None:
    """Every other one is refused, and the winner's value and name stay together."""
    bag = ContextBag()

    async def contend() -> list[BaseException | None]:
        writes = [bag.write("text", number, f"stage{number}") for number in range(10)]
        return await asyncio.gather(*writes, return_exceptions=True)

    refused = [outcome for outcome in asyncio.run(contend()) if outcome is not None]
    assert len(refused) == 9
    assert all(isinstance(error, DataConflictError) for error in refused)
    assert bag.writer_of("text") == f"stage{bag['text']}"
