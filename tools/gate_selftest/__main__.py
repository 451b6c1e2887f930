"""Try the gate on code whose truth is known: ``python -m tools.gate_selftest``."""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stageflow.pulse.gate import Exit, resolved, run_gate_command, set_up, tree
from stageflow.pulse.history import GATE_DIR, AsvProject, Emit, Signal, signal_of
from tools.gate_selftest.plants import LOST_OVERLAP, SLOWDOWNS, TIMED_SLOWDOWN
from tools.gate_selftest.report import markdown
from tools.gate_selftest.rounds import Pool
from tools.gate_selftest.trials import Planter, faults, identical, under_measuring

_HELP = """\
Try the gate on code whose truth is known: identical code, which must not alarm; planted slowdowns,
a lost overlap, a longer tail and a benchmark that does half its work, which must; and faults of the
gate itself, none of which may read as a verdict. The findings are written to two files, and
printed. Rounds of a commit are kept: the next run goes on from them, and several runs can record.
Two rounds are one comparison. With --add, those of other commits stay in the files.

examples:
  python -m tools.gate_selftest                                      takes an hour
  python -m tools.gate_selftest --quiet 4 --loaded 0 --repeats 1     a few minutes
  python -m tools.gate_selftest --add --quiet 20 --loaded 0          10 more comparisons

exit codes:
  0    every goal was met
  1    a goal was missed; the table says which
  2    bad arguments
  6    something could not be measured
  130  interrupted
"""

VERSION = 1
RISES = (0.05, 0.10, 0.20)
#: Idle statements where only time can tell: a write of the bag takes over half as long again.
TIMED_STATEMENTS = 85


@dataclass(frozen=True, slots=True)
class Options:
    """How much is tried.

    Attributes:
        quiet: Rounds recorded on the machine as it is.
        loaded: Rounds recorded while every processor is kept busy.
        draws: Comparisons drawn by chance of each kind of rounds.
        repeats: How often each planted defect is measured.
        seed: What the draws are made from.
        into: Files without their ending: ``.json`` and ``.md`` are written.
        add: Whether only to add comparisons of identical code to those files.
    """

    quiet: int
    loaded: int
    draws: int
    repeats: int
    seed: int
    into: Path
    add: bool = False


def selftest(project: AsvProject, options: Options, emit: Emit = print) -> Exit:
    """Try the gate on this commit, and write down what came of it.

    Returns:
        OK if every goal was met, else REGRESSION: the gate's own.

    Raises:
        PulseError: Something could not be measured.
    """
    kept = options.into.with_suffix(".json")
    earlier = json.loads(kept.read_text(encoding="utf-8")) if options.add else {}
    setting = set_up(project, None, emit)
    head = resolved(project, "HEAD")
    limits, units = setting.budgets.limits, setting.asv.catalogue.units
    units = {name: unit for name, unit in units.items() if signal_of(name) is not Signal.HISTORY}
    chance = random.Random(options.seed)
    with tree(project, head) as clean, tempfile.TemporaryDirectory() as scratch:
        folder = project.root / GATE_DIR / "selftest" / f"{head[:10]}-{setting.asv.digest[:10]}"
        pools = [Pool("quiet", folder), Pool("loaded", folder)]
        for pool, rounds in zip(pools, (options.quiet, options.loaded), strict=True):
            _record(
                pool,
                rounds,
                lambda pool: pool.record(project.benchmarks_dir, clean, setting.asv.catalogue),
                emit,
            )
        pools = [pool for pool in pools if pool.rounds]
        now = {"at": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"), "commit": head}

        def same() -> list[dict[str, Any]]:
            for pool in pools:  # others may have recorded more
                pool.take_kept()
            found = [identical(pool, units, limits, options.draws, chance) for pool in pools]
            return [now | _plain(one) for one in found]

        if options.add:
            return _published(options, _added(earlier, same()), emit)
        planter = Planter(
            project.benchmarks_dir,
            clean,
            _copier(clean / project.package, Path(scratch)),
            pools,
            limits,
            options.repeats,
        )
        emit(f"Planting {len(SLOWDOWNS)} slowdowns of {len(RISES)} sizes, and losing an overlap")
        detected = [one for plant in SLOWDOWNS for one in planter.slowdowns(plant, RISES)]
        detected.append(planter.lost(LOST_OVERLAP))
        detected.append(planter.timed(TIMED_SLOWDOWN, TIMED_STATEMENTS))
        others = [planter.tail(setting.budgets.held(nightly=True))]
    with tree(project, head, "benchmarks", "tests", "pyproject.toml") as all_of_it:
        others.append(under_measuring(all_of_it))
    held = setting.budgets.held(nightly=False)
    found = {
        "version": VERSION,
        **now,
        "machine": {
            "cpus": os.cpu_count(),
            "arch": platform.machine(),
            "system": platform.system(),
            "python": platform.python_version(),
        },
        "limits": asdict(limits),
        "series": len(units),
        "identical": same(),
        "planted": [_plain(one) for one in detected],
        "others": [_plain(one) for one in others],
        "faults": [_plain(one) for one in faults(pools[0], units, limits, held)],
    }
    return _published(options, found, emit)


def _added(earlier: dict[str, Any], rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return earlier findings and new rows, each of which replaces one of the same rounds."""
    whole = {key: earlier[key] for key in ("at", "commit")}
    kept = [whole | row for row in earlier["identical"]]
    new = {(row["condition"], row["commit"]) for row in rows}
    kept = [row for row in kept if (row["condition"], row["commit"]) not in new]
    return earlier | {"identical": kept + rows}


def _published(options: Options, found: dict[str, Any], emit: Emit) -> Exit:
    text = markdown(found)
    _write(options.into, found, text)
    for line in text.splitlines():
        emit(line)
    return Exit.OK if "MISSED" not in text else Exit.REGRESSION


def _record(pool: Pool, rounds: int, record: Callable[[Pool], None], emit: Emit) -> None:
    started = time.monotonic()
    before = len(pool.rounds)
    if before:
        emit(f"{before} {pool.condition} rounds of this commit were recorded before")
    while len(pool.rounds) < rounds:
        record(pool)
        done = len(pool.rounds)
        left = (time.monotonic() - started) / (done - before) * (rounds - done) / 60
        emit(f"{pool.condition} round {done} of {rounds}, about {left:.0f} min to go")


def _copier(package: Path, scratch: Path) -> Callable[[Callable[[Path], None]], Path]:
    """Return a function that copies the package into its own folder, and plants a defect there."""

    def copied(plant: Callable[[Path], None]) -> Path:
        folder = Path(tempfile.mkdtemp(dir=scratch))
        copy = Path(shutil.copytree(package, folder / package.name))
        plant(copy)
        return folder

    return copied


def _plain(found: Any) -> dict[str, Any]:
    """A result as JSON's values, each rate with its interval."""
    plain: dict[str, Any] = asdict(found)
    for name, value in plain.items():
        if isinstance(value, dict) and value.keys() == {"happened", "of"}:
            rate = getattr(found, name)
            low, high = rate.interval
            plain[name] = {**value, "low": low, "high": high}
    return plain


def _write(into: Path, found: dict[str, Any], text: str) -> None:
    for ending, content in ((".json", json.dumps(found, indent=1) + "\n"), (".md", text)):
        into.with_suffix(ending).write_text(content, encoding="utf-8")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.gate_selftest",
        description=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repository", type=Path, default=Path(), metavar="FOLDER")
    amounts = (
        ("--quiet", 40, "rounds on the machine as it is"),
        ("--loaded", 24, "rounds with every processor kept busy"),
        ("--draws", 500, "comparisons drawn from the rounds of either kind"),
        ("--repeats", 3, "how often each planted defect is measured"),
        ("--seed", 0, "what the draws are made from"),
    )
    for name, default, what in amounts:
        parser.add_argument(
            name, type=int, default=default, metavar="N", help=f"{what} (default: %(default)s)"
        )
    parser.add_argument(
        "--into",
        type=Path,
        default=Path("docs/gate-selftest"),
        metavar="FILE",
        help="write FILE.json and FILE.md (default: %(default)s)",
    )
    parser.add_argument(
        "--add", action="store_true", help="only add comparisons of identical code to these files"
    )
    return parser


def _run(project: AsvProject, arguments: argparse.Namespace, emit: Emit) -> Exit:
    names = Options.__dataclass_fields__
    return selftest(project, Options(**{name: getattr(arguments, name) for name in names}), emit)


def main() -> int:
    """Run the self-test; returns the exit code."""
    try:
        return run_gate_command(_run, _parser().parse_args(), emit=partial(print, flush=True))
    except KeyboardInterrupt:
        return Exit.INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
