"""The dead-letter stores against a dict: the one in memory, and the one in a real file."""

from __future__ import annotations

import asyncio
import dataclasses
import tempfile
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stageflow.dlq import Claim, DeadLetter, DeadLetterState, DeadLetterStore
from stageflow.errors import (
    DeadLetterClaimedError,
    DeadLetterLeaseLostError,
    DeadLetterReplayedError,
    DuplicateDeadLetterError,
    UnknownDeadLetterError,
)
from tests.utils.dead_letters import Clock, make_letter, opened

pytestmark = [pytest.mark.slow, pytest.mark.untraced]

IDS = st.integers(1, 4)


@dataclasses.dataclass
class Entry:
    """The expected state of a letter.

    Attributes:
        letter: Its content.
        state: Its state.
        attempts: How often it was claimed.
        until_s: When its lease ends.
        holder: The number of the claim that holds it.
        replay: The run that replayed it.
    """

    letter: DeadLetter
    state: DeadLetterState = DeadLetterState.WAITING
    attempts: int = 0
    until_s: float = 0.0
    holder: int | None = None
    replay: str | None = None


class StoreAgainstDict(RuleBasedStateMachine):
    """Put, claim, renew, finish, put back, wait, close and open again, in whatever order."""

    kind = "memory"

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.folder = tempfile.TemporaryDirectory()
        self.clock = Clock()
        self.expected: dict[str, Entry] = {}
        self.claims: list[tuple[Claim, str]] = []
        self.store: DeadLetterStore
        self.open()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the one loop."""
        return self.runner.run(work)

    def open(self) -> None:
        """Open the store, whatever is in it."""
        self.stack = AsyncExitStack()
        self.store = self.do(
            self.stack.enter_async_context(opened(self.kind, Path(self.folder.name), self.clock))
        )

    @rule(number=IDS)
    def put(self, number: int) -> None:
        """Once or again, a letter is there once, unless the same id has another content."""
        letter = make_letter(number)
        known = self.expected.get(letter.id)
        if known is not None and known.letter != letter:
            with pytest.raises(DuplicateDeadLetterError):
                self.do(self.store.put(letter))
            return
        self.do(self.store.put(letter))
        self.expected.setdefault(letter.id, Entry(letter))

    @rule(number=IDS, lease_s=st.sampled_from([1.0, 10.0]))
    def claim(self, number: int, lease_s: float) -> None:
        """Of a letter that waits, or whose lease has ended; nobody else's."""
        dead_letter_id = make_letter(number).id
        entry = self.expected.get(dead_letter_id)
        trying = self.store.claim(dead_letter_id, lease_s=lease_s)
        if entry is None:
            with pytest.raises(UnknownDeadLetterError):
                self.do(trying)
        elif entry.state is DeadLetterState.REPLAYED:
            with pytest.raises(DeadLetterReplayedError):
                self.do(trying)
        elif entry.state is DeadLetterState.REPLAYING and self.clock.now_s < entry.until_s:
            with pytest.raises(DeadLetterClaimedError):
                self.do(trying)
        else:
            claim = self.do(trying)
            self.claims.append((claim, dead_letter_id))
            entry.state, entry.until_s = DeadLetterState.REPLAYING, self.clock.now_s + lease_s
            entry.attempts += 1
            entry.holder = len(self.claims) - 1
            assert claim.letter.id == dead_letter_id

    def end(self, at: int, what: str) -> None:
        """Do something with a claim, which works as long as nobody has claimed it anew."""
        number = at % len(self.claims)
        claim, dead_letter_id = self.claims[number]
        entry = self.expected[dead_letter_id]
        content = dataclasses.replace(entry.letter, correlation_id=f"c-{number}")
        work = {
            "renew": lambda: self.store.renew(claim, lease_s=5.0),
            "finish": lambda: self.store.finish(claim, "run-2"),
            "put back": lambda: self.store.put_back(claim, content),
        }[what]()
        if entry.holder != number:
            with pytest.raises(DeadLetterLeaseLostError):
                self.do(work)
            return
        self.do(work)
        if what == "renew":
            entry.until_s = self.clock.now_s + 5.0
        elif what == "finish":
            entry.state, entry.replay, entry.holder = DeadLetterState.REPLAYED, "run-2", None
        else:
            entry.state, entry.letter, entry.holder = DeadLetterState.WAITING, content, None

    @precondition(lambda self: self.claims)
    @rule(at=st.integers(0, 20), what=st.sampled_from(["renew", "finish", "put back"]))
    def use_a_claim(self, at: int, what: str) -> None:
        """One of those that were ever made."""
        self.end(at, what)

    @rule(seconds=st.sampled_from([0.5, 3.0, 20.0]))
    def wait(self, seconds: float) -> None:
        """Leases end."""
        self.clock.now_s += seconds

    @precondition(lambda self: self.kind == "sqlite")
    @rule()
    def reopen(self) -> None:
        """Open the file again: its letters are still there."""
        self.do(self.stack.aclose())
        self.open()

    @invariant()
    def it_is_the_dict(self) -> None:
        """All letters, in the order in which they were put, each as it stands."""
        letters = self.do(self.store.letters())
        assert [letter.id for letter in letters] == list(self.expected)
        for letter in letters:
            entry = self.expected[letter.id]
            assert (letter.state, letter.attempts) == (entry.state, entry.attempts)
            assert letter.replay_run_id == entry.replay
            assert letter.correlation_id == entry.letter.correlation_id
            assert dict(letter.stages) == dict(entry.letter.stages)
            assert self.do(self.store.get(letter.id)) == letter
        for state in DeadLetterState:
            some = self.do(self.store.letters(state))
            assert some == tuple(letter for letter in letters if letter.state is state)

    def teardown(self) -> None:
        """Close all."""
        self.do(self.stack.aclose())
        self.runner.close()
        self.folder.cleanup()


class FileAgainstDict(StoreAgainstDict):
    """The same of a real SQLite file."""

    kind = "sqlite"


TestStoreAgainstDict = StoreAgainstDict.TestCase
TestFileAgainstDict = FileAgainstDict.TestCase
TestFileAgainstDict.settings = settings(
    max_examples=max(5, settings().max_examples // 5), stateful_step_count=20
)
