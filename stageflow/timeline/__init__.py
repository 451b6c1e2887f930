"""A run's events drawn as a timeline: a Gantt chart of its stages, as text or as SVG."""

from stageflow.timeline.live import Moment, event_line, live_lines
from stageflow.timeline.model import InvalidEventsError, read_events, timeline
from stageflow.timeline.svg import timeline_svg
from stageflow.timeline.text import timeline_text

__all__ = [
    "InvalidEventsError",
    "Moment",
    "event_line",
    "live_lines",
    "read_events",
    "timeline",
    "timeline_svg",
    "timeline_text",
]
