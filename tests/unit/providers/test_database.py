"""The contract of every database, and what SQL adds to it."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stageflow import errors as err
from stageflow.providers import Database, FakeDatabase, SqlDatabase
from stageflow.testing.contracts.probes import Waits
from tests.utils.descriptors import open_descriptors
from tests.utils.errors import raises_code
from tests.utils.postgres import PostgresServer, connected, fresh_collection

#: Records that have gone wrong in one database or another.
RECORDS: list[dict[str, Any]] = [
    {},
    {"turns": [{"user": "hi", "assistant": "hello", "refused": False}]},
    {"": None, "nested": {"list": [[], {}, [1, [2]]]}},
    {"numbers": [0, -1, 2**70, 1.5, 1e300, 5e-324, True]},
    {"text": "Grüße, 你好 🎙️ \n\t'\"\\ -- ; DROP TABLE stageflow_records"},
    {"not in SQL text": "\0", "half a pair": "\ud800"},
    {"long": "x" * 100_000},
]

ADDRESSES = [
    ("a", "b"),
    ("a", "c"),
    ("ab", "c"),
    ("a", "bc"),
    ("a'b", 'c"d;--'),
    ("", ""),
    ("ä", "🎙"),
]


#: For tests of what is stored, and not of how long it takes: on a loaded machine, a hundred calls
#: wait for five connections longer than users would.
PATIENT: dict[str, Any] = {
    f"{limit}_timeout_s": 60.0 for limit in ("pool", "lock", "statement", "call")
}

POSTGRES = pytest.param("postgres", marks=pytest.mark.slow)


@pytest.fixture(params=["sqlite", POSTGRES])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a real database is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.db'}"
    server = request.getfixturevalue("postgres")
    assert isinstance(server, PostgresServer)
    return server.url


@pytest.fixture(params=["fake", "sqlite", POSTGRES])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Each implementation of the port."""
    if request.param == "fake":
        yield FakeDatabase()
        return
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    url = f"sqlite:///{tmp_path / 'records.db'}" if server is None else server.url
    async with SqlDatabase(url, **PATIENT) as sql:
        yield sql


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: next(iter(record), "empty"))
async def test_what_was_put_is_what_is_got(database: Database, record: dict[str, Any]) -> None:
    """A record of JSON comes back equal, whatever its text and numbers."""
    collection = fresh_collection()
    await database.put(collection, "key", record)
    assert await database.get(collection, "key") == record


async def test_collections_and_keys_are_apart(database: Database) -> None:
    """No two addresses meet, however alike they look or quoted they are."""
    prefix = fresh_collection()
    for number, (collection, key) in enumerate(ADDRESSES):
        await database.put(prefix + collection, key, {"number": number})
    found = [await database.get(prefix + collection, key) for collection, key in ADDRESSES]
    assert found == [{"number": number} for number in range(len(ADDRESSES))]


async def test_a_record_is_stored_as_it_was_when_put_was_called(database: Database) -> None:
    """Neither what was put nor what was got is tied to what is stored."""
    collection, record = fresh_collection(), {"turns": ["one"]}
    putting = asyncio.ensure_future(database.put(collection, "key", record))
    await asyncio.sleep(0)
    record["turns"].append("two")
    await putting
    got = await database.get(collection, "key")
    assert got == {"turns": ["one"]}
    got["turns"].append("three")
    assert await database.get(collection, "key") == {"turns": ["one"]}


async def test_many_calls_at_once_do_not_mix(database: Database) -> None:
    """Each of a hundred callers gets what it put."""
    collection = fresh_collection()

    async def caller(number: int) -> None:
        await database.put(collection, str(number), {"number": number})
        assert await database.get(collection, str(number)) == {"number": number}

    await asyncio.gather(*map(caller, range(100)))


async def test_appends_are_one_step(database: Any) -> None:
    """Two connections append at the same time; other fields stay."""
    collection, users = fresh_collection(), [database, database]
    async with AsyncExitStack() as opened:
        if isinstance(database, SqlDatabase):
            url = database._url.set(drivername=database._url.get_backend_name())
            other = SqlDatabase(url.render_as_string(hide_password=False), **PATIENT)
            users[1] = await opened.enter_async_context(other)
        await database.put(collection, "ada", {"name": "Ada", "turns": ["first"]})
        turns = [[number, mine] for number in range(8) for mine in (0, 1)]
        appends = (users[turn[1]].append(collection, "ada", "turns", turn) for turn in turns)
        await asyncio.gather(*appends)
        record = await database.get(collection, "ada")
    assert (record["name"], record["turns"][0]) == ("Ada", "first")
    assert sorted(record["turns"][1:]) == sorted(turns)
    await database.append(collection, "ada", "turns", "last", keep=2)
    assert (await database.get(collection, "ada"))["turns"] == [record["turns"][-1], "last"]
    await database.append(collection, "bob", "turns", "first")
    assert await database.get(collection, "bob") == {"turns": ["first"]}
    with raises_code("invalid_reply", match="'Ada' as 'name' of record 'ada'.*not a list"):
        await database.append(collection, "ada", "name", "x")
    with raises_code("invalid_record", match="keep is 0"):
        await database.append(collection, "ada", "turns", "x", keep=0)


async def test_a_cancelled_put_is_made_wholly_or_not_at_all(database: Database) -> None:
    """Cancelled at any of its steps, a put leaves the old or the new record, and no damage."""
    collection = fresh_collection()
    await database.put(collection, "key", {"is": "old"})
    steps = 0
    finished = False
    while not finished:
        putting = asyncio.ensure_future(database.put(collection, "key", {"is": "new"}))
        for _ in range(steps):
            await asyncio.sleep(0)
        finished = putting.done() or steps >= 40
        putting.cancel()
        await asyncio.gather(putting, return_exceptions=True)
        assert await database.get(collection, "key") in ({"is": "old"}, {"is": "new"})
        steps += 1
    assert steps > 0


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    puts=st.lists(
        st.tuples(
            st.sampled_from(["a", "b"]),
            st.sampled_from(["x", "y"]),
            st.dictionaries(st.text(), JSON, max_size=3),
        ),
        max_size=6,
    )
)
def test_any_series_of_puts_leaves_what_a_dict_would_hold(
    puts: list[tuple[str, str, dict[str, Any]]], url: str
) -> None:
    """A plain dict is the oracle."""
    prefix = fresh_collection()
    expected = {(collection, key): record for collection, key, record in puts}

    async def main() -> None:
        async with SqlDatabase(url, pool_size=1) as database:
            for collection, key, record in puts:
                await database.put(prefix + collection, key, record)
            found = {
                (collection, key): await database.get(prefix + collection, key)
                for collection, key in expected
            }
        assert found == expected

    asyncio.run(main())


async def test_records_outlive_the_object_that_wrote_them(url: str) -> None:
    """Another object at the same URL finds them, and so does the same one after close()."""
    collection = fresh_collection()
    async with SqlDatabase(url) as writer:
        await writer.put(collection, "key", {"kept": True})
    async with SqlDatabase(url) as reader:
        assert await reader.get(collection, "key") == {"kept": True}
    assert await writer.get(collection, "key") == {"kept": True}
    await writer.close()


async def test_the_table_is_made_once_though_all_find_it_missing(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    """Objects that meet a database without the table at the same moment all work."""
    async with await connected(postgres) as connection:
        await connection.execute("DROP TABLE IF EXISTS stageflow_records")
    for url in (postgres.url, f"sqlite:///{tmp_path / 'new.db'}"):
        databases = [SqlDatabase(url, lock_timeout_s=5.0, call_timeout_s=20.0) for _ in range(6)]
        await asyncio.gather(*(d.put("c", str(n), {}) for n, d in enumerate(databases)))
        assert [await databases[0].get("c", str(n)) for n in range(6)] == [{}] * 6
        for database in databases:
            await database.close()


async def test_a_mapping_and_a_tuple_become_what_json_has_for_them(url: str) -> None:
    """Values with one form in JSON are stored in it."""
    collection = fresh_collection()
    async with SqlDatabase(url) as database:
        await database.put(collection, "key", MappingProxyType({"pair": (1, (2,))}))
        assert await database.get(collection, "key") == {"pair": [1, [2]]}


def _endless() -> dict[str, Any]:
    record: dict[str, Any] = {}
    record["itself"] = record
    return record


@pytest.mark.parametrize(
    ("record", "fragments"),
    [
        ({"turns": [{"when": b"now"}]}, ("record['turns'][0]['when']", "bytes", "make it text")),
        ({"a": {1: "x"}}, ("record['a']", "1", "strings")),
        ({"a": float("nan")}, ("record['a']", "nan", "None")),
        ({"a": float("-inf")}, ("record['a']", "-inf", "None")),
        ({"a": {1, 2}}, ("record['a']", "set")),
        ([1], ("[1]", "mapping")),
        (_endless(), ("itself", "flatten")),
    ],
)
async def test_what_json_does_not_have_is_refused_and_nothing_is_written(
    tmp_path: Path, record: Any, fragments: tuple[str, ...]
) -> None:
    """The error names the record and the place in it, and the earlier record stays."""
    async with SqlDatabase(f"sqlite:///{tmp_path / 'db'}") as database:
        await database.put("profiles", "ada", {"is": "old"})
        with raises_code("invalid_record") as raised:
            await database.put("profiles", "ada", record)
        assert await database.get("profiles", "ada") == {"is": "old"}
    said = str(raised.value)
    assert [part for part in ("'profiles'", "'ada'", *fragments) if part not in said] == []


@pytest.mark.parametrize(
    "address", [("a", "\0"), ("\0", "b"), ("a", "\udcff"), (1, "b"), ("a", None)]
)
async def test_an_address_that_one_database_would_refuse_is_refused_by_both(
    url: str, address: tuple[Any, Any]
) -> None:
    """An invalid address for PostgreSQL is invalid for SQLite, too."""
    async with SqlDatabase(url) as database:
        with raises_code("invalid_record", match="cannot be an address"):
            await database.get(*address)
        with raises_code("invalid_record", match="cannot be an address"):
            await database.put(*address, {})


@pytest.mark.parametrize(
    ("options", "fragments"),
    [
        ({"url": "mysql://user:secret@host/db"}, ("url", "mysql", "give sqlite:///")),
        ({"url": "no url"}, ("url", "give sqlite:///")),
        ({"url": "://user:secret@"}, ("url", "give sqlite:///")),
        ({"url": "sqlite://"}, ("url", "FakeDatabase")),
        ({"url": "sqlite:///:memory:"}, ("url", "FakeDatabase")),
        ({"pool_size": 0}, ("pool_size", "0", "1 or more")),
        ({"pool_timeout_s": -1}, ("pool_timeout_s", "-1", "seconds")),
        ({"lock_timeout_s": None}, ("lock_timeout_s", "None", "seconds")),
        ({"statement_timeout_s": 0}, ("statement_timeout_s", "0", "seconds")),
        ({"call_timeout_s": float("inf")}, ("call_timeout_s", "inf", "seconds")),
    ],
)
def test_a_wrong_setting_is_named_without_giving_a_password_away(
    options: dict[str, Any], fragments: tuple[str, ...]
) -> None:
    """The error says which setting, what was given, and what to give."""
    with pytest.raises(err.InvalidConfigError) as raised:
        SqlDatabase(**options)
    said = str(raised.value)
    assert [part for part in fragments if part not in said] == []
    assert "secret" not in said


def test_the_text_of_a_database_hides_its_password() -> None:
    """A database can be logged."""
    shown = repr(SqlDatabase("postgresql://user:secret@host/records"))
    assert "host/records" in shown
    assert "secret" not in shown


def test_a_database_serves_one_loop_until_it_is_closed(url: str) -> None:
    """A second loop gets an error; after close() it is served."""
    database, collection = SqlDatabase(url), fresh_collection()
    with asyncio.Runner() as first, asyncio.Runner() as second:
        first.run(database.put(collection, "key", {"n": 1}))
        with pytest.raises(err.InvalidConfigError, match=r"event loop.*close\(\) it"):
            second.run(database.get(collection, "key"))
        first.run(database.close())
        assert second.run(database.get(collection, "key")) == {"n": 1}
        second.run(database.close())


async def test_close_waits_for_calls_and_leaves_no_descriptor(url: str) -> None:
    """Calls under way are answered, and then every file and socket is given back."""
    collection = fresh_collection()
    before = open_descriptors()
    database = SqlDatabase(url)
    calls = [asyncio.ensure_future(database.put(collection, str(n), {})) for n in range(10)]
    await asyncio.sleep(0)
    await database.close()
    assert [call.done() and call.exception() for call in calls] == [None] * 10
    assert open_descriptors() == before


@pytest.mark.parametrize("connected", [False, True])
def test_close_waits_for_the_threads_of_cancelled_calls(tmp_path: Path, connected: bool) -> None:
    """Wherever a call was cancelled, no thread of SQLite's speaks to a loop that is gone."""

    def threads() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "worker" in thread.name]

    async def cancelled(point: int) -> bool:
        async with SqlDatabase(f"sqlite:///{tmp_path / str(point)}.db") as database:
            if connected:
                await database.put("c", "key", {})

            async def put() -> None:
                await Waits(database.put("c", "key", {"n": 1}), point, task.cancel)

            task = asyncio.ensure_future(put())
            await asyncio.wait([task])
        assert threads() == before, f"cancelled at its wait {point}"
        return task.cancelled()

    before = threads()
    points = list(itertools.takewhile(lambda n: asyncio.run(cancelled(n)), itertools.count(1)))
    assert points, "no call was cancelled"
