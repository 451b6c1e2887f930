"""The system's browser, and visits to pages that must neither err nor look outside."""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import ThreadingHTTPServer
from importlib.resources import files
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, Request, Route, expect, sync_playwright

from stageflow.pulse.dashboard import GRID
from stageflow.pulse.history import address_of

#: Only bounds a hang, in milliseconds; the usual 5 s are too short on a loaded machine.
PATIENCE_MS = 120_000
expect.set_options(timeout=PATIENCE_MS)
#: How long the end of a visit waits for requests under way.
LAST_ANSWERS_S = 10.0

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
    _under_way: dict[Request, None] = field(default_factory=dict)

    def watch(self) -> None:
        """Block and note each request that leaves the site, and note each error."""
        self.page.route("**/*", self._let_through_or_block)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", self._note_request)
        self.page.on("requestfinished", lambda request: self._under_way.pop(request, None))
        self.page.on("requestfailed", self._note_failure)
        self.page.on(
            "console",
            lambda message: self.errors.append(message.text) if message.type == "error" else None,
        )

    def open(self, place: str = "") -> None:
        """Open a place of asv's page, which is what follows its address."""
        self.go(f"{GRID}{place}")

    def go(self, path: str) -> None:
        """Open a page of the site by its path."""
        self.page.goto(f"{self.home}{path}", wait_until="commit")
        self.page.wait_for_load_state("load")

    def close(self) -> None:
        """Let requests and their handlers end, then close the page.

        A request that hangs is left behind: the page's own waits have seen what they need, and a
        browser under load may not report the end of each request.
        """
        waits_until_s = time.monotonic() + LAST_ANSWERS_S
        while self._under_way and time.monotonic() < waits_until_s:
            self.page.wait_for_timeout(10)
        # A handler that finds its page closed would raise.
        self.page.unroute_all(behavior="wait")
        self.page.close()

    def _note_request(self, request: Request) -> None:
        self._under_way[request] = None

    def _note_failure(self, request: Request) -> None:
        self._under_way.pop(request, None)
        # The browser aborts what a page is still loading when a link leads away from it.
        if request.failure != "net::ERR_ABORTED":
            self.failed.append(request.url)

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
        context: Options of the browser: viewport, colour scheme, time zone.
    """
    opened = browser.new_context(**({"viewport": {"width": 1200, "height": 800}} | context))
    opened.set_default_timeout(PATIENCE_MS)
    visit = Visit(opened.new_page(), home)
    visit.watch()
    try:
        yield visit
        visit.close()
    finally:
        opened.close()
    noted = (visit.outside, visit.failed, visit.errors)
    assert noted == ([], [], []), f"outside, failed, errors: {noted}"


def violations(page: Page, *rules: str) -> list[str]:
    """Return axe-core's findings on a page, by all rules or these: the rule, and the elements."""
    options = {"preload": False} | ({"runOnly": list(rules)} if rules else {})
    page.evaluate(str(files("axe_playwright_python").joinpath("axe.min.js").read_text("utf-8")))
    run = "async (options) => (await axe.run(document, options)).violations"
    found = page.evaluate(run, options)
    return [f"{one['id']}: {[node['html'][:200] for node in one['nodes'][:3]]}" for one in found]
