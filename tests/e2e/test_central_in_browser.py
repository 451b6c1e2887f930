"""Central Pulse in a real browser, with every address outside the site blocked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Locator, Page, expect

from stageflow.pulse.dashboard import (
    PAGE,
    LiveBudgets,
    LiveTelemetry,
    publish_with_dashboard,
    write_central,
)
from stageflow.pulse.gate import Exit, GateRun, record_run
from stageflow.pulse.history import AsvProject, copy_libraries, make_server
from tests.utils import central
from tests.utils.browser import Visit, serving, visiting
from tests.utils.telemetry import NOON_S, run_log, sink_of, voice_log

pytestmark = pytest.mark.slow

COMMITS, METRICS, RUNS = 40, 4, 600
BUILD = central.names(METRICS)[0]
STEP = int(central.STEP_AT * COMMITS)
PANELS = [
    "now",
    "history",
    "first-audio",
    "latency",
    "errors",
    "breakers",
    "gate",
    "load",
    "figures",
]
# How many pixels of a chart are neither empty nor grey.
COLOURED = """canvas => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let coloured = 0;
    for (let i = 0; i < data.length; i += 4) {
        const least = Math.min(data[i], data[i + 1], data[i + 2]);
        coloured += data[i + 3] > 0 && Math.max(data[i], data[i + 1], data[i + 2]) - least > 60;
    }
    return coloured;
}"""
SHOWN = "() => { const x = central.state.history.u.scales.x; return [x.min, x.max]; }"


@dataclass(frozen=True)
class Site:
    """A published site, and what it was made from."""

    project: AsvProject
    folder: Path
    hashes: list[str]
    store: Path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A site of some commits, some turns, and two runs of the gate, published by asv and by us."""
    folder = tmp_path_factory.mktemp("central")
    project = central.repository(folder / "repo", COMMITS, METRICS)
    hashes = project.git("rev-list", "--reverse", "main").split()
    for code in (Exit.OK, Exit.REGRESSION):
        record_run(project.root, GateRun.now(hashes[-2], hashes[-1], code, 61.5))
    central.write_selftest(project)
    wrong = central.a_load(memory_growth=0.08, faults=["memory grew by 8.0%"])
    (project.results_dir / "load.jsonl").write_text(wrong + central.a_load(), encoding="utf-8")
    figures = central.voice_figures(0.3) + central.voice_figures(commit="b" * 40)
    (project.results_dir / "voice.jsonl").write_text(figures, encoding="utf-8")
    central.write_telemetry(folder / "t.db", RUNS, hours=12)
    publish_with_dashboard(project, lambda _: None, store=folder / "t.db")
    return Site(project, project.html_dir, hashes, folder / "t.db")


@pytest.fixture(params=["served", "opened from disk"])
def visit(request: pytest.FixtureRequest, browser: Browser, site: Site) -> Iterator[Visit]:
    """A visit to the page, drawn, by either way."""
    if request.param == "served":
        with serving(make_server(site.folder, 0)) as home, visiting(browser, home) as visit:
            yield drawn(visit)
    else:
        with visiting(browser, f"{site.folder.as_uri()}/") as visit:
            yield drawn(visit)


def drawn(visit: Visit) -> Visit:
    """The visit, with the page drawn."""
    visit.go(PAGE)
    expect(visit.page.locator("body[data-ready]")).to_have_count(1)
    return visit


def alone(project: AsvProject, folder: Path, store: Path | None = None) -> str:
    """Central Pulse without asv's pages; returns the folder's address."""
    copy_libraries(folder)
    write_central(project, folder, lambda _: None, store=store)
    return f"{folder.as_uri()}/"


def test_every_panel_is_drawn(visit: Visit) -> None:
    """Each panel has its heading and its figures, and each chart shows more than its axes."""
    page = visit.page
    for panel in PANELS:
        expect(page.locator(f"#{panel} h2")).to_have_count(1)
        expect(page.locator(f"#{panel} .body")).not_to_be_empty()
    canvases = page.locator("main canvas")
    # Cost, first audio, latency, errors, runs of the gate, voice figures.
    expect(canvases).to_have_count(6)
    assert [canvas.evaluate(COLOURED) > 200 for canvas in canvases.all()] == [True] * 6
    expect(page.locator("#now")).to_contain_text("1.2 M instructions")
    expect(page.locator("#latency .run li")).to_have_count(12)
    expect(page.locator("#breakers .lane .open")).to_have_count(1)
    gate = page.locator("#gate")
    expect(gate).to_contain_text("1 OK, 1 regression")
    expect(gate.get_by_role("row", name="loaded")).to_contain_text("0.2 % (1 of 500)")
    expect(gate.get_by_role("row", name="bag")).to_have_count(4)
    expect(gate).to_contain_text("✓ 1 of 1 faults of the gate's own")
    load = page.locator("#load")
    expect(load).to_contain_text("✓ The newest load was carried, and nothing grew.")
    expect(load).to_contain_text("500 turns/sof 500 for 60 s")
    load.get_by_text("The newest loads").click()
    expect(load.get_by_role("row", name="✗ memory grew by 8.0%")).to_contain_text("+8 %")
    expect(page.locator("#latency .body > p").first).to_have_text("From t.db, written by server-1.")


def test_findings_lead_to_their_runbook_section(visit: Visit) -> None:
    """A budget that is exceeded links to what to do, as text and not as markup."""
    visit.page.locator("#now").get_by_role("link", name="runbook: pipeline-build").first.click()
    shown = visit.page.locator("section:target")
    expect(shown).to_contain_text('Look at validation.py & "graph.py".')
    expect(shown).to_contain_text("Then <again>.")


def test_points_lead_to_their_commits(visit: Visit, site: Site) -> None:
    """The step is found by the keyboard, names its commit, and Enter opens it."""
    page = visit.page
    plot = page.locator("#history .plot")
    plot.focus()
    page.keyboard.press("Home")
    for _ in range(STEP):
        page.keyboard.press("ArrowRight")
    readout = page.locator("#history .readout")
    expect(readout).to_contain_text(site.hashes[STEP][:8])
    expect(readout).to_contain_text("▲ +20 %")
    page.keyboard.press("Enter")
    expect(page.locator("section:target")).to_contain_text(f'Change <{STEP}> & "more" //of it')


def test_zoom_by_mouse_and_keys(visit: Visit) -> None:
    """Dragging over the chart shows that stretch, plus shows less of it, and the button all."""
    page = visit.page
    plot = page.locator("#history .plot")
    plot.scroll_into_view_if_needed()
    whole = page.evaluate(SHOWN)
    over = plot.locator(".u-over").bounding_box()
    assert over is not None
    middle = over["y"] + over["height"] / 2
    page.mouse.move(over["x"] + over["width"] * 0.25, middle)
    page.mouse.down()
    page.mouse.move(over["x"] + over["width"] * 0.75, middle, steps=5)
    page.mouse.up()
    low, high = page.evaluate(SHOWN)
    width = whole[1] - whole[0]
    assert low == pytest.approx(whole[0] + 0.25 * width, abs=0.02 * width)
    assert high == pytest.approx(whole[0] + 0.75 * width, abs=0.02 * width)
    plot.focus()
    page.keyboard.press("+")
    assert page.evaluate(SHOWN)[1] - page.evaluate(SHOWN)[0] < 0.6 * (high - low)
    page.locator("#history").get_by_role("button", name="Show all").click()
    assert page.evaluate(SHOWN) == whole


def test_two_commits_are_compared(visit: Visit, site: Site) -> None:
    """Any two commits are compared, the greatest increase first; a wrong hash is named."""
    page, history = visit.page, visit.page.locator("#history")
    history.get_by_label("Before").fill(site.hashes[STEP - 1][:8])
    history.get_by_label("Before").press("Enter")
    row = history.get_by_role("row", name=BUILD).last
    expect(row).to_contain_text("1 M instructions")
    expect(row).to_contain_text("▲ +20 %")
    history.get_by_label("After").fill("nothing")
    history.get_by_label("After").press("Enter")
    expect(history).to_contain_text("No measured commit begins with “nothing”")
    expect(page.locator("#history .readout")).to_be_visible()


def test_another_series_and_another_stage(visit: Visit) -> None:
    """A row of the tables draws that series or stage, and behind a chart stands its table."""
    page = visit.page
    page.get_by_role("combobox", name="Series").select_option("engine.Runs.track_002")
    expect(page.locator("#history .readout")).to_contain_text("ms")
    page.locator("#latency").get_by_role("button", name="voice · llm").click()
    expect(page.locator("#latency h3").first).to_have_text("Over time: voice · llm")
    page.locator("#errors").get_by_text("The numbers, step by step").click()
    expect(
        page.locator("#errors details").get_by_role("columnheader", name="timeout")
    ).to_be_visible()


def test_voice_figures_newest_and_over_time(visit: Visit) -> None:
    """The newest figures with their spread, beside those before, and each drawn run after run."""
    page, voice = visit.page, visit.page.locator("#figures")
    expect(voice).to_contain_text("Newest of 2: ")
    expect(voice).to_contain_text("commit bbbbbbbbbb, 2 cores of a processor, Python 3.11.7")
    tiles = voice.locator(".tile")
    expect(tiles).to_have_count(3)
    expect(tiles.first).to_contain_text("600 ms")
    # Between 600 and 1,000 ms, and between 900 and 1,500, at nine tenths of the way.
    expect(tiles.first).to_contain_text("P95 960 ms; whole 900 ms, P95 1.44 s")
    expect(tiles.last).to_contain_text("9 of 10spoken: 5 of 10")
    row = voice.get_by_role("row", name="Word error rate, any words")
    expect(row.get_by_role("cell")).to_have_text(["36 %", "\N{EN DASH}", "30 %", "+20 %"])
    expect(voice.get_by_role("row", name="yet.unknown")).to_contain_text("3 s/s")
    row.get_by_role("button").click()
    expect(voice.locator("h3")).to_have_text("Run after run: Word error rate, any words")
    expect(voice.locator(".readout")).to_contain_text("bbbbbbbbbb: 36 %")
    voice.locator(".plot").focus()
    page.keyboard.press("Home")
    expect(voice.locator(".readout")).to_contain_text("aaaaaaaaaa: 30 %")


def test_first_audio_beside_its_budget(browser: Browser, tmp_path: Path) -> None:
    """First audio and first items have their row, their trend and their budget; what is over shows.

    The turns of the first hour are heard after 300 ms, those of the second after 600 ms.
    """
    project = central.repository(tmp_path / "repo", 2, 2)
    central.hold_first_audio(project, p50=400, p99=500)
    logs = [voice_log(f"{n}", 300.0 if n < 60 else 600.0, at_s=NOON_S + 60 * n) for n in range(120)]
    sink_of(tmp_path / "t.db", logs).close()
    with visiting(browser, alone(project, tmp_path / "site", tmp_path / "t.db")) as visit:
        page = drawn(visit).page
        panel = page.locator("#first-audio")
        row = panel.get_by_role("row", name="streaming_voice (first audio)")
        cells = ["120", "293 ms", "589 ms", "589 ms", "400 ms", "500 ms", "✗ over"]
        expect(row.get_by_role("cell")).to_have_text(cells)
        expect(panel.locator(".legend")).to_contain_text("budget of P99, 500 ms")
        expect(panel.locator(".readout")).to_contain_text("P50 589 ms, P95 589 ms")
        panel.locator(".plot").focus()
        page.keyboard.press("Home")
        expect(panel.locator(".readout")).to_contain_text("P50 293 ms, P95 293 ms")
        panel.get_by_role("button", name="streaming_voice · tts → sound").click()
        expect(panel.locator("h3")).to_have_text("Over time: streaming_voice · tts → sound")
        expect(panel.locator(".readout")).to_contain_text("P50 445 ms")
        over = page.locator("#now").get_by_role("row", name="First audio, in t.db")
        expect(over).to_contain_text("P99")
        over.get_by_role("link", name="runbook: pipeline-build").click()
        expect(page.locator("section:target")).to_contain_text("Look at")


def test_readable_without_eyes(visit: Visit) -> None:
    """Charts say in words what they show, fields have labels, and tables have headers."""
    page = visit.page
    labels = [plot.get_attribute("aria-label") or "" for plot in page.locator(".plot").all()]
    assert len(labels) == 6
    assert all(re.search(r"\d", label) and "arrows move" in label for label in labels)
    unlabelled = (
        "() => [...document.querySelectorAll('select, input')].filter(e => !e.labels.length)"
    )
    assert page.evaluate(unlabelled) == []
    headless = "() => [...document.querySelectorAll('table')].filter(t => !t.querySelector('th'))"
    assert page.evaluate(headless) == []
    levels = page.evaluate(
        "() => [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
    )
    assert all(below - above <= 1 for above, below in pairwise(levels))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1400, 390])
def test_fits_its_window(browser: Browser, site: Site, scheme: str, width: int) -> None:
    """On a desktop and on a phone nothing is wider than the window, by day and by night."""
    viewport = {"width": width, "height": 844}
    home = f"{site.folder.as_uri()}/"
    with visiting(browser, home, viewport=viewport, color_scheme=scheme) as visit:
        page = drawn(visit).page
        assert page.evaluate("document.documentElement.scrollWidth") == width
        back = page.evaluate("getComputedStyle(document.body).backgroundColor")
        shade = sum(map(int, re.findall(r"\d+", back)[:3])) / 3
        assert shade > 200 if scheme == "light" else shade < 60
        # The charts follow when the evening comes.
        page.emulate_media(color_scheme="dark" if scheme == "light" else "light")
        assert all(canvas.evaluate(COLOURED) > 100 for canvas in page.locator("main canvas").all())


def test_dates_are_the_readers_own(browser: Browser, site: Site) -> None:
    """A commit's time is told in the zone of whoever reads it."""
    home = f"{site.folder.as_uri()}/"
    told = []
    for zone in ("UTC", "Asia/Tokyo"):
        with visiting(browser, home, timezone_id=zone, locale="en-GB") as visit:
            told.append(drawn(visit).page.locator("#history .readout time").inner_text())
    # The newest of 40 commits an hour apart, the first on 14 November 2023, 22:13:20 UTC.
    assert told == ["16 Nov 2023, 13:13", "16 Nov 2023, 22:13"]


def test_without_data_the_commands_are_told(browser: Browser, tmp_path: Path) -> None:
    """With nothing measured, recorded or judged, each panel says by which command it is filled."""
    project = central.repository(tmp_path / "repo", 1, 1)
    for path in project.results_dir.rglob("*.json"):
        path.unlink()
    with visiting(browser, alone(project, tmp_path / "site")) as visit:
        page = drawn(visit).page
        for panel, command in {
            "now": "stageflow pulse alert --store FILE.db",
            "history": "stageflow pulse bench",
            "first-audio": "stageflow run PIPELINE --telemetry FILE.db",
            "latency": "stageflow run PIPELINE --telemetry FILE.db",
            "errors": "stageflow pulse build --store FILE.db",
            "breakers": "stageflow pulse serve --store FILE.db",
            "gate": "stageflow pulse gate",
            "load": "make load",
            "figures": "python -m tools.voice_figures --record .asv/results/voice.jsonl",
        }.items():
            expect(page.locator(f"#{panel} .empty code", has_text=command).first).to_be_visible()
        expect(page.locator("canvas")).to_have_count(0)
        # asv's pages are not there, so nothing leads to them.
        expect(page.get_by_role("link", name="Benchmark grid")).to_be_hidden()


def test_much_data(browser: Browser, tmp_path: Path) -> None:
    """Thousands of commits are drawn by what the eye can see, and in full when looked at."""
    commits, metrics = 3000, 10
    project = central.repository(tmp_path / "repo", commits, metrics)
    central.write_telemetry(tmp_path / "t.db", 5000, hours=24 * 30)
    home = alone(project, tmp_path / "site", tmp_path / "t.db")
    drawn_bytes = (tmp_path / "site" / "central" / "data.json.js").stat().st_size
    assert drawn_bytes < 1_000_000  # of 30,000 values and 70,000 events
    with visiting(browser, home) as visit:
        page = drawn(visit).page
        page.get_by_role("combobox", name="Series").select_option("engine.Runs.track_005")
        points = "() => central.state.history.data[0]"
        assert 600 < len(page.evaluate(points)) <= 1202
        page.evaluate("central.state.history.zoomTo(1000, 1200)")
        page.wait_for_function(f"({points})().filter(x => x >= 1000 && x <= 1200).length === 201")
        expect(page.locator("#errors")).to_contain_text("5,000")


def test_live_telemetry_refreshes_itself(browser: Browser, site: Site, tmp_path: Path) -> None:
    """With a store being served, what is written meanwhile appears, unless the page is paused."""
    path = tmp_path / "t.db"
    sink = sink_of(path, [run_log("1", {"a": 10.0})])
    live = LiveTelemetry(path, LiveBudgets(), newest_s=3600)
    with serving(make_server(site.folder, 0, live)) as home, visiting(browser, home) as visit:
        page = drawn(visit).page
        row = _turns(page)
        expect(row).to_contain_text("9.78 ms")  # within 2.5 %
        expect(row.get_by_role("cell").first).to_have_text("1")
        sink_of(path, [run_log("2", {"a": 10.0})]).close()
        expect(row.get_by_role("cell").first).to_have_text("2", timeout=30_000)
        expect(page.get_by_role("status").first).to_contain_text("Live, as of")
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("button", name="Go on")).to_be_visible()
    sink.close()


def _turns(page: Page) -> Locator:
    return page.locator("#latency").get_by_role("row", name="p (whole turn)")
