"""Equal parts of long work, so that several machines share it."""

from __future__ import annotations

import argparse
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Shard:
    """One of several equal parts of something that can be counted.

    Attributes:
        index: Which one, from 1.
        count: How many there are.
    """

    index: int
    count: int

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read ``INDEX/COUNT``; the type of an option.

        Raises:
            argparse.ArgumentTypeError: It is none.
        """
        index, _, count = text.partition("/")
        if not (index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
            raise argparse.ArgumentTypeError(f"{text!r} is not INDEX/COUNT, such as 2/4")
        return cls(int(index), int(count))

    def takes(self, number: int) -> bool:
        """Whether the thing of this number, from 0, is in the shard: they are dealt like cards."""
        return number % self.count == self.index - 1


#: All of it, in one part.
WHOLE = Shard(1, 1)


def add_shard(parser: argparse.ArgumentParser) -> None:
    """Let a command take ``--shard``."""
    parser.add_argument(
        "--shard",
        type=Shard.parse,
        default=WHOLE,
        metavar="I/N",
        help="only the I-th of N equal parts, so that N machines share the work",
    )
