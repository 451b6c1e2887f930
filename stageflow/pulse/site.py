"""Publish the benchmark history as a site that needs no network, not even a server."""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from string import Template

from stageflow.pulse.central.page import write_central
from stageflow.pulse.errors import PulseError
from stageflow.pulse.offline import STATIC_DIR, check_offline, make_offline
from stageflow.pulse.project import AsvProject
from stageflow.pulse.results import (
    BENCHMARKS_FILE,
    SetAside,
    read_benchmarks,
    read_results,
    report_set_aside,
    set_aside_corrupt,
)
from stageflow.telemetry.place import Place, open_store

_RECORD, _FIELD = "\x1e", "\x1f"
_GIT_FORMAT = f"{_RECORD}%H{_FIELD}%an{_FIELD}%ad{_FIELD}%B{_FIELD}"

Emit = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Published:
    """What was published.

    Attributes:
        index: The page to open.
        commits: Number of commits of the branch that have results.
        benchmarks: Number of benchmarks on the grid.
        set_aside: Corrupt result files that were left out.
    """

    index: Path
    commits: int
    benchmarks: int
    set_aside: list[SetAside]


def publish(project: AsvProject, emit: Emit = print, *, store: Place | None = None) -> Published:
    """Make the site from all sound results, and put it in place of the old one in one step.

    Args:
        project: The repository whose results are published.
        emit: Is told, line by line, what is worth knowing.
        store: Telemetry for Central Pulse; None: the one in ``.asv``, if
            there is one.

    Raises:
        PulseError: There are no results, or asv or git failed; the old site still stands.
        TelemetryError: The named store cannot be read; the old site still stands.
        NotOfflineError: The new site would load something from outside; the old one still stands.
    """
    if store is not None:
        # Before asv takes its time.
        open_store(store).close()
    set_aside = set_aside_corrupt(project.results_dir, project.set_aside_dir)
    report_set_aside(set_aside, project.root, emit)
    measured = {result["commit_hash"] for result in read_results(project.results_dir)}
    if not measured:
        raise PulseError(
            f"there are no results in {project.results_dir}: measure some commits first, "
            "python -m stageflow.pulse bench"
        )
    project.require_branch()
    if not (project.results_dir / BENCHMARKS_FILE).exists():
        emit("The list of benchmarks is missing; asv makes it anew.")
        discover(project, [project.git("rev-parse", project.branch).strip()])

    staging = project.html_dir.with_name(f"{project.html_dir.name}.new")
    project.asv("publish", "--no-pull", "--html-dir", str(staging))
    make_offline(staging)
    _write_commit_page(project, staging)
    write_central(project, staging, emit, store=store)
    check_offline(staging)
    _put_in_place(staging, project.html_dir)
    on_branch = set(project.git("rev-list", "--first-parent", project.branch).split())
    return Published(
        index=project.html_dir / "index.html",
        commits=len(measured & on_branch),
        benchmarks=len(read_benchmarks(project.results_dir)),
        set_aside=set_aside,
    )


def discover(project: AsvProject, commits: list[str], machine_args: tuple[str, ...] = ()) -> None:
    """Let asv list the benchmarks of the working tree, with the first of `commits` that builds.

    Raises:
        AsvFailedError: The benchmarks could not be imported with any of the commits.
    """
    project.asv(
        *("run", "--bench", "just-discover", "--no-pull", *machine_args, "HASHFILE:-"),
        stdin="\n".join(commits),
    )


def _write_commit_page(project: AsvProject, site_dir: Path) -> None:
    """The site's own page of commits, so that a point on a graph leads somewhere offline."""
    index = json.loads((site_dir / "index.json").read_text(encoding="utf-8"))
    hashes = [h for _, h in sorted(index["revision_to_hash"].items(), key=lambda kv: -int(kv[0]))]
    log = project.git("log", "--no-walk=unsorted", f"--format={_GIT_FORMAT}", "--stat", *hashes)
    sections = []
    for record in log.split(_RECORD)[1:]:
        commit, author, date, message, stat = map(html.escape, record.split(_FIELD))
        short = commit[: index["hash_length"]]
        subject, _, body = message.strip().partition("\n")
        sections.append(
            f'<section id="{short}"><h4 id="{commit}"><code>{short}</code> {subject}</h4>'
            f"<p>{author}, {date}</p><p>{body}</p><pre>{stat.strip(chr(10))}</pre></section>"
        )
    template = Template((STATIC_DIR / "commits.html").read_text(encoding="utf-8"))
    page = template.substitute(commits="\n".join(sections))
    (site_dir / "commits.html").write_text(page, encoding="utf-8")


def _put_in_place(staging: Path, site_dir: Path) -> None:
    old = site_dir.with_name(f"{site_dir.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if site_dir.exists():
        site_dir.rename(old)
    staging.rename(site_dir)
    shutil.rmtree(old, ignore_errors=True)
