"""Try the gate on the clone of another project: ``python -m tools.foreign_gate CLONE …``."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from stageflow.pulse import PulseError
from stageflow.pulse.gate import Worker, list_benchmarks, tree
from stageflow.pulse.history import AsvProject, run_git

_HELP = """\
Try the gate on the clone of another project that has an asv suite: a commit without changes, which
must end with 0, and one with a slowdown in instructions, which must end with 1. A row of a
table is printed. The project's dependencies have to be installed for this Python.

example:
  python -m tools.foreign_gate ../networkx --asv benchmarks --only NonNeighbors.time_complete \\
      --file networkx/classes/function.py --line "    nbors = set(graph._adj[node])" \\
      --plant "    _ = 0"
"""
#: So many statements are planted to learn what one costs.
_TRIED = 100


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m tools.foreign_gate",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("clone", type=Path)
    parser.add_argument("--asv", default=".", help="the folder of asv.conf.json in it")
    parser.add_argument("--only", required=True, help="which benchmarks")
    parser.add_argument("--file", required=True, help="where a slowdown is planted")
    parser.add_argument("--line", required=True, help="the line before which it is planted")
    parser.add_argument("--plant", required=True, help="a statement, planted as often as it takes")
    parser.add_argument("--rise", type=float, default=0.105, help="default: %(default)s")
    return parser.parse_args()


class _Trial:
    """A copy of a clone, in which commits are made and judged."""

    def __init__(self, asked: argparse.Namespace, folder: Path) -> None:
        self.asked, self.root, self.home = asked, folder / "clone", folder / "home"
        self.home.mkdir()
        run_git(folder, "clone", "--quiet", str(asked.clone.resolve()), str(self.root))
        run_git(self.root, "branch", "--force", "base")
        self.asv = self.root / asked.asv
        self.file = self.root / asked.file
        self.text = self.file.read_text(encoding="utf-8")
        if asked.line not in self.text:
            raise PulseError(f"{asked.file} has no line {asked.line!r}: see --line")

    def commit(self, count: int) -> str:
        """Commit this many statements; 0 commits nothing."""
        planted = "\n".join([*[self.asked.plant] * count, self.asked.line])
        text = self.text.replace(self.asked.line, planted, 1)
        self.file.write_text(text, encoding="utf-8")
        who = ("-c", "user.name=trial", "-c", "user.email=trial@example.invalid")
        message = ("--allow-empty", "--no-verify", "--message", f"{count} statements")
        run_git(self.root, *who, "commit", "--quiet", "--all", *message)
        return run_git(self.root, "rev-parse", "HEAD").strip()

    def statements(self) -> tuple[str, int]:
        """Return the series, and how many statements make it so much dearer."""
        project = AsvProject.load(self.asv, reads_only=True)
        found = list_benchmarks(project).units
        series = next(s for s in found if s.startswith("instructions(") and self.asked.only in s)
        costs = []
        for commit in ("base", self.commit(_TRIED)):
            with tree(project, commit) as files, Worker(project.benchmarks_dir, files) as worker:
                costs.append(worker.measure([series])[series]["value"])
        return series, round(self.asked.rise * costs[0] / ((costs[1] - costs[0]) / _TRIED))

    def judged(self) -> tuple[int, float, list[dict[str, Any]]]:
        """Run the gate; return its exit code, how long it took, and its verdicts."""
        report, started = self.home / "report.json", time.monotonic()
        command = [sys.executable, "-m", "stageflow", "pulse", "gate", "--base", "base"]
        command += ["--only", self.asked.only, "--json", str(report)]
        env = os.environ | {"HOME": str(self.home)}
        code = subprocess.run(command, cwd=self.asv, env=env, stdout=sys.stderr, check=False)
        if not report.exists():
            raise PulseError(f"the gate ended with {code.returncode} and judged nothing")
        verdicts = json.loads(report.read_text(encoding="utf-8"))["verdicts"]
        report.unlink()
        return code.returncode, time.monotonic() - started, verdicts


def main() -> int:
    """Try it and print a row; return 0 if both verdicts are right."""
    asked = _arguments()
    with tempfile.TemporaryDirectory(prefix="foreign-") as folder:
        trial = _Trial(asked, Path(folder))
        trial.commit(0)
        same, same_s, verdicts = trial.judged()
        series, count = trial.statements()
        trial.commit(count)
        slow, slow_s, found = trial.judged()
    kinds = Counter(verdict["kind"] for verdict in verdicts)
    row = next(verdict for verdict in found if verdict["series"] == series)
    cells = (
        asked.clone.resolve().name,
        f"{len(verdicts)} series of `{asked.only}`",
        f"exit {same}, {', '.join(f'{count} {kind}' for kind, count in kinds.items())}",
        f"{same_s:.0f} s",
        f"exit {slow}, `{series}` {row['kind']}, {(row['ratio'] or 1) - 1:+.1%}",
        f"{slow_s:.0f} s",
        f"{os.getloadavg()[0]:.0f}",
    )
    sys.stdout.write(f"| {' | '.join(cells)} |\n")
    return 0 if (same, slow) == (0, 1) else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except PulseError as error:
        sys.exit(f"foreign_gate: {error}")
