"""The command: ``python -m tools.mutation``."""

from __future__ import annotations

import argparse
import math
import os
import random
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from tools._sharding import ShardsError, add_shards
from tools.mutation import kept
from tools.mutation.changed import UnknownCommitError, changed_lines
from tools.mutation.mutants import Identity, Mutant, Source
from tools.mutation.session import OPTIONS, Outcome, Plugin, Result
from tools.mutation.survivors import SurvivorsError, judge, load

Targets = Mapping[str, Sequence[Source]]

#: What is mutated if nothing is named.
TARGETS = (
    *(
        f"stageflow/engine/{name}.py"
        for name in (
            "bag",
            "context",
            "graph",
            "orchestrator",
            "pipeline",
            "plan",
            "result",
            "run",
            "stepping",
            "timers",
            "validation",
        )
    ),
    "stageflow/events/",
    "stageflow/resilience/circuit_breaker.py",
    "stageflow/interceptors/",
    "stageflow/dlq/",
    "stageflow/_utils/sqlite.py",
    "stageflow/testing/contracts/",
    "stageflow/testing/faults/",
    "stageflow/testing/simulation/",
    "stageflow/testing/strategies/",
    "stageflow/pulse/gate/",
    "stageflow/pulse/alerts/",
    "benchmarks/",
)
TESTS = ("tests/unit", "tests/property", "tests/contract", "tests/integration", "tests/fault")
SURVIVORS = Path(__file__).with_name("survivors.toml")


def main(argv: Sequence[str]) -> int:
    """Try the mutants.

    Returns:
        0 if enough were killed, 1 if not, 2 if nothing could be tried.
    """
    parser = _parser()
    options = parser.parse_args(argv)
    root = Path.cwd()
    try:
        listed = load(options.survivors)
        targets = _targets(root, options.targets or TARGETS)
        sources = [source for found in targets.values() for source in found]
        if options.merge:
            results = kept.merged([kept.load(Path(path)) for path in options.merge], sources)
            return _report(results, targets, listed, options.floor)
        wanted = _wanted(root, options)
    except (OSError, SyntaxError, SurvivorsError, UnknownCommitError, ShardsError) as error:
        print(error, file=sys.stderr)
        return 2
    chosen: list[Mutant] = []
    for target, found in targets.items():
        mutants = [mutant for source in found for mutant in source.mutants if wanted(mutant)]
        if options.sample is not None and options.sample < len(mutants):
            # Of the target's own generator: a target more or less changes no other's sample.
            draw = random.Random(f"{options.seed} {target}")
            mutants = draw.sample(mutants, options.sample)
        chosen += mutants
    if not chosen:
        print("no mutant to try: no line that was changed can be mutated")
        return 0
    return _try(options, targets, chosen, listed)


def _try(
    options: argparse.Namespace,
    targets: Targets,
    chosen: Sequence[Mutant],
    listed: dict[Identity, str],
) -> int:
    shard = options.shard
    mine = [mutant for number, mutant in enumerate(chosen) if shard.takes(number)]
    plugin = Plugin(
        [source for found in targets.values() for source in found],
        mine,
        jobs=options.jobs,
        examples=options.examples,
        patience_s=options.patience,
        tell=print,
        progress=_Progress(),
    )
    status = pytest.main([*OPTIONS, "--no-header", *options.tests], plugins=[plugin])
    if options.json is not None:
        # Also of a run that broke off: the rest can be tried by itself.
        kept.save(Path(options.json), shard, len(chosen), plugin.results)
    if status not in {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED} or not plugin.results:
        print("not all mutants could be tried: see above", file=sys.stderr)
        return 2
    # What one shard has killed says little of the whole, which is judged once it is merged.
    floor = options.floor if shard.count == 1 else 0.0
    return _report(plugin.results, targets, listed, floor)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tools.mutation",
        description="Break the code in one place after another, and see whether a test notices.",
        epilog="The exit code is 0 if enough mutants were killed, 1 if not, 2 if none was tried.",
    )
    parser.add_argument("targets", nargs="*", metavar="FILE", help="files or folders to mutate")
    parser.add_argument(
        "--since",
        "--changed",
        metavar="REF",
        help="only lines that were changed since REF was left, committed or not",
    )
    parser.add_argument(
        "--jobs", type=int, default=os.cpu_count() or 1, metavar="N", help="children at once"
    )
    parser.add_argument(
        "--examples",
        type=int,
        default=15,
        metavar="N",
        help="most examples that a property test draws (default: %(default)s)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=8.0,
        metavar="SECONDS",
        help="most time for the tests of one mutant, by what they took before"
        " (default: %(default)g)",
    )
    parser.add_argument(
        "--floor",
        type=float,
        default=90.0,
        metavar="PERCENT",
        help="least share of all mutants that must be killed (default: %(default)g)",
    )
    parser.add_argument(
        "--tests", nargs="+", default=list(TESTS), metavar="PATH", help="what pytest collects"
    )
    parser.add_argument(
        "--sample",
        type=int,
        metavar="N",
        help="try only N mutants of each target, drawn at random; the table shows the interval"
        " in which the score of all of them is, with 95 %% confidence",
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="N", help="of the sample (default: %(default)s)"
    )
    add_shards(parser)
    parser.add_argument(
        "--again", type=Path, metavar="PATH", help="only what survived in results kept by --json"
    )
    parser.add_argument(
        "--survivors",
        type=Path,
        default=SURVIVORS,
        metavar="PATH",
        help="list of the mutants that may survive, with the reason of each",
    )
    return parser


def _targets(root: Path, targets: Sequence[str]) -> dict[str, list[Source]]:
    """Return the files of each target; a file of two targets belongs to the first."""
    found: dict[str, list[Source]] = {}
    taken: set[str] = set()
    for target in targets:
        path = root / target
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        names = [file.relative_to(root).as_posix() for file in files]
        found[target] = [Source(root / name, name) for name in names if name not in taken]
        taken.update(names)
    return found


def _wanted(root: Path, options: argparse.Namespace) -> Callable[[Mutant], bool]:
    survived: set[Identity] | None = None
    lines: dict[str, set[int]] | None = None
    if options.again is not None:
        survived = kept.load(options.again).survivors
    if options.since is not None:
        lines = changed_lines(root, options.since)

    def wanted(mutant: Mutant) -> bool:
        if survived is not None and mutant.identity not in survived:
            return False
        return lines is None or mutant.line in lines.get(mutant.identity.module, ())

    return wanted


class _Progress:
    """Says how far the run is: on a terminal in one line, elsewhere every ten seconds."""

    def __init__(self) -> None:
        self._began = self._said = time.monotonic()

    def __call__(self, done: int, total: int, count: Counter[Outcome]) -> None:
        now = time.monotonic()
        if not done:
            self._began = now
        live = sys.stdout.isatty()
        if done not in {0, total} and now - self._said < (0.2 if live else 10.0):
            return
        self._said = now
        rate = done / (now - self._began) if done and now > self._began else 0.0
        left = f"{(total - done) / rate:.0f} s left" if rate else "…"
        counts = ", ".join(f"{count[outcome]} {outcome}" for outcome in Outcome)
        line = f"{done}/{total} mutants, {rate:.1f}/s, {left}: {counts}"
        print(f"\r{line:<100}" if live else line, end="" if live and done < total else "\n")
        sys.stdout.flush()


def _report(
    results: Sequence[Result], targets: Targets, listed: dict[Identity, str], floor: float
) -> int:
    survivors = {
        result.mutant.identity: result for result in results if result.outcome is Outcome.SURVIVED
    }
    judged = judge(
        listed,
        (
            mutant.identity
            for sources in targets.values()
            for source in sources
            for mutant in source.mutants
        ),
        survivors,
        (result.mutant.identity for result in results),
    )
    for identity in judged.unlisted:
        result = survivors[identity]
        print(f"survived, {result.tests} tests run it: {result.mutant}")
    for identity in judged.killed:
        print(f"listed as a survivor, but killed: {identity}")
    for identity in judged.gone:
        print(f"listed as a survivor, but not there any more: {identity}")
    files: dict[str, list[Result]] = defaultdict(list)
    for result in results:
        files[result.mutant.identity.module].append(result)
    groups = {
        target: [result for source in sources for result in files.get(source.name, ())]
        for target, sources in targets.items()
    }
    print(_table({**files, **groups, "all": results}, listed))
    low = [
        f"{target}: {score:.1f} % of all mutants killed, at least {floor:g} % asked"
        for target, tried in groups.items()
        if tried and (score := _score(tried)) < floor
    ]
    print(*low, sep="\n", end="\n" if low else "")
    return 1 if low else 0


def _score(results: Sequence[Result]) -> float:
    """Return how many of a hundred mutants were killed."""
    killed = sum(result.outcome is not Outcome.SURVIVED for result in results)
    return 100.0 * killed / len(results)


def interval(killed: int, tried: int) -> tuple[float, float]:
    """Return where the share of a whole is, in per cent, by a sample of it (Wilson, 95 %)."""
    z = 1.96
    share = killed / tried
    centre = share + z * z / (2 * tried)
    width = z * math.sqrt(share * (1 - share) / tried + (z / (2 * tried)) ** 2)
    scale = 100.0 / (1 + z * z / tried)
    return scale * (centre - width), scale * (centre + width)


def _table(groups: Mapping[str, Sequence[Result]], listed: dict[Identity, str]) -> str:
    """Return a row for each file, each target and all: counts of mutants, scores in per cent."""
    rows = [
        f"{'':<36}  mutants  killed  timed out  survived  listed   score      95 %"
        "      without listed"
    ]
    for name, group in groups.items():
        if not group:
            continue
        count = Counter(result.outcome for result in group)
        survived = count[Outcome.SURVIVED]
        excused = sum(
            result.outcome is Outcome.SURVIVED and result.mutant.identity in listed
            for result in group
        )
        killed = len(group) - survived
        judged = len(group) - excused
        low, high = interval(killed, len(group))
        rows.append(
            f"{name:<36}  {len(group):>7}  {count[Outcome.KILLED]:>6}"
            f"  {count[Outcome.TIMED_OUT]:>9}  {survived:>8}  {excused:>6}"
            f"  {100.0 * killed / len(group):>6.1f}  {low:>5.1f} to {high:>5.1f}"
            f"  {100.0 * killed / judged if judged else 100.0:>14.1f}"
        )
    return "\n".join(rows)
