"""Run the stress test of the engine by hand: generated workloads under faults, in many orders.

The exit code is 0 if everything held, 1 if something failed (the text says how to run it again),
2 if shards are missing.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from stageflow.pulse.history import WHOLE, Shard
from tests.property.planted import BUGS, STREAM_BUGS, search
from tests.property.stress import Tally, stress
from tools._sharding import ShardsError, add_shards, require_all


@dataclasses.dataclass
class Report:
    """The outcome of a stress test, or of one shard of it.

    Attributes:
        shard: Which part.
        asked: How many schedules all shards run together.
        chance: Seed of the stress test.
        tally: What was seen.
        broken: What failed, and how to run it again; empty if nothing did.
        planted: After how many schedules each planted bug was found, None if it was not.
    """

    shard: Shard
    asked: int
    chance: int
    tally: Tally = dataclasses.field(default_factory=Tally)
    broken: str = ""
    planted: dict[str, int | None] = dataclasses.field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        kept = {
            **vars(self),
            "shard": str(self.shard),
            "tally": {**vars(self.tally), "happened": dict(self.tally.happened)},
        }
        path.write_text(json.dumps(kept, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what `save` wrote."""
        kept = json.loads(path.read_text("utf-8"))
        tally = Tally(kept["tally"]["schedules"], Counter(kept["tally"]["happened"]))
        return cls(**{**kept, "shard": Shard.parse(kept["shard"]), "tally": tally})

    @classmethod
    def merged(cls, reports: Sequence[Report]) -> Report:
        """Merge the shards of one stress test.

        Raises:
            ShardsError: They are not all the shards of one stress test.
        """
        require_all(report.shard for report in reports)
        tests = sorted({(report.asked, report.chance) for report in reports})
        if len(tests) > 1:
            raise ShardsError(f"these are of {len(tests)} stress tests (schedules, seed): {tests}")
        ((asked, chance),) = tests
        whole = cls(WHOLE, asked, chance)
        for report in sorted(reports, key=lambda report: report.shard):
            whole.tally += report.tally
            whole.planted |= report.planted
            if report.broken:
                whole.broken += f"shard {report.shard}: {report.broken}\n"
        return whole


def main(argv: Sequence[str] | None = None) -> int:
    """Run the stress test, and print what it has seen.

    Returns:
        0 if everything held, 1 if something failed, 2 if shards are missing.
    """
    parser = argparse.ArgumentParser("python -m tools.stress_test", description=__doc__)
    parser.add_argument(
        "--schedules",
        type=int,
        default=24_000,
        help="how many runs at least, half of them with streams",
    )
    parser.add_argument("--seed", type=int, default=0, help="seed of the examples")
    parser.add_argument("--planted", action="store_true", help="then search for the planted bugs")
    add_shards(parser)
    options = parser.parse_args(argv)
    if options.merge:
        try:
            report = Report.merged([Report.load(Path(path)) for path in options.merge])
        except (OSError, ShardsError) as error:
            print(error, file=sys.stderr)
            return 2
    else:
        report = _run(options)
    if options.json:
        report.save(Path(options.json))
    return _print(report)


def _run(options: argparse.Namespace) -> Report:
    report = Report(options.shard, options.schedules, options.seed)
    share = math.ceil(options.schedules / options.shard.count)
    # No two shards, and no shards of two seeds, draw the same examples.
    chance = options.seed * options.shard.count + options.shard.index - 1
    progress = _Progress(share)

    try:
        for streams in (False, True):
            before = report.tally

            def remember(tally: Tally, before: Tally = before) -> None:
                report.tally = before + tally
                progress(report.tally)

            stress(math.ceil(share / 2), chance, remember, streams=streams)
    except Exception as broken:
        notes = getattr(broken, "__notes__", ())
        report.broken = "\n".join([f"{type(broken).__name__}: {broken}", *notes])
    progress.end(report.tally)
    if options.planted and not report.broken:
        report.planted = dict(_search_planted(options.shard))
    return report


class _Progress:
    """Print progress on standard error."""

    def __init__(self, wanted: int) -> None:
        self._wanted = wanted
        self._began = self._shown = time.perf_counter()

    def __call__(self, tally: Tally) -> None:
        now = time.perf_counter()
        if now - self._shown >= 0.5:
            self._shown = now
            print(f"\r{self._line(tally)}", end="", file=sys.stderr)

    def end(self, tally: Tally) -> None:
        print(f"\r{self._line(tally)}", file=sys.stderr)

    def _line(self, tally: Tally) -> str:
        rate = tally.schedules / (time.perf_counter() - self._began)
        return f"{tally.schedules:8,} of {self._wanted:,} schedules, {rate:,.0f} a second"


def _search_planted(shard: Shard) -> Iterator[tuple[str, int | None]]:
    for number, name in enumerate((*BUGS, *STREAM_BUGS)):
        if shard.takes(number):
            print(f"searching for: {name}", file=sys.stderr)
            yield name, search(name)


def _print(report: Report) -> int:
    if report.broken:
        print(report.broken)
        return 1
    print(f"{report.tally.schedules:,} schedules held")
    for what, count in report.tally.happened.most_common():
        share = count / report.tally.schedules
        print(f"  {what:24} in {count:7,} of them ({share:6.1%})")
    if report.planted:
        print("planted bugs, and after how many schedules they were found:")
    for name, found in report.planted.items():
        print(f"  {name:60} {'not found' if found is None else f'{found:5,}'}")
    return 1 if None in report.planted.values() else 0


if __name__ == "__main__":
    sys.exit(main())
