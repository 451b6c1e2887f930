"""Steady loads that the engine was put under, and what became of them."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

from stageflow.pulse.record_lines import newest_lines

LOADS_FILE = "load.jsonl"
_VERSION = 1


def load_record(results_dir: Path) -> dict[str, Any]:
    """The panel's data, as JSON's values: the loads, oldest first, and what could not be read."""
    loads, notes = newest_lines(results_dir / LOADS_FILE, _VERSION, _load)
    return {"loads": loads, "notes": notes}


def _load(line: dict[str, Any]) -> dict[str, Any]:
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
