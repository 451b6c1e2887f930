"""``stageflow pulse alert``: what it prints, sends and remembers, and what it ends with."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest

from stageflow.cli import main
from stageflow.pulse.alerts import AlertState, cli, load_alerts
from stageflow.pulse.alerts.cli import AlertExit
from stageflow.pulse.dashboard.page import write_runbook
from tests.unit.pulse.test_alert_rules import ALERTS, BUDGETS
from tests.utils.alert_cases import MINUTE_S, ROOT, Case, Stretch, record
from tests.utils.histories import History
from tests.utils.webhook import Webhook, webhook

SLOW = Case("", "", (Stretch(9, slow=9),), ())
#: Goes on after now, so that no window is empty for a process that starts late.
LASTING = Case("", "", (Stretch(20, slow=9),), ())
CALM = Case("", "", (Stretch(9),), ())


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Webhook]:
    """A receiver of webhooks that the command finds."""
    with webhook() as running:
        monkeypatch.setenv("STAGEFLOW_SLACK_WEBHOOK", running.url)
        yield running


def recorded(folder: Path, case: Case) -> Path:
    """Return a file of telemetry whose ninth minute is the one that is over."""
    path = folder / "runs.db"
    record(case, path, (time.time() // MINUTE_S - 9) * MINUTE_S)
    return path


def alert(store: Path, *arguments: str) -> int:
    """Run the command with the rules of this repository."""
    rules = str(ROOT / "benchmarks/alerts.toml")
    return main(["pulse", "alert", "--store", str(store), "--rules", rules, *arguments])


def test_nothing_is_reported_twice(
    receiver: Webhook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The first look tells, prints and sends; the second only says by its exit code what lasts."""
    store = recorded(tmp_path, SLOW)
    assert alert(store, "--once", "--to", "slack") == AlertExit.FIRING
    printed = capsys.readouterr().out
    assert "FIRING VoiceLatencyOverBudget: P99 latency of voice is 2,030 ms" in printed
    assert "runbook: http://127.0.0.1:8765/runbook.html#live-latency" in printed
    assert "delivered by slack: FIRING 1: VoiceLatencyOverBudget" in printed
    assert alert(store, "--to", "slack") == AlertExit.FIRING
    assert capsys.readouterr().out == ""
    assert len(receiver.payloads) == 1


def test_calm_is_silent(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where nothing is wrong nothing is printed, and the state stands beside the telemetry."""
    assert alert(recorded(tmp_path, CALM)) == AlertExit.QUIET
    assert capsys.readouterr().out == ""
    assert (tmp_path / "runs.alerts.db").exists()


def test_undelivered_messages_are_shown_and_sent_again(
    receiver: Webhook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A permanent refusal has an exit code of its own, until somebody sends the message again."""
    receiver.answers = [(404, {})]
    store = recorded(tmp_path, SLOW)
    assert alert(store, "--to", "slack") == AlertExit.UNDELIVERED
    assert "(HTTP 404), given up, see --dead" in capsys.readouterr().out
    assert alert(store, "--dead") == AlertExit.UNDELIVERED
    assert "slack FIRING 1: VoiceLatencyOverBudget (1 attempts, the last: HTTP 404)" in (
        capsys.readouterr().out
    )
    assert alert(store, "--resend", "--to", "slack") == AlertExit.FIRING
    assert capsys.readouterr().out.splitlines() == [
        "1 messages wait again",
        "delivered by slack: FIRING 1: VoiceLatencyOverBudget",
    ]


def test_test_message_says_what_it_is(receiver: Webhook, tmp_path: Path) -> None:
    """--test needs no telemetry, arrives, and makes nothing fire."""
    assert alert(tmp_path / "runs.db", "--test", "--to", "slack") == AlertExit.QUIET
    (payload,) = receiver.payloads
    assert "this is a test, nothing is wrong" in payload["attachments"][0]["text"]


def test_a_test_that_fails_is_not_tried_again(
    receiver: Webhook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The exit code says so at once, and a later call delivers only its own message."""
    receiver.answers = [(503, {})]
    assert alert(tmp_path / "runs.db", "--test", "--to", "slack") == AlertExit.UNDELIVERED
    assert capsys.readouterr().out == "not delivered by slack (HTTP 503)\n"
    assert alert(tmp_path / "runs.db", "--test", "--to", "slack") == AlertExit.QUIET
    assert len(receiver.payloads) == 2
    with pytest.raises(SystemExit):
        main(["pulse", "alert", "--store", "runs.db", "--test"])
    assert "add --to email or --to slack" in capsys.readouterr().err


def test_an_empty_folder_is_enough(
    receiver: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package's own rules have a table for Slack, and each a section of the runbook shown."""
    monkeypatch.chdir(tmp_path)
    assert main(["pulse", "alert", "--store", "runs.db", "--to", "slack", "--test"]) == 0
    assert len(receiver.payloads) == 1
    write_runbook(tmp_path / "docs/runbook.md", tmp_path)
    shown = (tmp_path / "runbook.html").read_text(encoding="utf-8")
    alerts = load_alerts(Path(cli.__file__).with_name("default.toml"))
    wanted = {rule.runbook for rule in (*alerts.rules, alerts.benchmark) if rule}
    assert [name for name in sorted(wanted) if f'<section id="{name}">' not in shown] == []


def test_each_mistake_in_the_rules_is_a_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two mistakes in one file are two lines of the error, each with its place."""
    (tmp_path / "budgets.toml").write_text(BUDGETS)
    rules = tmp_path / "rules.toml"
    rules.write_text(ALERTS.replace('"critical"', '"loud"').replace("for_s = 300", "for_s = 1.5"))
    assert alert(tmp_path / "runs.db", "--rules", str(rules)) == 1
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith(f"error: {rules}:")
    assert second.startswith(f"{rules}:")


def test_mistakes_are_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing file of telemetry, a channel without a table, a secret that is not there."""
    monkeypatch.delenv("STAGEFLOW_SLACK_WEBHOOK", raising=False)
    assert alert(tmp_path / "nowhere.db") == 1
    assert "cannot open the telemetry" in capsys.readouterr().err
    (tmp_path / "budgets.toml").write_text(BUDGETS)
    rules = tmp_path / "alerts.toml"
    rules.write_text(ALERTS)
    assert alert(tmp_path / "runs.db", "--rules", str(rules), "--to", "slack", "--test") == 1
    assert "add a table [slack] to your alerts.toml" in capsys.readouterr().err
    rules.write_text(f'{ALERTS}\n[slack]\nchannel = "#a"\nwebhook_file = "{tmp_path}/hook"\n')
    assert alert(tmp_path / "runs.db", "--rules", str(rules), "--to", "slack", "--test") == 1
    assert "hook cannot be read (No such file or directory)" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        alert(tmp_path / "runs.db", "--every", "0")
    assert "0 is not between 1 and 86,400 seconds" in capsys.readouterr().err


def measured(folder: Path) -> History:
    """Return a repository with a regression in asv's results."""
    history = History(folder)
    history.commit(12)
    history.measure({"counted.track_a": lambda n: 150.0 if n >= 10 else 100.0}, *range(12))
    config = {"project": "stageflow", "branches": ["main"]}
    config |= {"results_dir": ".asv/results", "html_dir": ".asv/html"}
    (folder / "asv.conf.json").write_text(json.dumps(config))
    return history


def test_a_failed_look_at_benchmarks_does_not_stop_telemetry(
    receiver: Webhook, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Alerts on telemetry are delivered, and the failure is one line with exit code 1."""
    history = measured(tmp_path)
    (history.project.results_dir / "benchmarks.json").write_text('{"half')
    more = ("--benchmarks", "--repository", str(tmp_path), "--to", "slack")
    assert alert(recorded(tmp_path, SLOW), *more) == 1
    printed = capsys.readouterr()
    assert "delivered by slack: FIRING 1: VoiceLatencyOverBudget" in printed.out
    assert "benchmarks.json cannot be used (not whole JSON" in printed.err
    assert printed.err.count("\n") == 1


def test_regressions_are_reported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--benchmarks looks at asv's results of a repository, and remembers beside them."""
    measured(tmp_path)
    rules = str(ROOT / "benchmarks/alerts.toml")
    command = ["pulse", "alert", "--rules", rules, "--benchmarks", "--repository", str(tmp_path)]
    assert main(command) == AlertExit.FIRING
    printed = capsys.readouterr().out
    assert "FIRING BenchmarkRegressed: slower since" in printed
    assert "Change number 10" in printed
    assert main(command) == AlertExit.FIRING
    assert capsys.readouterr().out == ""
    assert (tmp_path / ".asv/alerts.db").exists()


def test_something_to_look_at_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    """Without telemetry and benchmarks there is nothing to do, and that is a usage error."""
    with pytest.raises(SystemExit) as ended:
        main(["pulse", "alert"])
    assert ended.value.code == 2
    assert "--store FILE, --benchmarks, or both" in capsys.readouterr().err


def test_clone_without_measurements_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Where nothing was measured no regression can be found, and that is said with the fix."""
    rules = str(ROOT / "benchmarks/alerts.toml")
    command = ["pulse", "alert", "--rules", rules, "--benchmarks", "--repository", str(tmp_path)]
    assert main(command) == 1
    assert "run stageflow pulse bench, or name another clone" in capsys.readouterr().err


def watching(store: Path, receiver: Webhook) -> subprocess.Popen[str]:
    """A process that looks each second."""
    rules = str(ROOT / "benchmarks/alerts.toml")
    command = ["pulse", "alert", "--store", str(store), "--rules", rules, "--to", "slack"]
    return subprocess.Popen(
        [sys.executable, "-u", "-m", "stageflow", *command, "--every", "1"],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"STAGEFLOW_SLACK_WEBHOOK": receiver.url},
    )


def read_until(lines: IO[str] | None, text: str) -> list[str]:
    """The lines up to the one that has a text in it."""
    assert lines is not None
    read = []
    for line in lines:
        read.append(line.rstrip("\n"))
        if text in line:
            return read
    raise AssertionError(f"{text!r} was not printed, only {read}")


@pytest.mark.slow
@pytest.mark.parametrize("killed_after", ["delivered by slack", "is tried again"])
def test_kill_while_firing_sends_nothing_twice_and_loses_nothing(
    receiver: Webhook, tmp_path: Path, killed_after: str
) -> None:
    """Killed after a message, the next process is silent; killed before it, the next one sends."""
    told = killed_after.startswith("delivered")
    # However long the process lives after the first attempt, no attempt of its own succeeds.
    receiver.answers = [] if told else [(500, {})] * 1000
    store = recorded(tmp_path, LASTING)
    with watching(store, receiver) as process:
        read_until(process.stdout, killed_after)
        process.kill()
    receiver.answers = []
    assert receiver.accepted == told
    with watching(store, receiver) as process:
        if told:
            with AlertState(tmp_path / "runs.alerts.db") as state:
                assert state.next_due(["slack"]) is None
        else:
            read_until(process.stdout, "delivered by slack")
        process.send_signal(signal.SIGTERM)
    assert receiver.accepted == 1
    assert alert(store, "--to", "slack") == AlertExit.FIRING
    assert receiver.accepted == 1


@pytest.mark.slow
def test_watch_goes_on_after_errors_and_ends_in_good_order(
    receiver: Webhook, tmp_path: Path
) -> None:
    """A failed read of the telemetry is reported, and the watch goes on; SIGTERM gives code 0."""
    store = recorded(tmp_path, LASTING)
    other = sqlite3.connect(store, isolation_level=None)
    other.execute("ALTER TABLE rollups RENAME TO gone")
    with watching(store, receiver) as process:
        read_until(process.stdout, "error: cannot read the telemetry")
        other.execute("ALTER TABLE gone RENAME TO rollups")
        other.close()
        read_until(process.stdout, "delivered by slack: FIRING")
        process.send_signal(signal.SIGTERM)
        assert process.wait() == 0
