"""What docs/guides/cluster.md shows works, and what it lists is what there is."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow.cli.app import make_parser
from stageflow.cluster import errors
from stageflow.cluster.errors import ClusterError
from tests.utils.redis_server import RedisServer
from tests.utils.workers import ROOT

TEXT = (ROOT / "docs" / "guides" / "cluster.md").read_text(encoding="utf-8")
LISTINGS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE))
PRINTED = {"turns": "completed order-17: tea, milk 1\n" * 2, "gpu": ""}


@pytest.mark.parametrize("name", PRINTED)
def test_a_listing_works(name: str, redis: RedisServer, tmp_path: Path) -> None:
    """Without a warning, and prints what it is to print."""
    assert set(LISTINGS) == set(PRINTED)
    assert TEXT.count("```python\n") == len(LISTINGS)
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", LISTINGS[name]],
        cwd=tmp_path,
        env={**os.environ, "STAGEFLOW_BROKER": redis.url},
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr, done.stdout) == (0, "", PRINTED[name])


def test_the_command_lines_parse() -> None:
    """With the commands and options that there are."""
    lines = re.findall(r"^\$ stageflow (.*)$", TEXT, re.MULTILINE)
    assert len(lines) == 6
    for line in lines:
        make_parser().parse_args(shlex.split(line))


def test_the_targets_are_there() -> None:
    """Each `make` that is named."""
    named = set(re.findall(r"make ([a-z-]+)", TEXT)) - {"them"}
    made = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert {"cluster", "cluster-storm", "cluster-figures"} <= named
    assert [target for target in named if f"\n{target}:" not in made] == []


def test_each_refusal_is_listed() -> None:
    """The table has all errors before a turn is sent, and no others."""
    section = TEXT.split("## What is refused")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    listed = set(re.findall(r"`(\w+)`", " ".join(rows)))
    afterwards = {"turn_abandoned", "turn_cancelled", "remote_turn_failed", "broker_unavailable"}
    known = {
        error.code
        for error in vars(errors).values()
        if isinstance(error, type) and issubclass(error, ClusterError) and error is not ClusterError
    }
    assert listed == known - afterwards
