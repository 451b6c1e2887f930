"""A process that writes dead letters until it is killed, and says of each when it is safe.

It imports once and then forks, so that killing a writer and starting the next costs milliseconds.
Commands come line by line on the standard input, as JSON: the file, and the number of the round.
Each is answered by ``["pid", pid]`` of the writer, then ``["safe", id]`` for each letter that
`put` has acknowledged, then, when the writer has been killed, ``["ended", signal]``.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stageflow import StageStatus
from stageflow.dlq import DeadLetter, FailureRecord, SQLiteDeadLetterStore, StageRecord


def say(*what: Any) -> None:
    """One line, in one write, so that lines of two processes never mix."""
    os.write(1, (json.dumps(what) + "\n").encode())


def letter(round_number: int, number: int) -> DeadLetter:
    """Return a letter whose size varies, and whose content follows from its id."""
    name = f"{round_number:08x}{number:024x}"
    return DeadLetter(
        id=name,
        created_at=datetime(2026, 1, 1, tzinfo=UTC),
        pipeline="p",
        pipeline_run_id=f"run of {name}",
        correlation_id=None,
        failed_stage="s",
        error=FailureRecord("c", "permanent", "m", "u"),
        inputs={"filler": name * (1 + number * 37 % 400)},
        stages={"s": StageRecord(StageStatus.FAILED, False)},
    )


async def write(path: Path, round_number: int) -> None:
    """Put letters until the end; claim and finish every third, so that updates are torn, too."""
    store = SQLiteDeadLetterStore(path)
    number = 0
    while True:
        number += 1
        new = letter(round_number, number)
        await store.put(new)
        say("safe", new.id)
        if number % 3 == 0:
            claim = await store.claim(new.id, lease_s=60)
            await store.finish(claim, "run-2")
            say("finished", new.id)


def main() -> None:
    """Fork a writer for each line, and report its end."""
    for line in sys.stdin:
        path, round_number = json.loads(line)
        pid = os.fork()
        if not pid:
            asyncio.run(write(Path(path), round_number))
        say("pid", pid)
        _, status = os.waitpid(pid, 0)
        say("ended", os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
