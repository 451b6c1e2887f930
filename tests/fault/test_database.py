"""The database port: one contract for every implementation, and faults of real servers."""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from sqlite3 import connect as sqlite_connect
from types import MappingProxyType
from typing import Any

import asyncpg  # type: ignore[import-untyped]
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stageflow import PipelineContext, PipelineOrchestrator, RunResult, StageStatus
from stageflow import errors as err
from stageflow.classification import classify
from stageflow.errors import StageflowError
from stageflow.kernels.chat import chat
from stageflow.providers.database import InvalidRecordError, SqlDatabase
from stageflow.providers.fake import FakeDatabase, FakeLLM
from stageflow.providers.ports import Database
from stageflow.providers.registry import ProviderRegistry
from stageflow.testing.contracts.cancellation import Waits
from tests.utils.descriptors import open_descriptors
from tests.utils.postgres import PostgresServer
from tests.utils.toxic_proxy import Ending, ToxicProxy, Toxics

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


def fresh_collection() -> str:
    """A collection that no other test has used: the server is shared."""
    return uuid.uuid4().hex


@pytest.fixture(params=["sqlite", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a real database is."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'records.db'}"
    server = request.getfixturevalue("postgres")
    assert isinstance(server, PostgresServer)
    return server.url


@pytest.fixture(params=["fake", "sqlite", "postgres"])
async def database(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Database]:
    """Each implementation of the port."""
    if request.param == "fake":
        yield FakeDatabase()
        return
    server = request.getfixturevalue("postgres") if request.param == "postgres" else None
    url = f"sqlite:///{tmp_path / 'records.db'}" if server is None else server.url
    async with SqlDatabase(url) as sql:
        yield sql


# ── the contract ────────────────────────────────────────────────────────────────────────────


async def test_a_record_that_was_never_put_is_none(database: Database) -> None:
    """Absence is an answer, not an error."""
    assert await database.get(fresh_collection(), "nobody") is None


@pytest.mark.parametrize("record", RECORDS, ids=lambda record: next(iter(record), "empty"))
async def test_what_was_put_is_what_is_got(database: Database, record: dict[str, Any]) -> None:
    """A record of JSON comes back equal, whatever its text and numbers."""
    collection = fresh_collection()
    await database.put(collection, "key", record)
    assert await database.get(collection, "key") == record


async def test_a_later_record_takes_the_place_of_an_earlier_one(database: Database) -> None:
    """A put replaces; it does not merge."""
    collection = fresh_collection()
    await database.put(collection, "key", {"old": 1})
    await database.put(collection, "key", {"new": 2})
    assert await database.get(collection, "key") == {"new": 2}


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


# ── what SQL adds ───────────────────────────────────────────────────────────────────────────


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
    connection = await asyncpg.connect(postgres.url)
    await connection.execute("DROP TABLE IF EXISTS stageflow_records")
    await connection.close()
    for url in (postgres.url, f"sqlite:///{tmp_path / 'new.db'}"):
        databases = [SqlDatabase(url, lock_timeout_s=5.0, call_timeout_s=20.0) for _ in range(6)]
        await asyncio.gather(*(d.put("c", str(n), {}) for n, d in enumerate(databases)))
        assert [await databases[0].get("c", str(n)) for n in range(6)] == [{}] * 6
        for database in databases:
            await database.close()


async def test_a_mapping_and_a_tuple_become_what_json_has_for_them(url: str) -> None:
    """What has one form in JSON is stored in it."""
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
        with pytest.raises(InvalidRecordError) as raised:
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
    """What cannot be an address in PostgreSQL is none in SQLite either."""
    async with SqlDatabase(url) as database:
        with pytest.raises(InvalidRecordError, match="cannot be an address"):
            await database.get(*address)
        with pytest.raises(InvalidRecordError, match="cannot be an address"):
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
    """A second loop is told so; after close() it is served."""
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


# ── faults ──────────────────────────────────────────────────────────────────────────────────


async def failure_of(call: Any) -> StageflowError:
    """What the failure of a call means."""
    try:
        await call
    except Exception as error:
        return classify(error)
    raise AssertionError("the call did not fail")


async def chat_turn(database: Database, user_id: str) -> RunResult:
    """A turn of the chat kernel with that database."""
    providers = ProviderRegistry(llm=FakeLLM(), db=database)
    ctx = PipelineContext({"text": "hello", "user_id": user_id}, providers=providers)
    return await PipelineOrchestrator(chat().build()).run(ctx)


def stage_errors(result: RunResult) -> dict[str, str]:
    """The code of each stage that failed."""
    return {
        name: ended.detail["error_code"]
        for name, ended in result.stages.items()
        if ended.status is StageStatus.FAILED
    }


async def test_a_server_stopped_and_started_costs_a_turn_its_memory_only(
    postgres: PostgresServer,
) -> None:
    """Without its database a turn is answered all the same, and the next one remembers again."""
    user_id = fresh_collection()
    before = open_descriptors()
    async with SqlDatabase(postgres.url) as database:
        first = await chat_turn(database, user_id)
        postgres.stop()
        try:
            second = await chat_turn(database, user_id)
        finally:
            postgres.start()
        third = await chat_turn(database, user_id)
    assert [bool(r.outputs["answer"]) for r in (first, second, third)] == [True] * 3
    assert stage_errors(first) == stage_errors(third) == {}
    assert set(stage_errors(second)) == {"memory", "persist"}
    assert set(stage_errors(second).values()) <= {"connection_failed", "service_unavailable"}
    assert [turn["user"] for turn in third.outputs["history"]] == ["hello"]
    assert open_descriptors() == before


@asynccontextmanager
async def table_locked(postgres: PostgresServer) -> AsyncIterator[asyncpg.Connection]:
    """Another connection holds the table."""
    connection = await asyncpg.connect(postgres.url)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE stageflow_records IN ACCESS EXCLUSIVE MODE")
            yield connection
    finally:
        await connection.close()


async def waiting(connection: asyncpg.Connection, count: int, what: str = "Lock") -> None:
    """Return once as many other connections wait for that: a lock, or a timeout to sleep."""
    query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = $1 AND datid IS NOT NULL"
    async with asyncio.timeout(5.0):
        while await connection.fetchval(query, what) != count:
            # What is shown is kept for the length of a transaction.
            await connection.execute("SELECT pg_stat_clear_snapshot()")


async def test_a_lock_held_by_another_is_busy_and_passes(postgres: PostgresServer) -> None:
    """A call waits for a lock as long as it was set to, and succeeds when it is gone."""
    collection = fresh_collection()
    async with SqlDatabase(postgres.url, lock_timeout_s=0.05) as database:
        await database.put(collection, "key", {"n": 1})
        async with table_locked(postgres):
            failures = [
                await failure_of(database.get(collection, "key")),
                await failure_of(database.put(collection, "key", {"n": 2})),
            ]
        assert [(type(f), f.retryable) for f in failures] == [(err.DatabaseBusyError, True)] * 2
        assert await database.get(collection, "key") == {"n": 1}


async def test_a_locked_sqlite_file_is_busy_and_passes(tmp_path: Path) -> None:
    """A writer that another process keeps out gives up in time; readers go on meanwhile."""
    path = tmp_path / "db"
    async with SqlDatabase(f"sqlite:///{path}", lock_timeout_s=0.05) as database:
        await database.put("c", "key", {"n": 1})
        with closing(sqlite_connect(path, isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            failure = await failure_of(database.put("c", "key", {"n": 2}))
            assert await database.get("c", "key") == {"n": 1}
        assert type(failure) is err.DatabaseBusyError
        await database.put("c", "key", {"n": 3})
        assert await database.get("c", "key") == {"n": 3}


async def test_a_pool_without_a_free_connection_is_busy_and_passes(
    postgres: PostgresServer,
) -> None:
    """A call that gets no connection in time fails as busy; those that hold them end well."""
    collection = fresh_collection()
    options: dict[str, Any] = {"pool_size": 2, "pool_timeout_s": 0.05, "lock_timeout_s": 5.0}
    async with SqlDatabase(postgres.url, statement_timeout_s=5.0, **options) as database:
        await database.put(collection, "key", {"n": 1})
        async with table_locked(postgres) as holder:
            held = [asyncio.ensure_future(database.get(collection, "key")) for _ in range(2)]
            await waiting(holder, 2)
            failure = await failure_of(database.get(collection, "key"))
        assert await asyncio.gather(*held) == [{"n": 1}] * 2
        assert type(failure) is err.DatabaseBusyError
        assert await database.get(collection, "key") == {"n": 1}


@asynccontextmanager
async def slow_writes(postgres: PostgresServer, seconds: float) -> AsyncIterator[None]:
    """Each write of a record takes that long inside the server."""
    connection = await asyncpg.connect(postgres.url)
    await connection.execute(
        "CREATE FUNCTION dawdle() RETURNS trigger LANGUAGE plpgsql AS"
        f" $$ BEGIN PERFORM pg_sleep({seconds}); RETURN NEW; END $$;"
        "CREATE TRIGGER dawdle BEFORE INSERT ON stageflow_records EXECUTE FUNCTION dawdle()"
    )
    try:
        yield
    finally:
        await connection.close()
        # Another one: the server may have been restarted meanwhile.
        connection = await asyncpg.connect(postgres.url)
        await connection.execute("DROP FUNCTION dawdle CASCADE")
        await connection.close()


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    postgres: PostgresServer,
) -> None:
    """The limit of a statement is kept where it runs: nothing goes on behind the caller's back."""
    collection = fresh_collection()
    async with SqlDatabase(postgres.url, statement_timeout_s=0.05) as database:
        await database.put(collection, "key", {"is": "old"})
        async with slow_writes(postgres, 30.0):
            failure = await failure_of(database.put(collection, "key", {"is": "new"}))
        assert (type(failure), failure.retryable) == (err.OperationTimeoutError, True)
        assert await database.get(collection, "key") == {"is": "old"}


async def test_a_cancelled_query_gives_its_connection_back(postgres: PostgresServer) -> None:
    """With one connection and each call cancelled while it waits, the next one is served."""
    collection = fresh_collection()
    before = open_descriptors()
    options: dict[str, Any] = {"pool_size": 1, "lock_timeout_s": 30.0, "statement_timeout_s": 30.0}
    async with SqlDatabase(postgres.url, **options) as database:
        await database.put(collection, "key", {"is": "old"})
        async with table_locked(postgres) as holder:
            for _ in range(3):
                call = asyncio.ensure_future(database.put(collection, "key", {"is": "new"}))
                await waiting(holder, 1)
                call.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await call
                # The server was told: it does not go on waiting for the lock.
                await waiting(holder, 0)
        assert await database.get(collection, "key") == {"is": "old"}
    assert open_descriptors() == before


async def test_a_server_that_stops_in_the_middle_of_a_call_says_so(
    postgres: PostgresServer,
) -> None:
    """A call that was waiting when the server was stopped fails as transient, and works later."""
    collection = fresh_collection()
    options: dict[str, Any] = {"statement_timeout_s": 30.0, "call_timeout_s": 30.0}
    async with SqlDatabase(postgres.url, **options) as database:
        await database.put(collection, "key", {"is": "old"})
        async with slow_writes(postgres, 30.0):
            watcher = await asyncpg.connect(postgres.url)
            call = asyncio.ensure_future(failure_of(database.put(collection, "key", {"is": "new"})))
            await waiting(watcher, 1, "Timeout")
            await asyncio.to_thread(postgres.stop)
            try:
                failure = await call
            finally:
                await asyncio.to_thread(postgres.start)
                watcher.terminate()
        assert type(failure) in (err.ServiceUnavailableError, err.ConnectionFailedError)
        assert failure.retryable
        assert await database.get(collection, "key") == {"is": "old"}


@asynccontextmanager
async def proxied(postgres: PostgresServer) -> AsyncIterator[tuple[ToxicProxy, str]]:
    """The server behind a proxy, and the URL of that."""
    async with ToxicProxy(lambda: asyncio.open_unix_connection(postgres.socket_path)) as proxy:
        yield proxy, f"postgresql://postgres@127.0.0.1:{proxy.port}/postgres"


@pytest.mark.parametrize(
    ("toxics", "becomes"),
    [
        (Toxics(ending=Ending.CUT), err.ConnectionFailedError),
        (Toxics(ending=Ending.RESET), err.ConnectionFailedError),
        (Toxics(ending=Ending.CUT, after_bytes=100), err.ConnectionFailedError),
        (Toxics(ending=Ending.BLACK_HOLE), err.OperationTimeoutError),
        (Toxics(ending=Ending.BLACK_HOLE, after_bytes=100), err.OperationTimeoutError),
        (Toxics(bandwidth_bytes_per_s=50), err.OperationTimeoutError),
    ],
    ids=repr,
)
async def test_a_connection_that_cannot_be_made_ends_in_time(
    postgres: PostgresServer, toxics: Toxics, becomes: type[StageflowError]
) -> None:
    """Whatever happens while connecting, the call ends, and the next one connects."""
    before = open_descriptors()
    async with (
        proxied(postgres) as (proxy, url),
        SqlDatabase(url, call_timeout_s=0.4) as database,
    ):
        proxy.toxics = toxics
        failure = await failure_of(database.get("c", "key"))
        assert (type(failure), failure.retryable) == (becomes, True)
        proxy.toxics = Toxics()
        assert await database.get("c", "missing") is None
    assert open_descriptors() == before


async def test_a_connection_whose_server_vanished_is_found_out_before_it_is_used(
    postgres: PostgresServer,
) -> None:
    """A half-open connection in the pool costs a call no failure: it is tried, and replaced."""
    collection = fresh_collection()
    async with proxied(postgres) as (proxy, url), SqlDatabase(url, pool_size=1) as database:
        await database.put(collection, "key", {"n": 1})
        assert proxy.accepted == 1
        proxy.abandon_open()
        assert await database.get(collection, "key") == {"n": 1}
        assert proxy.accepted == 2


async def test_a_mute_connection_is_thrown_away(postgres: PostgresServer) -> None:
    """A connection on which nothing comes any more fails one call by its limit, and no other."""
    collection = fresh_collection()
    before = open_descriptors()
    async with (
        proxied(postgres) as (proxy, url),
        SqlDatabase(url, pool_size=1, call_timeout_s=0.4) as database,
    ):
        await database.put(collection, "key", {"n": 1})
        proxy.poison_open(Toxics(ending=Ending.BLACK_HOLE))
        proxy.toxics = Toxics(ending=Ending.BLACK_HOLE)
        began = time.monotonic()
        failure = await failure_of(database.get(collection, "key"))
        took_s = time.monotonic() - began
        assert type(failure) is err.OperationTimeoutError
        # SQLAlchemy alone would take 2 s more.
        assert 0.4 <= took_s < 1.5
        proxy.toxics = Toxics()
        assert await database.get(collection, "key") == {"n": 1}
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert open_descriptors() == before
