"""Has asv measure what is not measured yet, and reads what it has measured."""

from __future__ import annotations

import hashlib
import json
import platform
import re
import shutil
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.errors import AsvFailedError
from stageflow.pulse.gate.catalogue import Catalogue
from stageflow.pulse.gate.evidence import Measured, Value
from stageflow.pulse.gate.series import series_of
from stageflow.pulse.project import AsvProject
from stageflow.pulse.results import read_results
from stageflow.pulse.whole_file import whole_file

GATE_DIR = ".asv/gate"
_LEDGER = "measured.json"
_LEDGER_VERSION = 1
_COMMIT_LINE = re.compile(r"· For .* commit ([0-9a-f]{7,40})")
#: What asv prints in place of measuring when a commit could not be built.
_NOT_BUILT_LINE = re.compile(r"· Skipping \S+$")


def has_valgrind() -> bool:
    """Whether instructions can be counted here."""
    here = (platform.system(), platform.machine())
    return here == ("Linux", "x86_64") and shutil.which("valgrind") is not None


def digest(benchmarks: Path, machine: str) -> str:
    """What decides, besides the commit, how a measurement comes out: if it changes, measure anew.

    asv knows a benchmark by the version in its own body; what it calls may change without that.
    """
    found = hashlib.sha256(f"{machine} {sys.version} {has_valgrind()}".encode())
    for path in sorted(benchmarks.rglob("*.py")):
        found.update(f"\0{path.relative_to(benchmarks)}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Asv:
    """asv's results of one repository on this machine.

    Attributes:
        project: The repository.
        machine: The name of this machine.
        catalogue: The present benchmarks.
        digest: Of what they would be measured with now.
    """

    project: AsvProject
    machine: str
    catalogue: Catalogue
    digest: str

    def measure(
        self, commits: Sequence[str], names: Sequence[str], emit: Callable[[str], None]
    ) -> None:
        """Measure benchmarks on commits, but for what has been measured already in just this way.

        Args:
            commits: Full hashes.
            names: Names of benchmarks.
            emit: Is told asv's lines.

        Raises:
            AsvFailedError: A commit could not be built, or asv could not go on.
        """
        wanted: dict[tuple[str, ...], list[str]] = defaultdict(list)
        for commit in commits:
            if lacking := self._lacking(commit, names):
                wanted[tuple(lacking)].append(commit)
        for group_names, group in wanted.items():
            self._run(group, group_names, emit)
        if not wanted:
            emit("asv has measured all of it already.")

    def read(self, commit: str, *, reusable: bool = True) -> Measured:
        """What asv knows of a commit; of another machine's results, if there are none of this.

        Args:
            commit: Its full hash.
            reusable: Leave out what was measured with benchmarks that were edited since.
        """
        results = [r for r in read_results(self.project.results_dir) if r["commit_hash"] == commit]
        ours = [r for r in results if (r["params"]["machine"], r["python"]) == self._here]
        known = self._ledger().get(commit, {})
        values: dict[str, Value] = {}
        machine = ""
        for result in sorted(ours or results, key=_measured_at):
            machine = _machine(result)
            for name, row in _rows(result):
                if not ours or not reusable or known.get(name) == self.digest:
                    values.update(self._values(name, row))
        return Measured(commit, machine, values)

    @property
    def _here(self) -> tuple[str, str]:
        return self.machine, f"{sys.version_info[0]}.{sys.version_info[1]}"

    def _values(self, name: str, row: Mapping[str, Any]) -> Iterator[tuple[str, Value]]:
        benchmark = self.catalogue.benchmarks.get(name)
        params = row.get("params") or []
        if benchmark is None or row.get("version") != benchmark["version"]:
            return
        if params != benchmark["params"]:
            return
        names = list(series_of(name, params))
        values = row.get("result") or [None] * len(names)
        samples = row.get("samples") or [None] * len(names)
        for series, value, kept in zip(names, values, samples, strict=True):
            yield series, Value(value, tuple(kept or ()))

    def _lacking(self, commit: str, names: Sequence[str]) -> list[str]:
        values = self.read(commit).values
        return [
            name
            for name in names
            if any(
                series not in values or values[series].value is None
                for series in series_of(name, self.catalogue.benchmarks[name]["params"])
            )
        ]

    def _run(
        self, commits: Sequence[str], names: Sequence[str], emit: Callable[[str], None]
    ) -> None:
        pattern = "|".join(map(re.escape, names))
        lines = _Lines(emit)
        self.project.run_benchmarks(
            self.machine, commits, "--bench", rf"^({pattern})(\(|$)", on_line=lines.line
        )
        if lines.not_built:
            raise AsvFailedError(
                f"commit {', '.join(lines.not_built)} could not be built: asv's lines above say why"
            )
        ledger = self._ledger()
        for commit in commits:
            ledger.setdefault(commit, {}).update(dict.fromkeys(names, self.digest))
        self._write_ledger(ledger)

    def _ledger(self) -> dict[str, dict[str, str]]:
        """By commit and benchmark, the digest under which it was measured."""
        try:
            content = json.loads(self._ledger_path.read_text(encoding="utf-8"))
            if content["version"] == _LEDGER_VERSION:
                return dict(content["commits"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            # Without it everything counts as not measured, which is safe.
            return {}
        return {}

    def _write_ledger(self, ledger: Mapping[str, Mapping[str, str]]) -> None:
        path = self._ledger_path
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            json.dump({"version": _LEDGER_VERSION, "commits": ledger}, file, indent=1)

    @property
    def _ledger_path(self) -> Path:
        return self.project.root / GATE_DIR / _LEDGER


class _Lines:
    """Passes asv's lines on, and finds out which commits could not be built."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self.not_built: list[str] = []
        self._emit = emit
        self._commit = ""

    def line(self, line: str) -> None:
        if found := _COMMIT_LINE.search(line):
            self._commit = found[1]
        elif _NOT_BUILT_LINE.search(line) and self._commit not in self.not_built:
            self.not_built.append(self._commit)
        self._emit(line)


def _machine(result: Mapping[str, Any]) -> str:
    params = result["params"]
    words = [params.get("machine"), params.get("cpu"), params.get("arch")]
    return ", ".join([*(str(word) for word in words if word), f"Python {result['python']}"])


def _measured_at(result: Mapping[str, Any]) -> float:
    """When the newest of its benchmarks was measured."""
    return max((row.get("started_at") or 0.0 for _, row in _rows(result)), default=0.0)


def _rows(result: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, row in result["results"].items():
        yield name, dict(zip(result["result_columns"], row, strict=False))
