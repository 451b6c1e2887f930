"""The evaluator's memory: complete or unchanged, also when its process is killed."""

from __future__ import annotations

import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from stageflow.pulse import alerts
from stageflow.pulse.alerts import AlertState
from stageflow.pulse.alerts.conditions import Alert
from stageflow.pulse.alerts.notice import Message, Notice, Status, message_of
from tests.utils.errors import raises_code

NOTICE = Notice(
    status=Status.FIRING,
    rule="NoData",
    severity="critical",
    owner="engine",
    what="no run has ended in 10 min",
    since_s=600.0,
    until_s=None,
    likely="",
    page="https://example.org/",
    runbook="https://example.org/runbook#no-data",
)
MESSAGE = Message((NOTICE,))
ALERT = Alert("NoData", (("pipeline", "voice"),), 60.0, 120.0, None, 0.5, "stage llm", told=True)


def test_alerts_survive_a_restart(tmp_path: Path) -> None:
    """Another process reads the stored alerts, and only those of its source."""
    with AlertState(tmp_path / "state.db") as state:
        state.keep("runs.db", 180.0, [ALERT])
    with AlertState(tmp_path / "state.db") as state:
        assert state.alerts("runs.db") == {ALERT.key: ALERT}
        assert state.alerts() == {ALERT.key: ALERT}
        assert state.alerts("other.db") == {}
        assert (state.until("runs.db"), state.until("other.db")) == (180.0, None)


def test_message_is_given_to_one_at_a_time(tmp_path: Path) -> None:
    """A message that somebody delivers is due for others only when its lease has ended."""
    with AlertState(tmp_path / "s.db") as mine, AlertState(tmp_path / "s.db") as theirs:
        mine.put(MESSAGE, ["slack"], 10.0)
        waiting = mine.take(["slack", "email"], 10.0, lease_s=60.0)
        assert waiting is not None
        assert waiting.message == MESSAGE
        assert theirs.take(["slack"], 69.0, lease_s=60.0) is None
        again = theirs.take(["slack"], 70.0, lease_s=60.0)
        assert again is not None
        assert (again.id, again.attempts) == (waiting.id, 2)
        theirs.delivered(again)
        assert mine.take(["slack"], 999.0, lease_s=60.0) is None


def test_each_channel_has_a_message_of_its_own(tmp_path: Path) -> None:
    """A message that Slack has still waits for e-mail, and no channel gets the other's."""
    with AlertState(tmp_path / "s.db") as state:
        state.put(MESSAGE, ["slack", "email"], 10.0)
        slack = state.take(["slack"], 10.0, lease_s=60.0)
        assert slack is not None
        state.delivered(slack)
        assert state.take(["slack"], 99.0, lease_s=60.0) is None
        email = state.take(["email"], 10.0, lease_s=60.0)
        assert email is not None
        assert email.channel == "email"


def test_dead_messages_are_kept_and_can_be_revived(tmp_path: Path) -> None:
    """A permanent failure is shown with its error, and sent again when somebody asks."""
    with AlertState(tmp_path / "s.db") as state:
        state.put(MESSAGE, ["slack"], 10.0)
        waiting = state.take(["slack"], 10.0, lease_s=60.0)
        assert waiting is not None
        state.failed(waiting, "HTTP 404", None)
        assert [(dead.error, dead.message) for dead in state.dead()] == [("HTTP 404", MESSAGE)]
        assert state.next_due(["slack"]) is None
        assert state.revive(50.0) == 1
        assert state.dead() == ()
        again = state.take(["slack"], 50.0, lease_s=60.0)
        assert again is not None
        assert (again.created_s, again.attempts) == (50.0, 1)


def test_transaction_is_whole_or_not_at_all(tmp_path: Path) -> None:
    """An error within leaves neither alerts nor messages."""

    def fail(state: AlertState) -> None:
        with state.transaction():
            state.keep("runs.db", 180.0, [ALERT])
            state.put(MESSAGE, ["slack"], 10.0)
            raise KeyError

    with AlertState(tmp_path / "s.db") as state:
        with pytest.raises(KeyError):
            fail(state)
        assert (state.alerts(), state.next_due(["slack"])) == ({}, None)


_KILLED = """
import os, signal, sys
from dataclasses import replace
from pathlib import Path
from stageflow.pulse.alerts.state import AlertState
from tests.unit.pulse.test_alert_state import ALERT, MESSAGE
state = AlertState(Path(sys.argv[1]))
with state.transaction():
    state.keep("runs.db", 180.0, [ALERT])
    if sys.argv[2] == "within":
        os.kill(os.getpid(), signal.SIGKILL)
    state.put(MESSAGE, ["slack"], 10.0)
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize(("when", "there"), [("within", 0), ("after", 1)])
def test_killed_process_leaves_alert_and_message_or_neither(
    tmp_path: Path, when: str, there: int
) -> None:
    """Killed between the two, neither is there; killed after them, both are."""
    path = tmp_path / "state.db"
    killed = subprocess.run([sys.executable, "-c", _KILLED, str(path), when], check=False)
    assert killed.returncode == -signal.SIGKILL
    with AlertState(path) as state:
        assert len(state.alerts()) == there
        assert (state.next_due(["slack"]) is not None) == bool(there)


def test_other_files_are_refused(tmp_path: Path) -> None:
    """Another program's database is not written to, nor is a file that is not a database."""
    other = sqlite3.connect(tmp_path / "other.db")
    other.execute("CREATE TABLE t (x)")
    other.commit()
    other.close()
    with raises_code("pulse_alert_state", match="^--state .*another program; give another file"):
        AlertState(tmp_path / "other.db")
    (tmp_path / "text.db").write_text("not a database, but long enough to be looked at" * 99)
    with raises_code("pulse_alert_state", match="not an SQLite database"):
        AlertState(tmp_path / "text.db")
    with raises_code("pulse_alert_state", match="see that its folder exists"):
        AlertState(tmp_path / "nowhere" / "state.db")


def test_a_state_of_version_1_is_brought_forward(tmp_path: Path) -> None:
    """A message that was sent before is not sent again."""
    schema = Path(alerts.__file__).with_name("state_schema") / "1.sql"
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.executescript(schema.read_text("utf-8"))
        connection.execute(f"PRAGMA application_id = {0x5366416C}")
        connection.execute("PRAGMA user_version = 1")
        row = ("runs.db", "NoData", '[["pipeline", "voice"]]', 60.0, 120.0, 0.5, "stage llm", 1)
        connection.execute("INSERT INTO alerts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        connection.commit()
    with AlertState(tmp_path / "state.db") as state:
        assert state.alerts("runs.db") == {ALERT.key: ALERT}


def test_message_as_text_is_the_same_message() -> None:
    """Firing alerts come first; the stored text holds all of it."""
    over = replace(NOTICE, status=Status.RESOLVED, until_s=900.0)
    message = message_of([over, NOTICE])
    assert message is not None
    assert [notice.status for notice in message.notices] == [Status.FIRING, Status.RESOLVED]
    assert message.title == "FIRING 1, RESOLVED 1: NoData"
    assert Message.from_json(message.to_json()) == message
