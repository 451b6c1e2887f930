"""Results of a run, kept in a file: to be tried again, or put together with other shards'."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stageflow.pulse.history import Shard
from tools._sharding import ShardsError, require_all
from tools.mutation.mutants import Identity, Source
from tools.mutation.session import Outcome, Result


@dataclass(frozen=True, slots=True)
class Kept:
    """The contents of a file.

    Attributes:
        shard: Which part of the mutants.
        chosen: How many mutants all shards have together.
        rows: What became of each, as JSON has it.
    """

    shard: Shard
    chosen: int
    rows: Sequence[dict[str, Any]]

    @property
    def survivors(self) -> set[Identity]:
        """The mutants that survived."""
        return {_identity(row) for row in self.rows if row["outcome"] == Outcome.SURVIVED}


def _identity(row: dict[str, Any]) -> Identity:
    return Identity(*row["identity"])


def save(path: Path, shard: Shard, chosen: int, results: Sequence[Result]) -> None:
    """Keep results.

    Args:
        path: Where.
        shard: Which part of the mutants they are of.
        chosen: How many mutants all shards have together.
        results: What became of each mutant that was tried.
    """
    rows = [
        {
            "identity": result.mutant.identity,
            "line": result.mutant.line,
            "outcome": result.outcome,
            "tests": result.tests,
            "test": result.test,
        }
        for result in results
    ]
    kept = {"shard": str(shard), "chosen": chosen, "results": rows}
    path.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def load(path: Path) -> Kept:
    """Read what `save` kept."""
    kept = json.loads(path.read_text("utf-8"))
    return Kept(Shard.parse(kept["shard"]), kept["chosen"], kept["results"])


def merged(parts: Sequence[Kept], sources: Sequence[Source]) -> list[Result]:
    """Put the shards of one run together.

    Args:
        parts: What each kept.
        sources: The code of this checkout.

    Raises:
        ShardsError: They are not all the shards of one run over this code, or one broke off.
    """
    require_all(part.shard for part in parts)
    totals = sorted({part.chosen for part in parts})
    if len(totals) > 1:
        raise ShardsError(f"these are of several runs: of {', '.join(map(str, totals))} mutants")
    results = list(_results(parts, sources))
    if len(results) != totals[0]:
        raise ShardsError(f"{len(results)} of {totals[0]} mutants were tried: a shard broke off")
    return results


def _results(parts: Sequence[Kept], sources: Sequence[Source]) -> Iterator[Result]:
    mutants = {mutant.identity: mutant for source in sources for mutant in source.mutants}
    tried: set[Identity] = set()
    for part in sorted(parts, key=lambda part: part.shard):
        for row in part.rows:
            identity = _identity(row)
            if identity not in mutants:
                raise ShardsError(
                    f"of other code than this checkout: shard {part.shard} {identity}"
                )
            if identity in tried:
                raise ShardsError(f"tried twice, last in shard {part.shard}: {identity}")
            tried.add(identity)
            yield Result(mutants[identity], Outcome(row["outcome"]), row["tests"], row["test"])
