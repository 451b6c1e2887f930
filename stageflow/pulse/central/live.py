"""Central Pulse on live telemetry: the page, and what it asks for again and again."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from http.server import SimpleHTTPRequestHandler
from pathlib import Path
from typing import Any

from stageflow.pulse.central.alerts import firing, state_of
from stageflow.pulse.central.telemetry import telemetry, window_of
from stageflow.pulse.gate.budgets import Budget
from stageflow.telemetry.errors import TelemetryError
from stageflow.telemetry.place import Place, open_store

#: Where the page finds what it shows of a running system.
ADDRESS = "/central/live.json"
#: A file of the site that a live server answers in its own way: how often the page asks.
SWITCH = "/central/live.js"
REFRESH_S = 5


class LiveTelemetry:
    """Reads a store anew when asked, at most once in half the time between two refreshes.

    However many pages are open, the store is read as often as for one.
    """

    def __init__(
        self,
        store: Place,
        budgets: Sequence[Budget],
        rules: Path,
        *,
        newest_s: float,
        root: Path = Path(),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Choose what is shown.

        Args:
            store: The telemetry.
            budgets: Those that turns are held against.
            rules: The table of alert rules.
            newest_s: How much of the store's newest end is shown, in seconds.
            root: The repository.
            clock: Seconds that go on evenly.
        """
        self._store = store
        self._state = state_of(store, root)
        self._budgets = budgets
        self._rules = rules
        self._newest_s = newest_s
        self._clock = clock
        self._lock = threading.Lock()
        self._read_at = -float(REFRESH_S)
        self._answer = b""

    def answer(self) -> bytes:
        """The present telemetry, as JSON; if it cannot be read, why."""
        with self._lock:
            if self._clock() - self._read_at >= REFRESH_S / 2 or not self._answer:
                self._answer = json.dumps(self._read(), separators=(",", ":")).encode()
                self._read_at = self._clock()
            return self._answer

    def _read(self) -> dict[str, Any]:
        alerts, problem = firing(self._state, self._rules)
        found: dict[str, Any] = {
            "made_at_s": time.time(),
            "telemetry": None,
            "alerts": None if alerts is None else [asdict(alert) for alert in alerts],
            "problem": problem,
        }
        try:
            with open_store(self._store) as store:
                window = window_of(store, self._newest_s)
                if window is not None:
                    found["telemetry"] = telemetry(store, window, self._budgets)
        except TelemetryError as error:
            found["problem"] = str(error)
        return found


def answered(handler: SimpleHTTPRequestHandler, live: LiveTelemetry) -> bool:
    """Answer a request for live telemetry; False if it asks for something else."""
    path = handler.path.partition("?")[0]
    if path == ADDRESS:
        _send(handler, "application/json", live.answer())
    elif path == SWITCH:
        _send(handler, "text/javascript", f"centralLive({REFRESH_S});\n".encode())
    else:
        return False
    return True


def _send(handler: SimpleHTTPRequestHandler, kind: str, body: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", f"{kind}; charset=utf-8")
    handler.send_header("Content-Length", str(len(body)))
    handler.end_headers()
    handler.wfile.write(body)
