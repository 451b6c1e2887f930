"""``stageflow graph`` and ``stageflow timeline``: a pipeline, or what a run did, drawn."""

from __future__ import annotations

import argparse

from stageflow.cli.load import load_pipeline
from stageflow.cli.options import (
    Commands,
    add_color,
    add_pipeline,
    described,
    read_lines,
    say,
    terminal_width,
    wants_color,
    write_text,
)
from stageflow.graph import StageGraph
from stageflow.pipeline import Pipeline
from stageflow.timeline import read_events, timeline_svg, timeline_text

_GRAPH_EXAMPLES = """\
  stageflow graph voice
  stageflow graph streaming_voice
  stageflow graph chat --format text
  stageflow graph shop.turns:order > order.mmd
"""

_TIMELINE_EXAMPLES = """\
  stageflow run voice --events turn.jsonl
  stageflow timeline turn.jsonl
  stageflow timeline turn.jsonl --svg turn.svg
  grep 3f0c6b turn.jsonl | stageflow timeline -      one run of several, by its id
"""


def add_commands(commands: Commands) -> None:
    """Add the commands ``graph`` and ``timeline``."""
    parser = described(commands, "graph", "draw the graph of a pipeline", _GRAPH_EXAMPLES)
    add_pipeline(parser)
    parser.add_argument(
        "--format",
        choices=("mermaid", "text"),
        default="mermaid",
        help="a Mermaid flowchart, or a list of the stages (default: %(default)s)",
    )
    parser.set_defaults(run=_graph)

    parser = described(
        commands, "timeline", "draw the timeline of a run from its events", _TIMELINE_EXAMPLES
    )
    parser.add_argument("file", metavar="FILE", help="events as JSON lines; - reads standard input")
    parser.add_argument("--svg", metavar="FILE", help="draw to a file instead")
    add_color(parser)
    parser.set_defaults(run=_timeline)


def _graph(arguments: argparse.Namespace) -> int:
    pipeline = load_pipeline(arguments.pipeline)
    say((pipeline.draw() if arguments.format == "mermaid" else listed(pipeline)).rstrip("\n"))
    return 0


def listed(pipeline: Pipeline) -> str:
    """The stages in the order in which they run, each with what it waits for and gives."""
    graph = StageGraph(pipeline.stages, name=pipeline.name, inputs=pipeline.inputs)
    lines = [f"{pipeline.name} ({', '.join(pipeline.inputs) or 'no inputs'})"]
    width = max((len(spec.name) for spec in graph.specs), default=0)
    for name in graph.topological_order():
        spec = graph[name]
        parts = [f"{spec.kind:<9}", "required" if spec.required else "optional"]
        if spec.timeout_s is not None:
            parts.append(f"at most {spec.timeout_s:g} s")
        if spec.dependencies:
            parts.append(f"after {', '.join(spec.dependencies)}")
        if spec.outputs:
            parts.append(f"→ {', '.join(spec.outputs)}")
        if spec.streams:
            parts.append(f"⇒ {', '.join(spec.streams)}")
        lines.append(f"  {name:<{width}}  {'  '.join(parts)}")
    return "\n".join(lines) + "\n"


def _timeline(arguments: argparse.Namespace) -> int:
    events = read_events(read_lines(arguments.file))
    if arguments.svg is not None:
        write_text(arguments.svg, timeline_svg(events))
    else:
        color = wants_color(arguments.color)
        say(timeline_text(events, terminal_width(), color=color).rstrip("\n"))
    return 0
