"""The time of a voice turn: with the latencies of the default fakes, and without any."""

from __future__ import annotations

from benchmarks._lib import without_asv
from benchmarks._lib.support import CpuTimed, charted, requires, timed
from benchmarks._lib.turns import (
    NEEDS,
    hand_voice_turn,
    latencies_s,
    repeat,
    voice_pairs_s,
    voice_turn,
)

setup = requires(*NEEDS)

TURNS = 200
APART_S = 0.005
TURNS_A_CALL = 20


class Latency:
    """Wall time of turns with the fakes' own latencies, drawn anew, and alike, on each commit."""

    version = "1"
    unit = "seconds"

    def track_turn(self) -> dict[str, object]:
        """Latencies of 200 turns as samples: P50, P95 and P99 of what a user waits."""
        turns = [voice_turn(number) for number in range(TURNS)]
        return {"samples": latencies_s(turns, APART_S), "number": 1}

    def track_over_hand_written(self) -> dict[str, object]:
        """The time of 100 turns beyond that of hand-written ones that wait equally long."""
        pairs = voice_pairs_s(TURNS // 2, APART_S)
        return charted([kernel - by_hand for kernel, by_hand in pairs])


class Cpu(CpuTimed):
    """CPU time of 20 turns whose providers answer at once: the engine and the kernel's code."""

    version = "1"

    @timed
    def track_20_turns(self) -> None:
        """The kernel: how many turns a core can carry; the fakes' own work is in it."""
        repeat(voice_turn, TURNS_A_CALL)

    @timed
    def track_20_turns_by_hand(self) -> None:
        """The hand-written turn with the same fakes: the floor for the other."""
        repeat(hand_voice_turn, TURNS_A_CALL)


if __name__ == "__main__":
    without_asv.main()
