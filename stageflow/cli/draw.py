"""``stageflow graph`` and ``stageflow timeline``: draw a pipeline, or the events of a run."""

from __future__ import annotations

import argparse

from stageflow._utils.arguments import option
from stageflow._utils.text import printable, printable_lines
from stageflow.cli import common
from stageflow.cli.common import say
from stageflow.cli.providers import load_pipeline
from stageflow.engine import Pipeline, StageGraph
from stageflow.timeline import read_events, timeline_svg, timeline_text


def configure_graph(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow graph``."""
    common.add_pipeline(parser)
    text = "a Mermaid flowchart, or a list of the stages (default: %(default)s)"
    option(parser, "--format", text, choices=("mermaid", "text"), default="mermaid")
    parser.set_defaults(run=_graph)


def configure_timeline(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of ``stageflow timeline``."""
    parser.add_argument("file", metavar="FILE", help="events as JSON lines; - reads standard input")
    option(parser, "--svg FILE", "write an SVG file instead")
    common.add_color(parser)
    parser.set_defaults(run=_timeline)


def _graph(arguments: argparse.Namespace) -> None:
    pipeline = load_pipeline(arguments.pipeline)
    drawn = pipeline.draw() if arguments.format == "mermaid" else listed(pipeline)
    say(printable_lines(drawn.rstrip("\n")))


def listed(pipeline: Pipeline) -> str:
    """Return the stages in the order in which they run, with dependencies and outputs."""
    graph = StageGraph(pipeline.stages, name=pipeline.name)
    known = (*pipeline.inputs, *(f"{key}?" for key in pipeline.optional_inputs))
    lines = [f"{pipeline.name} ({', '.join(known) or 'no inputs'})"]
    width = max((len(spec.name) for spec in graph.specs), default=0)
    for number in graph.order:
        spec = graph.specs[number]
        parts = [f"{spec.kind:<9}", "required" if spec.required else "optional"]
        if spec.timeout_s is not None:
            parts.append(f"at most {spec.timeout_s:g} s")
        before = [graph.specs[one].name for one in graph.predecessors[number]]
        if before := list(dict.fromkeys((*spec.dependencies, *before))):
            parts.append(f"after {', '.join(before)}")
        if spec.outputs:
            parts.append(f"→ {', '.join(spec.outputs)}")
        if spec.streams:
            parts.append(f"⇒ {', '.join(spec.streams)}")
        lines.append(f"  {spec.name:<{width}}  {'  '.join(parts)}")
    return "\n".join(map(printable, lines)) + "\n"


def _timeline(arguments: argparse.Namespace) -> None:
    events = read_events(common.read_lines(arguments.file))
    if arguments.svg is not None:
        common.write_text(arguments.svg, timeline_svg(events))
    else:
        color = common.wants_color(arguments.color)
        say(timeline_text(events, common.terminal_width(), color=color).rstrip("\n"))
