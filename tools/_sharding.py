"""Long work, cut into shards that several machines take, and put together again."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from stageflow.pulse.history import Shard, add_shard


class ShardsError(ValueError):
    """The parts to merge do not make one whole; the text says why."""


def require_all(shards: Iterable[Shard]) -> None:
    """See that these are all the shards of one whole, each once.

    Raises:
        ShardsError: One is missing, there twice, or of another whole.
    """
    given = sorted(shards)
    counts = sorted({shard.count for shard in given})
    if len(counts) != 1:
        raise ShardsError(f"these are shards of {len(counts)} wholes: {', '.join(map(str, given))}")
    (count,) = counts
    indices = [shard.index for shard in given]
    missing = sorted(set(range(1, count + 1)) - set(indices))
    if missing:
        raise ShardsError(f"missing: {', '.join(f'{index}/{count}' for index in missing)}")
    if len(indices) > count:
        twice = sorted({index for index in indices if indices.count(index) > 1})
        raise ShardsError(f"given twice: {', '.join(f'{index}/{count}' for index in twice)}")


def add_shards(parser: argparse.ArgumentParser) -> None:
    """Let a command take ``--shard``, ``--json`` and ``--merge``."""
    add_shard(parser)
    parser.add_argument("--json", metavar="PATH", help="keep what was found in a file")
    parser.add_argument(
        "--merge",
        nargs="+",
        metavar="PATH",
        help="run nothing: put together what all N shards kept by --json, and judge the whole",
    )
