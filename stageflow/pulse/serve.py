"""Serve the published site to browsers on this machine, and to no other."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from stageflow.pulse.central.live import LiveTelemetry, answered
from stageflow.pulse.central.page import PAGE
from stageflow.pulse.errors import PulseError

LOOPBACK = "127.0.0.1"


class _QuietHandler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        # A site published anew must be seen at the next reload.
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing: a line for each file loaded would hide the address."""


class _LiveHandler(_QuietHandler):
    def __init__(self, *arguments: Any, live: LiveTelemetry, **options: Any) -> None:
        # Set before: the constructor answers the request.
        self._live = live
        super().__init__(*arguments, **options)

    def do_GET(self) -> None:
        if not answered(self, self._live):
            super().do_GET()


def make_server(
    site_dir: Path, port: int, live: LiveTelemetry | None = None
) -> ThreadingHTTPServer:
    """A server of the site on the loopback address, ready for ``serve_forever``.

    Args:
        site_dir: Folder of the published site.
        port: Port to listen on; 0 takes a free one.
        live: Telemetry that Central Pulse shows as it comes.

    Raises:
        PulseError: There is no site, or the port cannot be had.
    """
    page = "index.html" if live is None else PAGE
    if not (site_dir / page).exists():
        raise PulseError(
            f"there is no site in {site_dir}: publish it first, python -m stageflow.pulse build"
        )
    handler = _QuietHandler if live is None else partial(_LiveHandler, live=live)
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(handler, directory=site_dir))
    except OSError as error:
        raise PulseError(
            f"port {port} of {LOOPBACK} cannot be had ({error.strerror}): name another with --port"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """The address to open in a browser."""
    return f"http://{LOOPBACK}:{server.server_address[1]}/"
