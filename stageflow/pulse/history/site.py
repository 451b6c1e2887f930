"""Publish the benchmark history as a site that needs no network, and serve it on this machine."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from pathlib import Path
from string import Template
from threading import BoundedSemaphore
from typing import Any, TypeAlias

from stageflow._utils.text import printable_lines
from stageflow.pulse.errors import PulseError
from stageflow.pulse.history import results
from stageflow.pulse.history.offline import STATIC_DIR, check_offline, make_offline
from stageflow.pulse.history.project import AsvProject, Emit

#: Parted by the one character that is in no message.
_GIT_FORMAT = "%x00%H%x00%an%x00%ct%x00%B%x00"
#: asv needs seconds, and a tenth of one for a file with a hundred series.
_PUBLISH_S, _PUBLISH_A_FILE_S = 300.0, 2.0


@dataclass(frozen=True, slots=True)
class Published:
    """The published page to open, and how many commits and benchmarks it shows."""

    index: Path
    commits: int
    benchmarks: int


def publish(
    project: AsvProject, emit: Emit = print, *, pages: Sequence[Callable[[Path], object]] = ()
) -> Published:
    """Make the site from all sound results, and replace the old one in one step.

    Each of `pages` writes more pages into the folder of the new site.

    Raises:
        PulseError: There are no results, or asv or git failed, or the new site would load something
            from outside; the old site is kept.
    """
    results.clear_corrupt(project, emit)
    measured = {result["commit_hash"] for result in results.read_results(project.results_dir)}
    if not measured:
        raise PulseError(
            f"there are no results in {project.results_dir}: measure some commits first, "
            "stageflow pulse bench"
        )
    branch = project.branch_ref()
    if project.is_shallow():
        emit("This clone is shallow: git fetch --unshallow brings the commits that are not shown.")
    if not (project.results_dir / results.BENCHMARKS_FILE).exists():
        emit("The list of benchmarks is missing; asv writes a new one.")
        discover(project, [project.git("rev-parse", f"{branch}^{{commit}}").strip()])

    staging = project.html_dir.with_name(f"{project.html_dir.name}.new")
    _let_asv_publish(project, staging)
    complete(project, staging, pages)
    old = project.html_dir.with_name(f"{project.html_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if project.html_dir.exists():
        project.html_dir.rename(old)
    staging.rename(project.html_dir)
    if (old / "docs").exists():
        (old / "docs").rename(project.html_dir / "docs")
    shutil.rmtree(old, ignore_errors=True)
    on_branch = set(project.git("rev-list", "--first-parent", branch, "--").split())
    return Published(
        index=project.html_dir / "index.html",
        commits=len(measured & on_branch),
        benchmarks=len(results.read_benchmarks(project.results_dir)),
    )


def complete(
    project: AsvProject, site_dir: Path, pages: Sequence[Callable[[Path], object]]
) -> None:
    """Let a site that asv wrote work without a network, and add the page of commits and others."""
    make_offline(site_dir)
    _write_commit_page(project, site_dir)
    for write in pages:
        write(site_dir)
    check_offline(site_dir)


def _let_asv_publish(project: AsvProject, staging: Path) -> None:
    """Let asv make its pages, within a time that grows with the number of results."""
    files = sorted(project.results_dir.glob("*/*-*.json"), key=lambda path: path.stat().st_mtime)
    limit_s = _PUBLISH_S + _PUBLISH_A_FILE_S * len(files)
    try:
        with project.config_of_branch() as options:
            command = ("publish", "--no-pull", "--html-dir", str(staging), *options)
            project.asv(*command, limit_s=limit_s)
    except PulseError as error:
        raise PulseError(
            f"{error}\nThe site is as it was. If asv cannot use a result, move its file away, the "
            f"newest first, and publish again (stageflow pulse build): {files[-1]}",
            code=error.code,
        ) from error


def discover(project: AsvProject, commits: list[str], machine_args: tuple[str, ...] = ()) -> None:
    """Let asv list the benchmarks of the working tree, with the first of `commits` that builds."""
    project.asv(
        *("run", "--bench", "just-discover", "--no-pull", *machine_args, "HASHFILE:-"),
        stdin="\n".join(commits),
    )


def _write_commit_page(project: AsvProject, site_dir: Path) -> None:
    """Write a page of commits, so that a point on a graph has a link that works offline."""
    index = json.loads((site_dir / "index.json").read_text(encoding="utf-8"))
    hashes = [h for _, h in sorted(index["revision_to_hash"].items(), key=lambda kv: -int(kv[0]))]
    form = (f"--format={_GIT_FORMAT}", "--no-ext-diff", "--stat")
    log = project.git("log", "--no-walk=unsorted", *form, *hashes, "--")
    parts = iter(printable_lines(part) for part in log.split("\0")[1:])
    commits = [
        [commit, author, int(at_s), message.strip(), stat.strip("\n")]
        for commit, author, at_s, message, stat in zip(*[parts] * 5, strict=True)
    ]
    length = index["hash_length"]
    write_script(
        site_dir / "central" / "log.json.js",
        "centralLog",
        {"piece": PIECE, "length": length, "hashes": "".join(hash_[:length] for hash_ in hashes)},
    )
    for first in range(0, len(commits), PIECE):
        path = site_dir / "central" / f"log-{first // PIECE}.json.js"
        piece = {"number": first // PIECE, "commits": commits[first : first + PIECE]}
        write_script(path, "centralLogPiece", piece)
    sections = (
        f'<section id="{commit[:length]}" class="commit"><h2>{html.escape(message)}</h2>'
        f"<p><code>{commit}</code> · {html.escape(author)}</p></section>"
        for commit, author, _, message, _ in commits[:NEWEST]
    )
    template = Template((STATIC_DIR / "commits.html").read_text(encoding="utf-8"))
    page = template.substitute(commits="\n".join(sections))
    (site_dir / "commits.html").write_text(page, encoding="utf-8")


#: The number of commits in a file of the history; a page loads such files on demand.
PIECE = 250
#: So many of the newest commits are in the page itself, for a browser without scripts.
NEWEST = 20


def write_script(path: Path, function: str, data: object) -> None:
    """Write data as a script that calls a function with them: a page on disk cannot fetch."""
    text = json.dumps(data, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    # Both characters end a line in older scripts.
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    path.write_text(f"{function}({text});\n", encoding="utf-8")


LOOPBACK = "127.0.0.1"
_LOCAL = re.compile(r"(?:127\.0\.0\.1|localhost|\[::1\])(?::\d+)?", re.IGNORECASE)
#: Pages run no script and load no data from elsewhere, and no other site frames them.
_POLICY = (
    "default-src 'self' data: 'unsafe-inline'; object-src 'none'; base-uri 'none';"
    " frame-ancestors 'none'"
)
#: How many requests are answered at once; further ones are closed.
_REQUESTS = 64


#: Returns the media type and the body for a path; None leaves it to the site's files.
Live: TypeAlias = Callable[[str], tuple[str, bytes] | None]


class _Handler(SimpleHTTPRequestHandler):
    #: How long a client may take for a request, in seconds.
    timeout = 10.0
    server_version, sys_version = "stageflow", ""

    def __init__(self, *arguments: Any, live: Live | None, **options: Any) -> None:
        # Set first: the constructor answers the request.
        self._live = live
        super().__init__(*arguments, **options)

    def send_head(self) -> Any:
        # Another site's page may reach this address under its own name.
        if not _LOCAL.fullmatch(self.headers.get("Host", "")):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return None
        answer = None if self._live is None else self._live(self.path.partition("?")[0])
        if answer is not None:
            kind, body = answer
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", f"{kind}; charset=utf-8")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            return BytesIO(body)
        if not self._is_in_site():
            self.send_error(HTTPStatus.NOT_FOUND)
            return None
        return super().send_head()

    def _is_in_site(self) -> bool:
        """Return whether the path is a file of the site, or a folder with an index."""
        try:
            path = Path(self.translate_path(self.path)).resolve(strict=True)
            if path.is_dir():
                path = (path / "index.html").resolve(strict=True)
        except (OSError, ValueError, RuntimeError):  # a NUL, or a loop of links
            return False
        return path.is_relative_to(Path(self.directory).resolve())

    def end_headers(self) -> None:
        # A reload must show a site that was published again.
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", _POLICY)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name
        """Say nothing: a line for each file loaded would hide the address."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, *arguments: Any) -> None:
        self._free = BoundedSemaphore(_REQUESTS)
        super().__init__(*arguments)

    def process_request(self, request: Any, client_address: Any) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()


def make_server(site_dir: Path, port: int, live: Live | None = None) -> ThreadingHTTPServer:
    """Return a server of the site on the loopback address; port 0 takes a free one.

    `live` answers for the paths that it knows, such as the data of a page that refreshes.
    """
    if not any(site_dir.glob("*.html")):
        fix = "publish it first, stageflow pulse build; or show telemetry, --store FILE"
        raise PulseError(f"there is no site in {site_dir}: {fix}")
    handler = partial(_Handler, live=live, directory=site_dir)
    try:
        return _Server((LOOPBACK, port), handler)
    except OSError as error:
        raise PulseError(
            f"port {port} of {LOOPBACK} is not available ({error.strerror}): "
            "name another with --port"
        ) from error


def address_of(server: ThreadingHTTPServer) -> str:
    """Return the address to open in a browser."""
    return f"http://{LOOPBACK}:{server.server_address[1]}/"
