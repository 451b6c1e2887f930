"""Starting a cluster by one command, and by containers."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from stageflow.cli import make_parser
from stageflow.telemetry import TelemetryStore
from tests.cluster.test_commands import dispatch
from tests.utils.asv_repo import heed_interrupts
from tests.utils.commands import run_command
from tests.utils.server import free_port
from tests.utils.workers import ROOT

pytestmark = pytest.mark.slow

_PATIENCE_S = 300.0


class Started:
    """The script that `make cluster` runs, with servers of its own."""

    def __init__(self, folder: Path) -> None:
        """Start it, and return once its workers serve."""
        own = {"CLUSTER_DIR": str(folder), "WORKERS": "2", "PYTHON": sys.executable}
        ports = {"REDIS_PORT": str(free_port()), "POSTGRES_PORT": str(free_port())}
        self.process = subprocess.Popen(
            [".ci/cluster", "chat"],
            cwd=ROOT,
            env={**os.environ, **own, **ports},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
            # Tests that run in the background may have been started with SIGINT ignored.
            preexec_fn=heed_interrupts,  # noqa: PLW1509 - before any thread
        )
        self.said = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said += line
            if self.said.count(" serves ") == 2 and "Ctrl-C" in self.said:
                return
        raise AssertionError(self.said)

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C; the exit code, and what was said since."""
        self.process.send_signal(signal.SIGINT)
        try:
            rest, _ = self.process.communicate(timeout=_PATIENCE_S)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.communicate()
            raise
        return self.process.returncode, rest


@pytest.fixture
def folder() -> Iterator[Path]:
    """Where the servers keep their data; others than its owner have to reach it, too."""
    made = Path(tempfile.mkdtemp(prefix="cluster-"))
    made.chmod(0o755)
    yield made
    shutil.rmtree(made)


def test_one_command_starts_a_cluster_that_keeps_what_it_has(folder: Path) -> None:
    """A job runs by what the command prints; after Ctrl-C and a new start it is not run again.

    What was recorded of it is there, too.
    """
    ran_on: list[str] = []
    for _ in range(2):
        started = Started(folder)
        found = re.search(r"STAGEFLOW_BROKER=(\S+) STAGEFLOW_DLQ=(\S+)", started.said)
        assert found is not None, started.said
        told = dispatch(found[1], "chat", "--text", "Hi there", "--key", "k", "--json")
        listed = run_command(
            [sys.executable, "-m", "stageflow", "dlq", "list", "--store", found[2]], cwd=ROOT
        )
        with TelemetryStore(found[2]) as store:
            assert not ran_on or store.known()[0] == ("chat", None)
        code, rest = started.interrupt()
        assert (told.returncode, listed.returncode, code) == (0, 0, 0), told.stderr + listed.stderr
        assert rest.count("has ended") == 2
        ran_on.append(json.loads(told.stdout)["worker"])
    assert ran_on[0] == ran_on[1] is not None


def test_the_containers_run_a_worker_that_exists() -> None:
    """The compose file's command line parses, and names the servers beside it."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    assert (
        set(services["worker"]["depends_on"]) == {"redis", "postgres"} == set(services) - {"worker"}
    )
    call = services["worker"]["command"].split("exec stageflow ")[1].rstrip('"')
    arguments = make_parser().parse_args(shlex.split(call))
    assert callable(arguments.run)
    assert arguments.broker == "redis://redis:6379/0"
    assert arguments.dlq == arguments.telemetry == "postgresql://stageflow@postgres/stageflow"
    extras = re.search(r"/src\[([\w,]+)\]", services["worker"]["command"])
    assert extras is not None
    assert set(extras[1].split(",")) == {"cluster", "db"}
