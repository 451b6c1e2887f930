"""What a turn costs in CPU time: drawn by asv as a chart, and never judged by its scatter."""

from __future__ import annotations

import asyncio
import time

from benchmarks.works import whole_turn

TURNS = 100


class Turn:
    """CPU time of a hundred turns whose providers answer at once."""

    version = "1"
    timer = time.process_time

    def time_100_turns(self) -> None:
        """A rise here is worth a look; the gate times turns in pairs, and is sure."""

        async def turns() -> None:
            for _ in range(TURNS):
                await whole_turn()

        asyncio.run(turns())
