"""The published site loads nothing from outside, and what stands in its way is said plainly."""

from __future__ import annotations

import base64
import hashlib
import importlib.resources
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from stageflow.pulse.errors import NotOfflineError, PulseError
from stageflow.pulse.offline import VENDOR_DIR, check_offline, make_offline
from stageflow.pulse.project import AsvProject
from stageflow.pulse.serve import make_server
from tests.utils.asv_repo import ROOT

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
    vendored = [file for _, file in FILES if "replaces" in file]
    replaced = {file["replaces"].split("/")[-1]: f"vendor/{file['path']}" for file in vendored}
    expected = [replaced[a.split("/")[-1]] if "://" in a else a for a in before]
    assert [a for a in after if a not in own] == expected
    assert after.index(own[0]) == after.index("asv.js") - len(own)
    assert "integrity" not in (site / "index.html").read_text(encoding="utf-8")


def test_rest_of_the_page_stays(tmp_path: Path) -> None:
    """But for the tags that load something, asv's page is published letter by letter."""
    site = asv_site(tmp_path)
    make_offline(site)
    tags = re.compile(r"<(?:script|link)\b[^>]*>(?:</script>\s*)?")
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
    with pytest.raises(NotOfflineError, match=re.escape(f"index.html loads {address}")):
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
    with pytest.raises(NotOfflineError, match=rf"{name} loads .*cdn\.invalid.* from outside"):
        check_offline(site)


def test_links_that_a_person_follows_are_allowed(tmp_path: Path) -> None:
    """What is only fetched when somebody clicks it may lead outside, and data: URLs may stand."""
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
    with pytest.raises(NotOfflineError, match=r"no longer loads asv\.js"):
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
        assert "permission notice shall be" in " ".join(text.split())
        assert library["npm_package"].endswith(f"@{library['version']}")


def test_server_listens_to_this_machine_alone(tmp_path: Path) -> None:
    """The server takes a free port of the loopback address."""
    site = site_with(tmp_path)
    with make_server(site, 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        with pytest.raises(PulseError, match=rf"port {port} of 127\.0\.0\.1 cannot be had"):
            make_server(site, port)
        with socket.create_connection((str(host), port), timeout=5):
            pass


def test_nothing_to_serve(tmp_path: Path) -> None:
    """Without a published site the error says how to get one."""
    with pytest.raises(PulseError, match=r"stageflow\.pulse build"):
        make_server(tmp_path, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "does not exist"),
        ('{"branches": ["main"], // why\n}', "not plain JSON"),
        ('{"branches": [], "results_dir": "r", "html_dir": "h"}', "must name 'branches'"),
        ('{"branches": ["main"], "html_dir": "h"}', "'results_dir'"),
        ("[]", "must name"),
    ],
)
def test_unusable_settings(tmp_path: Path, text: str | None, message: str) -> None:
    """A missing or malformed asv.conf.json is an error that names the file."""
    if text is not None:
        (tmp_path / "asv.conf.json").write_text(text, encoding="utf-8")
    with pytest.raises(PulseError, match=message) as caught:
        AsvProject.load(tmp_path)
    assert str(tmp_path / "asv.conf.json") in str(caught.value)


@pytest.mark.parametrize("command", ["bench", "build", "serve"])
def test_missing_asv_is_said(command: str) -> None:
    """Where asv is not installed, each command ends with what to install, and no traceback."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "stageflow.pulse", command],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: asv is not installed")
    assert "stageflow[bench]" in done.stderr
