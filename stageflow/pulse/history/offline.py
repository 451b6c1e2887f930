"""Make a site that ``asv publish`` wrote work without a network, and check that it does.

asv's page loads its libraries from content delivery networks, and its data by requests that a
browser forbids to a page opened from disk. So the libraries are copied beside the page, its links
are rewritten, and each data file gets a twin that can be loaded as a script.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

from stageflow.pulse.errors import PulseError

STATIC_DIR = Path(__file__).parents[1] / "static"
VENDOR_DIR = STATIC_DIR / "vendor"
_OWN_SCRIPTS = ("offline.js", "lone_points.js", "central_link.js")
_FIRST_ASV_SCRIPT = "asv.js"
# What a browser fetches by itself; an <a href> is fetched only when a person follows it.
_LOADING_ATTRIBUTES = {"src", "data", "poster"}
_NAVIGATION_RELS = {"alternate", "author", "canonical", "help", "license", "next", "prev", "search"}
_BOUND_TO_THE_OUTSIDE = {"integrity", "crossorigin", "referrerpolicy", "onerror"}
#: asv writes names of benchmarks, parameters and machines as HTML: only files of the site may run.
_POLICY = (
    "default-src 'self' file: data:; script-src 'self' file:; style-src 'self' file:"
    " 'unsafe-inline'; object-src 'none'; base-uri 'none'; form-action 'none'"
)
_INLINE_SCRIPT = re.compile(r"<script(?![^>]*\bsrc\b)[^>]*>.*?</script>", re.DOTALL | re.IGNORECASE)
_CSS_LOAD = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""")
_JS_ADDRESS = re.compile(r"""["'`]((?:https?:|wss?:)?//[^"'`\s]+)""")


class _LoadingTags(HTMLParser):
    """Collects the start tags that load something: place and text, name, attributes, address."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[int, str, str, dict[str, str | None], str]] = []
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", page))]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        loading = _LOADING_ATTRIBUTES
        if tag == "link" and not _NAVIGATION_RELS & set((attributes.get("rel") or "").split()):
            loading = {"href"}
        line, column = self.getpos()
        start, text = self._line_starts[line - 1] + column, self.get_starttag_text() or ""
        for name in loading & attributes.keys():
            self.tags.append((start, text, tag, attributes, name))


def make_offline(site_dir: Path, vendor_dir: Path = VENDOR_DIR) -> None:
    """Vendor the libraries into the asv site in `site_dir`, and let it read its data from disk.

    Raises:
        PulseError: A vendored file is not as the manifest describes it, or the page still loads
            something from outside, or a file that is missing.
    """
    manifest = json.loads((vendor_dir / "manifest.json").read_text(encoding="utf-8"))
    #: The path of each library by the ending of what it replaces.
    replacements = {}
    for file in (file for library in manifest["libraries"] for file in library["files"]):
        digest = hashlib.sha256((vendor_dir / file["path"]).read_bytes()).hexdigest()
        if digest != file["sha256"]:
            raise PulseError(
                f"{vendor_dir / file['path']} has sha256 {digest}, the manifest says "
                f"{file['sha256']}: check out the file again, without changing line ends"
            )
        if "replaces" in file:
            replacements[file["replaces"]] = f"vendor/{file['path']}"
    copy_libraries(site_dir, vendor_dir)
    for script in _OWN_SCRIPTS:
        shutil.copy(STATIC_DIR / script, site_dir)
    index = site_dir / "index.html"
    page = index.read_text(encoding="utf-8")
    index.write_text(_rewritten(page, replacements), encoding="utf-8")
    for data in site_dir.rglob("*.json"):
        if not data.is_relative_to(site_dir / "vendor"):
            twin = data.with_name(f"{data.name}.js")
            twin.write_text(f"stageflowOffline({data.read_text(encoding='utf-8')});\n", "utf-8")
    check_offline(site_dir)


def check_offline(site_dir: Path) -> None:
    """Check that the pages, scripts and styles of `site_dir` load only files within it.

    Vendored libraries are known by their digests, so their scripts are not searched.
    """
    problems = []
    for path in sorted(p for p in site_dir.rglob("*") if p.suffix in {".html", ".css", ".js"}):
        for address in _loads(path, site_dir):
            parts = urlsplit(address)
            where = path.relative_to(site_dir)
            if parts.scheme == "data" or address.startswith("#"):
                continue
            if parts.scheme or parts.netloc:
                problems.append(f"{where} loads {address} from outside")
            elif not (path.parent / parts.path).exists():
                problems.append(f"{where} loads {address}, which is missing")
    if problems:
        raise PulseError(
            "the site would not work without a network: "
            + "; ".join(problems)
            + ". If asv was upgraded, vendor what it asks for now: "
            "see stageflow/pulse/static/vendor/manifest.json",
            code="pulse_site_not_offline",
        )


def _loads(path: Path, site_dir: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    vendored = path.is_relative_to(site_dir / "vendor")
    if path.suffix == ".html":
        yield from (tags[name] or "" for *_, tags, name in _LoadingTags(text).tags)
    if path.suffix in {".html", ".css"}:
        yield from _CSS_LOAD.findall(text)
    elif not vendored and not path.name.endswith(".json.js"):
        yield from _JS_ADDRESS.findall(text)


def _rewritten(page: str, replacements: dict[str, str]) -> str:
    asv_script_seen = False
    own_scripts = "".join(f'<script src="{script}"></script>\n    ' for script in _OWN_SCRIPTS)
    for start, text, tag, attributes, loading in reversed(_LoadingTags(page).tags):
        before, after = page[:start], page[start + len(text) :]
        address = attributes[loading] or ""
        if address == _FIRST_ASV_SCRIPT:
            asv_script_seen = True
            page = f"{before}{own_scripts}{text}{after}"
        for ending, vendored in replacements.items():
            if address.endswith(f"/{ending}"):
                kept = {k: v for k, v in attributes.items() if k not in _BOUND_TO_THE_OUTSIDE}
                kept[loading] = vendored
                words = (k if v is None else f'{k}="{html.escape(v)}"' for k, v in kept.items())
                page = f"{before}<{tag} {' '.join(words)}>{after}"
    if not asv_script_seen:
        raise PulseError(
            f"asv's index.html no longer loads {_FIRST_ASV_SCRIPT}", code="pulse_site_not_offline"
        )
    page = _INLINE_SCRIPT.sub("", page)
    policy = f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
    return re.sub("<head[^>]*>", lambda head: head[0] + policy, page, count=1)


def copy_libraries(site_dir: Path, vendor_dir: Path = VENDOR_DIR) -> None:
    """Copy the vendored libraries and our own scripts and styles into a site."""
    ignored = shutil.ignore_patterns(".git*", "*.html")
    shutil.copytree(vendor_dir, site_dir / "vendor", ignore=ignored)
    shutil.copytree(STATIC_DIR / "central", site_dir / "central", ignore=ignored)
