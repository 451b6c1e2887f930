"""The commands ``worker`` and ``dispatch``, as processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from stageflow.cli.cluster import BROKER_VARIABLE
from tests.utils.commands import run_command
from tests.utils.redis_server import RedisServer
from tests.utils.workers import ROOT, WorkerProcess

pytestmark = pytest.mark.slow


@pytest.fixture
def worker(redis: RedisServer) -> Iterator[WorkerProcess]:
    """A worker of the chat, with fake providers and breakers, that serves."""
    process = WorkerProcess(redis.url, "chat", "--scale", "0", "--breakers", environment={})
    process.wait_until_it_serves()
    yield process
    process.kill()


def dispatch(broker: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command, with the broker from the environment."""
    return run_command(
        [sys.executable, "-m", "stageflow", "dispatch", *arguments],
        cwd=ROOT,
        env={**os.environ, BROKER_VARIABLE: broker},
    )


def test_a_turn_from_the_command_line(redis: RedisServer, worker: WorkerProcess) -> None:
    """The answer is printed; sent again under its key, the job is the same run."""
    first = dispatch(redis.url, "chat", "--text", "Hi there", "--key", "k")
    assert (first.returncode, "Hi there" in first.stdout) == (0, True), first.stderr
    assert "job k: completed" in first.stderr
    again = dispatch(redis.url, "chat", "--text", "Hi there", "--key", "k", "--json")
    told = json.loads(again.stdout)
    assert (told["status"], told["deliveries"], told["error_code"]) == ("completed", 1, None)
    assert str(worker.pid) in told["worker"]
    refused = dispatch(redis.url, "chat", "--text", "Other", "--key", "k")
    assert refused.returncode == 1
    assert "idempotency key" in refused.stderr


def test_a_worker_ends_well_on_sigterm(worker: WorkerProcess) -> None:
    """With the code 0, and a word of it."""
    assert worker.stop() == 0
    assert "has ended" in worker.lines[-1]


def test_a_second_sigterm_ends_a_worker_at_once(redis: RedisServer) -> None:
    """The job, which would go on for an hour, is left to other workers."""
    arguments = ("tests.cluster.pipelines:endless", "--drain-s", "3600")
    worker = WorkerProcess(redis.url, *arguments, environment={})
    worker.wait_until_it_serves()
    command = [sys.executable, "-m", "stageflow", "dispatch", arguments[0]]
    environment = {**os.environ, BROKER_VARIABLE: redis.url}
    with subprocess.Popen(command, cwd=ROOT, env=environment) as dispatcher:
        worker.wait_for("it runs")
        assert worker.stop_at_once() == -signal.SIGTERM
        dispatcher.kill()


def test_no_broker_is_a_usage_error() -> None:
    """Both commands say what to give."""
    environment = {name: value for name, value in os.environ.items() if name != BROKER_VARIABLE}
    for command in ("worker", "dispatch"):
        done = run_command(
            [sys.executable, "-m", "stageflow", command, "chat"], cwd=ROOT, env=environment
        )
        assert (done.returncode, "--broker URL" in done.stderr) == (2, True), done.stderr
