"""Steady loads that the engine was put under, and what became of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from stageflow.pulse.record_lines import read_lines

LOADS_FILE = "load.jsonl"
#: The newest so many are shown.
LOADS = 200
_VERSION = 1


def load_record(results_dir: Path) -> dict[str, Any]:
    """The panel's data, as JSON's values: the loads, oldest first, and what could not be read."""
    loads, unread = read_lines(results_dir / LOADS_FILE, _load)
    left_out = f"{unread} lines of {LOADS_FILE} cannot be read and were left out."
    return {"loads": loads[-LOADS:], "notes": [left_out] if unread else []}


def _load(line: dict[str, Any]) -> dict[str, Any]:
    if line["version"] != _VERSION:
        raise ValueError(f"version {line['version']}")
    latency = line["latency_ms"]
    return {
        "at_s": dt.datetime.fromisoformat(line["at"]).timestamp(),
        "commit": line["commit"],
        "cpus": line["cpus"],
        "python": line["python"],
        "rate_hz": float(line["rate_hz"]),
        "seconds": float(line["seconds"]),
        "carried_hz": line["ended"] / line["seconds"],
        "failed": int(line["failed"]),
        "latency_ms": [float(latency[name]) for name in ("p50", "p95", "p99", "max")],
        "cpu_share": float(line["cpu_share"]),
        "memory_growth": float(line["memory_growth"]),
        "tasks": int(line["tasks"]),
        "files": int(line["files"]),
        "faults": [str(fault) for fault in line["faults"]],
    }
