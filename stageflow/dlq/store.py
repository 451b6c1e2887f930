"""The port through which dead letters are kept, and a store in memory for simulations."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

from stageflow.dlq.codec import DEFAULT_CODEC, LetterCodec
from stageflow.errors import (
    CorruptDeadLetterError,
    DeadLetterClaimedError,
    DeadLetterLeaseLostError,
    DeadLetterReplayedError,
    DuplicateDeadLetterError,
    UnknownDeadLetterError,
)
from stageflow.letter import DeadLetter, LetterState


class Claim(NamedTuple):
    """The right to replay a letter, until its lease ends.

    Attributes:
        letter: The letter, being replayed.
        token: Proves the right to the store; each claim has one of its own.
    """

    letter: DeadLetter
    token: int


class DeadLetterStore(Protocol):
    """Keeps dead letters.

    Every method may raise `DeadLetterStoreError`, and nothing is half-written then.
    """

    async def put(self, letter: DeadLetter) -> None:
        """Keep a new letter durably before returning.

        Raises:
            DuplicateDeadLetterError: There is another letter with that id. Putting the same one
                again changes nothing.
        """

    async def get(self, letter_id: str) -> DeadLetter:
        """The letter with that id.

        Raises:
            UnknownDeadLetterError: There is none.
            CorruptDeadLetterError: It cannot be read.
        """

    async def letters(self, state: LetterState | None = None) -> tuple[DeadLetter, ...]:
        """All letters, or those in one state, in the order in which they were put.

        Raises:
            CorruptDeadLetterError: One cannot be read.
        """

    async def claim(self, letter_id: str, *, lease_s: float) -> Claim:
        """Take a letter for replaying: of all who try, one succeeds. Counts an attempt.

        A letter whose lease has ended can be claimed again, as its replayer must have died.

        Raises:
            UnknownDeadLetterError: There is no such letter.
            DeadLetterClaimedError: Somebody else holds it.
            DeadLetterReplayedError: It has been replayed.
        """

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        """Hold a claimed letter for `lease_s` seconds from now.

        Raises:
            DeadLetterLeaseLostError: Somebody else has claimed it meanwhile.
        """

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        """Put on record that a claimed letter has been replayed; raises as `renew`."""

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        """Let a claimed letter wait again, with the content of `letter`; raises as `renew`."""


def letter_of(codec: LetterCodec, body: str, *standing: Any) -> DeadLetter:
    """A letter from what a store keeps of it.

    Args:
        codec: What wrote the body.
        body: The letter's content.
        standing: State, attempts, end of the lease in seconds since the epoch, id of the replay.

    Raises:
        CorruptDeadLetterError: It cannot be read.
    """
    state, attempts, lease_until, replay_run_id = standing
    letter = codec.decode(body)
    try:
        return replace(
            letter,
            state=LetterState(state),
            attempts=attempts,
            lease_expires_at=None if lease_until is None else moment(lease_until),
            replay_run_id=replay_run_id,
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptDeadLetterError(f"{type(error).__name__}: {error}") from error


def moment(seconds: float) -> datetime:
    """A time in seconds since the epoch as a date in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def check_claimable(
    letter_id: str, state: str, lease_until: float | None, replay_run_id: str | None, now: float
) -> None:
    """Raise unless a letter that stands so may be claimed; for stores."""
    if state == LetterState.REPLAYED:
        raise DeadLetterReplayedError(letter_id, str(replay_run_id))
    if state == LetterState.REPLAYING and lease_until is not None and now < lease_until:
        raise DeadLetterClaimedError(letter_id, moment(lease_until).isoformat(timespec="seconds"))


@dataclass(slots=True)
class _Entry:
    body: str
    state: LetterState = LetterState.WAITING
    attempts: int = 0
    lease_until: float | None = None
    replay_run_id: str | None = None


class InMemoryDeadLetterStore:
    """Dead letters for simulations and tests: gone with the process.

    Letters are stored as text here, too, so that what a simulation replays is what a real store
    would have given back.
    """

    def __init__(
        self, *, codec: LetterCodec = DEFAULT_CODEC, wall_clock: Callable[[], float] = time.time
    ) -> None:
        """Begin empty.

        Args:
            codec: Knows the types that letters hold.
            wall_clock: Seconds since the epoch; leases are measured by it.
        """
        self._codec = codec
        self._wall_clock = wall_clock
        self._entries: dict[str, _Entry] = {}

    async def put(self, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        body = self._codec.encode(letter)
        if self._entries.setdefault(letter.id, _Entry(body)).body != body:
            raise DuplicateDeadLetterError(letter.id, "memory")

    async def get(self, letter_id: str) -> DeadLetter:
        """See `DeadLetterStore`."""
        return self._letter(self._entry(letter_id))

    async def letters(self, state: LetterState | None = None) -> tuple[DeadLetter, ...]:
        """See `DeadLetterStore`."""
        entries = self._entries.values()
        return tuple(self._letter(e) for e in entries if state is None or e.state is state)

    async def claim(self, letter_id: str, *, lease_s: float) -> Claim:
        """See `DeadLetterStore`."""
        entry, now = self._entry(letter_id), self._wall_clock()
        check_claimable(letter_id, entry.state, entry.lease_until, entry.replay_run_id, now)
        entry.state = LetterState.REPLAYING
        entry.attempts += 1
        entry.lease_until = now + lease_s
        return Claim(self._letter(entry), entry.attempts)

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        """See `DeadLetterStore`."""
        self._held(claim).lease_until = self._wall_clock() + lease_s

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        """See `DeadLetterStore`."""
        entry = self._held(claim)
        entry.state = LetterState.REPLAYED
        entry.lease_until, entry.replay_run_id = None, replay_run_id

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        """See `DeadLetterStore`."""
        entry = self._held(claim)
        entry.body = self._codec.encode(letter)
        entry.state = LetterState.WAITING
        entry.lease_until = None

    def _entry(self, letter_id: str) -> _Entry:
        try:
            return self._entries[letter_id]
        except KeyError:
            raise UnknownDeadLetterError(letter_id, "memory") from None

    def _held(self, claim: Claim) -> _Entry:
        entry = self._entry(claim.letter.id)
        # Every claim counts an attempt, so the count tells which claim is the latest.
        if entry.state is not LetterState.REPLAYING or entry.attempts != claim.token:
            raise DeadLetterLeaseLostError(claim.letter.id)
        return entry

    def _letter(self, entry: _Entry) -> DeadLetter:
        return letter_of(
            self._codec,
            entry.body,
            entry.state,
            entry.attempts,
            entry.lease_until,
            entry.replay_run_id,
        )
