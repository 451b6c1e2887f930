"""Dead letters under ``kill -9``, and replayers that die: nothing lost, nothing twice."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import stageflow
from stageflow import errors as err
from stageflow.dlq import DeadLetter, DeadLetterState, SQLiteDeadLetterStore
from tests.utils.dead_letters import make_letter
from tests.utils.letter_writer import letter

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

ROOT = Path(stageflow.__file__).parents[1]

#: How many writers are killed; a nightly run sets 2000.
KILLS = int(os.environ.get("STAGEFLOW_KILLS", "60"))
SEED = int(os.environ.get("STAGEFLOW_KILL_SEED", "1"))

#: A writer lives no longer than this after its first letter, in seconds.
LIFE_S = 0.08


class Writers:
    """Letter writers, one after another, each killed by its process id."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def _heard(self) -> list[Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks the writers has died"
        heard: list[Any] = json.loads(line)
        return heard

    def killed_after(self, path: Path, round_number: int, life_s: float) -> tuple[list[str], ...]:
        """Let a writer write and kill it `life_s` seconds after its first letter was safe.

        Returns:
            The ids that it acknowledged as put, and those as replayed.
        """
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([str(path), round_number]) + "\n")
        self._process.stdin.flush()
        said: dict[str, list[str]] = {"safe": [], "finished": []}
        pid, killer = 0, None
        while True:
            what, value = self._heard()
            if what == "ended":
                assert value == -signal.SIGKILL, f"the writer ended by itself: {value}"
                assert killer is not None
                killer.join()
                return said["safe"], said["finished"]
            if what == "pid":
                pid = value
            else:
                said[what].append(value)
            if pid and said["safe"] and killer is None:
                # A thread's timer strikes whatever the writer is doing, not between two lines.
                killer = threading.Timer(life_s, os.kill, (pid, signal.SIGKILL))
                killer.start()


@contextmanager
def writers() -> Iterator[Writers]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.utils.letter_writer"],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        yield Writers(process)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(10) == 0


async def all_letters(path: Path) -> tuple[DeadLetter, ...]:
    async with SQLiteDeadLetterStore(path, create=False) as store:
        return await store.letters()


def test_no_acknowledged_letter_is_lost_and_none_is_there_twice(tmp_path: Path) -> None:
    """Writers killed at random moments, on one file: it opens, and holds what was acknowledged.

    Of each round at most one letter more may be there: the one whose acknowledgement the kill
    has swallowed. Each letter reads back as it was written.
    """
    path, dice = tmp_path / "letters.db", random.Random(SEED)
    put: list[str] = []
    finished: list[str] = []
    with writers() as each:
        for round_number in range(1, KILLS + 1):
            safe, done = each.killed_after(path, round_number, dice.uniform(0, LIFE_S))
            put += safe
            finished += done
            # Opened by SQLite alone, without what the store might do to fix it.
            with sqlite3.connect(path) as connection:
                assert connection.execute("PRAGMA quick_check").fetchall() == [("ok",)]
                query = "SELECT count(*) FROM dead_letters WHERE id >= ?"
                (there,) = connection.execute(query, (f"{round_number:08x}",)).fetchone()
            connection.close()
            assert len(safe) <= there <= len(safe) + 1
    kept = asyncio.run(all_letters(path))
    counted = Counter(kept_letter.id for kept_letter in kept)
    assert max(counted.values()) == 1
    assert [name for name in put if name not in counted] == []
    assert len(put) <= len(kept) <= len(put) + KILLS
    replayed = {found.id for found in kept if found.state is DeadLetterState.REPLAYED}
    assert set(finished) <= replayed
    assert len(replayed) <= len(finished) + KILLS
    for found in kept:
        written = letter(int(found.id[:8], 16), int(found.id[8:], 16))
        assert (found.pipeline_run_id, found.inputs) == (written.pipeline_run_id, written.inputs)
    assert len(put) >= 2 * KILLS, f"too few letters to show anything: {len(put)}"
    print(f"{KILLS} kills, {len(put)} acknowledged letters, {len(kept)} in the file")


#: Claims a letter, says so, and waits to be killed.
HOLDER = """\
import asyncio, sys
from stageflow.dlq.sqlite import SQLiteDeadLetterStore

async def main():
    store = SQLiteDeadLetterStore(sys.argv[1])
    await store.claim(sys.argv[2], lease_s=60)
    print("claimed", flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def test_the_letter_of_a_replayer_that_was_killed_can_be_claimed_when_its_lease_ends(
    tmp_path: Path,
) -> None:
    """Until then nobody else may have it."""
    path, kept = tmp_path / "letters.db", make_letter()

    async def put() -> None:
        async with SQLiteDeadLetterStore(path) as store:
            await store.put(kept)

    asyncio.run(put())
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path), kept.id],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        encoding="utf-8",
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "claimed\n"
        holder.kill()

    async def claim(later_s: float) -> int:
        def clock() -> float:
            return time.time() + later_s

        async with SQLiteDeadLetterStore(path, wall_clock=clock) as store:
            return (await store.claim(kept.id, lease_s=60)).letter.attempts

    with pytest.raises(err.DeadLetterClaimedError, match=kept.id):
        asyncio.run(claim(0.0))
    assert asyncio.run(claim(60.0)) == 2


#: Waits for a line, replays the letter, and says what came of it.
REPLAYER = """\
import asyncio, json, sys
from stageflow import Pipeline, PipelineOrchestrator, StageflowError, StageOutput, stage
from stageflow.dlq.replay import replay
from stageflow.dlq.sqlite import SQLiteDeadLetterStore

@stage(inputs=["items"], outputs=["picked"])
async def pick(ctx):
    raise AssertionError("it had finished")

@stage(dependencies=["pick"], inputs=["picked"])
async def pay(ctx):
    with open(sys.argv[3], "a") as effects:
        effects.write("paid\\n")
    return StageOutput.ok()

async def main():
    shop = Pipeline("shop", [pick, pay], inputs=["items"])
    async with SQLiteDeadLetterStore(sys.argv[1]) as store:
        await store.letters()
        print(json.dumps("ready"), flush=True)
        sys.stdin.readline()
        try:
            result = await replay(sys.argv[2], PipelineOrchestrator(shop.build()), store)
        except StageflowError as error:
            print(json.dumps(error.code))
        else:
            print(json.dumps(str(result.status)))

asyncio.run(main())
"""


def test_of_several_processes_that_replay_at_once_one_does(tmp_path: Path) -> None:
    """Each of three letters takes effect once, and the error of the other processes says why."""
    path, effects = tmp_path / "letters.db", tmp_path / "effects"

    async def put() -> None:
        async with SQLiteDeadLetterStore(path) as store:
            for number in (1, 2, 3):
                await store.put(make_letter(number))

    asyncio.run(put())
    for number in (1, 2, 3):
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", REPLAYER, str(path), make_letter(number).id, str(effects)],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                encoding="utf-8",
            )
            for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert json.loads(process.stdout.readline()) == "ready"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        said = [json.loads(process.communicate()[0]) for process in processes]
        assert said.count("completed") == 1
        assert {"dead_letter_claimed", "dead_letter_replayed", "completed"} >= set(said)
        assert effects.read_text().splitlines() == ["paid"] * number
