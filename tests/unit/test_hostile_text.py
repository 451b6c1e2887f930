"""Names and texts with special characters stay inside the formats that they are written into."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

from stageflow import Pipeline, StageSpec
from stageflow.cli.init import files
from stageflow.pulse.alerts.prometheus import error_rate
from stageflow.testing import do_nothing
from stageflow.timeline import timeline_svg
from tests.utils.dead_letters import make_letter

HOSTILE = 'a"|\n    click s0 "javascript:alert(1)" \\'


def test_a_streams_key_stays_in_its_mermaid_label() -> None:
    """It adds neither a line nor a quote nor a bar to the drawing."""
    specs = [
        StageSpec("write", do_nothing, streams=(HOSTILE,)),
        StageSpec("read", do_nothing, ("write",), inputs=(HOSTILE,)),
    ]
    harmless = [replace(specs[0], streams=("a",)), replace(specs[1], inputs=("a",))]
    drawn = Pipeline("p", specs).draw()
    (arrow,) = [line for line in drawn.splitlines() if "==>" in line]
    assert arrow.count("|") == 2
    assert '"' not in arrow
    assert "\\" not in arrow
    assert len(drawn.splitlines()) == len(Pipeline("p", harmless).draw().splitlines())
    assert "==>|a|" in Pipeline("p", harmless).draw()


def test_control_characters_leave_a_timeline_well_formed() -> None:
    """XML can hold no control character, escaped or not."""
    name = "\0\x1b[2J\ufffe\ud800<script>"
    event = replace(make_letter().events[0], data={"pipeline": name})
    started = replace(event, sequence=2, type=f"stage.{name}.started", stage=name)
    drawn = timeline_svg([event, started])
    ET.fromstring(drawn)
    drawn.encode()


def test_a_pipelines_name_stays_in_its_selector() -> None:
    """Quotes, backslashes and line ends are escaped as PromQL escapes them."""
    name = 'a"} or vector(1) \\ \n'
    assert f"pipeline={json.dumps(name)}," in error_rate("5m", name)


def test_a_requirement_stays_one_entry_of_a_project() -> None:
    """A quote or a backslash neither ends the text nor names a group."""
    where = ' @ file:///a\\1"b'
    texts = dict(files("shop", where))
    project = tomllib.loads(texts[Path("pyproject.toml")])["project"]
    assert any(entry.endswith(where) for entry in project["dependencies"])
