"""A hook of mkdocs: what pages link to outside of ``docs/`` comes along, and is found.

The documents are read in the repository, too, where ``../benchmarks/README.md`` is right. In the
site such files lie in the folder ``repository/``, as they lie in the repository.
"""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[1]
FOLDER = "repository"
#: Files that may be linked to.
_TAKEN = (
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "SECURITY.md", "LICENSE"),
    *("benchmarks/README.md", "benchmarks/*.toml", "tests/README.md", "examples/*"),
    "stageflow/pulse/alerts/default.toml",
)
_LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#|/)([^)#\s]+)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files to the site."""
    for pattern in _TAKEN:
        for path in sorted(ROOT.glob(pattern)):
            if path.is_file():
                name = f"{FOLDER}/{path.relative_to(ROOT).as_posix()}"
                files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Turn links across the border of ``docs/`` into ones that hold in the site."""
    here = page.file.src_uri
    inside = not here.startswith(f"{FOLDER}/")
    at = posixpath.dirname(f"docs/{here}" if inside else here.removeprefix(f"{FOLDER}/"))

    def rewritten(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(at, link[1]))
        in_docs = target.startswith("docs/")
        if inside and in_docs:
            return link[1]
        place = target.removeprefix("docs/") if in_docs else f"{FOLDER}/{target}"
        return posixpath.relpath(place, posixpath.dirname(here) or ".")

    return _LINK.sub(rewritten, markdown)


def on_post_build(config: MkDocsConfig) -> None:
    """Write a page at each old address that leads to the new one."""
    for old, new in config.extra["moved"].items():
        at = Path(config.site_dir, old).with_suffix(".html")
        target = posixpath.relpath(new, posixpath.dirname(old) or ".").removesuffix(".md") + ".html"
        at.write_text(
            f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Moved</title>'
            f'<meta http-equiv="refresh" content="0; url={target}">'
            f'<p>This page has moved: <a href="{target}">{new.removesuffix(".md")}</a></html>\n',
            encoding="utf-8",
        )
