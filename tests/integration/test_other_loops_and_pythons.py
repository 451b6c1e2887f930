"""The engine behaves the same under every event loop and every Python that is at hand."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from pathlib import Path

import pytest
import uvloop

from tests.utils.pythons import interpreters
from tests.utils.scenarios import play_all
from tests.utils.virtual_time import run_virtual

ROOT = Path(__file__).parents[2]


def expected() -> dict[str, list[list[str | None]]]:
    """What every scenario gives in virtual time, where nothing can come late."""
    played: dict[str, list[list[str | None]]] = json.loads(json.dumps(run_virtual(play_all)))
    return played


def test_uvloop_gives_the_same_events() -> None:
    """Under uvloop each scenario gives the events that it gives in virtual time."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        played = json.loads(json.dumps(runner.run(play_all())))
    assert played == expected()


def test_asyncio_gives_the_same_events_in_real_time() -> None:
    """Under asyncio's own loop each scenario gives the events that it gives in virtual time."""
    assert json.loads(json.dumps(asyncio.run(play_all()))) == expected()


@pytest.mark.parametrize("python", interpreters())
def test_another_python_gives_the_same_events(python: str) -> None:
    """Each other Python gives the events that this one gives."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [python, "-W", "error", "-m", "tests.utils.scenarios"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == expected()
