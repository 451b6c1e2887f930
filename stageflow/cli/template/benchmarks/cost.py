"""The processor time of a turn: asv draws it, and the gate counts its instructions."""

from __future__ import annotations

import time

from newproject.turn import turn

from benchmarks._lib.turns import context, in_virtual_time


class Turn:
    """A turn whose providers answer at once, so that all work is the stages' and the engine's."""

    version = "2"
    timer = time.process_time

    def time_turn(self) -> None:
        """One turn, in virtual time: the same instructions each time."""
        in_virtual_time(turn, context()).unwrap()
