"""The other side of `helper`: what a module does that is run as a process of its own."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any


class Owner:
    """The process that has started this one.

    Attributes:
        settings: What it told first.
    """

    def __init__(self) -> None:
        """Take the pipes over: whatever else prints goes to the standard error."""
        self._replies = os.fdopen(os.dup(1), "wb")
        os.dup2(2, 1)
        # The owner shows the end of it to whoever has to mend it.
        sys.excepthook = lambda kind, error, _: sys.stderr.write(f"{kind.__name__}: {error}\n")
        self.settings: Mapping[str, Any] = json.loads(sys.stdin.buffer.readline())

    def tell(self, **answer: Any) -> None:
        """Send a line: that this process is ready, or an answer."""
        self._replies.write(json.dumps(answer).encode() + b"\n")
        self._replies.flush()

    def requests(self) -> Iterator[tuple[Mapping[str, Any], bytes]]:
        """What it asks, and the bytes that belong to it, until it wants nothing more."""
        while line := sys.stdin.buffer.readline():
            request = json.loads(line)
            yield request, sys.stdin.buffer.read(request["bytes"])

    def wait(self) -> None:
        """Wait until it wants nothing more."""
        sys.stdin.buffer.read()
