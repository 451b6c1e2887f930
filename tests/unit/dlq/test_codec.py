"""How a dead letter and its values become JSON text and come back."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow import Audio, Message
from stageflow import errors as err
from stageflow.codec import DEFAULT_CODEC, Codec, StoredType
from stageflow.dlq import DeadLetterState, Unstorable
from tests.utils.dead_letters import make_letter

_SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text()
    | st.binary()
    | st.binary().map(bytearray)
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.timedeltas()
    | st.uuids()
    | st.decimals(allow_nan=False)
    | st.complex_numbers(allow_nan=False)
    | st.builds(Audio, st.binary(), st.integers(1, 96_000))
    | st.builds(Message, st.sampled_from(["system", "user", "assistant"]), st.text())
)

_KEYS = st.text() | st.just("$") | st.integers() | st.tuples(st.integers(), st.text())

_VALUES = st.recursive(
    _SCALARS,
    lambda inner: (
        st.lists(inner)
        | st.lists(inner).map(tuple)
        | st.dictionaries(_KEYS, inner)
        | st.dictionaries(st.text(), inner).map(MappingProxyType)
        | st.sets(st.integers() | st.text())
        | st.frozensets(st.binary())
    ),
    max_leaves=20,
)


def typed(value: Any) -> Any:
    """Return `value` with the type of each part spelled out, so that 1, 1.0 and True differ."""
    if isinstance(value, dict | MappingProxyType):
        return type(value), [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), value if not isinstance(value, float) else repr(value)


@pytest.mark.parametrize("depth", [10, 5_000])
def test_deep_nesting_is_kept_up_to_a_limit(depth: int) -> None:
    """A value that is nested deeper than JSON parsers go is described, not refused."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    back = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(make_letter(inputs={"deep": value})))
    assert bool(back.unstorable()) == (depth > 1_000)


def test_a_value_that_changes_while_it_is_stored_is_described() -> None:
    """A dictionary that grows under the codec's hands costs its value, not the letter."""
    growing: dict[str, Any] = {}

    class Grower:
        def __repr__(self) -> str:
            growing[str(len(growing))] = 1
            return "grower"

    growing["first"] = Grower()
    growing["second"] = 2
    back = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(make_letter(inputs={"g": growing})))
    assert back.inputs["g"] == Unstorable(
        "builtins.dict", "RuntimeError: dictionary changed size during iteration"
    )


@given(_VALUES)
def test_a_value_comes_back_as_it_was(value: Any) -> None:
    """Any value of known types survives the way through JSON text, types included."""
    text = json.dumps(DEFAULT_CODEC.to_plain(value), allow_nan=False)
    assert typed(DEFAULT_CODEC.from_plain(json.loads(text))) == typed(value)


@pytest.mark.parametrize(
    "value",
    [
        float("inf"),
        float("-inf"),
        -(10**6_000),
        10**6_000,
        "lone \ud800 surrogate",
        {"$": "tuple", "v": [1]},
        timedelta(days=-1, microseconds=1),
        date(2026, 1, 2),
        Decimal("1.10"),
        UUID(int=5),
        datetime(2026, 1, 2, 3, 4, 5, 6),
    ],
    ids=[
        *("infinity", "minus infinity", "huge below 0", "huge", "surrogate", "look-alike"),
        *("timedelta", "date", "decimal", "uuid", "datetime"),
    ],
)
def test_values_that_json_would_spoil(value: Any) -> None:
    """Infinities, huge integers, lone surrogates and look-alikes of tags come back."""
    text = json.dumps(DEFAULT_CODEC.to_plain(value), allow_nan=False)
    assert typed(DEFAULT_CODEC.from_plain(json.loads(text))) == typed(value)


class _Rude:
    def __repr__(self) -> str:
        raise ValueError("no")


def _within_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (b"\0a", {"$": "bytes", "v": "AGE="}),
        (bytearray(b"a"), {"$": "bytearray", "v": "YQ=="}),
        ((1, "x"), {"$": "tuple", "v": [1, "x"]}),
        ({1}, {"$": "set", "v": [1]}),
        (frozenset([1]), {"$": "frozenset", "v": [1]}),
        (MappingProxyType({"a": 1}), {"$": "mapping", "v": {"a": 1}}),
        (
            datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC),
            {"$": "datetime", "v": "2026-01-02T03:04:05.000006+00:00"},
        ),
        (date(2026, 1, 2), {"$": "date", "v": "2026-01-02"}),
        (timedelta(1, 2, 3), {"$": "timedelta", "v": [1, 2, 3]}),
        (Decimal("1.10"), {"$": "decimal", "v": "1.10"}),
        (UUID(int=5), {"$": "uuid", "v": "00000000-0000-0000-0000-000000000005"}),
        (1 + 2j, {"$": "complex", "v": [1.0, 2.0]}),
        (Audio(b"a", 8_000), {"$": "audio", "v": [{"$": "bytes", "v": "YQ=="}, 8_000]}),
        (Message("user", "hi"), {"$": "message", "v": ["user", "hi"]}),
        (Unstorable("m.T", "t"), {"$": "unstorable", "v": ["m.T", "t"]}),
        ({1: (2,)}, {"$": "dict", "v": [[1, {"$": "tuple", "v": [2]}]]}),
        ({(1,): 2}, {"$": "dict", "v": [[{"$": "tuple", "v": [1]}, 2]]}),
        ({"$": 1}, {"$": "dict", "v": [["$", 1]]}),
        (float("-inf"), {"$": "float", "v": "-inf"}),
        (2**1_024 - 1, 2**1_024 - 1),
        (2**1_024, {"$": "int", "v": "0x1" + 256 * "0"}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_stored_form_of_a_value_stays(value: Any, plain: Any) -> None:
    """Letters outlive the version that wrote them; what stands in them is fixed, sign by sign."""
    assert typed(DEFAULT_CODEC.to_plain(value)) == typed(plain)
    assert typed(DEFAULT_CODEC.from_plain(plain)) == typed(value)


def test_the_stored_form_of_a_letter_stays() -> None:
    """The same for the letter itself: every name, and what stands under it."""
    assert json.loads(DEFAULT_CODEC.encode(make_letter())) == {
        "id": "00000000000000000000000000000001",
        "created_at": "2026-01-02T03:04:05.000001+00:00",
        "pipeline": "shop",
        "pipeline_run_id": "run-1",
        "correlation_id": "c-1",
        "failed_stage": "pay",
        "error": {
            "code": "refused",
            "category": "permanent",
            "message": "no money",
            "user_message": "Sorry.",
            "retryable": False,
            "provider": "bank",
        },
        "inputs": {"items": ["tea"]},
        "stages": {
            "pick": {
                "ending": "completed",
                "final": True,
                "reason": None,
                "outputs": {
                    "picked": {"$": "tuple", "v": ["tea", {"$": "bytes", "v": "AA=="}]},
                },
            },
            "pay": {"ending": "failed", "final": False, "reason": "no money", "outputs": {}},
        },
        "events": [
            {
                "sequence": 1,
                "type": "pipeline.started",
                "timestamp": "2026-01-02T03:04:05.000001+00:00",
                "pipeline_run_id": "run-1",
                "offset_ms": 0.0,
                "stage": None,
                "data": {"a": {"$": "set", "v": [1, 2]}},
            }
        ],
        "seed": 7,
        "deadline_s": 2.5,
    }


@pytest.mark.parametrize(
    ("plain", "tag", "cause"),
    [
        ({"$": "planet", "v": 1}, "planet", "KeyError: 'planet'"),
        ({"$": "tuple"}, "tuple", "KeyError: 'v'"),
        ({"$": "float", "v": "x"}, "float", "ValueError: could not convert string to float: 'x'"),
        ({"$": "tuple", "v": [{"$": "planet", "v": 1}]}, "planet", "KeyError: 'planet'"),
        ({"$": "bytes", "v": "Y?Q=="}, "bytes", "Error: Only base64 data is allowed"),
        ({"$": "bytes", "v": "é"}, "bytes", "ValueError: string argument should contain only"),
    ],
    ids=["unknown", "empty", "wrong", "inner", "no sign of base64", "no sign of ASCII"],
)
def test_a_value_that_cannot_be_read_names_its_tag(plain: Any, tag: str, cause: str) -> None:
    """The innermost one that is wrong, and what was wrong with it."""
    with pytest.raises(err.CorruptDeadLetterError) as caught:
        DEFAULT_CODEC.from_plain(plain)
    problem = f"a stored dead letter cannot be read: a value tagged {tag!r} ({cause}"
    assert str(caught.value).startswith(problem)


def test_a_placeholder_says_what_it_stands_for() -> None:
    """The type with its module, and no more than 200 signs of what the value says of itself."""

    class Loud:
        def __repr__(self) -> str:
            return 300 * "x"

    for value, type_name, description in (
        (Loud(), f"{__name__}.{Loud.__qualname__}", 200 * "x"),
        (_Rude(), f"{__name__}._Rude", "its repr() raises ValueError"),
    ):
        assert DEFAULT_CODEC.from_plain(DEFAULT_CODEC.to_plain(value)) == Unstorable(
            type_name, description
        )


@pytest.mark.parametrize(
    ("wrap", "levels"),
    [(lambda v: [v], 60), (lambda v: {"k": v}, 60), (lambda v: {0: v}, 60), (lambda v: (v,), 30)],
    ids=["list", "dict", "pairs", "tuple"],
)
def test_sixty_levels_are_kept(wrap: Callable[[Any], Any], levels: int) -> None:
    """Of whatever is nested (a tuple takes two); what is deeper is described where it stood."""

    def stored(count: int) -> Any:
        value: Any = 5
        for _ in range(count):
            value = wrap(value)
        return value, DEFAULT_CODEC.from_plain(DEFAULT_CODEC.to_plain(value))

    value, back = stored(levels)
    assert back == value
    _, back = stored(levels + 1)
    (lost,) = make_letter(inputs={"deep": back}).unstorable().values()
    assert lost.description == "nested too deep, or within itself"


@pytest.mark.parametrize(
    "value",
    [(1,), {1}, frozenset([1]), MappingProxyType({"a": 1}), Message("user", "hi"), timedelta(1)],
    ids=lambda value: type(value).__name__,
)
def test_a_value_at_the_limit_costs_itself_and_not_the_letter(value: Any) -> None:
    """One that is stored in two levels, of which the second is too deep, is described whole."""
    deep = value
    for _ in range(59):
        deep = [deep]
    back = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(make_letter(inputs={"deep": deep})))
    (lost,) = back.unstorable().values()
    assert lost.type_name.endswith(f".{type(value).__qualname__}")
    assert lost.description == "nested too deep, or within itself"


@pytest.mark.parametrize(("levels", "kept"), [(29, True), (30, False)])
def test_keys_are_nested_no_deeper_than_values(levels: int, kept: bool) -> None:
    """A tuple in the place of a key takes two levels as well."""
    key: Any = 5
    for _ in range(levels):
        key = (key,)
    back = DEFAULT_CODEC.from_plain(DEFAULT_CODEC.to_plain({key: 1}))
    assert (back == {key: 1}) is kept


@pytest.mark.parametrize(
    ("value", "type_name", "fragment"),
    [
        (object(), "builtins.object", "<object object"),
        (_Rude(), "_Rude", "ValueError"),
        (_within_itself(), "builtins.list", "within itself"),
        (Audio("no bytes", 5), "tests", ""),  # type: ignore[arg-type]
    ],
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_what_cannot_be_stored_is_described(value: Any, type_name: str, fragment: str) -> None:
    """An unknown type, a liar, a cycle: each leaves a placeholder with its type, none raises."""
    letter = make_letter(inputs={"good": 1, "bad": value})
    back = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(letter))
    assert back.inputs["good"] == 1
    lost = back.unstorable()
    if isinstance(value, Audio):
        assert (back.inputs["bad"], lost) == (value, {})
        return
    (found,) = lost.values()
    assert all(path.startswith("inputs['bad']") for path in lost)
    assert type_name in found.type_name
    assert fragment in found.description


def test_a_placeholder_is_found_wherever_it_is() -> None:
    """The path leads into lists, tuples, sets, dictionaries, their keys, and dataclasses."""
    lost = Unstorable("m.T", "t")

    @dataclass
    class Box:
        inside: Any

    inputs = {
        "a": [0, (lost,)],
        "b": {"k": lost},
        "c": {lost: 1},
        "d": frozenset([lost]),
        "e": Box(lost),
        "f": 1,
    }
    found = make_letter(inputs=inputs).unstorable()
    assert [path.removeprefix("inputs") for path in found] == [
        "['a'][1][0]", "['b']['k']", "['c'][key]", "['d'][…]", "['e'].inside"
    ]  # fmt: skip


class _Shifty(dict[str, Any]):
    """Looks like a dictionary to nobody but its own type, whose conversion fails."""


def test_a_type_of_ones_own_is_stored_by_a_codec_that_knows_it() -> None:
    """A codec with a further type restores it; one without names the tag that it lacks."""

    def refuse(value: Any) -> Any:
        raise ValueError("not today")

    own = Codec([
        StoredType("fraction", range, lambda r: [r.start, r.stop], lambda v: range(*v)),
        StoredType("shifty", _Shifty, refuse, refuse),
    ])  # fmt: skip
    text = own.encode(make_letter(inputs={"r": range(2, 5), "s": [1, _Shifty()]}))
    back = own.decode(text)
    assert back.inputs["r"] == range(2, 5)
    lost = Unstorable(f"{__name__}._Shifty", "ValueError: not today")
    assert back.inputs["s"] == [1, lost]
    with pytest.raises(err.CorruptDeadLetterError, match="'fraction'"):
        DEFAULT_CODEC.decode(text)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda text: text[:-1],
        lambda text: text.replace('"pipeline"', '"pipelime"'),
        lambda text: text.replace('"completed"', '"done"'),
        lambda text: text.replace('"$": "bytes", "v": "', '"$": "bytes", "v": "?'),
        lambda text: "[]",
        lambda text: "5",
    ],
)
def test_a_text_that_is_not_a_letter_is_refused(spoil: Callable[[str], str]) -> None:
    """Each defect of a stored text gives the same typed error."""
    text = DEFAULT_CODEC.encode(make_letter())
    spoiled = spoil(text)
    assert spoiled != text
    with pytest.raises(err.CorruptDeadLetterError) as caught:
        DEFAULT_CODEC.decode(spoiled)
    cause = "TypeError: the text is int, not an object;" if spoiled == "5" else ""
    assert str(caught.value).startswith(f"a stored dead letter cannot be read: {cause}")


def test_a_letters_moments_are_in_utc() -> None:
    """Wherever it was written, and wherever it is read."""
    at = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=5)))
    back = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(make_letter(created_at=at)))
    assert back.created_at.tzinfo is UTC
    assert back.created_at.isoformat() == "2026-01-01T22:00:00+00:00"


def test_a_described_letter_says_where_it_stands() -> None:
    """The form for reading adds state, attempts, lease and replay to the stored content."""
    until = datetime(2026, 1, 2, tzinfo=UTC)
    letter = make_letter(state=DeadLetterState.REPLAYING, attempts=2, lease_expires_at=until)
    shown = DEFAULT_CODEC.describe(letter)
    assert json.loads(json.dumps(shown)) == {
        **json.loads(DEFAULT_CODEC.encode(letter)),
        "state": "replaying",
        "attempts": 2,
        "lease_expires_at": "2026-01-02T00:00:00+00:00",
        "replay_run_id": None,
    }
    assert DEFAULT_CODEC.describe(make_letter())["lease_expires_at"] is None
    replayed = make_letter(state=DeadLetterState.REPLAYED, replay_run_id="run-9")
    assert DEFAULT_CODEC.describe(replayed)["replay_run_id"] == "run-9"


@pytest.mark.parametrize("tag", ["tuple", "set", "frozenset", "bytes", "counter"])
def test_a_short_text_cannot_mean_endless_items(tag: str) -> None:
    """The items of a built-in type are a list, and not a range of any length."""
    endless = {"$": "range", "v": [0, 10**12, 1]}
    for plain in (
        {"$": tag, "v": endless},
        {"$": "deque", "v": [endless, None]},
        {"$": "array", "v": ["b", endless]},
        {"$": "stream", "v": ["k", "p", endless]},
    ):
        with pytest.raises(err.CorruptDeadLetterError, match="range"):
            DEFAULT_CODEC.from_plain(plain)


def test_a_fraction_that_takes_seconds_is_not_stored() -> None:
    """Neither written nor read."""
    large = 1 << 200_000
    assert type(DEFAULT_CODEC.from_plain(DEFAULT_CODEC.to_plain(Fraction(large, 3)))) is Unstorable
    plain = {"$": "rational", "v": [{"$": "int", "v": hex(large)}, 3]}
    with pytest.raises(err.CorruptDeadLetterError, match="bits"):
        DEFAULT_CODEC.from_plain(plain)
