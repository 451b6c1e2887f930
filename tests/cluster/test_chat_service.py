"""The guide to a chat with tools works: its listings and commands, in a folder of their own."""

from __future__ import annotations

import os
import re
import shlex
import sys
from pathlib import Path

import pytest

from stageflow.cli import make_parser
from tests.utils.commands import run_command
from tests.utils.redis_server import RedisServer
from tests.utils.workers import ROOT, WorkerProcess

pytestmark = pytest.mark.slow

TEXT = (ROOT / "docs/guides/chat-service.md").read_text(encoding="utf-8")
LISTINGS = re.findall(r"^```python\n# (\S+\.py)\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)
#: Asks the server of the jobs: a question, the same key with another one, and an empty text.
ASK = """
import asyncio, httpx
from shop.jobs import app

async def main():
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://shop") as client,
    ):
        for text, key in (("Where is A7?", "1"), ("Where is A8?", "1"), (" ", "2")):
            asked = {"text": text, "user_id": "ada", "key": key}
            reply = await client.post("/turn", params=asked)
            print(reply.status_code, reply.text)

asyncio.run(main())
"""


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """The folder of the listings."""
    assert TEXT.count("```python\n") == len(LISTINGS)
    for name, code in LISTINGS:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(code, encoding="utf-8")
    return tmp_path


def python(shop: Path, *arguments: str, **variables: str) -> str:
    """Run Python there, and return what it prints."""
    names = {"PYTEST_ADDOPTS": "-p no:asyncio -p no:cacheprovider -p no:xdist"}
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("COV_", "PYTEST"))}
    done = run_command([sys.executable, *arguments], cwd=shop, env=environment | names | variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_turn_and_its_tests_run(shop: Path) -> None:
    """The command prints the answer, and the tests of the guide pass."""
    commands = dict(re.findall(r"^\$ (.*)\n(.*)\n", TEXT, re.MULTILINE))
    for typed, program in (("stageflow run", ["-m"]), ("python -m pytest", [])):
        (command,) = [line for line in commands if line.startswith(typed)]
        words = shlex.split(command)
        printed = python(shop, *program, *words[0 if program else 1 :])
        assert commands[command].rstrip("…") in printed


def test_the_turn_runs_on_a_worker(shop: Path, redis: RedisServer) -> None:
    """Its answer arrives; a key of another question, and no worker at all, are refused."""
    variables = {"STAGEFLOW_BROKER": redis.url, "PYTHONPATH": str(shop)}
    assert "503 " in python(shop, "-c", ASK, **variables)
    (line,) = re.findall(r"^\$ stageflow worker (.*)$", TEXT, re.MULTILINE)
    make_parser().parse_args(["worker", *shlex.split(line)])
    named = shlex.split(
        line.replace("letters.db", f"{shop}/l.db").replace("runs.db", f"{shop}/r.db")
    )
    database = {"SHOP_DB": f"sqlite:///{shop}/shop.db"}
    worker = WorkerProcess(redis.url, *named, environment=variables | database)
    worker.wait_until_it_serves()
    first, second, third = python(shop, "-c", ASK, **variables).splitlines()
    assert first == '200 {"answer":"It is on its way.","message":null}'
    assert first.removeprefix("200 ") in TEXT
    assert second.startswith("409 ")
    assert "Please write something" in third
    assert worker.stop() == 0
