"""What the gate times in pairs: both commits in turn, so that a busy machine harms neither."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from newproject.turn import turn

from benchmarks.turns import context


async def whole_turn() -> None:
    """A turn whose providers answer at once: what the stages and the engine cost."""
    (await turn.run(context())).unwrap()


#: By the name under which the gate shows it, as ``timed('turn')``.
WORKS: dict[str, Callable[[], Awaitable[None]]] = {"turn": whole_turn}
