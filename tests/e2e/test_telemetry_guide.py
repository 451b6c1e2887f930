"""The listings of docs/operations/telemetry.md work, and docs/reference/metrics.md is complete."""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow import EventDispatcher
from stageflow.telemetry import PrometheusSink, SQLiteSink
from stageflow.telemetry.database import APPLICATION_ID, MIGRATIONS
from tests.utils.commands import run_command
from tests.utils.telemetry import batch, run_log, voice_log

pytestmark = pytest.mark.slow

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = (DOCS / "operations" / "telemetry.md").read_text(encoding="utf-8")
TEXT = (DOCS / "reference" / "metrics.md").read_text(encoding="utf-8")
LISTINGS = dict(re.findall(r"^```python\n# (\w+)\.py\n(.*?)^```$", GUIDE, re.DOTALL | re.MULTILINE))


def test_each_listing_has_a_name() -> None:
    """So that none is left out here."""
    assert len(LISTINGS) == GUIDE.count("```python\n") == 8


@pytest.mark.parametrize(
    ("name", "printed"),
    [
        ("record", r"(chat [\w() ]+ \d+\.\d ms\n){5}"),
        ("jsonl", r"0\n"),
        ("metrics", r""),
        ("traces", r""),
        ("log", r""),
        ("letters", r""),
        ("own_voice", r"station \d+ ms\n"),
        ("retention", r"Pruned\(runs=0, events=0, .*\)\n"),
    ],
)
def test_a_listing_works(name: str, printed: str, tmp_path: Path) -> None:
    """As it stands, in a folder of its own, without a warning, and prints what it is to print."""
    code = LISTINGS[name].replace("9464", "0")  # a port that is free here
    done = run_command([sys.executable, "-W", "error", "-c", code], cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(printed, done.stdout), done.stdout


def test_the_letter_of_the_listing_is_stored(tmp_path: Path) -> None:
    """The file that it leaves holds the letter."""
    code = LISTINGS["letters"]
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=600)
    with sqlite3.connect(tmp_path / "runs.db") as connection:
        rows = connection.execute("SELECT pipeline, failed_stage FROM dead_letters").fetchall()
    connection.close()
    assert rows == [("shop", "pay")]


def test_the_tables_are_those_of_a_file(tmp_path: Path) -> None:
    """Each table and each column, in order; and its version."""
    SQLiteSink(tmp_path / "t.db").close()
    connection = sqlite3.connect(tmp_path / "t.db")
    tables = [
        name
        for (name,) in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")
        if not name.startswith("sqlite_")
    ]
    there = {
        table: [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        for table in tables
    }
    connection.close()
    documented = {
        table: re.findall(r"^\| `(\w+)` \|", rows, re.MULTILINE)
        for table, rows in re.findall(
            r"^\*\*`(\w+)`\*\*(.*?)\n\n(?=\*\*|#)", TEXT, re.DOTALL | re.MULTILINE
        )
    }
    assert documented == there
    assert f"Version {len(MIGRATIONS)}." in TEXT
    assert re.findall(r"^\| (\d+) \| ", TEXT, re.MULTILINE) == [
        str(version) for version in range(1, len(MIGRATIONS) + 1)
    ]
    assert f"0x{APPLICATION_ID:X}" in TEXT


def test_the_metrics_are_those_of_the_sink() -> None:
    """Each with its labels, as a run that fails and a voice turn bring them out."""
    sink = PrometheusSink()
    log = run_log("1", {"a": 5.0, "b": "boom"})
    log.append(("stage.a.breaker_open", 0.0, "a", {"provider": "llm"}))
    log.append(("stage.a.usage", 0.0, "a", {"provider": "llm", "prompt_tokens": 5}))
    sink.write(batch(log, voice_log("2", 400.0)))
    with EventDispatcher([sink]) as dispatcher:
        sink.watch(dispatcher)
        sink.watch_letters(lambda: 0.0)
        there = {
            family.name + ("_total" if family.type == "counter" else ""): {
                label for sample in family.samples for label in sample.labels if label != "le"
            }
            for family in sink.registry.collect()
        }
    rows = re.findall(r"^\| `(stageflow_\w+)` \| ([\w, ]*) ?\|", TEXT, re.MULTILINE)
    assert {name: set(filter(None, labels.strip().split(", "))) for name, labels in rows} == there
