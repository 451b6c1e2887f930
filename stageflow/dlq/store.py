"""The port of dead-letter stores, and the part that all stores in SQL databases share."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections import ChainMap
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

from stageflow import codec as coding
from stageflow import errors as err
from stageflow._utils.closing import AsyncClosing
from stageflow._utils.tasks import off_loop
from stageflow.engine.dead_letter import DeadLetter, DeadLetterState, Unstorable

T = TypeVar("T")
#: An operation of a store: yields statements with their values, and receives the rows of each.
Steps: TypeAlias = Generator[tuple[str, tuple[Any, ...]], list[Any], T]

_log = logging.getLogger("stageflow.dlq")


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
_STANDING: coding.FieldTypes = {
    "attempts": (int,),
    "lease_until": coding.NUMBER_OR_NONE,
    "replay_run_id": coding.TEXT_OR_NONE,
}


async def encoded(codec: coding.Codec, letter: DeadLetter) -> tuple[str, dict[str, Unstorable]]:
    """Return a letter's content as text, and the values that could not be stored, by path.

    A large letter is encoded in a thread; its values must not change meanwhile.
    """
    large = coding.is_large(letter)

    def encode() -> tuple[str, dict[str, Unstorable]]:
        text = codec.encode(letter, large=large)
        if coding.PLACEHOLDER not in text:
            return text, {}
        stored = coding.loads(text, large=large)
        outputs = ChainMap(*(record["outputs"] for record in stored["stages"].values()))
        lost = {**codec.lost("inputs", stored["inputs"]), **codec.lost("outputs", outputs)}
        for path, value in lost.items():
            _log.error("dead letter %s: %s is not stored (%s)", letter.id, path, value.shown)
        return text, lost

    return await off_loop(encode, large=large)


def restore_dead_letter(
    codec: coding.Codec, row: Sequence[Any], *, large: bool = False, known: DeadLetter | None = None
) -> DeadLetter:
    """Return the letter of a row, with the content of `known` if that is given; see `loads`."""
    dead_letter_id, body, state, attempts, lease_until, replay_run_id = row
    try:
        letter = known if known is not None else codec.decode(body, large=large)
        if letter.id != dead_letter_id:
            raise ValueError(f"its content has the id {letter.id!r}")
        coding.check_fields("", dict(zip(_STANDING, row[3:], strict=True)), _STANDING)
        until = None if lease_until is None else datetime.fromtimestamp(lease_until, UTC)
        return replace(
            letter,
            state=DeadLetterState(state),
            attempts=attempts,
            lease_expires_at=until,
            replay_run_id=replay_run_id,
        )
    except err.CorruptDeadLetterError as error:
        raise err.CorruptDeadLetterError(error.problem, dead_letter_id) from error
    except (ValueError, TypeError, OverflowError) as error:
        problem = f"{type(error).__name__}: {error}"
        raise err.CorruptDeadLetterError(problem, dead_letter_id) from error


_Listed: TypeAlias = tuple[tuple[DeadLetter, ...], tuple[UnreadableDeadLetter, ...]]


class SqlDeadLetterStore(AsyncClosing, DeadLetterStore):
    """A `DeadLetterStore` in the table ``dead_letters`` of an SQL database.

    Statements are those of SQLite, with a function ``wall_clock()`` by which leases are measured.
    """

    #: Ends a query whose row the same transaction changes.
    _for_update = ""

    def __init__(self, where: str, codec: coding.Codec) -> None:
        #: The place of the store, as errors name it.
        self.where = where
        self._codec = codec
        self._closed = False

    @abstractmethod
    async def _run(self, action: str, steps: Steps[T]) -> T:
        """Run an operation on a connection, in one transaction if the action is ``write``."""

    async def _call(self, action: str, steps: Steps[T]) -> T:
        if self._closed:
            raise err.DeadLetterStoreError(action, self.where, "the store has been closed")
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
            raise err.DuplicateDeadLetterError(dead_letter_id, self.where)

    async def get(self, dead_letter_id: str) -> DeadLetter:
        return await self._restored(await self._call("read", self._found(dead_letter_id)))

    async def _restored(self, row: Sequence[Any]) -> DeadLetter:
        large = coding.is_large(row[1])
        restore = partial(restore_dead_letter, self._codec, row, large=large)
        return await off_loop(restore, large=large)

    async def letters(self, state: DeadLetterState | None = None) -> tuple[DeadLetter, ...]:
        return (await self._read_all(state))[0]

    async def unreadable(self) -> tuple[UnreadableDeadLetter, ...]:
        return (await self._read_all(None))[1]

    async def _read_all(self, state: DeadLetterState | None) -> _Listed:
        rows = await self._call("read", _listed(state))
        large = coding.is_large(rows)

        def read() -> _Listed:
            letters, unreadable = [], []
            for row in rows:
                try:
                    letters.append(restore_dead_letter(self._codec, row, large=large))
                except err.CorruptDeadLetterError as error:
                    _log.warning("%s", error)
                    unreadable.append(UnreadableDeadLetter(str(row[0]), str(error), str(row[1])))
            return tuple(letters), tuple(unreadable)

        return await off_loop(read, large=large)

    async def delete(self, dead_letter_id: str) -> None:
        await self._call("write", self._delete(dead_letter_id))

    def _delete(self, dead_letter_id: str) -> Steps[None]:
        yield from self._check(dead_letter_id, deleting=True)
        yield "DELETE FROM dead_letters WHERE id = ?", (dead_letter_id,)

    async def claim(self, dead_letter_id: str, *, lease_s: float) -> Claim:
        before = await self._call("write", self._found(dead_letter_id))
        letter = await self._restored(before)  # one that cannot be read is not claimed
        row = await self._call("write", self._claim(dead_letter_id, lease_s))
        if row[1] != before[1]:
            letter = await self._restored(row)
        return Claim(restore_dead_letter(self._codec, row, known=letter), row[3])

    def _claim(self, dead_letter_id: str, lease_s: float) -> Steps[Sequence[Any]]:
        now_s = yield from self._check(dead_letter_id)
        yield _CLAIM, (now_s + lease_s, dead_letter_id)
        return (yield from self._found(dead_letter_id))

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
            raise err.UnknownDeadLetterError(dead_letter_id, self.where)
        row: Sequence[Any] = rows[0]
        return row

    def _check(self, dead_letter_id: str, *, deleting: bool = False) -> Steps[float]:
        """Check that a letter may be claimed, or deleted; return the time."""
        row = yield from self._found(dead_letter_id, self._for_update)
        ((now_s,),) = yield "SELECT wall_clock()", ()
        _, _, state, _, lease_until, replay_run_id = row
        if state == DeadLetterState.REPLAYED and not deleting:
            raise err.DeadLetterReplayedError(dead_letter_id, str(replay_run_id))
        if state == DeadLetterState.REPLAYING and lease_until is not None and now_s < lease_until:
            until = datetime.fromtimestamp(lease_until, UTC)
            raise err.DeadLetterClaimedError(dead_letter_id, until.isoformat(timespec="seconds"))
        return float(now_s)

    def _update(self, claim: Claim, change: str, value: object) -> Steps[None]:
        # Each claim counts an attempt, so the count shows which claim is the latest.
        held = "WHERE id = ? AND state = 'replaying' AND attempts = ?"
        values = (claim.letter.id, claim.token)
        if not (yield f"{_SELECT} {held}{self._for_update}", values):
            raise err.DeadLetterLeaseLostError(claim.letter.id)
        yield f"{_UPDATE} {change} {held}", (value, *values)


_SELECT = "SELECT id, body, state, attempts, lease_until, replay_run_id FROM dead_letters"
_INSERT = "INSERT INTO dead_letters (id, body) VALUES (?, ?) ON CONFLICT (id) DO NOTHING"
_UPDATE = "UPDATE dead_letters SET"
_CLAIM = f"{_UPDATE} state = 'replaying', attempts = attempts + 1, lease_until = ? WHERE id = ?"


def _listed(state: DeadLetterState | None) -> Steps[list[Any]]:
    return (yield f"{_SELECT} WHERE ? IN (state, '') ORDER BY number", (str(state or ""),))
