"""The system's browser, and visits to pages that must neither err nor look outside."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Route, sync_playwright

from stageflow.pulse.serve import address_of

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@dataclass
class Visit:
    """A page, and what a visitor would not see of it: errors and requests to the outside."""

    page: Page
    home: str
    errors: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    def watch(self) -> None:
        """Block and note each request that leaves the site, and note each error."""
        self.page.route("**/*", self._let_through_or_block)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("requestfailed", lambda request: self.failed.append(request.url))
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )

    def open(self, place: str = "") -> None:
        """Open a place of the site, which is what follows the address of its index page."""
        self.page.goto(f"{self.home}index.html{place}")

    def _let_through_or_block(self, route: Route) -> None:
        if route.request.url.startswith(self.home):
            route.continue_()
        else:
            self.outside.append(route.request.url)
            route.abort()


def find_browser() -> str:
    """The system's Chromium, or the one that STAGEFLOW_BROWSER names."""
    named = os.environ.get("STAGEFLOW_BROWSER")
    found = [named] if named else [path for path in map(shutil.which, BROWSERS) if path]
    if not found:
        pytest.fail(
            "no browser found to look at the site with: apt-get install chromium, "
            "or name one in the environment variable STAGEFLOW_BROWSER"
        )
    return found[0]


@contextmanager
def started() -> Iterator[Browser]:
    """A headless browser with an empty profile."""
    executable = find_browser()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=FLAGS)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def serving(server: ThreadingHTTPServer) -> Iterator[str]:
    """The address of a server that serves meanwhile."""
    with server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield address_of(server)
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def visiting(browser: Browser, home: str, **context: Any) -> Iterator[Visit]:
    """A visit to a site, which must end without an error and without a look outside.

    Args:
        browser: The browser.
        home: The address that everything of the site begins with.
        context: What the browser shall be like: viewport, colour scheme, time zone.
    """
    opened = browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | context))
    visit = Visit(opened.new_page(), home)
    visit.watch()
    try:
        yield visit
    finally:
        # Looked at before the context is closed, which aborts what is still loading.
        noted = (list(visit.outside), list(visit.failed), list(visit.errors))
        opened.close()
    assert noted == ([], [], []), f"outside, failed, errors: {noted}"
