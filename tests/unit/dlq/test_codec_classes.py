"""Everyday values come back equal and of the same type; the rest is refused by its path."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time as clock
from array import array
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from dataclasses import InitVar, dataclass, field
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from enum import Enum, Flag, IntEnum, IntFlag, StrEnum
from fractions import Fraction
from functools import cached_property
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import MappingProxyType, SimpleNamespace
from typing import Any, NamedTuple
from unittest.mock import Mock
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from pydantic import BaseModel, PrivateAttr, RootModel

from stageflow import errors as err
from stageflow.codec import DEFAULT_CODEC, Codec, StoredType, canonical, dumps
from stageflow.codec.values import is_large, loads
from stageflow.dlq import Unstorable
from tests.utils.dead_letters import make_letter

BERLIN = ZoneInfo("Europe/Berlin")


class Colour(Enum):
    RED = 1
    PAIR = (1, 2)


class Word(StrEnum):
    A = "a"


class Level(IntEnum):
    LOW = 1


class Right(Flag):
    READ = 1
    WRITE = 2


class Mode(IntFlag):
    READ = 1


@dataclass
class Order:
    """A dataclass with a default, a computed field, an init-only one and a cache."""

    when: Any
    items: list[Any] = field(default_factory=list)
    total: int = field(init=False, default=4)
    note: InitVar[str] = ""

    def __post_init__(self, note: str) -> None:
        self.extra = note

    @cached_property
    def lock(self) -> object:
        return object()


@dataclass(frozen=True, slots=True)
class Point:
    x: Any
    y: Any = None


class Pair(NamedTuple):
    left: Any
    right: str = "r"


class Text(str):
    pass


class Amount(int):
    pass


class Cart(list[Any]):
    pass


class Strict(dict[Any, Any]):
    def __setitem__(self, key: Any, value: Any) -> None:
        raise AssertionError("reading a letter runs no code of a class")


class Model(BaseModel):
    when: datetime
    order: Any = None
    _secret: int = PrivateAttr(default=4)


class Numbers(RootModel[list[int]]):
    pass


def described(text: str, language: Any = "de") -> Text:
    """A text with an attribute."""
    made = Text(text)
    made.language = language  # type: ignore[attr-defined]
    return made


def cached(order: Order) -> Order:
    """An order whose cache is filled with what cannot be stored."""
    assert order.lock is not None
    return order


def round_trip(value: Any, codec: Codec = DEFAULT_CODEC) -> Any:
    return codec.from_plain(json.loads(json.dumps(codec.to_plain(value), allow_nan=False)))


EVERYDAY: list[Any] = [
    datetime(2026, 3, 1, 12, tzinfo=BERLIN),
    datetime(2026, 10, 25, 2, 30, fold=1, tzinfo=BERLIN),
    datetime(2026, 1, 1, tzinfo=timezone(timedelta(hours=1), "Shop")),
    datetime(2026, 1, 1, fold=1), time(1, 2, 3, 4), time(1, tzinfo=UTC), time(1, fold=1),
    BERLIN, UTC, timezone(timedelta(minutes=-5), "x"),
    Colour.RED, Colour.PAIR, Word.A, Level.LOW, Right.READ | Right.WRITE, Right(0), Mode(65),
    Order(datetime(2026, 1, 1, tzinfo=BERLIN), [Point(1)], "n"), cached(Order(1)),
    Point((1, 2)), {Point(1): Pair({1})}, Pair(1), described("x"), Amount(5), Cart([1, Cart()]),
    Strict({1: 2}), Model(when=datetime(2026, 1, 1, tzinfo=UTC), order=Order(1)), Numbers([1]),
    OrderedDict([(2, 1), ("a", 2)]), defaultdict(list, {1: [2]}), defaultdict(None, {"a": 1}),
    Counter("aab"), deque([1, (2,)], 5), range(1, 9, 2), array("h", [1, -2]), Fraction(1, 3),
    SimpleNamespace(a=(1,)), Path("a") / "b", PurePosixPath("/x"), PureWindowsPath("c:\\x"),
    {Word.A: 1, Level.LOW: 2}, {Colour.RED, "a", 1}, frozenset({Pair(1)}),
    np.float64(1.5), np.int32(4), np.bool_(True), np.str_("ab"), np.str_(""),
    np.datetime64("2026-01-01"), complex(-0.0, 1e300),
]  # fmt: skip


@pytest.mark.parametrize("value", EVERYDAY, ids=lambda value: type(value).__name__)
def test_everyday_values_come_back(value: Any) -> None:
    """Equal, of the same type, in a letter too; with the attributes that are not compared."""
    letter = make_letter(inputs={"value": [value]})
    for back in (
        round_trip(value),
        DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(letter)).inputs["value"][0],
    ):
        assert back == value
        assert type(back) is type(value)
        assert isinstance(value, set) or repr(back) == repr(value)
        if not isinstance(value, Enum):
            kept = {k: v for k, v in getattr(value, "__dict__", {}).items() if k != "lock"}
            assert getattr(back, "__dict__", {}) == kept


def test_a_moment_in_a_zone_stays_in_its_zone() -> None:
    """A month later the clock shows the same hour, though summer time has begun."""
    at = datetime(2026, 3, 1, 12, tzinfo=BERLIN)
    assert (round_trip(at) + timedelta(days=60)).utcoffset() == timedelta(hours=2)


@pytest.mark.parametrize(
    "made",
    [np.arange(6, dtype=">i2").reshape(2, 3).T, np.zeros((0, 3)), np.array(["a"]), np.array(5)],
    ids=["turned", "empty", "texts", "scalar"],
)  # fmt: skip
def test_arrays_come_back(made: Any) -> None:
    """With their type and shape, and as ones that can be written to."""
    back = round_trip(made)
    assert (back.dtype, back.shape, back.tolist()) == (made.dtype, made.shape, made.tolist())
    assert back.flags.writeable


class _Zone(tzinfo):
    """A zone that no codec knows."""

    def utcoffset(self, at: datetime | None) -> timedelta:
        return timedelta(0)

    dst = utcoffset

    def tzname(self, at: datetime | None) -> str:
        return "shop"


class Closing:
    """Not plain data."""


@dataclass
class Handle:
    """Data that owns something."""

    path: str

    def __del__(self) -> None:
        """Give it back."""


def local() -> Any:
    @dataclass
    class Inner:
        x: int = 1

    return Inner()


def within_itself() -> Order:
    order = Order(1)
    order.items.append([order])
    return order


def doubled(levels: int) -> list[Any]:
    """A list that is small in memory, and that JSON would write 2 ** levels times."""
    value: list[Any] = [1]
    for _ in range(levels):
        value = [value, value]
    return value


REFUSED: list[tuple[Any, str, str]] = [
    ([0, 0, 0, Order(object())], "[3].when", "object object"),
    ({"k": Point((1, Closing()))}, "['k'].x[1]", "Closing"),
    (Model(when=datetime(2026, 1, 1), order=[print]), ".order[0]", "built-in function print"),
    (Pair({"a": print}), "[0]['a']", "built-in function print"),
    (SimpleNamespace(a=print), ".a", "built-in function print"),
    (Order(1, note=print), ".extra", "built-in function print"),  # type: ignore[arg-type]
    (described("x", print), ".language", "built-in function print"),
    (datetime(2026, 1, 1, tzinfo=_Zone()), "", "_Zone"),
    (defaultdict(lambda: 1), "", "its factory <lambda> is not one of"),
    (Handle("/tmp"), "", "Handle(path="),
    (local(), "", "is local to a function; define it at the top of a module"),
    (within_itself(), ".items[0][0]", "it is within itself"),
    (np.array([object()]), "", "arrays of object are not stored"),
    (np.zeros(2, dtype="i4,i4"), "", "are not stored"),
]


@pytest.mark.parametrize(("value", "path", "reason"), REFUSED, ids=lambda x: str(type(x).__name__))
def test_what_cannot_be_stored_is_named_by_its_path(value: Any, path: str, reason: str) -> None:
    """The part alone, with its type and the reason; what is around it is kept."""
    letter = make_letter(stages={}, inputs={"a": value})
    ((found, lost),) = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(letter)).unstorable().items()
    assert found == f"inputs['a']{path}"
    assert reason in lost.description


def test_a_value_with_a_million_shared_parts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Instead of being written for hours; a part that is shared comes back as equal copies."""
    monkeypatch.setattr("stageflow.codec.values._CONTAINERS", 1_000)
    assert round_trip(doubled(8)) == doubled(8)
    assert "more than 1000 lists and objects" in round_trip(doubled(40)).description


@pytest.mark.parametrize(
    "name",
    [
        "os:system", "subprocess:Popen", "stageflow.pulse:no_such", "no.such.module:Thing",
        "tempfile:TemporaryDirectory", f"{__name__}:Closing", f"{__name__}:Handle",
    ],
)  # fmt: skip
def test_a_letter_imports_and_calls_nothing(name: str) -> None:
    """A class that is not plain data, or not imported, is not made; the letter is readable."""
    before = set(sys.modules)
    plain = {"$": "object", "v": [name, {"path": "/"}]}
    text = DEFAULT_CODEC.encode(make_letter()).replace('["tea"]', json.dumps(plain))
    letter = DEFAULT_CODEC.decode(text)
    assert isinstance(letter.inputs["items"], Unstorable)
    assert set(sys.modules) == before
    assert DEFAULT_CODEC.encode(letter) == text, "a store would lose what it cannot read"
    with pytest.raises(err.CorruptDeadLetterError, match="is not"):
        DEFAULT_CODEC.from_plain(plain)


@pytest.mark.parametrize(
    ("parts", "problem"),
    [
        (["Order", {"items": []}], "has the fields when, which it lacks"),
        (["Pair", {}, {"$": "tuple", "v": [1]}], "has the fields left, right, which it lacks"),
        (["Colour", "GREEN"], "has no member 'GREEN' now"),
        (["Text", {}, ["x"]], "TypeError"),
        (["Point", {"x": 1, "y": 2}, "more"], "TypeError"),
        ([["Order"], {}], "TypeError"),
    ],
    ids=str,
)
def test_a_class_that_has_changed_is_not_filled_in(parts: list[Any], problem: str) -> None:
    """Nothing is guessed: the error names the class and what is different."""
    name = f"{__name__}:{parts[0]}" if isinstance(parts[0], str) else parts[0]
    with pytest.raises(err.CorruptDeadLetterError, match=problem):
        DEFAULT_CODEC.from_plain({"$": "object", "v": [name, *parts[1:]]})


def test_reading_runs_no_code_of_a_class() -> None:
    """No constructor, no validator, no setter."""
    plain = DEFAULT_CODEC.to_plain([Order(1), Strict({1: 2}), Model(when=datetime(2026, 1, 1))])

    def forbidden(*arguments: Any, **options: Any) -> Any:
        raise AssertionError("it was called")

    with pytest.MonkeyPatch.context() as patch:
        for cls in (Order, Strict, Model):
            patch.setattr(cls, "__init__", forbidden)
            patch.setattr(cls, "__setattr__", forbidden)
        patch.setattr(Order, "__post_init__", forbidden)
        assert [type(value) for value in DEFAULT_CODEC.from_plain(plain)] == [Order, Strict, Model]


def test_a_codec_can_be_held_to_declared_classes() -> None:
    """One that is not declared is refused in both directions."""
    own = Codec([Point], declared_only=True)
    assert round_trip(Point(1), own) == Point(1)
    assert "is not declared" in round_trip(Pair(1), own).description
    with pytest.raises(err.CorruptDeadLetterError, match=r"Pair is not declared; give it to Codec"):
        own.from_plain(DEFAULT_CODEC.to_plain(Pair(1)))


def test_a_stored_type_around_an_unknown_class_is_one_placeholder() -> None:
    """Nothing can make the value again, so its stored form is kept whole."""
    own = Codec([StoredType("box", Closing, lambda _: [Point(1)], lambda parts: parts[0].x)])
    plain = json.loads(json.dumps(own.to_plain(Closing())).replace(":Point", ":Gone"))
    (lost,) = own.items_from_plain({"a": plain}, strict=False).values()
    assert lost.plain == plain
    assert own.to_plain(lost) == plain


ORDERS: list[Callable[[], Any]] = [
    lambda: {1: "a", "b": {2: {3, "x", None}}},
    lambda: {"b": {2: {None, "x", 3}}, 1: "a"},
]


def test_equal_values_have_one_canonical_text() -> None:
    """In whatever order dictionaries were filled."""
    first, second = (canonical(DEFAULT_CODEC.to_plain(make())) for make in ORDERS)
    assert first == second


@pytest.mark.slow
def test_the_digest_of_a_job_is_the_same_in_every_process() -> None:
    """For any PYTHONHASHSEED, and any order in which its inputs were added."""
    script = (
        "import sys; from stageflow.cluster.job import Job, Wire;"
        "from stageflow.codec import DEFAULT_CODEC;"
        "words = {f'w{n}' for n in range(50)} | {1, None, ('a', 1)};"
        "pairs = [(2, words), ('a', frozenset(words)), ((1,), 3)];"
        "inputs = {'x': dict(pairs[::int(sys.argv[1])]), 'y': words};"
        "print(Wire(DEFAULT_CODEC).encode_job(Job('p', inputs, 'k'))[1])"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script, step],
            env={"PYTHONHASHSEED": seed},
            capture_output=True, check=True, text=True,
        ).stdout
        for seed, step in (("1", "1"), ("2", "-1"), ("3", "1"))
    }  # fmt: skip
    assert len(digests) == 1


@pytest.mark.parametrize(
    "plain",
    [
        {"a": ["ü\ud800" * 5_000, {"b": list(range(9_000))}], "c": [], "d": {}, "e": None},
        [1.5, "x", [True, None], {"k": []}] * 3,
        {"tuple": ("a", "b")},
    ],
    ids=["long", "mixed", "tuple"],
)
def test_text_in_pieces_is_the_same_text(plain: Any) -> None:
    """Sign by sign that of `json.dumps`: stores compare it."""
    assert dumps(plain, large=True) == json.dumps(plain)
    assert loads(json.dumps(plain), large=True) == json.loads(json.dumps(plain))


def test_reading_large_text_does_not_hold_the_interpreter() -> None:
    """Else no other thread runs meanwhile, and a loop stands still."""
    text = f"[{'1.5, ' * 500_000}2]"
    reading = threading.Thread(target=loads, args=(text,), kwargs={"large": True})
    reading.start()
    turns = 0
    while reading.is_alive():
        turns += 1
        clock.sleep(0)
    assert turns > 10


def test_events_count_for_the_size_of_a_letter() -> None:
    """A stage may emit more than it returns."""
    assert is_large(MappingProxyType({"values": [1.5] * 300_000}))


class Closed:
    """A value of which nothing can be read."""

    def __getattr__(self, name: str) -> Any:
        raise ValueError(f"{name} cannot be read")


@pytest.mark.parametrize(
    "value",
    [Closed(), Mock(), Mock(nbytes="many"), type("T", (), {})],
    ids=["closed", "mock", "mock of a size", "class"],
)
def test_a_value_whose_size_cannot_be_read_is_not_large(value: Any) -> None:
    """For any error of reading it, its letter is stored."""
    assert not is_large([value])
