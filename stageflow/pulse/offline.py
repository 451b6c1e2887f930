"""Make a site that ``asv publish`` wrote work without a network, and prove that it does.

asv's page loads its libraries from content delivery networks and its data by requests that a
browser forbids to a page opened from disk. Here the libraries are put beside the page, its links
are rewritten, and each data file gets a twin that can be loaded as a script.
"""

from __future__ import annotations

import hashlib
import html
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import urlsplit

from stageflow.pulse.errors import NotOfflineError, PulseError

STATIC_DIR = Path(__file__).parent / "static"
VENDOR_DIR = STATIC_DIR / "vendor"
_OWN_SCRIPTS = ("offline.js", "lone_points.js", "central_link.js")
_FIRST_ASV_SCRIPT = "asv.js"

# What a browser fetches by itself; an <a href> is fetched only when a person follows it.
_LOADING_ATTRIBUTES = {
    "audio": ("src",),
    "embed": ("src",),
    "iframe": ("src",),
    "img": ("src",),
    "input": ("src",),
    "object": ("data",),
    "script": ("src",),
    "source": ("src",),
    "track": ("src",),
    "video": ("src", "poster"),
}
_NAVIGATION_RELS = {
    "alternate",
    "author",
    "canonical",
    "help",
    "license",
    "next",
    "prev",
    "search",
}
_BOUND_TO_THE_OUTSIDE = {"integrity", "crossorigin", "referrerpolicy"}
_CSS_LOAD = re.compile(r"""(?:url\(\s*|@import\s+)["']?([^"')\s;]+)""")
_JS_ADDRESS = re.compile(r"""["'`]((?:https?:|wss?:)?//[^"'`\s]+)""")


@dataclass(frozen=True, slots=True)
class _Tag:
    """A start tag that loads something: where it stands in the text, and its attributes."""

    start: int
    text: str
    name: str
    attributes: dict[str, str | None]
    loading: str

    @property
    def address(self) -> str:
        return self.attributes[self.loading] or ""

    def pointing_to(self, address: str) -> str:
        """The tag's text, loading `address` from beside the page."""
        kept = {k: v for k, v in self.attributes.items() if k not in _BOUND_TO_THE_OUTSIDE}
        kept[self.loading] = address
        rendered = (k if v is None else f'{k}="{html.escape(v)}"' for k, v in kept.items())
        return f"<{self.name} {' '.join(rendered)}>"


class _LoadingTags(HTMLParser):
    """Collects the tags of a page that make the browser load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[_Tag] = []
        self._line_starts = [0, *(match.end() for match in re.finditer("\n", page))]
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        loading = set(_LOADING_ATTRIBUTES.get(tag, ()))
        if tag == "link" and not _NAVIGATION_RELS & set((attributes.get("rel") or "").split()):
            loading = {"href"}
        line, column = self.getpos()
        for name in loading & attributes.keys():
            text = self.get_starttag_text() or ""
            start = self._line_starts[line - 1] + column
            self.tags.append(_Tag(start, text, tag, attributes, name))


def make_offline(site_dir: Path, vendor_dir: Path = VENDOR_DIR) -> None:
    """Vendor the libraries into the asv site in `site_dir`, and let it read its data from disk.

    Args:
        site_dir: What ``asv publish`` wrote; changed in place.
        vendor_dir: The libraries, with the manifest that says what each replaces.

    Raises:
        PulseError: A vendored file is not the one that the manifest describes.
        NotOfflineError: The page still loads something from outside, or a file that is missing.
    """
    replacements = _vendor_libraries(site_dir, vendor_dir)
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
    """Check that all that the pages, scripts and styles of `site_dir` load lies within it.

    Vendored libraries are known by their digests, so their scripts are not searched.

    Raises:
        NotOfflineError: Names each file and the address that it would load.
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
        raise NotOfflineError(
            "the site would not work without a network: "
            + "; ".join(problems)
            + ". If asv was upgraded, vendor what it asks for now: "
            "see stageflow/pulse/static/vendor/manifest.json"
        )


def _loads(path: Path, site_dir: Path) -> Iterator[str]:
    text = path.read_text(encoding="utf-8")
    vendored = path.is_relative_to(site_dir / "vendor")
    if path.suffix == ".html":
        yield from (tag.address for tag in _LoadingTags(text).tags)
    if path.suffix in {".html", ".css"}:
        yield from _CSS_LOAD.findall(text)
    elif not vendored and not path.name.endswith(".json.js"):
        yield from _JS_ADDRESS.findall(text)


def _rewritten(page: str, replacements: dict[str, str]) -> str:
    """The page with its outside links pointed to the vendored files, else as it was."""
    asv_script_seen = False
    own_scripts = "".join(f'<script src="{script}"></script>\n    ' for script in _OWN_SCRIPTS)
    for tag in reversed(_LoadingTags(page).tags):
        before, after = page[: tag.start], page[tag.start + len(tag.text) :]
        if tag.address == _FIRST_ASV_SCRIPT:
            asv_script_seen = True
            page = f"{before}{own_scripts}{tag.text}{after}"
        for ending, vendored in replacements.items():
            if tag.address.endswith(f"/{ending}"):
                page = before + tag.pointing_to(vendored) + after
    if not asv_script_seen:
        raise NotOfflineError(f"asv's index.html no longer loads {_FIRST_ASV_SCRIPT}")
    return page


def copy_libraries(site_dir: Path, vendor_dir: Path = VENDOR_DIR) -> None:
    """Copy the vendored libraries into a site."""
    shutil.copytree(vendor_dir, site_dir / "vendor", ignore=shutil.ignore_patterns(".git*"))


def _vendor_libraries(site_dir: Path, vendor_dir: Path) -> dict[str, str]:
    """Copy the vendored libraries; returns the vendored path by the ending of what it replaces.

    Raises:
        PulseError: A vendored file is not the one that the manifest describes.
    """
    manifest = json.loads((vendor_dir / "manifest.json").read_text(encoding="utf-8"))
    replacements = {}
    for library in manifest["libraries"]:
        for file in library["files"]:
            digest = hashlib.sha256((vendor_dir / file["path"]).read_bytes()).hexdigest()
            if digest != file["sha256"]:
                raise PulseError(
                    f"{vendor_dir / file['path']} has sha256 {digest}, the manifest says "
                    f"{file['sha256']}: check out the file again, without changing line ends"
                )
            if "replaces" in file:
                replacements[file["replaces"]] = f"vendor/{file['path']}"
    copy_libraries(site_dir, vendor_dir)
    return replacements
