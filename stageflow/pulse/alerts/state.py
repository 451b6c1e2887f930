"""What the evaluator remembers: a SQLite file with alerts, and messages that are to be delivered.

An evaluation and the messages that follow from it are one transaction. So whenever the process is
killed, either both are there or neither, and the next one goes on from there.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from stageflow.closing import Closing
from stageflow.pulse.alerts.lifecycle import Alert, AlertKey
from stageflow.pulse.alerts.notice import Message
from stageflow.pulse.errors import PulseError
from stageflow.sqlite_file import connect, patiently, transaction

#: Marks the file as ours in SQLite's header ("SfAl").
APPLICATION_ID = 0x5366416C
VERSION = 1

_SCHEMA = (
    """\
CREATE TABLE evaluated (
  source TEXT PRIMARY KEY,
  until_s REAL NOT NULL
)""",
    """\
CREATE TABLE alerts (
  source TEXT NOT NULL,
  rule TEXT NOT NULL,
  labels TEXT NOT NULL,
  since_s REAL NOT NULL,
  firing_s REAL,
  value REAL NOT NULL,
  likely TEXT NOT NULL,
  told INTEGER NOT NULL,
  PRIMARY KEY (source, rule, labels)
)""",
    # An id is never given twice: it goes out with the message.
    """\
CREATE TABLE messages (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  channel TEXT NOT NULL,
  body TEXT NOT NULL,
  created_s REAL NOT NULL,
  attempts INTEGER NOT NULL,
  due_s REAL NOT NULL,
  dead INTEGER NOT NULL,
  error TEXT NOT NULL
)""",
)

T = TypeVar("T")


class AlertStateError(PulseError):
    """The file with the state of alerts cannot be opened, read or written."""

    code = "pulse_alert_state"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message for one channel that has not been delivered.

    Attributes:
        id: Its number.
        channel: Name of the channel.
        message: What is to be said.
        created_s: When it was put there, in seconds since the epoch.
        attempts: How often it was tried.
        error: Why the last attempt failed.
    """

    id: int
    channel: str
    message: Message
    created_s: float
    attempts: int
    error: str


class AlertState(Closing):
    """The file; made if there is none. Close it, or use it in ``with``.

    Every method may raise `AlertStateError`.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 5.0) -> None:
        self.path = path
        self._connection = self._guarded(lambda: self._opened(busy_timeout_s))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing of what the body writes; another process waits with its own."""
        try:
            with transaction(self._connection):
                yield
        except sqlite3.Error as error:
            raise self._failed(error) from error

    # ── alerts ──────────────────────────────────────────────────────────────────────────────

    def until(self, source: str) -> float | None:
        """Up to when a source of telemetry has been evaluated; None if it never was."""
        rows = self._rows("SELECT until_s FROM evaluated WHERE source = ?", source)
        return rows[0][0] if rows else None

    def alerts(self, source: str | None = None) -> dict[AlertKey, Alert]:
        """All of a source, or of all, that are pending or firing."""
        rows = self._rows(
            "SELECT rule, labels, since_s, firing_s, value, likely, told FROM alerts"
            " WHERE ? IN (source, '') ORDER BY since_s, rule, labels",
            source or "",
        )
        found = [
            Alert(rule, _labels(labels), since_s, firing_s, None, value, likely, bool(told))
            for rule, labels, since_s, firing_s, value, likely, told in rows
        ]
        return {alert.key: alert for alert in found}

    def keep(self, source: str, until_s: float, alerts: Iterable[Alert]) -> None:
        """Replace a source's alerts by those, and note up to when it has been evaluated."""
        self._rows("INSERT OR REPLACE INTO evaluated VALUES (?, ?)", source, until_s)
        self._rows("DELETE FROM alerts WHERE source = ?", source)
        for alert in alerts:
            row = (alert.since_s, alert.firing_s, alert.value, alert.likely, alert.told)
            query = "INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
            self._rows(query, source, alert.rule, json.dumps(alert.labels), *row)

    # ── messages ────────────────────────────────────────────────────────────────────────────

    def put(self, message: Message, channels: Iterable[str], now_s: float) -> None:
        """Let a message wait to be delivered, once for each channel."""
        query = "INSERT INTO messages VALUES (NULL, ?, ?, ?, 0, ?, 0, '')"
        for channel in channels:
            self._rows(query, channel, message.to_json(), now_s, now_s)

    def take(self, channels: Iterable[str], now_s: float, lease_s: float) -> Waiting | None:
        """The oldest message that is due for one of the channels, or None.

        Nobody else is given it for `lease_s`; if this process dies, it is due again after that.
        """
        named = json.dumps(list(channels))
        with self.transaction():
            rows = self._rows(
                "SELECT id, channel, body, created_s, attempts + 1, error FROM messages"
                " WHERE NOT dead AND due_s <= ?"
                " AND channel IN (SELECT value FROM json_each(?)) ORDER BY id LIMIT 1",
                *(now_s, named),
            )
            if not rows:
                return None
            self._rows(
                "UPDATE messages SET attempts = attempts + 1, due_s = ? WHERE id = ?",
                *(now_s + lease_s, rows[0][0]),
            )
        number, channel, body, *rest = rows[0]
        return Waiting(number, channel, Message.from_json(body), *rest)

    def delivered(self, waiting: Waiting) -> None:
        """Forget a message that has arrived."""
        self._rows("DELETE FROM messages WHERE id = ?", waiting.id)

    def failed(self, waiting: Waiting, error: str, due_s: float | None) -> None:
        """Try a message again at `due_s`; never, if that is None: it is a dead letter then."""
        query = "UPDATE messages SET error = ?, dead = ?, due_s = ? WHERE id = ?"
        self._rows(query, error, due_s is None, due_s or 0.0, waiting.id)

    def next_due(self, channels: Iterable[str]) -> float | None:
        """When the next message for one of the channels is due; None if none waits."""
        rows = self._rows(
            "SELECT min(due_s) FROM messages WHERE NOT dead"
            " AND channel IN (SELECT value FROM json_each(?))",
            json.dumps(list(channels)),
        )
        return None if rows[0][0] is None else float(rows[0][0])

    def dead(self) -> tuple[Waiting, ...]:
        """The messages that could not be delivered."""
        query = "SELECT id, channel, body, created_s, attempts, error FROM messages WHERE dead"
        return tuple(
            Waiting(number, channel, Message.from_json(body), *rest)
            for number, channel, body, *rest in self._rows(f"{query} ORDER BY id")
        )

    def revive(self, now_s: float) -> int:
        """Let all dead messages wait again, as if they were new; how many that are."""
        with self.transaction():
            query = (
                "UPDATE messages SET dead = 0, attempts = 0, created_s = ?, due_s = ? WHERE dead"
            )
            self._rows(query, now_s, now_s)
            return int(self._rows("SELECT changes()")[0][0])

    # ── the file ────────────────────────────────────────────────────────────────────────────

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._guarded(lambda: self._connection.execute(query, values).fetchall())

    def _guarded(self, work: Callable[[], T]) -> T:
        try:
            return work()
        except (sqlite3.Error, OSError) as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> AlertStateError:
        return AlertStateError(
            f"cannot use the state of alerts in {self.path} ({type(error).__name__}: {error}); "
            "see that its folder exists, and that no other program holds it"
        )

    def _opened(self, busy_timeout_s: float) -> sqlite3.Connection:
        connection = connect(self.path, create=True, busy_timeout_s=busy_timeout_s, any_thread=True)
        try:
            if patiently(lambda: self._is_new(connection), busy_timeout_s):
                patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), busy_timeout_s)
                with transaction(connection):
                    if self._is_new(connection):  # or another process was faster
                        for statement in _SCHEMA:
                            connection.execute(statement)
                        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                        connection.execute(f"PRAGMA user_version = {VERSION}")
            # What has been sent must not be forgotten when the power fails.
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
        return connection

    def _is_new(self, connection: sqlite3.Connection) -> bool:
        application_id, version, schema_version = connection.execute(
            "SELECT application_id, user_version, schema_version"
            " FROM pragma_application_id, pragma_user_version, pragma_schema_version"
        ).fetchone()
        if (application_id, version) == (APPLICATION_ID, VERSION):
            return False
        if application_id or version or schema_version:
            raise AlertStateError(
                f"{self.path} holds something else than the state of alerts of this version; "
                "give another file with --state"
            )
        return True


def _labels(text: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, value) for name, value in json.loads(text))
