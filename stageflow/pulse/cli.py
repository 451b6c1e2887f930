"""The commands of ``stageflow pulse``; those of the gate, the page and alerts are beside them."""

from __future__ import annotations

import argparse
import signal
import tempfile
from functools import partial
from pathlib import Path

from stageflow._utils.arguments import flag, option, positive, whole
from stageflow.pulse import history as hist
from stageflow.pulse.alerts import cli as alerts_cli
from stageflow.pulse.arguments import add_command, add_store, emit
from stageflow.pulse.dashboard import PAGE, live_site, publish_with_dashboard
from stageflow.pulse.dashboard import cli as dashboard_cli
from stageflow.pulse.gate import cli as gate_cli
from stageflow.pulse.history import AsvProject

DEFAULT_PORT = 8765
DEFAULT_HOURS = 24.0


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands to a parser; each sets ``run``, as `add_command` says."""
    add = partial(add_command, subparsers)
    parser = add("bench", "measure new commits and publish", _bench)
    text = "measure at most N commits (default: %(default)s)"
    option(parser, "-n --commits N", text, type=whole, default=hist.DEFAULT_COMMITS)
    hist.add_machine(parser)
    option(parser, "--bench REGEX", "only benchmarks whose name matches", dest="pattern")
    hist.add_shard(parser)
    text = "override an attribute of all benchmarks, such as rounds=1; may be repeated"
    more = {"action": "append", "default": [], "dest": "attributes"}
    option(parser, "-a --attribute NAME=VALUE", text, **more)
    flag(parser, "--retry-failed", "measure again where benchmarks failed")
    parser = add("merge", "add results of other machines", _merge)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER")
    parser = add("build", "publish the present results", _build)
    text = "(default: .asv/telemetry.db, or as benchmarks/pulse.toml says)"
    add_store(parser, f"what Central Pulse shows {text}")
    parser = add("serve", "serve the published site", _serve)
    option(
        parser,
        "--port",
        "the port; 0 takes a free one (default: %(default)s)",
        type=int,
        default=DEFAULT_PORT,
    )
    add_store(parser, "show this telemetry live")
    text = "show the newest N hours of telemetry (default: %(default)g)"
    option(parser, "--hours N", text, type=positive, default=DEFAULT_HOURS)
    for others in (dashboard_cli, alerts_cli, gate_cli):
        others.add_commands(add)


def _bench(arguments: argparse.Namespace) -> int:
    # A terminated run publishes what it has too, and leaves no asv behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    names = hist.BenchOptions.__dataclass_fields__
    options = hist.BenchOptions(**{name: getattr(arguments, name) for name in names})
    return hist.bench(AsvProject.load(arguments.repository), options, emit, publish_with_dashboard)


def _merge(arguments: argparse.Namespace) -> None:
    done = hist.merge(AsvProject.load(arguments.repository), arguments.folders, emit)
    emit(f"{done.rows} measurements merged, {done.files} files changed")


def _build(arguments: argparse.Namespace) -> None:
    project = AsvProject.load(arguments.repository)
    published = publish_with_dashboard(project, emit, store=arguments.store)
    hist.say_how_to_open(project, published, emit)


def _serve(arguments: argparse.Namespace) -> None:
    store = arguments.store
    project = AsvProject.load(arguments.repository, reads_only=True)
    site_dir, page, live = project.html_dir, "", None
    with tempfile.TemporaryDirectory(prefix="central-") as alone:
        if store is not None:
            page, newest_s = PAGE, arguments.hours * 3600
            site_dir, live = live_site(project, store, newest_s, Path(alone), emit)
        with hist.make_server(site_dir, arguments.port, live) as server:
            emit(f"Open {hist.address_of(server)}{page} (Ctrl-C ends)")
            try:
                server.serve_forever()
            except KeyboardInterrupt:
                emit("")
