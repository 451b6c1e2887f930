"""The port of dead-letter stores, and the part that all stores in SQL databases share."""

from __future__ import annotations

import json
import logging
from abc import abstractmethod
from collections import ChainMap
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from stageflow._utils.closing import AsyncClosing
from stageflow._utils.tasks import off_loop
from stageflow.codec import (
    NUMBER_OR_NONE,
    PLACEHOLDER,
    TEXT_OR_NONE,
    Codec,
    FieldTypes,
    check_fields,
    is_large,
)
from stageflow.engine.dead_letter import DeadLetter, DeadLetterState, Unstorable
from stageflow.errors import (
    CorruptDeadLetterError,
    DeadLetterClaimedError,
    DeadLetterLeaseLostError,
    DeadLetterReplayedError,
    DeadLetterStoreError,
    DuplicateDeadLetterError,
    UnknownDeadLetterError,
)

T = TypeVar("T")
#: An operation of a store: yields statements with their values, and receives the rows of each.
Steps: TypeAlias = Generator[tuple[str, tuple[Any, ...]], list[Any], T]

_log = logging.getLogger("stageflow.dlq")

#: More than these take milliseconds to encode.
_MANY_EVENTS = 500


class Claim(NamedTuple):
    """The right to replay `letter` until its lease ends; each claim has its own `token`."""

    letter: DeadLetter
    token: int


@dataclass(frozen=True, slots=True)
class UnreadableDeadLetter:
    """A stored letter that cannot be read: its id, the reason, and the stored text."""

    id: str
    problem: str
    body: str


class DeadLetterStore(Protocol):
    """Stores dead letters. A method that raises `DeadLetterStoreError` has changed nothing."""

    async def put(self, letter: DeadLetter) -> Mapping[str, Unstorable] | None:
        """Store a new letter durably; storing the same one again changes nothing.

        Returns the values that could not be stored, by path; an `Unstorable` replaces each. Raises
        `DuplicateDeadLetterError` if there is another letter with that id.
        """

    async def get(self, dead_letter_id: str) -> DeadLetter:
        """Return a letter; raise `UnknownDeadLetterError`, or `CorruptDeadLetterError`."""

    async def letters(self, state: DeadLetterState | None = None) -> tuple[DeadLetter, ...]:
        """Return the readable letters, or those in one state, in the order of `put`."""

    async def unreadable(self) -> tuple[UnreadableDeadLetter, ...]:
        """Return the letters that cannot be read, in the order of `put`."""

    async def delete(self, dead_letter_id: str) -> None:
        """Remove a letter, whether it can be read or not.

        Raises `UnknownDeadLetterError`, or `DeadLetterClaimedError` while it is replayed.
        """

    async def claim(self, dead_letter_id: str, *, lease_s: float) -> Claim:
        """Claim a letter for one replay until its lease ends, and count an attempt.

        Raises `UnknownDeadLetterError`; `DeadLetterClaimedError` while another process holds it; or
        `DeadLetterReplayedError`.
        """

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        """Hold a claim for `lease_s` seconds from now; raise `DeadLetterLeaseLostError` if lost."""

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        """Record that a claimed letter has been replayed; raises as `renew`."""

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        """Let a claimed letter wait again with the content of `letter`; raises as `renew`."""


#: Columns beside a letter's content; the state is checked by its values.
_STANDING: FieldTypes = {
    "attempts": (int,),
    "lease_until": NUMBER_OR_NONE,
    "replay_run_id": TEXT_OR_NONE,
}


async def encoded(codec: Codec, letter: DeadLetter) -> tuple[str, dict[str, Unstorable]]:
    """Return a letter's content as text, and the values that could not be stored, by path.

    A large letter is encoded in a thread; its values must not change meanwhile.
    """
    large = len(letter.events) > _MANY_EVENTS or is_large([letter.inputs, letter.outputs])

    def encode() -> tuple[str, dict[str, Unstorable]]:
        text = codec.encode(letter, large=large)
        if PLACEHOLDER not in text:
            return text, {}
        stored = json.loads(text)
        outputs = ChainMap(*(record["outputs"] for record in stored["stages"].values()))
        lost = {**codec.lost("inputs", stored["inputs"]), **codec.lost("outputs", outputs)}
        for path, value in lost.items():
            _log.error("dead letter %s: %s is not stored (%s)", letter.id, path, value.shown)
        return text, lost

    return await off_loop(encode, large=large)


def restore_dead_letter(codec: Codec, body: str, *standing: Any) -> DeadLetter:
    """Return a stored letter from its content and the columns beside it."""
    state, attempts, lease_until, replay_run_id = standing
    letter = codec.decode(body)
    try:
        check_fields("", dict(zip(_STANDING, standing[1:], strict=True)), _STANDING)
        return replace(
            letter,
            state=DeadLetterState(state),
            attempts=attempts,
            lease_expires_at=None
            if lease_until is None
            else datetime.fromtimestamp(lease_until, UTC),
            replay_run_id=replay_run_id,
        )
    except (ValueError, TypeError, OverflowError) as error:
        raise CorruptDeadLetterError(f"{type(error).__name__}: {error}") from error


def read_all(
    codec: Codec, rows: Iterable[Sequence[Any]]
) -> tuple[tuple[DeadLetter, ...], tuple[UnreadableDeadLetter, ...]]:
    """Return the readable letters and the unreadable ones of rows from the table."""
    letters, unreadable = [], []
    for dead_letter_id, body, *standing in rows:
        try:
            letters.append(restore_dead_letter(codec, body, *standing))
        except CorruptDeadLetterError as error:
            _log.warning("dead letter %s: %s", dead_letter_id, error)
            unreadable.append(UnreadableDeadLetter(str(dead_letter_id), str(error), str(body)))
    return tuple(letters), tuple(unreadable)


class SqlDeadLetterStore(AsyncClosing, DeadLetterStore):
    """A `DeadLetterStore` in the table ``dead_letters`` of an SQL database.

    Statements are those of SQLite, with a function ``wall_clock()`` by which leases are measured.
    """

    #: Ends a query whose row the same transaction changes.
    _for_update = ""

    def __init__(self, where: str, codec: Codec) -> None:
        #: The place of the store, as errors name it.
        self.where = where
        self._codec = codec
        self._closed = False

    @abstractmethod
    async def _run(self, action: str, steps: Steps[T]) -> T:
        """Run an operation on a connection, in one transaction if the action is ``write``."""

    async def _call(self, action: str, steps: Steps[T]) -> T:
        if self._closed:
            raise DeadLetterStoreError(action, self.where, "the store has been closed")
        return await self._run(action, steps)

    async def close(self) -> None:
        """Refuse further calls."""
        self._closed = True

    async def put(self, letter: DeadLetter) -> Mapping[str, Unstorable] | None:
        body, lost = await encoded(self._codec, letter)
        await self._call("write", self._put(letter.id, body))
        return lost

    def _put(self, dead_letter_id: str, body: str) -> Steps[None]:
        yield _INSERT, (dead_letter_id, body)
        if (yield from self._found(dead_letter_id))[1] != body:
            raise DuplicateDeadLetterError(dead_letter_id, self.where)

    async def get(self, dead_letter_id: str) -> DeadLetter:
        return await self._call("read", self._get(dead_letter_id))

    def _get(self, dead_letter_id: str) -> Steps[DeadLetter]:
        row = yield from self._found(dead_letter_id)
        return restore_dead_letter(self._codec, *row[1:])

    async def letters(self, state: DeadLetterState | None = None) -> tuple[DeadLetter, ...]:
        return read_all(self._codec, await self._call("read", _listed(state)))[0]

    async def unreadable(self) -> tuple[UnreadableDeadLetter, ...]:
        return read_all(self._codec, await self._call("read", _listed(None)))[1]

    async def delete(self, dead_letter_id: str) -> None:
        await self._call("write", self._delete(dead_letter_id))

    def _delete(self, dead_letter_id: str) -> Steps[None]:
        yield from self._check(dead_letter_id, deleting=True)
        yield "DELETE FROM dead_letters WHERE id = ?", (dead_letter_id,)

    async def claim(self, dead_letter_id: str, *, lease_s: float) -> Claim:
        return await self._call("write", self._claim(dead_letter_id, lease_s))

    def _claim(self, dead_letter_id: str, lease_s: float) -> Steps[Claim]:
        now_s = yield from self._check(dead_letter_id)
        yield _CLAIM, (now_s + lease_s, dead_letter_id)
        letter = yield from self._get(dead_letter_id)
        return Claim(letter, letter.attempts)

    async def renew(self, claim: Claim, *, lease_s: float) -> None:
        await self._call("write", self._update(claim, "lease_until = wall_clock() + ?", lease_s))

    async def finish(self, claim: Claim, replay_run_id: str) -> None:
        change = "state = 'replayed', lease_until = NULL, replay_run_id = ?"
        await self._call("write", self._update(claim, change, replay_run_id))

    async def put_back(self, claim: Claim, letter: DeadLetter) -> None:
        body, _ = await encoded(self._codec, letter)
        change = "state = 'waiting', lease_until = NULL, body = ?"
        await self._call("write", self._update(claim, change, body))

    def _found(self, dead_letter_id: str, end: str = "") -> Steps[Sequence[Any]]:
        rows = yield f"{_SELECT} WHERE id = ?{end}", (dead_letter_id,)
        if not rows:
            raise UnknownDeadLetterError(dead_letter_id, self.where)
        row: Sequence[Any] = rows[0]
        return row

    def _check(self, dead_letter_id: str, *, deleting: bool = False) -> Steps[float]:
        """Check that a letter may be claimed, or deleted; return the time."""
        row = yield from self._found(dead_letter_id, self._for_update)
        ((now_s,),) = yield "SELECT wall_clock()", ()
        _, _, state, _, lease_until, replay_run_id = row
        if state == DeadLetterState.REPLAYED and not deleting:
            raise DeadLetterReplayedError(dead_letter_id, str(replay_run_id))
        if state == DeadLetterState.REPLAYING and lease_until is not None and now_s < lease_until:
            until = datetime.fromtimestamp(lease_until, UTC)
            raise DeadLetterClaimedError(dead_letter_id, until.isoformat(timespec="seconds"))
        return float(now_s)

    def _update(self, claim: Claim, change: str, value: object) -> Steps[None]:
        # Each claim counts an attempt, so the count shows which claim is the latest.
        held = "WHERE id = ? AND state = 'replaying' AND attempts = ?"
        values = (claim.letter.id, claim.token)
        if not (yield f"{_SELECT} {held}{self._for_update}", values):
            raise DeadLetterLeaseLostError(claim.letter.id)
        yield f"{_UPDATE} {change} {held}", (value, *values)


_SELECT = "SELECT id, body, state, attempts, lease_until, replay_run_id FROM dead_letters"
_INSERT = "INSERT INTO dead_letters (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
_UPDATE = "UPDATE dead_letters SET"
_CLAIM = f"{_UPDATE} state = 'replaying', attempts = attempts + 1, lease_until = ? WHERE id = ?"


def _listed(state: DeadLetterState | None) -> Steps[list[Any]]:
    return (yield f"{_SELECT} WHERE ? IN (state, '') ORDER BY number", (str(state or ""),))
