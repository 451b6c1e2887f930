"""Dead letters: the codec, the contract of every store, whole runs and their replays."""

from __future__ import annotations

import asyncio
import gc
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stageflow import (
    Audio,
    Message,
    Pipeline,
    PipelineContext,
    PipelineOrchestrator,
    ProviderRegistry,
    RunResult,
    StageContext,
    StageOutput,
    run_child,
    stage,
)
from stageflow import errors as err
from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec, StoredType
from stageflow.dlq.replay import check_fits, replay, replay_context
from stageflow.dlq.store import Claim, DeadLetterStore, InMemoryDeadLetterStore, letter_of
from stageflow.events import StageStatus
from stageflow.letter import DeadLetter, LetterState, Unstorable
from tests.fault.letters import NOON, STORES, Clock, make_letter, opened
from tests.utils.assertions import assert_events_sound
from tests.utils.virtual_time import run_virtual

# ── the codec ───────────────────────────────────────────────────────────────────────────────

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
    """`value` with the type of each part spelled out: 1, 1.0 and True are told apart."""
    if isinstance(value, dict | MappingProxyType):
        return type(value), [(typed(k), typed(v)) for k, v in value.items()]
    if isinstance(value, list | tuple):
        return type(value), [typed(item) for item in value]
    return type(value), value if not isinstance(value, float) else repr(value)


@pytest.mark.parametrize("depth", [10, 5_000])
def test_deep_nesting_is_kept_up_to_a_limit(depth: int) -> None:
    """What is nested deeper than JSON parsers go is described, not refused."""
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
    """Whatever is made of known types survives the way through JSON text, types included."""
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


class _Sneaky(int):
    pass


def _within_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


class _Torn(dict[str, Any]):
    pass


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
    ("plain", "problem"),
    [
        ({"$": "planet", "v": 1}, "a value tagged 'planet' (KeyError: 'planet')"),
        ({"$": "tuple"}, "a value tagged 'tuple' (KeyError: 'v')"),
        ({"$": "float", "v": "x"}, "a value tagged 'float' (ValueError: could not convert string"
                                   " to float: 'x')"),
        ({"$": "tuple", "v": [{"$": "planet", "v": 1}]}, "a value tagged 'planet' (KeyError:"
                                                         " 'planet')"),
    ],
    ids=["unknown", "empty", "wrong", "inner"],
)  # fmt: skip
def test_a_value_that_cannot_be_read_names_its_tag(plain: Any, problem: str) -> None:
    """The innermost one that is wrong, and what was wrong with it."""
    with pytest.raises(err.CorruptDeadLetterError) as caught:
        DEFAULT_CODEC.from_plain(plain)
    assert str(caught.value).startswith(f"a stored dead letter cannot be read: {problem};")


@pytest.mark.parametrize("plain", [{"$": "bytes", "v": "Y?Q=="}, {"$": "bytes", "v": "é"}])
def test_bytes_that_are_none_are_refused(plain: Any) -> None:
    """A sign that no encoder writes is not passed over."""
    with pytest.raises(err.CorruptDeadLetterError, match="'bytes'"):
        DEFAULT_CODEC.from_plain(plain)


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
        (_Sneaky(5), "_Sneaky", "5"),
        (_Torn(), "_Torn", "{}"),
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
    assert all(path.startswith("bad") for path in lost)
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
    assert list(found) == ["a[1][0]", "b['k']", "c[key]", "d[…]", "e.inside"]


class _Shifty(dict[str, Any]):
    """Looks like a dictionary to nobody but its own type, whose conversion fails."""


def test_a_type_of_ones_own_is_stored_by_a_codec_that_knows_it() -> None:
    """A codec with a further type restores it; one without names the tag that it lacks."""

    def refuse(value: Any) -> Any:
        raise ValueError("not today")

    own = LetterCodec([
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
def test_a_text_that_is_no_letter_is_refused(spoil: Callable[[str], str]) -> None:
    """Whatever is wrong with a stored text, one typed error says so."""
    text = DEFAULT_CODEC.encode(make_letter())
    spoiled = spoil(text)
    assert spoiled != text
    with pytest.raises(err.CorruptDeadLetterError):
        DEFAULT_CODEC.decode(spoiled)


def test_a_letters_moments_are_in_utc() -> None:
    """Wherever it was written, and wherever it is read."""
    at = datetime(2026, 1, 2, 3, tzinfo=timezone(timedelta(hours=5)))
    back = DEFAULT_CODEC.decode(DEFAULT_CODEC.encode(make_letter(created_at=at)))
    assert back.created_at.tzinfo is UTC
    assert back.created_at.isoformat() == "2026-01-01T22:00:00+00:00"


def test_what_is_wrong_with_a_text_is_said() -> None:
    """In the words of whatever found it."""
    with pytest.raises(err.CorruptDeadLetterError) as caught:
        DEFAULT_CODEC.decode("5")
    cause = "TypeError: 'int' object is not subscriptable"
    assert str(caught.value).startswith(f"a stored dead letter cannot be read: {cause};")


def test_a_described_letter_says_where_it_stands() -> None:
    """The form for reading adds state, attempts, lease and replay to the stored content."""
    until = datetime(2026, 1, 2, tzinfo=UTC)
    letter = make_letter(state=LetterState.REPLAYING, attempts=2, lease_expires_at=until)
    shown = DEFAULT_CODEC.describe(letter)
    assert json.loads(json.dumps(shown)) == {
        **json.loads(DEFAULT_CODEC.encode(letter)),
        "state": "replaying",
        "attempts": 2,
        "lease_expires_at": "2026-01-02T00:00:00+00:00",
        "replay_run_id": None,
    }
    assert DEFAULT_CODEC.describe(make_letter())["lease_expires_at"] is None
    replayed = make_letter(state=LetterState.REPLAYED, replay_run_id="run-9")
    assert DEFAULT_CODEC.describe(replayed)["replay_run_id"] == "run-9"


# ── the contract of a store ─────────────────────────────────────────────────────────────────

Work = Callable[[DeadLetterStore, Clock], Awaitable[None]]
Contract = Callable[[Work], None]


@pytest.fixture(params=STORES)
def with_store(request: pytest.FixtureRequest, tmp_path: Path) -> Contract:
    """Runs an async function with a new store of each kind, and a clock to move on."""

    def with_it(work: Work) -> None:
        async def main() -> None:
            clock = Clock()
            async with opened(request.param, tmp_path, clock) as store:
                await work(store, clock)

        asyncio.run(main())

    return with_it


def test_a_letter_that_was_put_is_there(with_store: Contract) -> None:
    """Each letter comes back whole, waiting, in the order of putting."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        letters = [make_letter(n) for n in (3, 1, 2)]
        for letter in letters:
            await store.put(letter)
        assert await store.letters() == tuple(letters)
        assert await store.get(letters[1].id) == letters[1]

    with_store(work)


def test_putting_twice_keeps_one(with_store: Contract) -> None:
    """The same letter again changes nothing; another with its id is refused, the first stays."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        letter = make_letter()
        await store.put(letter)
        await store.put(letter)
        with pytest.raises(err.DuplicateDeadLetterError, match=letter.id):
            await store.put(replace(letter, pipeline="other"))
        assert await store.letters() == (letter,)

    with_store(work)


def test_an_unknown_id_is_an_error_that_names_it(with_store: Contract) -> None:
    """Neither reading nor claiming makes a letter up."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        with pytest.raises(err.UnknownDeadLetterError, match="nope"):
            await store.get("nope")
        with pytest.raises(err.UnknownDeadLetterError, match="nope"):
            await store.claim("nope", lease_s=1)

    with_store(work)


def test_a_store_names_itself_in_its_errors(with_store: Contract) -> None:
    """A file by its path, the memory as such, whether a letter is not there or another one is."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        where = str(getattr(store, "path", "memory"))
        for call in (store.get("nope"), store.claim("nope", lease_s=1)):
            with pytest.raises(err.UnknownDeadLetterError) as unknown:
                await call
            assert str(unknown.value).startswith(f"there is no dead letter 'nope' in {where};")
        await store.put(make_letter())
        with pytest.raises(err.DuplicateDeadLetterError) as duplicate:
            await store.put(make_letter(seed=8))
        assert str(duplicate.value).startswith(f"{where} holds another dead letter with the id")

    with_store(work)


def test_a_claim_that_is_refused_says_until_when(with_store: Contract) -> None:
    """To the second, in UTC."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        await store.put(make_letter())
        await store.claim(make_letter().id, lease_s=60.25)
        with pytest.raises(err.DeadLetterClaimedError) as caught:
            await store.claim(make_letter().id, lease_s=1)
        assert caught.value.until == "1970-01-12T13:47:40+00:00"

    with_store(work)


@pytest.mark.parametrize(
    ("standing", "problem"),
    [
        (("odd", 0, None, None), "ValueError: 'odd' is not a valid LetterState"),
        (("replaying", 1, "soon", None), "TypeError: "),
        (("replaying", 1, 1e300, None), "OverflowError: "),
    ],
    ids=["state", "lease", "far lease"],
)
def test_a_letter_that_stands_in_no_known_way_is_refused(
    standing: tuple[Any, ...], problem: str
) -> None:
    """What a store keeps beside a letter's content is checked as well."""
    with pytest.raises(err.CorruptDeadLetterError) as caught:
        letter_of(DEFAULT_CODEC, DEFAULT_CODEC.encode(make_letter()), *standing)
    assert str(caught.value).startswith(f"a stored dead letter cannot be read: {problem}")


def test_letters_are_told_apart_by_state(with_store: Contract) -> None:
    """Waiting, being replayed, replayed: each is listed under its own state alone."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        for number in (1, 2, 3):
            await store.put(make_letter(number))
        await store.claim(make_letter(2).id, lease_s=5)
        await store.finish(await store.claim(make_letter(3).id, lease_s=5), "run-9")
        listed = {state: [x.id for x in await store.letters(state)] for state in LetterState}
        assert listed == {state: [make_letter(n).id] for n, state in enumerate(LetterState, 1)}
        replayed = await store.get(make_letter(3).id)
        assert (replayed.replay_run_id, replayed.lease_expires_at) == ("run-9", None)

    with_store(work)


def test_a_claim_excludes_others_until_its_lease_ends(with_store: Contract) -> None:
    """One replayer at a time; the end of a lease is exact; each claim counts an attempt."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        letter = make_letter()
        await store.put(letter)
        first = await store.claim(letter.id, lease_s=60)
        assert (first.letter.state, first.letter.attempts) == (LetterState.REPLAYING, 1)
        assert first.letter.lease_expires_at == datetime.fromtimestamp(NOON + 60, UTC)
        clock.now_s += 59.9
        with pytest.raises(err.DeadLetterClaimedError, match=letter.id):
            await store.claim(letter.id, lease_s=60)
        await store.renew(first, lease_s=60)
        clock.now_s += 59.9
        with pytest.raises(err.DeadLetterClaimedError):
            await store.claim(letter.id, lease_s=60)
        clock.now_s += 0.1
        second = await store.claim(letter.id, lease_s=60)
        assert second.letter.attempts == 2
        for late in (
            store.renew(first, lease_s=60),
            store.finish(first, "run-8"),
            store.put_back(first, letter),
        ):
            with pytest.raises(err.DeadLetterLeaseLostError, match=letter.id):
                await late
        await store.finish(second, "run-9")
        with pytest.raises(err.DeadLetterReplayedError, match=f"{letter.id}.*run-9"):
            await store.claim(letter.id, lease_s=60)
        with pytest.raises(err.DeadLetterLeaseLostError):
            await store.put_back(second, letter)

    with_store(work)


def test_a_letter_that_is_put_back_waits_with_its_new_content(with_store: Contract) -> None:
    """What the failed replay has learnt is there for the next one; the attempt stays counted."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        letter = make_letter()
        await store.put(letter)
        claim = await store.claim(letter.id, lease_s=60)
        await store.put_back(claim, replace(claim.letter, failed_stage="ship"))
        assert await store.letters() == (replace(letter, failed_stage="ship", attempts=1),)
        assert (await store.claim(letter.id, lease_s=60)).letter.failed_stage == "ship"

    with_store(work)


def test_of_many_who_claim_at_once_one_succeeds(with_store: Contract) -> None:
    """Fifty tasks claim the same letter; forty-nine are told that somebody else has it."""

    async def work(store: DeadLetterStore, clock: Clock) -> None:
        letter = make_letter()
        await store.put(letter)
        claims = [store.claim(letter.id, lease_s=60) for _ in range(50)]
        outcomes = await asyncio.gather(*claims, return_exceptions=True)
        assert sum(isinstance(outcome, Claim) for outcome in outcomes) == 1
        assert sum(isinstance(o, err.DeadLetterClaimedError) for o in outcomes) == 49

    with_store(work)


# ── whole runs ──────────────────────────────────────────────────────────────────────────────


class Shop:
    """A pipeline whose stages do as they are told, and that counts what ran.

    pick (outputs picked) → taste (optional) ∥ quote (skips itself) ∥ pay → ship → thank
    """

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.failing: dict[str, Exception] = {}
        self.pauses_s: dict[str, float] = {}
        self.picked: Any = ("tea", b"\0")

        async def act(name: str) -> None:
            self.ran.append(name)
            await asyncio.sleep(self.pauses_s.get(name, 0.1))
            if name in self.failing:
                raise self.failing[name]

        @stage(inputs=["items"], outputs=["picked"])
        async def pick(ctx: StageContext) -> StageOutput:
            await act("pick")
            return StageOutput.ok(picked=self.picked)

        @stage(dependencies=["pick"], required=False, outputs=["flavour"])
        async def taste(ctx: StageContext) -> StageOutput:
            await act("taste")
            return StageOutput.ok(flavour="fine")

        @stage(dependencies=["pick"], outputs=["discount"])
        async def quote(ctx: StageContext) -> StageOutput:
            await act("quote")
            return StageOutput.skip("no discount today")

        @stage(
            dependencies=["taste", "quote"],
            inputs=["picked", "flavour", "discount"],
            outputs=["paid"],
            provider="bank",
        )
        async def pay(ctx: StageContext) -> StageOutput:
            await act("pay")
            seen = (ctx["picked"], ctx.get("flavour"), ctx.get("discount"))
            return StageOutput.ok(paid=seen)

        @stage(dependencies=["pay"], outputs=["shipped"])
        async def ship(ctx: StageContext) -> StageOutput:
            await act("ship")
            return StageOutput.ok(shipped=True)

        self.pipeline = Pipeline("shop", [pick, taste, quote, pay, ship], inputs=["items"])

    def orchestrator(self, store: Any = None) -> PipelineOrchestrator:
        return PipelineOrchestrator(self.pipeline.build(), dead_letters=store)


def context(**options: Any) -> PipelineContext:
    return PipelineContext({"items": ["tea"]}, seed=7, wall_clock=lambda: NOON, **options)


def entry(ctx: PipelineContext) -> DeadLetter | None:
    return ctx.dlq_entry


BROKE = err.StageFailedError("no money")


def test_a_run_that_fails_for_good_leaves_a_letter() -> None:
    """Before run() returns, the store holds who, what, why, and all that was finished."""

    async def main() -> None:
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
        assert letter.state is LetterState.WAITING

    run_virtual(main)


def test_the_context_alone_can_name_the_store() -> None:
    """Pipeline.run() with a context that has a letter box keeps the letter there."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        shop.failing = {"pick": BROKE}
        ctx = context(dead_letters=store)
        await shop.pipeline.run(ctx)
        assert [ctx.dlq_entry] == list(await store.letters())

    run_virtual(main)


def test_the_entry_is_that_of_the_latest_run() -> None:
    """None before a run, set by a failure, None again from the start of the next run on."""

    async def main() -> None:
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

    run_virtual(main)


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
def test_every_failure_but_a_refusal_leaves_a_letter(error: Exception, kept: bool) -> None:
    """What was refused on purpose is no failure to be taken up again."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        shop.failing = {"pay": error}
        ctx = context()
        await shop.orchestrator(store).run(ctx)
        assert (ctx.dlq_entry is not None, len(await store.letters())) == (kept, int(kept))

    run_virtual(main)


def test_a_cancelled_run_and_a_completed_one_leave_none() -> None:
    """Only failures leave letters."""

    async def main() -> None:
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

    run_virtual(main)


def test_a_stage_that_is_run_on_its_own_leaves_none() -> None:
    """Its letter could not be replayed: it is no run of the pipeline."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        shop.failing = {"pick": BROKE}
        ctx = context(dead_letters=store)
        with pytest.raises(err.StageFailedError):
            await shop.pipeline.stage("pick").execute(ctx)
        assert (ctx.dlq_entry, await store.letters()) == (None, ())

    run_virtual(main)


def test_a_child_run_leaves_none_of_its_own() -> None:
    """The parent's letter is the only one, and names the parent's stage."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        shop.failing = {"pay": BROKE}
        child = shop.orchestrator(store)

        @stage(inputs=["items"])
        async def order(ctx: StageContext) -> StageOutput:
            await run_child(ctx, child)
            return StageOutput.ok()

        @stage(inputs=["items"])
        async def unwrapped(ctx: StageContext) -> StageOutput:
            (await child.run(ctx.run.child(ctx, {"items": []}))).unwrap()
            return StageOutput.ok()

        for spec in (order, unwrapped):
            parent = Pipeline("parent", [spec], inputs=["items"])
            ctx = context(dead_letters=store)
            await parent.run(ctx)
            assert ctx.dlq_entry is not None
            assert (ctx.dlq_entry.pipeline, ctx.dlq_entry.failed_stage) == ("parent", spec.name)
        assert len(await store.letters()) == 2

    run_virtual(main)


def test_a_run_past_its_deadline_leaves_a_letter_without_a_failed_stage() -> None:
    """What was under way is not final, and neither is a failure that a cancellation caused."""

    async def main() -> None:
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

    run_virtual(main)


def test_an_optional_stage_that_answers_its_cancellation_with_an_error_is_not_final() -> None:
    """It was stopped by the run's failure, so a replay runs it again."""

    async def main() -> None:
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

    run_virtual(main)


# ── a store that fails, and cancellations ───────────────────────────────────────────────────


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
def test_a_store_that_fails_masks_nothing(
    error: BaseException, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The run ends with its own failure, and says twice that it was not kept."""
    # One of its own: an error keeps the place where it was raised first.
    broke = err.StageFailedError("no money")

    async def main() -> tuple[RunResult, PipelineContext]:
        shop, ctx = Shop(), context()
        shop.failing = {"pay": broke}
        return await shop.orchestrator(BadStore(error)).run(ctx), ctx

    with caplog.at_level(logging.CRITICAL, logger="stageflow.dlq"):
        result, ctx = run_virtual(main)
    assert result.failure is broke
    assert result.dead_letter_error is not None
    assert result.dead_letter_error.code == code
    assert ctx.dlq_entry is None
    (record,) = [record for record in caplog.records if record.name == "stageflow.dlq"]
    assert record.levelno == logging.CRITICAL
    said, _, why = record.getMessage().rpartition(": ")
    assert said.startswith(
        f"DEAD LETTER LOST: run {result.pipeline_run_id} of pipeline 'shop' failed"
        " (stage 'pay': no money), and could not be kept"
    )
    assert record.exc_info is not None
    lost = record.exc_info[1]
    assert str(lost).endswith(why)
    assert type(lost) is (
        err.StrayCancellationError if isinstance(error, asyncio.CancelledError) else type(error)
    )


class SlowStore(InMemoryDeadLetterStore):
    """Takes a second for each letter."""

    async def put(self, letter: DeadLetter) -> None:
        await asyncio.sleep(1)
        await super().put(letter)


@pytest.mark.parametrize("cancelled_at_s", [0.35, 0.95, 1.25])
def test_a_cancellation_waits_for_the_letter(cancelled_at_s: float) -> None:
    """Cancelled (twice) while the letter is being written: it is written, then the caller hears."""

    async def main() -> None:
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

    run_virtual(main)


def test_a_failed_run_whose_caller_was_cancelled_during_the_clean_up_leaves_a_letter() -> None:
    """The run had failed before; the cancellation only came while a sibling cleaned up."""

    async def main() -> None:
        store, ctx = InMemoryDeadLetterStore(), context()

        @stage()
        async def fail(ctx: StageContext) -> StageOutput:
            await asyncio.sleep(1)
            raise BROKE

        @stage()
        async def tidy(ctx: StageContext) -> StageOutput:
            try:
                await asyncio.sleep(9)
            finally:
                await asyncio.sleep(1)
            return StageOutput.ok()

        orchestrator = PipelineOrchestrator(Pipeline("p", [fail, tidy]).build(), dead_letters=store)
        running = asyncio.ensure_future(orchestrator.run(ctx))
        await asyncio.sleep(1.5)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        assert ctx.dlq_entry is not None
        assert ctx.dlq_entry.failed_stage == "fail"

    run_virtual(main)


# ── replay ──────────────────────────────────────────────────────────────────────────────────


async def failed_once(shop: Shop, store: DeadLetterStore, **failing: Exception) -> DeadLetter:
    """The letter of a run of `shop` in which those stages fail; afterwards nothing does."""
    shop.failing = failing or {"pay": BROKE}
    ctx = context(deadline_s=60.0)
    await shop.orchestrator(store).run(ctx)
    shop.failing = {}
    shop.ran.clear()
    assert ctx.dlq_entry is not None
    return ctx.dlq_entry


def test_a_replay_resumes_at_the_failed_stage() -> None:
    """Finished stages do not run; their outputs are there, with writers; their events say why."""

    async def main() -> None:
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
            assert stages[name].detail["reason"] == (
                f"restored from dead letter {letter.id}: {ending}"
            )
        assert result.pipeline_run_id != letter.pipeline_run_id
        kept = await store.get(letter.id)
        assert (kept.state, kept.replay_run_id) == (LetterState.REPLAYED, result.pipeline_run_id)
        assert len(await store.letters()) == 1

    run_virtual(main)


def test_replaying_twice_has_one_effect() -> None:
    """The second replay runs nothing and names the run that completed the first."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        letter = await failed_once(shop, store)
        result = await replay(letter.id, shop.orchestrator(), store)
        with pytest.raises(err.DeadLetterReplayedError, match=result.pipeline_run_id):
            await replay(letter, shop.orchestrator(), store)
        assert shop.ran == ["pay", "ship"]

    run_virtual(main)


@pytest.mark.parametrize("lease_s", [0, -1.0, float("inf"), float("nan"), True, "60"])
def test_a_lease_that_is_none_is_refused_before_anything_is_claimed(lease_s: Any) -> None:
    """One of no length would be renewed without a pause, and hold nothing."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        letter = await failed_once(shop, store)
        with pytest.raises(err.InvalidConfigError, match=r"replay: lease_s is .*; give a positive"):
            await replay(letter, shop.orchestrator(), store, lease_s=lease_s)
        assert (await store.get(letter.id)).attempts == letter.attempts
        assert shop.ran == []

    run_virtual(main)


def test_of_two_replays_at_once_one_runs() -> None:
    """The other is told that somebody else has the letter, and runs nothing."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        letter = await failed_once(shop, store)
        both = [replay(letter, shop.orchestrator(), store) for _ in range(2)]
        outcomes = await asyncio.gather(*both, return_exceptions=True)
        assert sorted(type(o).__name__ for o in outcomes) == [
            "DeadLetterClaimedError",
            "RunResult",
        ]
        assert shop.ran == ["pay", "ship"]

    run_virtual(main)


def test_a_replay_that_fails_leaves_the_one_letter_waiting_with_what_it_learnt() -> None:
    """New error, one attempt more, and what finished meanwhile is not run a third time."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        first = await failed_once(shop, store)
        orchestrator = shop.orchestrator(store)
        shop.failing = {"ship": ValueError("no cart")}
        failed = await replay(first, orchestrator, store)
        (letter,) = await store.letters()
        assert (letter.id, letter.state, letter.attempts) == (first.id, LetterState.WAITING, 1)
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

    run_virtual(main)


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


def test_a_context_of_ones_own_can_be_prepared() -> None:
    """What makes the context is given the claimed letter and the providers."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        letter = await failed_once(shop, store)

        def prepare(claimed: DeadLetter, providers: ProviderRegistry | None) -> PipelineContext:
            assert (claimed.id, claimed.attempts, providers) == (letter.id, 1, None)
            return PipelineContext(claimed.inputs, correlation_id="mine")

        result = await replay(letter, shop.orchestrator(), store, prepare=prepare)
        assert result.events[0].data["correlation_id"] == "mine"

    run_virtual(main)


def test_a_cancelled_replay_gives_its_letter_back() -> None:
    """It waits again as it was, with the attempt counted; it had been held for a minute."""

    async def main() -> None:
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

    run_virtual(main)


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


def test_an_outcome_is_recorded_in_spite_of_a_cancellation() -> None:
    """The run has had its effect, so that it has been replayed must not get lost."""

    async def main() -> None:
        shop, store = Shop(), SlowEnding()
        letter = await failed_once(shop, store)
        replaying = asyncio.ensure_future(replay(letter, shop.orchestrator(), store))
        await asyncio.sleep(0.5)
        replaying.cancel()
        with pytest.raises(asyncio.CancelledError):
            await replaying
        assert (await store.get(letter.id)).state is LetterState.REPLAYED

    run_virtual(main)


def test_a_replay_that_cannot_give_its_letter_back_says_so() -> None:
    """The cancellation goes on, with a note that the letter stays claimed until its lease ends."""

    async def main() -> None:
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
        assert (await store.get(letter.id)).state is LetterState.REPLAYING

    run_virtual(main)


def loop_clock() -> float:
    """A wall clock that goes with the loop."""
    return NOON + asyncio.get_running_loop().time()


def test_a_long_replay_renews_its_lease() -> None:
    """A replay of ten leases keeps its letter all the time, and its outcome is recorded."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore(wall_clock=loop_clock)
        letter = await failed_once(shop, store)
        shop.pauses_s = {"pay": 30.0}
        replaying = asyncio.ensure_future(replay(letter, shop.orchestrator(), store, lease_s=3.0))
        for _ in range(29):
            await asyncio.sleep(1)
            with pytest.raises(err.DeadLetterClaimedError):
                await store.claim(letter.id, lease_s=1)
        await replaying
        assert (await store.get(letter.id)).state is LetterState.REPLAYED

    run_virtual(main)


class Forgetful(InMemoryDeadLetterStore):
    """Cannot renew leases while told so."""

    broken = True

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        if self.broken:
            raise err.DeadLetterStoreError("write", "memory", "no room")
        await super().renew(claim, lease_s=lease_s)


def test_a_replay_that_lost_its_lease_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """Somebody else took over while the store could not be written: that one's outcome counts."""

    async def main() -> None:
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

    run_virtual(main)
    gc.collect()
    (said,) = {(r.name, r.levelno, r.getMessage()) for r in caplog.records}
    name, level, message = said
    assert (name, level) == ("stageflow.dlq", logging.WARNING)
    letter_id, _, why = message.removeprefix("dead letter ").partition(": ")
    assert (len(letter_id), why.split(";")[0]) == (
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


def test_no_renewal_is_under_way_when_the_outcome_is_recorded() -> None:
    """One that came later would hold a letter that has been replayed."""

    async def main() -> None:
        shop, store = Shop(), SlowRenewal()
        letter = await failed_once(shop, store)
        shop.pauses_s = {"pay": 2.0}
        await replay(letter, shop.orchestrator(), store, lease_s=3.0)
        assert store.done == ["renewal", "finish"]

    run_virtual(main)


class Changing(InMemoryDeadLetterStore):
    """Somebody replays each letter, and fails, just before it is claimed."""

    async def claim(self, letter_id: str, *, lease_s: float) -> Claim:
        other = await super().claim(letter_id, lease_s=lease_s)
        await super().put_back(other, replace(other.letter, failed_stage="gone"))
        return await super().claim(letter_id, lease_s=lease_s)


def test_what_was_claimed_is_checked_as_well() -> None:
    """It may be newer than what was looked at before; then the letter is given back."""

    async def main() -> None:
        shop, store = Shop(), Changing()
        letter = await failed_once(shop, store)
        with pytest.raises(err.DeadLetterMismatchError, match="no stage 'gone', which failed"):
            await replay(letter, shop.orchestrator(), store)
        assert shop.ran == []
        assert (await store.get(letter.id)).state is LetterState.WAITING

    run_virtual(main)


def test_a_letter_without_a_seed_is_replayed_without_one() -> None:
    """So that its replays have ids of their own; with one, each attempt has another."""
    assert replay_context(make_letter(seed=None), None).seed is None
    seeds = {replay_context(make_letter(attempts=n), None).seed for n in (1, 1, 2)}
    assert len(seeds) == 2


def test_a_letter_that_cannot_be_replayed_says_which_and_why() -> None:
    """Word for word: the letter, the pipeline, and what is wrong."""
    graph = Shop().pipeline.build()
    letter = make_letter(pipeline="bazaar")
    with pytest.raises(err.DeadLetterMismatchError) as misfit:
        check_fits(letter, graph)
    assert str(misfit.value).startswith(
        f"dead letter {letter.id!r} does not fit pipeline 'shop': it is of pipeline 'bazaar';"
    )
    letter = make_letter(inputs={"items": Unstorable("m.T", "t")})
    with pytest.raises(err.UnstorableValueError) as lost:
        check_fits(letter, graph)
    assert str(lost.value).startswith(
        f"dead letter {letter.id!r} cannot be run again: items (of type m.T) could not be stored;"
    )


def test_a_letter_that_lacks_a_value_is_not_replayed() -> None:
    """The letter is kept all the same; the replay names the key and counts no attempt."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        shop.picked = {"tea": object()}
        letter = await failed_once(shop, store)
        with pytest.raises(err.UnstorableValueError, match=r"picked\['tea'\].*object"):
            await replay(letter, shop.orchestrator(), store)
        assert shop.ran == []
        kept = await store.get(letter.id)
        assert (kept.state, kept.attempts) == (LetterState.WAITING, 0)

    run_virtual(main)


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
def test_a_letter_that_does_not_fit_the_pipeline_is_not_replayed(
    change: Callable[[Shop], Pipeline], fragment: str
) -> None:
    """The error names what has changed; nothing runs, and no attempt is counted."""

    async def main() -> None:
        shop, store = Shop(), InMemoryDeadLetterStore()
        letter = await failed_once(shop, store)
        orchestrator = PipelineOrchestrator(change(shop).build())
        with pytest.raises(err.DeadLetterMismatchError, match=fragment):
            await replay(letter, orchestrator, store)
        assert shop.ran == []
        assert await store.get(letter.id) == letter

    run_virtual(main)


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


def test_a_store_that_has_every_id_already_loses_the_letter_loudly() -> None:
    """Looking for a free id comes to an end: after a hundred others than the first."""
    taken = BadStore(err.DuplicateDeadLetterError("a1", "memory"))

    async def main() -> None:
        shop, ctx = Shop(), context()
        shop.failing = {"pay": BROKE}
        result = await shop.orchestrator(taken).run(ctx)
        assert isinstance(result.dead_letter_error, err.DuplicateDeadLetterError)
        assert len(taken.offered) == len({letter.id for letter in taken.offered}) == 101

    run_virtual(main)
