"""Store alerts, and messages that are to be delivered, in a SQLite file.

An evaluation and the messages that follow from it are one transaction: if the process is killed,
both are stored or neither.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from stageflow._utils import sqlite
from stageflow._utils.closing import Closing
from stageflow._utils.postgres import shown
from stageflow.pulse.alerts.conditions import Alert, AlertKey
from stageflow.pulse.alerts.notice import Message
from stageflow.pulse.errors import PulseError
from stageflow.telemetry import Place

#: 0x5366416C marks the file as ours in SQLite's header ("SfAl").
_SCHEMA = sqlite.Schema(
    "alerts", 0x5366416C, sqlite.migrations(Path(__file__).with_name("state_schema"))
)
T = TypeVar("T")


def state_of(store: Place, root: Path = Path()) -> Path:
    """Return where the state of the alerts on a store of telemetry is kept.

    It is beside a file; for a database, it is in the repository at `root`.
    """
    if isinstance(store, str):
        return root / ".asv" / f"{re.sub(r'[^A-Za-z0-9]+', '-', shown(store))}.alerts.db"
    return store.with_suffix(f".alerts{store.suffix}")


@dataclass(frozen=True, slots=True)
class Waiting:
    """A message that one channel has not delivered, with the error of the last attempt."""

    id: int
    channel: str
    message: Message
    created_s: float
    attempts: int
    error: str


class AlertState(Closing):
    """The file, created if missing. Close it, or use it in ``with``.

    Every method may raise `PulseError`.
    """

    def __init__(self, path: Path, *, busy_timeout_s: float = 5.0, create: bool = True) -> None:
        self.path = path
        self._connection = self._guarded(
            lambda: sqlite.open_file(
                *(path, _SCHEMA),
                # A loss of power must not make us forget what was sent.
                ["synchronous = FULL"],
                create=create,
                busy_timeout_s=busy_timeout_s,
                any_thread=True,
            )
        )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Run the block in a transaction; other processes wait with theirs."""
        try:
            with sqlite.transaction(self._connection):
                yield
        except sqlite3.Error as error:
            raise self._failed(error) from error

    def adopt(self, source: str, prefix: str = "/") -> None:
        """Take over the alerts of a source whose file or folder was moved or deleted."""
        rows = self._rows("SELECT source FROM evaluated WHERE instr(source, ?) = 1", prefix)
        gone = [one for (one,) in rows if not Path("/", one.partition("/")[2]).exists()]
        if gone and self.until(source) is None:
            for table in ("evaluated", "alerts"):
                self._rows(f"UPDATE {table} SET source = ? WHERE source = ?", source, gone[0])  # noqa: S608

    def until(self, source: str = "") -> float | None:
        """Return up to when a source, or the last of all, was evaluated; None if it never was."""
        rows = self._rows("SELECT max(until_s) FROM evaluated WHERE ? IN (source, '')", source)
        until_s: float | None = rows[0][0]
        return until_s

    def alerts(self, source: str | None = None) -> dict[AlertKey, Alert]:
        """Return the pending and firing alerts of a source, or of all sources."""
        rows = self._rows("SELECT body FROM alerts WHERE ? IN (source, '')", source or "")
        found = (json.loads(body) for (body,) in rows)
        alerts = [Alert(**{**one, "labels": tuple(map(tuple, one["labels"]))}) for one in found]
        return {alert.key: alert for alert in alerts}

    def keep(self, source: str, until_s: float, alerts: Iterable[Alert]) -> None:
        """Replace the alerts of a source, and store up to when it has been evaluated."""
        self._rows("INSERT OR REPLACE INTO evaluated VALUES (?, ?)", source, until_s)
        self._rows("DELETE FROM alerts WHERE source = ?", source)
        for alert in sorted(alerts, key=lambda alert: (alert.since_s, alert.key)):
            body = json.dumps(asdict(alert))
            self._rows("INSERT INTO alerts VALUES (?, ?)", source, body)

    def put(self, message: Message, channels: Iterable[str], now_s: float) -> None:
        """Store a message to be delivered by each of the channels."""
        query = "INSERT INTO messages VALUES (NULL, ?, ?, ?, 0, ?, 0, '')"
        for channel in channels:
            self._rows(query, channel, message.to_json(), now_s, now_s)

    def take(self, channels: Iterable[str], now_s: float, lease_s: float) -> Waiting | None:
        """Return the oldest message that is due for one of the channels, or None.

        No other process gets it for `lease_s` seconds; then it is due again.
        """
        with self.transaction():
            due = self._messages(
                "NOT dead AND due_s <= ? AND channel IN (SELECT value FROM json_each(?))",
                *(now_s, json.dumps(list(channels))),
            )
            if not due:
                return None
            query = "UPDATE messages SET attempts = attempts + 1, due_s = ? WHERE id = ?"
            self._rows(query, now_s + lease_s, due[0].id)
        return replace(due[0], attempts=due[0].attempts + 1)

    def delivered(self, waiting: Waiting) -> None:
        """Delete a message that has arrived."""
        self._rows("DELETE FROM messages WHERE id = ?", waiting.id)

    def failed(self, waiting: Waiting, error: str, due_s: float | None) -> None:
        """Try a message again at `due_s`; if that is None, it is dead."""
        query = "UPDATE messages SET error = ?, dead = ?, due_s = ? WHERE id = ?"
        self._rows(query, error, due_s is None, due_s or 0.0, waiting.id)

    def next_due(self, channels: Iterable[str]) -> float | None:
        """Return when the next message for one of the channels is due; None if none waits."""
        rows = self._rows(
            "SELECT min(due_s) FROM messages WHERE NOT dead"
            " AND channel IN (SELECT value FROM json_each(?))",
            json.dumps(list(channels)),
        )
        return None if rows[0][0] is None else float(rows[0][0])

    def dead(self) -> tuple[Waiting, ...]:
        """Return the messages that could not be delivered."""
        return self._messages("dead")

    def revive(self, now_s: float) -> int:
        """Make all dead messages wait again as if they were new, and return their number."""
        query = "UPDATE messages SET dead = 0, attempts = 0, created_s = ?, due_s = ? WHERE dead"
        with self.transaction():
            self._rows(query, now_s, now_s)
            return int(self._rows("SELECT changes()")[0][0])

    def _messages(self, condition: str, *values: object) -> tuple[Waiting, ...]:
        columns = "id, channel, body, created_s, attempts, error"
        query = f"SELECT {columns} FROM messages WHERE {condition} ORDER BY id"  # noqa: S608
        return tuple(
            Waiting(number, channel, Message.from_json(body), *rest)
            for number, channel, body, *rest in self._rows(query, *values)
        )

    def _rows(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        return self._guarded(lambda: self._connection.execute(query, values).fetchall())

    def _guarded(self, work: Callable[[], T]) -> T:
        def invalid(problem: str) -> PulseError:
            return PulseError(f"--state {self.path} {problem}", code="pulse_alert_state")

        return sqlite.guarded(work, invalid=invalid, failed=self._failed)

    def _failed(self, error: Exception) -> PulseError:
        return PulseError(
            f"cannot use the state of alerts in {self.path} ({type(error).__name__}: {error}); "
            "see that its folder exists, and that no other program holds it",
            code="pulse_alert_state",
        )
