"""Serve the published site to browsers on this machine, and to no other."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from stageflow.pulse.errors import PulseError

LOOPBACK = "127.0.0.1"


class _QuietHandler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        # A site published anew must be seen at the next reload.
        self.send_header("Cache-Control", "no-store")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing: a line for each file loaded would hide the address."""


def make_server(site_dir: Path, port: int) -> ThreadingHTTPServer:
    """A server of the site on the loopback address, ready for ``serve_forever``.

    Args:
        site_dir: Folder of the published site.
        port: Port to listen on; 0 takes a free one.

    Raises:
        PulseError: There is no site, or the port cannot be had.
    """
    if not (site_dir / "index.html").exists():
        raise PulseError(
            f"there is no site in {site_dir}: publish it first, python -m stageflow.pulse build"
        )
    try:
        return ThreadingHTTPServer((LOOPBACK, port), partial(_QuietHandler, directory=site_dir))
    except OSError as error:
        raise PulseError(
            f"port {port} of {LOOPBACK} cannot be had ({error.strerror}): name another with --port"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """The address to open in a browser."""
    return f"http://{LOOPBACK}:{server.server_address[1]}/"
