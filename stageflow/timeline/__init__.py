"""Draw the events of a run as a timeline, a Gantt chart of its stages: as text or as SVG."""

from stageflow.timeline.charts import Moment, event_line, live_lines, timeline_svg, timeline_text
from stageflow.timeline.model import InvalidEventsError, read_events, timeline

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
