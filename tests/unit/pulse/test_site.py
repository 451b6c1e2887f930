"""The published site loads nothing from outside, and what stands in its way is said plainly."""

from __future__ import annotations

import base64
import hashlib
import http.client
import importlib.resources
import json
import os
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from stageflow._utils.extras import install_command
from stageflow.pulse import PulseError
from stageflow.pulse.history import AsvProject, make_server
from stageflow.pulse.history.offline import VENDOR_DIR, check_offline, make_offline
from tests.utils.asv_repo import ROOT
from tests.utils.commands import run_command
from tests.utils.errors import raises_code

ASV_PAGE_DIR = Path(str(importlib.resources.files("asv"))) / "www"
MANIFEST = json.loads((VENDOR_DIR / "manifest.json").read_text(encoding="utf-8"))
FILES = [(library, file) for library in MANIFEST["libraries"] for file in library["files"]]
PAGE = '<html><head><script src="asv.js"></script>{}</head><body>{}</body></html>'


def asv_site(folder: Path) -> Path:
    """The page that the installed asv publishes, with one data file."""
    shutil.copytree(ASV_PAGE_DIR, folder / "site")
    (folder / "site" / "index.json").write_text('{"project": "p"}', encoding="utf-8")
    return folder / "site"


def site_with(folder: Path, head: str = "", body: str = "", **files: str) -> Path:
    """A page of our own, with further files named like ``style_css``."""
    contents = {"index.html": PAGE.format(head, body), "asv.js": ""}
    contents |= {name.replace("_", "."): text for name, text in files.items()}
    for name, text in contents.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_page_of_installed_asv_loads_nothing_from_outside(tmp_path: Path) -> None:
    """In asv's own page each script and style sheet comes from a file beside it, in its order."""
    loads = re.compile(r'<(?:script|link rel="stylesheet")[^>]*?(?:src|href)="([^"]+)"')
    site = asv_site(tmp_path)
    before = loads.findall((site / "index.html").read_text(encoding="utf-8"))
    make_offline(site)
    after = loads.findall((site / "index.html").read_text(encoding="utf-8"))
    assert sum("://" in address for address in before) == 10
    assert [a for a in after if "://" in a or not (site / a).is_file()] == []
    own = ["offline.js", "lone_points.js", "central_link.js"]
    page = (site / "index.html").read_text(encoding="utf-8")
    assert "script-src 'self' file:;" in page.partition("<script")[0]
    assert re.findall(r"<script(?![^>]*src=)|onerror=", page) == []
    vendored = [file for _, file in FILES if "replaces" in file]
    replaced = {file["replaces"].split("/")[-1]: f"vendor/{file['path']}" for file in vendored}
    expected = [replaced[a.split("/")[-1]] if "://" in a else a for a in before]
    assert [a for a in after if a not in own] == expected
    assert after.index(own[0]) == after.index("asv.js") - len(own)
    assert "integrity" not in (site / "index.html").read_text(encoding="utf-8")


def test_rest_of_the_page_stays(tmp_path: Path) -> None:
    """But for scripts, links and the policy, asv's page is published letter by letter."""
    site = asv_site(tmp_path)
    make_offline(site)
    tags = re.compile(
        r'<script\b.*?</script>\s*|<link\b[^>]*>|<meta http-equiv="Content-Sec[^>]*>', re.DOTALL
    )
    before, after = (
        tags.sub("", (folder / "index.html").read_text(encoding="utf-8"))
        for folder in (ASV_PAGE_DIR, site)
    )
    assert before.split() == after.split()


def test_data_gets_a_twin_that_is_a_script(tmp_path: Path) -> None:
    """Each data file has a script beside it that hands over the same data."""
    site = asv_site(tmp_path)
    make_offline(site)
    twin = (site / "index.json.js").read_text(encoding="utf-8")
    assert twin == 'stageflowOffline({"project": "p"});\n'


@pytest.mark.parametrize(
    ("head", "body", "address"),
    [
        (
            '<script src="https://cdn.invalid/new-9.js"></script>',
            "",
            "https://cdn.invalid/new-9.js",
        ),
        ('<script src="//cdn.invalid/new-9.js"></script>', "", "//cdn.invalid/new-9.js"),
        ('<link rel="stylesheet" href="http://cdn.invalid/x.css">', "", "http://cdn.invalid/x.css"),
        ('<link rel="icon" href="http://cdn.invalid/x.ico">', "", "http://cdn.invalid/x.ico"),
        ("<style>@import 'https://cdn.invalid/y.css';</style>", "", "https://cdn.invalid/y.css"),
        ("", "<img src='https://cdn.invalid/i.png'>", "https://cdn.invalid/i.png"),
        ("", '<iframe src="https://cdn.invalid/f"></iframe>', "https://cdn.invalid/f"),
        ('<script src="gone.js"></script>', "", "gone.js, which is missing"),
    ],
)
def test_page_that_loads_from_outside_is_refused(
    tmp_path: Path, head: str, body: str, address: str
) -> None:
    """A link that nobody vendored, as an upgraded asv may bring, is an error that names it."""
    site = site_with(tmp_path, head, body)
    with raises_code("pulse_site_not_offline", match=re.escape(f"index.html loads {address}")):
        make_offline(site)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("more.css", "a { background: url( 'https://cdn.invalid/b.png' ) }"),
        ("more.css", '@import "//cdn.invalid/c.css";'),
        ("more.js", "$.getScript('https://cdn.invalid/d.js')"),
        ("more.js", 'new WebSocket("wss://cdn.invalid/e")'),
    ],
)
def test_script_or_style_that_loads_from_outside_is_refused(
    tmp_path: Path, name: str, text: str
) -> None:
    """An outside address in a published script or style sheet is an error that names the file."""
    site = site_with(tmp_path, **{name: text})
    with raises_code(
        "pulse_site_not_offline", match=rf"{name} loads .*cdn\.invalid.* from outside"
    ):
        check_offline(site)


def test_links_that_a_person_follows_are_allowed(tmp_path: Path) -> None:
    """A link that somebody has to click may lead outside, and data: URLs are allowed."""
    check_offline(
        site_with(
            tmp_path,
            '<link rel="alternate" href="https://x.invalid/feed.xml">',
            '<a href="https://x.invalid/">x</a><img src="data:image/gif;base64,R0lGODlh">',
        )
    )


def test_asv_without_its_first_script_is_refused(tmp_path: Path) -> None:
    """When asv's page no longer loads asv.js, nothing is guessed."""
    (tmp_path / "index.html").write_text("<html></html>", encoding="utf-8")
    with raises_code("pulse_site_not_offline", match=r"no longer loads asv\.js"):
        make_offline(tmp_path)


def test_changed_library_is_refused(tmp_path: Path) -> None:
    """A vendored file that is not the one in the manifest, be it by a line end, is an error."""
    vendor = tmp_path / "vendor"
    shutil.copytree(VENDOR_DIR, vendor)
    path = vendor / "flot" / "jquery.flot.js"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n", 1))
    with pytest.raises(PulseError, match=r"jquery\.flot\.js has sha256"):
        make_offline(asv_site(tmp_path), vendor)


@pytest.mark.parametrize(
    ("library", "file"), [pytest.param(*pair, id=pair[1]["path"]) for pair in FILES]
)
def test_vendored_bytes_are_those_asv_asks_for(
    library: dict[str, object], file: dict[str, str]
) -> None:
    """Where the manifest says so, a file has the very digest that asv's page demands."""
    page = (ASV_PAGE_DIR / "index.html").read_text(encoding="utf-8")
    if "replaces" not in file:
        assert file["path"].startswith(("bootstrap/fonts/", "uplot/"))
        return
    tag = re.search(rf'{re.escape(file["replaces"])}" integrity="(\w+)-([^"]+)"', page)
    assert tag is not None
    digest = hashlib.new(tag[1], (VENDOR_DIR / file["path"]).read_bytes()).digest()
    same = base64.b64encode(digest).decode() == tag[2]
    assert same is library["same_bytes_as_asv_asks_for"]
    assert same or library["note"]


def test_manifest_lists_what_is_vendored() -> None:
    """Every vendored file is in the manifest, and every library has its licence beside it."""
    listed = {file["path"] for _, file in FILES}
    licences = {library["license_file"] for library in MANIFEST["libraries"]}
    present = {p.relative_to(VENDOR_DIR).as_posix() for p in VENDOR_DIR.rglob("*") if p.is_file()}
    assert present == listed | licences | {"manifest.json", ".gitattributes"}
    for library in MANIFEST["libraries"]:
        text = (VENDOR_DIR / library["license_file"]).read_text(encoding="utf-8")
        assert "The above copyright notice and this permission notice" in " ".join(text.split())
        assert library["npm_package"].endswith(f"@{library['version']}")


def test_server_listens_to_this_machine_alone(tmp_path: Path) -> None:
    """The server takes a free port of the loopback address."""
    site = site_with(tmp_path)
    with make_server(site, 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        with pytest.raises(PulseError, match=rf"port {port} of 127\.0\.0\.1 is not available"):
            make_server(site, port)
        with socket.create_connection((str(host), port), timeout=5):
            pass


def answered(server: ThreadingHTTPServer, path: str, host: str | None, how: str) -> Any:
    """The answer to a request with this Host."""
    connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=20)
    connection.putrequest(how, path, skip_host=True)
    if host is not None:
        connection.putheader("Host", host)
    connection.endheaders()
    answer = connection.getresponse()
    answer.read()
    connection.close()
    return answer


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("/index.html", "127.0.0.1:8000", 200),
        ("/index.html", "localhost", 200),
        ("/", "[::1]:80", 200),
        ("/index.html", "evil.example", 421),
        ("/index.html", "127.0.0.1.evil.example:80", 421),
        ("/index.html", "", 421),
        ("/index.html", None, 421),
        ("/live.json", "evil.example", 421),
        ("/live.json", "localhost", 200),
        ("/%00", "localhost", 404),
        ("/" + 400 * "a", "localhost", 404),
        ("/link.txt", "localhost", 404),
        ("/out/secret.txt", "localhost", 404),
        ("/loop", "localhost", 404),
        ("/folder/", "localhost", 404),
        ("/../secret.txt", "localhost", 404),
    ],
)
@pytest.mark.parametrize("how", ["GET", "HEAD"])
def test_only_the_site_is_served_and_only_to_this_machine(
    tmp_path: Path, path: str, host: str | None, status: int, how: str
) -> None:
    """For any request; each answer has the headers that keep others out."""
    site, secret = tmp_path / "site", tmp_path / "secret.txt"
    (site / "folder").mkdir(parents=True)
    secret.write_text("s3cret", encoding="utf-8")
    (site / "index.html").write_text("the page", encoding="utf-8")
    (site / "link.txt").symlink_to(secret)
    (site / "out").symlink_to(tmp_path)
    (site / "loop").symlink_to(site / "loop")
    with serving_site(site, OneAnswer()) as server:
        answer = answered(server, path, host, how)
    assert answer.status == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert "object-src 'none'" in answer.headers["Content-Security-Policy"]


class OneAnswer:
    """Live data."""

    def __call__(self, path: str) -> tuple[str, bytes] | None:
        return ("application/json", b"{}") if path == "/live.json" else None


@contextmanager
def serving_site(site: Path, live: OneAnswer | None = None) -> Iterator[ThreadingHTTPServer]:
    """A server that serves meanwhile."""
    with make_server(site, 0, live) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_half_open_connections_are_limited(tmp_path: Path) -> None:
    """In number, so that they take no more threads, and in time."""
    before = threading.active_count()
    with serving_site(site_with(tmp_path)) as server, ExitStack() as opened:
        # A client that finds the queue full tries again only a second later.
        server.socket.listen(512)
        for _ in range(300):
            address = ("127.0.0.1", int(server.server_address[1]))
            opened.enter_context(socket.create_connection(address, timeout=300))
        # The last of them has been closed, as all before it have been looked at.
        with socket.create_connection(address, timeout=300) as last:
            assert last.recv(1) == b""
        assert threading.active_count() - before < 100
        handler = server.RequestHandlerClass
        assert 0 < handler.func.timeout <= 30  # type: ignore[attr-defined]


def test_nothing_to_serve(tmp_path: Path) -> None:
    """Without a published site the error says how to get one."""
    with pytest.raises(PulseError, match="stageflow pulse build"):
        make_server(tmp_path, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ('{"branches": ["main"], // why\n}', "must name 'project'"),
        ('{"project": ', "is not JSON"),
        ("[]", "must name"),
        ("[" * 100_000, "is not JSON"),
    ],
)
def test_unusable_settings(tmp_path: Path, text: str | None, message: str) -> None:
    """A missing or malformed asv.conf.json is an error that names the file."""
    if text is not None:
        (tmp_path / "asv.conf.json").write_text(text, encoding="utf-8")
    with pytest.raises(PulseError, match=message) as caught:
        AsvProject.load(tmp_path)
    assert str(tmp_path / "asv.conf.json") in str(caught.value)


def test_serving_needs_no_asv_and_says_what_can_be_served(tmp_path: Path) -> None:
    """In a folder without a site the error names both: publishing one, and telemetry."""
    done = run_command(
        [sys.executable, "-S", "-m", "stageflow", "pulse", "serve", "--repository", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: there is no site in {tmp_path}")
    assert "stageflow pulse build; or show telemetry, --store FILE" in done.stderr


@pytest.mark.parametrize("command", ["bench", "build"])
def test_missing_asv_is_said(command: str) -> None:
    """Where asv is not installed, each command ends with what to install, and no traceback."""
    done = run_command(
        [sys.executable, "-S", "-m", "stageflow", "pulse", command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: asv is not installed")
    assert install_command("bench") in done.stderr
