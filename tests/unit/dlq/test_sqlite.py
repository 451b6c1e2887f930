"""The SQLite store of dead letters: files that are not ours, torn, locked, full, or read-only."""

from __future__ import annotations

import asyncio
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

import stageflow
from stageflow import errors as err
from stageflow._utils.sqlite import retry_while_locked
from stageflow.dlq import Claim, DeadLetter, SQLiteDeadLetterStore
from stageflow.dlq.sqlite import APPLICATION_ID
from stageflow.dlq.store import Steps
from tests.utils.commands import run_command
from tests.utils.dead_letters import make_letter
from tests.utils.errors import raises_code

T = TypeVar("T")

ROOT = Path(stageflow.__file__).parents[1]


def with_store(
    path: Path, work: Callable[[SQLiteDeadLetterStore], Awaitable[T]], **options: Any
) -> T:
    """Return the result of `work` with the store at `path`, in a loop of its own."""

    async def main() -> T:
        async with SQLiteDeadLetterStore(path, **options) as store:
            return await work(store)

    return asyncio.run(main())


def put(path: Path, *letters: DeadLetter) -> None:
    async def work(store: SQLiteDeadLetterStore) -> None:
        for letter in letters:
            await store.put(letter)

    with_store(path, work)


def ids(path: Path) -> list[str]:
    """The ids in the file, in order, read by SQLite alone."""
    with sqlite3.connect(path) as connection:
        rows = connection.execute("SELECT id FROM dead_letters ORDER BY number").fetchall()
    connection.close()
    return [row[0] for row in rows]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "letters.db"


def test_letters_outlive_the_store_and_the_loop(path: Path) -> None:
    """One store serves several loops one after another, and another store finds its letters."""
    store = SQLiteDeadLetterStore(path)
    for number in (1, 2, 3):
        asyncio.run(store.put(make_letter(number)))
    assert asyncio.run(store.get(make_letter(2).id)) == make_letter(2)
    asyncio.run(store.close())
    expected = tuple(make_letter(n) for n in (1, 2, 3))
    assert with_store(path, lambda again: again.letters()) == expected


def test_a_closed_store_says_so(path: Path) -> None:
    """Closing twice, or closing an unused store, is fine; a call afterwards is an error."""
    store = SQLiteDeadLetterStore(path)
    asyncio.run(store.close())
    asyncio.run(store.close())
    assert not path.exists()
    claim = Claim(make_letter(), 1)
    for action, call in (
        ("write", store.put(make_letter())),
        ("read", store.get("a")),
        ("read", store.letters()),
        ("write", store.claim("a", lease_s=1)),
        ("write", store.renew(claim, lease_s=1)),
        ("write", store.finish(claim, "run-2")),
        ("write", store.put_back(claim, make_letter())),
    ):
        with pytest.raises(err.DeadLetterStoreError) as caught:
            asyncio.run(call)
        assert str(caught.value).startswith(
            f"cannot {action} the dead letters in {path} (the store has been closed);"
        )


def test_a_closed_store_leaves_no_thread(path: Path) -> None:
    """Its only thread, which has a name of its own, has ended."""

    async def work(store: SQLiteDeadLetterStore) -> list[threading.Thread]:
        await store.put(make_letter())
        name = "stageflow-dead-letters"
        return [thread for thread in threading.enumerate() if thread.name.startswith(name)]

    (thread,) = with_store(path, work)
    thread.join(30)
    assert not thread.is_alive()


def test_an_error_of_the_system_is_typed_too(path: Path) -> None:
    """Also one that did not come from SQLite; it stays as the cause."""
    cause = OSError(5, "input/output error")

    def broken() -> Steps[None]:
        yield "SELECT 1", ()
        raise cause

    with pytest.raises(err.DeadLetterStoreError) as caught:
        with_store(path, lambda store: store._call("read", broken()))
    assert caught.value.__cause__ is cause
    assert str(caught.value).startswith(f"cannot read the dead letters in {path} (OSError: ")


@pytest.mark.parametrize(
    ("options", "timeout_ms"), [({}, 5_000), ({"busy_timeout_s": 1.5}, 1_500)], ids=["", "told"]
)
def test_commits_are_durable(path: Path, options: dict[str, Any], timeout_ms: int) -> None:
    """Write-ahead log, synced at every commit: that is what an acknowledgement rests on."""
    seen: dict[str, Any] = {}

    async def work(store: SQLiteDeadLetterStore) -> None:
        await store.put(make_letter())

        def look() -> None:
            assert store._connection is not None
            for name in ("journal_mode", "synchronous", "fullfsync", "busy_timeout"):
                seen[name] = store._connection.execute(f"PRAGMA {name}").fetchone()[0]

        await store._in_worker(look)

    with_store(path, work, **options)
    assert seen == {
        "journal_mode": "wal",
        "synchronous": 2,
        "fullfsync": 1,
        "busy_timeout": timeout_ms,
    }


def test_no_loop_waits_for_the_disk(path: Path) -> None:
    """While another process holds the file, the loop goes on; the letter is put once it may."""
    put(path)
    turns = 0

    async def work(store: SQLiteDeadLetterStore) -> None:
        nonlocal turns
        await store.letters()
        blocker = sqlite3.connect(path, isolation_level=None)
        blocker.execute("BEGIN IMMEDIATE")
        putting = asyncio.ensure_future(store.put(make_letter()))
        for _ in range(1_000):
            await asyncio.sleep(0)
            turns += 1
        assert not putting.done()
        blocker.execute("COMMIT")
        blocker.close()
        await putting

    with_store(path, work)
    assert turns == 1_000
    assert ids(path) == [make_letter().id]


def test_a_file_that_stays_locked_is_a_typed_error(path: Path) -> None:
    """After the busy timeout the error names the file and the lock."""
    put(path, make_letter(1))
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN IMMEDIATE")
    with pytest.raises(err.DeadLetterStoreError, match="locked") as caught:
        with_store(path, lambda store: store.put(make_letter(2)), busy_timeout_s=0.02)
    assert str(caught.value).startswith(
        f"cannot write the dead letters in {path} (OperationalError: database is locked);"
    )
    assert isinstance(caught.value.__cause__, sqlite3.OperationalError)
    blocker.execute("COMMIT")
    blocker.close()
    assert ids(path) == [make_letter(1).id]


def test_a_new_file_that_stays_locked_is_a_typed_error(path: Path) -> None:
    """Where SQLite does not wait by itself, the store does, and no longer than its time limit."""
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    with pytest.raises(err.DeadLetterStoreError, match="locked"):
        with_store(path, lambda store: store.put(make_letter()), busy_timeout_s=0.05)
    blocker.execute("ROLLBACK")
    blocker.close()
    put(path, make_letter())


def test_many_stores_may_make_the_same_file_at_once(path: Path) -> None:
    """Twelve stores open a file that is not there yet and put; nobody fails, nothing is lost."""
    failures: list[BaseException] = []
    start = threading.Barrier(12)

    def one(number: int) -> None:
        start.wait()
        try:
            put(path, make_letter(number))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one, args=(n,)) for n in range(1, 13)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert sorted(ids(path)) == sorted(make_letter(n).id for n in range(1, 13))


def test_a_lock_that_sqlite_itself_does_not_wait_for_is_waited_for(path: Path) -> None:
    """The first try meets a lock; it is gone at the second, and the work is done."""
    blocker = sqlite3.connect(path, isolation_level=None)
    blocker.execute("BEGIN EXCLUSIVE")
    hasty = sqlite3.connect(path, isolation_level=None, timeout=0)
    tries = 0

    def work() -> str:
        nonlocal tries
        tries += 1
        if tries == 2:
            blocker.execute("COMMIT")
        return str(hasty.execute("PRAGMA journal_mode = WAL").fetchone()[0])

    assert retry_while_locked(work, 5.0) == "wal"
    assert tries == 2
    hasty.close()
    blocker.close()


def test_a_file_that_is_not_a_database_is_refused_and_left_alone(path: Path) -> None:
    """The error says what it is not, and the file is as it was."""
    content = b"Dear diary, " * 1_000
    path.write_bytes(content)
    with raises_code("invalid_dead_letter_store") as caught:
        put(path, make_letter())
    assert str(caught.value) == f"{path} is not an SQLite database; give another file"
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "statement",
    ["CREATE TABLE t (x)", "PRAGMA application_id = 5", "PRAGMA user_version = 5"],
)
def test_a_database_of_another_program_is_refused_and_left_alone(
    path: Path, statement: str
) -> None:
    """By its tables, its application id or its version: nothing of it is touched."""
    with sqlite3.connect(path) as connection:
        connection.execute(statement)
    connection.close()
    content = path.read_bytes()
    with raises_code("invalid_dead_letter_store") as caught:
        put(path, make_letter())
    assert str(caught.value) == f"{path} is a database of another program; give another file"
    assert path.read_bytes() == content


def test_a_file_says_what_it_is(path: Path) -> None:
    """Other programs, and later versions, find the mark, the version and the table of today."""
    put(path, make_letter())
    assert path.read_bytes()[68:72] == b"SfDL"
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)
        ((table,),) = connection.execute("SELECT sql FROM sqlite_schema WHERE name='dead_letters'")
        columns = connection.execute("SELECT name, type, dflt_value FROM pragma_table_info(?)",
                                     ("dead_letters",)).fetchall()  # fmt: skip
    connection.close()
    assert columns == [
        ("number", "INTEGER", None),
        ("id", "TEXT", None),
        ("body", "TEXT", None),
        ("state", "TEXT", "'waiting'"),
        ("attempts", "INTEGER", "0"),
        ("lease_until", "REAL", None),
        ("replay_run_id", "TEXT", None),
    ]
    for part in ("AUTOINCREMENT", "id TEXT NOT NULL UNIQUE", "'waiting', 'replaying', 'replayed'"):
        assert part in table


def test_another_version_of_the_schema_is_refused(path: Path) -> None:
    """The error names both versions."""
    put(path, make_letter())
    with sqlite3.connect(path) as connection:
        assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    with raises_code("invalid_dead_letter_store") as caught:
        put(path, make_letter(2))
    assert str(caught.value) == (
        f"{path} holds dead letters in the form of version 2, and this stageflow knows versions up"
        " to 1; use a stageflow at least as new as the one that wrote it"
    )


@pytest.mark.parametrize("body", ["'{}'", "x'ff'", "CAST(x'22ff22' AS TEXT)", "5"])
def test_a_letter_that_was_tampered_with_hides_no_other(path: Path, body: str) -> None:
    """A stored value that is not a letter is a typed error; the others can be read."""
    put(path, make_letter(1), make_letter(2))
    with sqlite3.connect(path) as connection:
        connection.execute(f"UPDATE dead_letters SET body = {body} WHERE number = 1")
    connection.close()
    for read in (
        lambda store: store.get(make_letter(1).id),
        lambda store: store.claim(make_letter(1).id, lease_s=1),
    ):
        with pytest.raises(err.CorruptDeadLetterError):
            with_store(path, read)
    assert with_store(path, lambda store: store.letters()) == (make_letter(2),)
    (lost,) = with_store(path, lambda store: store.unreadable())
    assert lost.id == make_letter(1).id
    with_store(path, lambda store: store.delete(lost.id))
    assert with_store(path, lambda store: store.unreadable()) == ()


def test_a_missing_file_is_not_made_unless_wanted(path: Path) -> None:
    """A reader leaves no empty file behind."""
    with pytest.raises(err.DeadLetterStoreError, match=r"letters\.db"):
        with_store(path, lambda store: store.letters(), create=False)
    assert not path.exists()


@pytest.mark.parametrize("name", ["with space.db", "per%20cent?.db", "ünï#cödé.db"])
def test_any_file_name_will_do(tmp_path: Path, name: str) -> None:
    """A name with signs that mean something in a URI is a name."""
    put(tmp_path / name, make_letter())
    assert (tmp_path / name).exists()
    assert ids(tmp_path / name) == [make_letter().id]


def crashed_copy(path: Path, folder: Path) -> tuple[Path, list[str]]:
    """The file and its log as a crash would leave them, with 20 letters, none checkpointed."""
    letters = [make_letter(n, inputs={"filler": "x" * 3_000}) for n in range(1, 21)]

    async def work(store: SQLiteDeadLetterStore) -> None:
        for letter in letters:
            await store.put(letter)
        for file in (path, path.with_name(f"{path.name}-wal")):
            shutil.copy(file, folder)

    folder.mkdir()
    with_store(path, work)
    return folder / path.name, [letter.id for letter in letters]


def test_a_torn_log_opens(path: Path, tmp_path: Path) -> None:
    """Cut anywhere, or spoilt in its tail: what was put before is there, in order, the rest not."""
    copy, put_ids = crashed_copy(path, tmp_path / "crashed")
    whole = copy.with_name(f"{copy.name}-wal").read_bytes()
    dice, found = random.Random(5), set()
    for round_number in range(40):
        here = tmp_path / f"round{round_number}"
        shutil.copytree(copy.parent, here)
        at = dice.randrange(len(whole))
        torn = whole[:at] if round_number % 2 else whole[:at] + dice.randbytes(len(whole) - at)
        (here / f"{copy.name}-wal").write_bytes(torn)
        newcomer = make_letter(99)
        put(here / copy.name, newcomer)
        *kept, last = ids(here / copy.name)
        assert last == newcomer.id
        assert kept == put_ids[: len(kept)]
        found.add(len(kept))
        shutil.rmtree(here)
    assert len(found) > 10, "the cuts fell at too few places to show anything"


def test_a_file_torn_while_the_log_was_being_written_back_opens(path: Path, tmp_path: Path) -> None:
    """The log still has every page that a crash has spoilt in the file's tail."""
    copy, put_ids = crashed_copy(path, tmp_path / "crashed")
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    written_back = path.read_bytes()
    copy.write_bytes(written_back[: len(written_back) // 2] + b"\xff" * 5_000)
    assert ids(copy) == put_ids


def test_a_schema_that_is_not_text_is_a_typed_error(path: Path) -> None:
    """SQLite quotes what it cannot read, and Python cannot read the quotation."""
    put(path, make_letter())
    content = path.read_bytes()
    assert content.count(b"CREATE TABLE dead_letters") == 1
    path.write_bytes(content.replace(b"CREATE TABLE dead_letters", b"CREATE TABL\x80 dead_letters"))
    with pytest.raises(err.DeadLetterStoreError) as caught:
        put(path, make_letter(2))
    assert isinstance(caught.value.__cause__, UnicodeDecodeError)
    assert str(path) in str(caught.value)


def test_a_file_that_is_damaged_beyond_repair_is_a_typed_error(path: Path) -> None:
    """Pages overwritten without a log: the error names the file, and nothing is made up."""
    put(path, *(make_letter(n, inputs={"filler": "x" * 3_000}) for n in range(1, 21)))
    content = path.read_bytes()
    path.write_bytes(content[:4_096] + b"\xff" * (len(content) - 4_096))
    with pytest.raises(err.DeadLetterStoreError, match="malformed"):
        put(path, make_letter(99))


#: Runs failing turns that keep their letters in the file given, under the limits given; prints
#: what each run ended with, and what the log said.
RUNS = """\
import asyncio, json, logging, os, resource, sys
from stageflow import Pipeline, PipelineContext, PipelineOrchestrator, StageOutput, stage
from stageflow.dlq.sqlite import SQLiteDeadLetterStore

path, limit_bytes, user = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if user:
    os.setuid(user)
if limit_bytes:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, limit_bytes))

said = []
handler = logging.Handler()
handler.emit = lambda record: said.append([record.levelname, record.getMessage()])
logging.getLogger("stageflow.dlq").addHandler(handler)


@stage()
async def fail(ctx):
    return StageOutput.fail("no luck")


async def main():
    async with SQLiteDeadLetterStore(path) as store:
        orchestrator = PipelineOrchestrator(Pipeline("p", [fail]).build(), dead_letters=store)
        for _ in range(30):
            said.clear()
            ctx = PipelineContext({"filler": "x" * 5_000})
            result = await orchestrator.run(ctx)
            error = result.dead_letter_error
            kept = ctx.dlq_entry.id if ctx.dlq_entry is not None else None
            line = [str(result.status), result.error, kept, error and error.code, str(error), said]
            print(json.dumps(line))


asyncio.run(main())
"""


@pytest.fixture
def shared_folder() -> Iterator[Path]:
    """A folder that another user can reach."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def runs(path: Path, *, limit_bytes: int = 0, user: int = 0) -> list[list[Any]]:
    """Return the results of 30 failing runs in a process of their own."""
    done = run_command(
        [sys.executable, "-c", RUNS, str(path), str(limit_bytes), str(user)],
        cwd="/",
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def assert_loud(line: list[Any], path: Path) -> None:
    """The run ended with its own failure, and said at CRITICAL that its letter is lost."""
    status, error, kept, code, message, said = line
    assert (status, error, kept) == ("failed", "stage 'fail': no luck", None)
    assert code == "dead_letter_store_failed"
    assert str(path) in message
    ((level, text),) = said
    assert level == "CRITICAL"
    assert "no luck" in text
    assert str(path) in text


def test_a_full_disk_ends_no_run_and_is_said_loudly(path: Path) -> None:
    """Some letters fit, the rest are lost loudly; those that were kept are there, once each."""
    lines = runs(path, limit_bytes=300_000)
    kept = [line[2] for line in lines if line[2] is not None]
    lost = [line for line in lines if line[2] is None]
    assert len(lines) == 30
    assert 5 < len(kept) < 25
    assert all((line[0], line[3], line[5]) == ("failed", None, []) for line in lines if line[2])
    for line in lost:
        assert_loud(line, path)
    assert ids(path) == kept
    put(path, make_letter())


def test_a_store_goes_on_when_the_disk_has_room_again(path: Path) -> None:
    """A letter that did not fit leaves nothing behind; the next one does fit."""

    async def work(store: SQLiteDeadLetterStore) -> None:
        await store.put(make_letter(1))

        def allow(pages: int) -> None:
            assert store._connection is not None
            store._connection.execute(f"PRAGMA max_page_count = {pages}")

        await store._in_worker(partial(allow, 5))
        with pytest.raises(err.DeadLetterStoreError, match="full"):
            await store.put(make_letter(2, inputs={"filler": "x" * 100_000}))
        await store._in_worker(partial(allow, 1_000))
        await store.put(make_letter(3))

    with_store(path, work)
    assert ids(path) == [make_letter(1).id, make_letter(3).id]


@pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user, which only root can")
@pytest.mark.parametrize("there", [True, False], ids=["file", "folder"])
def test_a_file_that_cannot_be_written_ends_no_run(shared_folder: Path, there: bool) -> None:
    """A read-only file, and a folder in which none can be made: each run ends, loudly."""
    path = shared_folder / "letters.db"
    if there:
        put(path, make_letter())
        path.chmod(0o444)
    lines = runs(path, user=65_534)
    assert len(lines) == 30
    for line in lines:
        assert_loud(line, path)
    assert path.exists() == there
    if there:
        assert ids(path) == [make_letter().id]


def test_a_folder_that_is_not_there_is_a_typed_error(tmp_path: Path) -> None:
    """The error names the file and what SQLite made of it."""
    with pytest.raises(err.DeadLetterStoreError, match="unable to open"):
        put(tmp_path / "nowhere" / "letters.db", make_letter())
