"""Visits to pages end well whatever the browser is still loading, and name what fails."""

from __future__ import annotations

from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event

import pytest
from playwright.sync_api import Browser

from tests.utils.browser import serving, visiting

_LATE = "<script>addEventListener('beforeunload', () => { fetch('/held'); })</script>"
_DONE = Event()
_ANSWERED: list[str] = []


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        """Answer with a page that asks for more when it is left; hold what it asks for."""
        if self.path == "/held":
            _DONE.wait()
        content = _LATE.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        _ANSWERED.append(self.path)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Print nothing."""


@pytest.fixture
def home() -> Iterator[str]:
    """A site whose last request is answered when the test is over."""
    _DONE.clear()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), _Handler)) as address:
        try:
            yield address
        finally:
            _DONE.set()


def test_what_a_page_asks_for_when_it_is_left_is_not_a_failure(browser: Browser, home: str) -> None:
    """The browser aborts such a request, by the next page or by the end of the visit."""
    with visiting(browser, home) as visit:
        visit.open()
        visit.open("?again")


def test_a_request_under_way_is_awaited_at_the_end(browser: Browser, home: str) -> None:
    """A visit that ends at once lets the browser have its answer first."""
    with visiting(browser, home) as visit:
        visit.open()
        visit.page.evaluate("void fetch('/answered')")
    assert "/answered" in _ANSWERED


def test_a_request_to_another_host_is_named(browser: Browser, home: str) -> None:
    """A page that asks another host fails the visit, which names the address."""

    def look_outside() -> None:
        with visiting(browser, home) as visit:
            visit.open()
            visit.page.evaluate("fetch('http://192.0.2.1/').catch(() => {})")

    with pytest.raises(AssertionError, match=r"192\.0\.2\.1"):
        look_outside()
