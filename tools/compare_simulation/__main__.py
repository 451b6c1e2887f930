"""Print after how many runs each tool finds each bug, and whether correct programs ever fail.

Each cell is the median of the runs until the bug was found, and in brackets the maximum. With
--install, the other tools are installed into .asv/simulations, in an environment for each.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tools.compare_simulation.peer import TOOLS
from tools.compare_simulation.programs import BUGGY, CORRECT

HERE, ROOT = Path(__file__).parent, Path(__file__).parents[2]
HOME = ROOT / ".asv" / "simulations"
#: A tool that takes longer for one program does not finish.
PATIENCE_S = 60
Cell = dict[str, Any] | None


def python_of(tool: str) -> Path:
    """Return the interpreter that has a tool."""
    return HOME / tool / "bin" / "python"


def install(tool: str, base: str) -> None:
    """Make an environment for a tool; stageflow needs no other package."""
    subprocess.run([base, "-m", "venv", HOME / tool], check=True)
    if tool != "stageflow":
        subprocess.run([python_of(tool), "-m", "pip", "install", "-q", tool], check=True)


def run(tool: str, program: str, seeds: int, runs: int) -> Cell:
    """Return what a tool finds in a program; None if it does not finish."""
    python = python_of(tool) if python_of(tool).exists() else Path(sys.executable)
    command = [str(python), str(HERE / "peer.py"), tool, program, str(seeds), str(runs)]
    paths = os.environ | ({"PYTHONPATH": str(ROOT)} if tool == "stageflow" else {})
    try:
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, timeout=PATIENCE_S, env=paths
        )
    except subprocess.TimeoutExpired:
        return None
    cell: dict[str, Any] = json.loads(done.stdout)
    return cell


def found(cell: Cell) -> str:
    """Return the median and the maximum, and how many seeds found it if not all did."""
    if cell is None:
        return "not finished"
    known = [runs for runs in cell["runs"] if runs is not None]
    if not known:
        return "never"
    text = f"{statistics.median(known):g} ({max(known)})"
    return text if len(known) == len(cell["runs"]) else f"{text}, {len(known)} seeds"


def named(tool: str, cell: str) -> str:
    """Return a tool with its version, as its environment knows it."""
    if tool == "stageflow":
        return f"stageflow {version(tool)}"
    query = f"from importlib.metadata import version; print(version({tool!r}))"
    done = subprocess.run([cell, "-c", query], check=True, capture_output=True, text=True)
    return f"{tool} {done.stdout.strip()}"


def rates(tools: Sequence[str], rounds: int) -> dict[str, float]:
    """Return the runs a CPU second of the program of eight tasks, the tools in turn."""
    times: dict[str, list[float]] = {tool: [] for tool in tools}
    for _ in range(rounds):
        for tool in tools:
            cell = run(tool, "eight", 1, 500)
            times[tool].append(500 / cell["cpu_s"] if cell else 0.0)
    return {tool: statistics.median(rate) for tool, rate in times.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table.

    Returns:
        0 if stageflow found every bug with every seed and no correct program failed, 1 otherwise.
    """
    parser = argparse.ArgumentParser("python -m tools.compare_simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds for each program")
    parser.add_argument("--runs", type=int, default=2_000, help="how many runs at most")
    parser.add_argument("--rounds", type=int, default=5, help="how often to measure the speed")
    parser.add_argument("--install", action="store_true", help="install the other tools first")
    parser.add_argument("--python", default=sys.executable, help="of which Python; 3.12 or newer")
    options = parser.parse_args(argv)
    for tool in TOOLS if options.install else ():
        install(tool, options.python)
    tools = [t for t in TOOLS if t == "stageflow" or python_of(t).exists()]
    names = [named(tool, str(python_of(tool))) for tool in tools]
    print(f"| program | {' | '.join(names)} |\n{'| --- ' * (len(tools) + 1)}|")
    ours = []
    columns: dict[str, list[Cell]] = {tool: [] for tool in tools}
    for program in BUGGY:
        row = [run(tool, program.__name__, options.seeds, options.runs) for tool in tools]
        for tool, cell in zip(tools, row, strict=True):
            columns[tool].append(cell)
        ours.append(row[0] is not None and None not in row[0]["runs"])
        print(f"| {program.__name__} | {' | '.join(map(found, row))} |", flush=True)
    alarms: dict[str, list[str]] = {tool: [] for tool in tools}
    for program in CORRECT:
        for tool in tools:
            cell = run(tool, program.__name__, 1, options.runs)
            if found(cell) != "never":
                alarms[tool].append(program.__name__)
    repeats = {tool: run(tool, "drawn", options.seeds, options.runs) for tool in tools}
    speed = rates(tools, options.rounds)
    summary: dict[str, list[str]] = {
        "correct programs that fail": [", ".join(alarms[tool]) or "none" for tool in tools],
        "replays that fail again, with random numbers": [
            f"{cell['repeated']} of {len(cell['runs'])}" if cell else "not finished"
            for cell in repeats.values()
        ],
        "deviations that are left, median": [
            f"{statistics.median(left):g}" if left else "not reported"
            for left in (
                [count for cell in columns[tool] if cell for count in cell["deviations"]]
                for tool in tools
            )
        ],
        "runs a CPU second, eight tasks": [f"{speed[tool]:,.0f}" for tool in tools],
    }
    for name, cells in summary.items():
        print(f"| {name} | {' | '.join(cells)} |")
    return 0 if all(ours) and not alarms["stageflow"] else 1


if __name__ == "__main__":
    sys.exit(main())
