"""The listings of the pages on the cluster work, and their lists are complete."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from stageflow.cli import make_parser
from stageflow.cluster import ClusterError
from tests.cluster.test_commands import dispatch
from tests.utils.commands import run_command
from tests.utils.redis_server import RedisServer
from tests.utils.server import free_port
from tests.utils.workers import ROOT, WorkerProcess

pytestmark = pytest.mark.slow

TEXT = "\n".join(
    (ROOT / "docs" / folder / "cluster.md").read_text(encoding="utf-8")
    for folder in ("guides", "operations", "explanation")
)
LISTINGS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
PRINTED = {"jobs": "completed order-17: tea, milk 1\n" * 2, "gpu": ""}


@pytest.mark.parametrize("name", PRINTED)
def test_a_listing_works(name: str, redis: RedisServer, tmp_path: Path) -> None:
    """Without a warning, and prints what it is to print."""
    assert set(LISTINGS) == set(PRINTED)
    assert TEXT.count("```python\n") == len(LISTINGS)
    done = run_command(
        [sys.executable, "-W", "error", "-c", LISTINGS[name]],
        cwd=tmp_path,
        env={**os.environ, "STAGEFLOW_BROKER": redis.url},
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", PRINTED[name])


def test_the_command_lines_parse() -> None:
    """With the commands and options that there are."""
    lines = re.findall(r"^\$ stageflow (.*)$", TEXT, re.MULTILINE)
    assert len(lines) == 7
    for line in lines:
        make_parser().parse_args(shlex.split(line))


def test_the_targets_are_there() -> None:
    """Each `make` target and each program of tools/ that the guide names exists."""
    named = set(re.findall(r"(?:\$ |`)make ([a-z-]+)", TEXT))
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert "cluster" in named
    assert [target for target in named if f"\n{target}:" not in made] == []
    programs = set(re.findall(r"python -m tools\.(\w+)", TEXT))
    assert programs == {"cluster_figures", "cluster_stress_test"}
    assert all((ROOT / "tools" / f"{name}.py").is_file() for name in programs)


def test_each_refusal_is_listed() -> None:
    """The table has all errors before a job is sent, and no others."""
    section = TEXT.split("## What is refused")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`(\w+)`", " ".join(rows)))
    assert listed == set(ClusterError.codes) - {"job_abandoned", "job_cancelled", "broker_refused"}


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[str]:
    """A server with the guide's settings; the URL of the guide's user."""
    ca, port = trustme.CA(), free_port()
    server = ca.issue_cert("localhost")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server.cert_chain_pems[0].write_to_path(tmp_path / "server.pem")
    server.private_key_pem.write_to_path(tmp_path / "server.key")
    (settings,) = re.findall(r"^```text\n# redis\.conf\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
    for given, ours in (("/etc/redis", str(tmp_path)), ("6379", f"{port}"), ("PASSWORD", "s3cret")):
        settings = settings.replace(given, ours)
    path = tmp_path / "redis.conf"
    path.write_text(f"{settings}dir {tmp_path}\n", encoding="utf-8")
    process = subprocess.Popen(["redis-server", str(path)], stdout=subprocess.DEVNULL)
    yield f"rediss://jobs:s3cret@localhost:{port}/0?ssl_ca_certs={tmp_path / 'ca.pem'}"
    process.terminate()
    process.wait()


def test_the_guarded_server_serves_workers_and_nobody_else(guarded: str) -> None:
    """With the rights of the guide everything works, breakers too; without the password nothing."""
    worker = WorkerProcess(guarded, "chat", "--scale", "0", "--breakers", environment={})
    worker.wait_until_it_serves()
    done = dispatch(guarded, "chat", "--text", "Hi there")
    assert (done.returncode, "Hi there" in done.stdout) == (0, True), done.stderr
    assert worker.stop() == 0
    assert "s3cret" not in "".join(worker.lines)
    refused = dispatch(guarded.replace("jobs:s3cret@", ""), "chat")
    assert refused.returncode == 1
    assert "correct user, password" in refused.stderr
