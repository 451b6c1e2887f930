"""The documentation as a site: it builds strictly, its links lead somewhere, and it is offline."""

from __future__ import annotations

import importlib
import os
import pickle
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from playwright.sync_api import Browser, expect

from stageflow.pulse.history import make_server
from tests.unit.test_facades import packages
from tests.utils.asv_repo import ROOT
from tests.utils.browser import Visit, serving, violations, visiting
from tests.utils.session import once

pytestmark = pytest.mark.slow

#: Pages of the published site that stand beside the documentation, and are made by `make bench`.
BESIDE = {"../index.html", "../central.html"}


#: One page of each depth, the copy of an example, and the page for what is not there.
VISITED = (
    *("index.html", "guides/central-pulse.html", "reference/engine.html"),
    *("repository/tests/index.html", "repository/examples/browser_voice.html", "404.html"),
)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site of this session, built as `make docs` builds it: a warning ends the build."""
    return once(tmp_path_factory, "docs-site", build)


def build(folder: Path) -> None:
    """Build the site into a folder."""
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", str(folder)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "WARNING" not in done.stdout


class Links(HTMLParser):
    """The links, loaded files, scripts and anchors of a page."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.names: set[str] = set()
        #: The scripts, wherever the page lies: the paths of files, and texts.
        self.runs: set[str] = set()
        self._script = False
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note what an element refers to."""
        self._script = tag == "script"
        for name, value in attrs:
            if name == "id" and value:
                self.names.add(value)
            elif name == "href" and tag == "a" and value:
                self.links.add(value)
            elif value and (name == "src" or (name == "href" and tag == "link")):
                self.loads.add(value)
                if self._script:
                    self.runs.add(value.replace("../", "").removeprefix("/"))
            elif name.startswith("on") and value:
                self.runs.add(value)

    def handle_data(self, data: str) -> None:
        """Note the text of a script."""
        if self._script:
            self.runs.add(re.sub(r'"(base"?: ?")?[./]*"', "", data))

    def handle_endtag(self, tag: str) -> None:
        """Note the end of a script."""
        self._script = False


@pytest.fixture(scope="module")
def pages(site: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Links]:
    """Each page of the site, which one worker parses."""

    def parse(folder: Path) -> None:
        found = {path: Links(path) for path in site.rglob("*.html")}
        (folder / "pages").write_bytes(pickle.dumps(found))

    parsed = once(tmp_path_factory, "docs-pages", parse) / "pages"
    found: dict[Path, Links] = pickle.loads(parsed.read_bytes())
    return found


def test_every_link_leads_somewhere(site: Path, pages: dict[Path, Links]) -> None:
    """Each link within the site names a file that is there, and a place that is in it."""
    assert len(pages) > 20
    broken = []
    for page, found in pages.items():
        if page.name == "404.html":
            continue
        for link in found.links:
            parts = urlsplit(link)
            if parts.scheme or (page == site / "index.html" and link in BESIDE):
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            if target.is_dir():
                target /= "index.html"
            names = pages[target].names if target in pages else set()
            missing = not target.is_file() or (
                parts.fragment and unquote(parts.fragment) not in names | {"__top"}
            )
            if missing:
                broken.append(f"{page.relative_to(site)}: {link}")
    assert broken == []


def test_the_pages_that_readers_need_are_there(site: Path) -> None:
    """Tutorial, guides, reference, explanation, runbook, matrix and comparison have a page each."""
    for name in (
        *("index", "tutorial", "runbook", "fault-matrix", "comparison", "first-mistakes"),
        *("guides/testing", "operations/alerts", "explanation/semantics", "explanation/simulation"),
        *("reference/engine", "reference/testing", "repository/ARCHITECTURE"),
    ):
        assert (site / f"{name}.html").is_file(), name


def test_old_addresses_lead_to_the_new_pages(site: Path) -> None:
    """A bookmark of a moved page still works, fragments excepted."""
    (link,) = Links(site / "guides/central-pulse.html").links
    assert link == "../operations/central-pulse.html"
    assert Links(site / "alerting.html").links == {"operations/alerts.html"}


def test_the_reference_has_the_whole_public_api(site: Path) -> None:
    """Each name that a package hands on has an entry in the reference, there or in another one."""
    entries: set[str] = set()
    for page in (site / "reference").glob("*.html"):
        entries |= set(re.findall(r'id="(stageflow\.[\w.]+)"', page.read_text(encoding="utf-8")))
    documented = {entry.rpartition(".")[2] for entry in entries}
    missing = [
        f"{package}.{name}"
        for package in packages()
        for name in importlib.import_module(package).__all__
        if package != "stageflow.cli" and name not in documented
    ]
    assert missing == []


def test_nothing_is_loaded_from_outside(site: Path, pages: dict[Path, Links]) -> None:
    """No page names a script, a style, a font or a picture of another host."""
    outside = {load for page in pages.values() for load in page.loads if urlsplit(load).netloc}
    styles = "".join(path.read_text(encoding="utf-8") for path in site.rglob("*.css"))
    outside |= set(re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*\)", styles))
    assert outside == set()


def test_a_browser_asks_nobody_else(site: Path, browser: Browser) -> None:
    """Pages open without an error or a request to the outside; axe-core finds nothing in some."""
    with serving(make_server(site, 0)) as home, visiting(browser, home) as visit:
        for page in VISITED[::-1]:
            visit.go(page)
        for page in ("404.html", "reference/events.html", "guides/chat.html"):
            visit.go(page)
            assert violations(visit.page) == [], page
        visit.page.emulate_media(color_scheme="dark")
        assert violations(visit.page, "color-contrast") == []
        search_finds(visit)


def test_search_works_from_disk(site: Path, browser: Browser) -> None:
    """A page that is opened from disk finds the same pages as a served one, and asks nobody."""
    with visiting(browser, f"{site.as_uri()}/") as visit:
        visit.go("reference/engine.html")
        search_finds(visit)


def search_finds(visit: Visit) -> None:
    """Check that the search finds a page by a word."""
    visit.page.locator(".md-search__input").press_sequentially("breaker")
    found = visit.page.locator(".md-search-result__item", has_text="breaker")
    expect(found.first).to_be_attached()


def test_a_browser_has_seen_every_script(site: Path, pages: dict[Path, Links]) -> None:
    """Each page runs only what the visited pages run; the paths of files aside, none differs."""
    seen = set().union(*(pages[site / page].runs for page in VISITED))
    assert len(seen) > 5
    unseen = {page: found.runs - seen for page, found in pages.items() if found.runs - seen}
    assert unseen == {}
