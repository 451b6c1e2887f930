"""Central Pulse in a real browser, with every address outside the site blocked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import pytest
from playwright.sync_api import Browser, Page, expect

from stageflow.pulse.alerts import AlertState, Evaluator, Kind, state_of
from stageflow.pulse.dashboard import (
    ENTRY,
    PAGE,
    LiveBudgets,
    LiveTelemetry,
    publish_with_dashboard,
    write_central,
)
from stageflow.pulse.gate import Exit, GateRun, record_run
from stageflow.pulse.history import AsvProject, copy_libraries, make_server
from stageflow.telemetry import TelemetryStore
from tests.utils import central
from tests.utils.alert_cases import our_alerts
from tests.utils.browser import Visit, serving, violations, visiting
from tests.utils.session import once
from tests.utils.telemetry import NOON_S, run_log, sink_of, voice_log

pytestmark = pytest.mark.slow

COMMITS, METRICS, RUNS = 40, 4, 600
BUILD = central.names(METRICS)[0]
STEP = int(central.STEP_AT * COMMITS)
VIEWS = ("status", "commits", f"commits?series={quote(BUILD)}", "live", "trust")
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
SHOWN = "central.chart.group.range"


@dataclass(frozen=True)
class Site:
    """A published site, and what it was made from."""

    project: AsvProject
    folder: Path
    hashes: list[str]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """The site of this session."""
    folder = once(tmp_path_factory, "central", publish)
    project = AsvProject.load(folder / "repo")
    return Site(project, project.html_dir, project.git("rev-list", "--reverse", "main").split())


def publish(folder: Path) -> None:
    """Publish some commits, some turns, and two runs of the gate, by asv and by us."""
    project = central.repository(folder / "repo", COMMITS, METRICS)
    hashes = project.git("rev-list", "--reverse", "main").split()
    project.git("tag", "v1.0", hashes[5])
    for code in (Exit.OK, Exit.REGRESSION):
        record_run(project.root, GateRun.now(hashes[-2], hashes[-1], code, 61.5))
    central.write_selftest(project)
    wrong = central.a_load(memory_growth=0.08, faults=["memory grew by 8.0%"])
    (project.results_dir / "load.jsonl").write_text(wrong + central.a_load(), encoding="utf-8")
    figures = central.voice_figures(0.3) + central.voice_figures(commit="b" * 40)
    (project.results_dir / "voice.jsonl").write_text(figures, encoding="utf-8")
    central.write_telemetry(folder / "t.db", RUNS, hours=12)
    publish_with_dashboard(project, lambda _: None, store=folder / "t.db")


@pytest.fixture(params=["served", "opened from disk"])
def visit(request: pytest.FixtureRequest, browser: Browser, site: Site) -> Iterator[Visit]:
    """A visit to the page, drawn, by either way."""
    if request.param == "served":
        with serving(make_server(site.folder, 0)) as home, visiting(browser, home) as visit:
            yield drawn(visit)
    else:
        with visiting(browser, f"{site.folder.as_uri()}/") as visit:
            yield drawn(visit)


@pytest.fixture
def page(browser: Browser, site: Site) -> Iterator[Page]:
    """The page of a visit from disk, drawn."""
    with visiting(browser, f"{site.folder.as_uri()}/") as visit:
        yield drawn(visit).page


def drawn(visit: Visit, view: str = "status") -> Visit:
    """The visit, with a view of the page drawn."""
    visit.go(f"{PAGE}#{view}")
    expect(visit.page.locator("body[data-ready]")).to_have_count(1)
    return visit


def show(page: Page, view: str) -> Page:
    """The page, at another view."""
    page.evaluate("hash => { location.hash = hash; }", f"#{view}")
    expect(page.locator(f"body[data-view={view.partition('?')[0]}]")).to_have_count(1)
    return page


def alone(project: AsvProject, folder: Path, store: Path | None = None) -> str:
    """Central Pulse without asv's pages; returns the folder's address."""
    copy_libraries(folder)
    write_central(project, folder, lambda _: None, store=store)
    return f"{folder.as_uri()}/"


def coloured(page: Page, count: int) -> None:
    """Check that so many charts are there, and each shows more than its axes."""
    canvases = page.locator("main canvas")
    expect(canvases).to_have_count(count)
    assert [canvas.evaluate(COLOURED) > 100 for canvas in canvases.all()] == [True] * count


def test_every_view_is_drawn(visit: Visit) -> None:
    """Each view has its sections and its charts, by either way to open it."""
    page = visit.page
    expect(page.get_by_role("heading", level=1)).to_have_text(
        re.compile(r"✗ 1 budget exceeded, 1 open regression and \d+ waiting dead letters\.")
    )
    expect(page.locator("#verdict-of")).to_contain_text(
        re.compile(r"budgets of [0-9a-f]{8}, .*; telemetry until .* 2026.* UTC, which is old")
    )
    coloured(page, 3)
    expect(page.locator("#attention")).to_contain_text("1.2 M instructions")
    expect(page.locator("#attention")).to_contain_text("owner engine")
    coloured(show(page, VIEWS[2]), 1)
    coloured(show(page, "live"), 3)
    expect(page.locator("#runs .run li")).to_have_count(12)
    expect(page.locator("#breakers .lane .open")).to_have_count(1)
    tokens = page.locator("#usage").get_by_role("row", name="prompt tokens")
    expect(tokens).to_contain_text(re.compile(r"voicellmprompt tokens.*\d k$"))
    coloured(show(page, "trust"), 2)
    gate = page.locator("#gate")
    expect(gate).to_contain_text("1 OK, 1 regression")
    expect(page.get_by_role("row", name="loaded")).to_contain_text("0.2 % (1 of 500)")
    expect(page.locator("#selftest").get_by_role("row", name="bag")).to_have_count(4)
    expect(page.locator("#selftest")).to_contain_text("✓ 1 of 1 faults of the gate's own")
    load = page.locator("#load")
    expect(load).to_contain_text("✓ The newest load was carried, and nothing grew.")
    load.get_by_text("The newest loads").click()
    expect(load.get_by_role("row", name="✗ memory grew by 8.0%")).to_contain_text("+8 %")


def test_findings_lead_to_their_runbook_section(page: Page) -> None:
    """A budget that is exceeded links to what to do, as text and not as markup."""
    page.get_by_role("link", name="runbook: pipeline-build").first.click()
    shown = page.locator("section:target")
    expect(shown).to_contain_text('Look at validation.py & "graph.py".')
    expect(shown).to_contain_text("Then <again>.")


def test_points_lead_to_their_commits(page: Page, site: Site) -> None:
    """The step is found by the keyboard, names its commit, and Enter opens it."""
    show(page, VIEWS[2])
    page.locator("#history .plot").focus()
    page.keyboard.press("Home")
    for _ in range(STEP):
        page.keyboard.press("ArrowRight")
    readout = page.locator("#history .readout")
    expect(readout).to_contain_text(site.hashes[STEP][:8])
    expect(readout).to_contain_text("▲ +20 %")
    page.keyboard.press("Enter")
    expect(page.locator("#commit")).to_contain_text(f'Change <{STEP}> & "more" //of it')
    expect(page.locator("#commit")).to_contain_text(site.hashes[STEP])


def test_zoom_is_kept_in_the_address(page: Page) -> None:
    """Dragging shows a stretch, which a reload keeps; plus shows less of it, the button all."""
    plot = show(page, VIEWS[2]).locator("#history .plot")
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
    page.reload()
    expect(page.locator("body[data-ready]")).to_have_count(1)
    assert page.evaluate(SHOWN) == pytest.approx([low, high], abs=0.01)
    page.locator("#history .plot").focus()
    page.keyboard.press("+")
    assert page.evaluate(SHOWN)[1] - page.evaluate(SHOWN)[0] < 0.6 * (high - low)
    page.locator("#history").get_by_role("button", name="Show all").click()
    assert page.evaluate(SHOWN) == whole
    assert "at=" not in page.url


def test_two_commits_are_compared(page: Page, site: Site) -> None:
    """Noise is left out unless asked for; the address keeps what is compared."""
    compare = show(page, "commits").locator("#compare")
    expect(compare).to_contain_text("No significant change in the 4 series")
    compare.get_by_label("Before").fill(site.hashes[STEP - 1][:8])
    compare.get_by_label("Before").press("Enter")
    rows = compare.locator("tbody tr")
    expect(rows).to_have_count(1)
    expect(rows).to_contain_text("1 M instructions")
    expect(rows).to_contain_text("▲ +20 %")
    compare.get_by_label("Show").select_option("all that differs")
    expect(rows).to_have_count(METRICS)
    page.reload()
    expect(rows).to_have_count(METRICS)
    compare.get_by_label("After").fill("nothing")
    compare.get_by_label("After").press("Enter")
    expect(compare).to_contain_text("No measured commit begins with “nothing”")


def test_series_are_searched_and_sorted(page: Page) -> None:
    """The search of the frame finds a series by its name, and the list by a part, in an order."""
    search = page.get_by_label("Search series and stages")
    search.fill("engine.Runs.track_002")
    search.press("Enter")
    expect(page.locator("#history h2")).to_have_text("engine.Runs.track_002")
    page.get_by_role("link", name="All series").click()
    search.fill("track_00")
    search.press("Enter")
    rows = page.locator("#history tbody tr")
    expect(rows).to_have_count(3)
    page.locator("#history").get_by_role("button", name="Newest").click()
    expect(rows.first).to_contain_text("track_003")
    expect(rows.first).to_contain_text("±")
    page.reload()
    expect(rows.first).to_contain_text("track_003")


def test_a_cell_of_the_heat_map_leads_to_its_runs(page: Page) -> None:
    """It lists the slowest runs there and says what they have in common."""
    plot = show(page, "live").locator("#latency .plot")
    plot.scroll_into_view_if_needed()
    over = plot.locator(".u-over").bounding_box()
    assert over is not None
    at = page.evaluate(
        """() => {
            const t = central.data.telemetry, u = central.group.members[0].u;
            const bounds = t.stages.find((s) => !s.stage).heat.bounds_ms;
            const runs = t.runs[0].examples.filter((r) => r[3] === "failed");
            const run = runs[runs.length >> 1], row = bounds.findIndex((b) => b > run[2]) - 1;
            const step = Math.floor((run[1] - t.start_s) / t.step_s);
            const y = Math.sqrt(bounds[row] * bounds[row + 1]);
            return [
                u.valToPos(t.start_s + (step + 0.5) * t.step_s, "x"), u.valToPos(y, "y"), run[0],
            ];
        }"""
    )
    page.mouse.move(over["x"] + at[0], over["y"] + at[1])
    expect(plot.locator(".tip")).to_be_visible()
    page.mouse.click(over["x"] + at[0], over["y"] + at[1])
    cell = page.locator("#runs .cell")
    expect(cell.get_by_role("row", name=at[2])).to_contain_text("failed")
    expect(page.locator("#common")).to_contain_text("n common")
    page.reload()
    expect(cell.get_by_role("row", name=at[2])).to_have_count(1)
    page.get_by_role("link", name="voice · llm").click()
    expect(page.locator("#latency h2")).to_have_text("Latency: voice · llm")
    expect(cell).to_have_count(0)


def test_panels_share_their_range(page: Page) -> None:
    """A zoom in one panel is that of all, lanes of breakers too, and is kept when news arrive."""
    show(page, "live").get_by_role("button", name="Zoom in").first.click()
    ranges = "() => central.group.members.map(({ u }) => [u.scales.x.min, u.scales.x.max])"
    found = page.evaluate(ranges)
    assert len(found) == 3
    assert found[0] == found[1] == found[2]
    width = page.locator("#breakers .moving").first.evaluate("e => e.style.width")
    assert width == "200%"
    news = "() => central.news({ ...central.data, ...central.data.now })"
    page.evaluate(news)
    assert page.evaluate(ranges) == found


def test_redraws_leave_nothing_behind(page: Page) -> None:
    """Nodes and listeners are as many after 30 redraws as after the first few."""
    session = show(page, "live").context.new_cdp_session(page)
    session.send("Performance.enable")

    def counted(redraws: int) -> dict[str, float]:
        redraw = "central.news({ ...central.data, ...central.data.now })"
        page.evaluate(f"() => {{ for (let n = 0; n < {redraws}; n++) {redraw}; }}")
        session.send("HeapProfiler.collectGarbage")
        metrics = session.send("Performance.getMetrics")["metrics"]
        found = {metric["name"]: metric["value"] for metric in metrics}
        return {name: found[name] for name in ("Nodes", "JSEventListeners")}

    before, after = counted(3), counted(30)
    assert page.evaluate("central.charts.alive().length") == 3
    for name, value in before.items():
        assert after[name] <= value * 1.2, (before, after)


def test_figures_newest_and_over_time(page: Page) -> None:
    """The newest figures with their spread, beside those before, and each drawn run after run."""
    voice = show(page, "trust").locator("#figures")
    expect(voice).to_contain_text("Newest of 2: ")
    expect(voice).to_contain_text("commit bbbbbbbbbb, 2 cores of a processor, Python 3.11.7")
    tiles = voice.locator(".tile")
    # Between 600 and 1,000 ms, and between 900 and 1,500, at nine tenths of the way.
    expect(tiles.first).to_contain_text("P95 960 ms; whole 900 ms, P95 1.44 s")
    row = voice.get_by_role("row", name="Word error rate, any words")
    expect(row.get_by_role("cell")).to_have_text(["36 %", "\N{EN DASH}", "30 %", "+20 %"])
    row.get_by_role("link").click()
    expect(voice.locator("h3")).to_have_text("Run after run: Word error rate, any words")
    voice.locator(".plot").focus()
    page.keyboard.press("Home")
    expect(voice.locator(".readout")).to_contain_text("aaaaaaaaaa: 30 %")


def test_first_audio_beside_its_budget(browser: Browser, tmp_path: Path) -> None:
    """First audio and first items have their row, their trend and their budget; what is over shows.

    The turns of the first 80 minutes are heard after 300 ms, the other 40 after 600 ms.
    """
    project = central.repository(tmp_path / "repo", 2, 2)
    central.hold_first_audio(project, p50=400, p99=500)
    logs = [voice_log(f"{n}", 300.0 if n < 80 else 600.0, at_s=NOON_S + 60 * n) for n in range(120)]
    place = tmp_path / "t.db"
    sink_of(place, logs).close()
    rules = [replace(r, least_runs=1) for r in our_alerts().rules if r.kind is Kind.FIRST_AUDIO]
    with TelemetryStore(place) as store, AlertState(state_of(place)) as state:
        Evaluator(rules, our_alerts().links, store, state, ()).evaluate(NOON_S + 7200)
    with visiting(browser, alone(project, tmp_path / "site", place)) as visit:
        page = drawn(visit, "live").page
        panel = page.locator("#firsts")
        row = panel.get_by_role("row", name="streaming_voice (first audio)")
        cells = ["120", "≈ 293 ms", "≈ 589 ms", "≈ 589 ms", "400 ms / 500 ms", "✗ P99 over"]
        expect(row.get_by_role("cell")).to_have_text(cells)
        expect(panel.locator(".legend")).to_contain_text("budget of P99, 500 ms")
        panel.locator(".plot").focus()
        page.keyboard.press("Home")
        expect(panel.locator(".readout")).to_contain_text("P50 293 ms, P95 293 ms")
        panel.get_by_role("link", name="streaming_voice · tts → sound").click()
        expect(panel.locator("h2")).to_have_text("Time to first: streaming_voice · tts → sound")
        alert = show(page, "status").locator("#attention li", has_text="FirstAudioOverBudget")
        expect(alert).to_contain_text("owner kernels")
        # Its course is that of the times, not of the failures, of which there are none.
        flat = re.compile(r"^(M?[^ ]+ 11\.0L?)+$")
        expect(alert.locator("path")).not_to_have_attribute("d", flat)
        expect(alert.get_by_role("link").first).to_have_attribute(
            "href", "#live?stage=streaming_voice"
        )
        over = page.locator("#attention li", has_text="budget 500 ms")
        expect(over).to_contain_text("P99 589 ms, budget 500 ms")
        over.get_by_role("link", name="runbook: pipeline-build").click()
        expect(page.locator("section:target")).to_contain_text("Look at")


def test_accessible_on_every_page(browser: Browser, site: Site) -> None:
    """axe-core finds nothing on any page in either theme, headings descend one level at a time."""
    places = [f"{ENTRY}#{view}" for view in VIEWS] + [
        f"commits.html#{site.hashes[3][:8]}",
        "commits.html#%E0",
        "runbook.html",
    ]
    with visiting(browser, f"{site.folder.as_uri()}/") as visit:
        page = visit.page
        for place in places:
            page.emulate_media(color_scheme="light")
            page.goto("about:blank")
            visit.go(place)
            expect(page.locator("header.shell")).to_have_count(1)
            expect(page.locator("body[data-ready], body[data-page=runbook]")).to_have_count(1)
            assert violations(page) == [], place
            levels = page.evaluate(
                "() => [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])"
            )
            assert levels[0] == 1
            assert all(below - above <= 1 for above, below in pairwise(levels)), place
            # The themes differ by their colours alone.
            page.emulate_media(color_scheme="dark")
            assert violations(page, "color-contrast") == [], place


@pytest.mark.parametrize(
    ("width", "scheme", "other"),
    [(1440, "light", "dark"), (820, "dark", "light"), (390, "light", "dark")],
)
def test_fits_its_window(
    browser: Browser,
    site: Site,
    width: int,
    scheme: Literal["light", "dark"],
    other: Literal["light", "dark"],
) -> None:
    """Nothing is wider than the window; the first view fits a desktop, a phone has a menu."""
    viewport = {"width": width, "height": 900}
    home = f"{site.folder.as_uri()}/"
    with visiting(browser, home, viewport=viewport, color_scheme=scheme) as visit:
        page = drawn(visit).page
        if width == 1440:
            assert page.evaluate("document.documentElement.scrollHeight") <= 900
        has_colours_of(page, scheme)
        for view in VIEWS:
            show(page, view)
            assert page.evaluate("document.documentElement.scrollWidth") == width, view
        if width == 390:
            expect(page.get_by_role("link", name="Live")).to_be_hidden()
            page.get_by_role("button", name="Menu").click()
            page.get_by_role("link", name="Live").click()
            expect(page.locator("#latency")).to_be_visible()
        # The charts follow when the evening comes.
        page.emulate_media(color_scheme=other)
        has_colours_of(page, other)
        assert all(canvas.evaluate(COLOURED) > 100 for canvas in page.locator("main canvas").all())


def has_colours_of(page: Page, scheme: str) -> None:
    """Check that a page is bright or dark."""
    back = page.evaluate("getComputedStyle(document.body).backgroundColor")
    shade = sum(map(int, re.findall(r"\d+", back)[:3])) / 3
    assert shade > 200 if scheme == "light" else shade < 60


def test_one_zone_for_all_times(browser: Browser, site: Site) -> None:
    """Times are the reader's own and name their zone; UTC is a choice, which a link carries."""
    with visiting(
        browser, f"{site.folder.as_uri()}/", timezone_id="Asia/Tokyo", locale="en-GB"
    ) as visit:
        page = drawn(visit, VIEWS[2]).page
        # The newest of 40 commits an hour apart, the first on 14 November 2023, 22:13:20 UTC.
        readout = page.locator("#history .readout time")
        expect(readout).to_have_text("16 Nov 2023, 22:13 GMT+9")
        page.get_by_role("button", name="Local time").click()
        expect(readout).to_have_text("16 Nov 2023, 13:13 UTC")
        visit.go(f"{PAGE}#{VIEWS[2]}&zone=utc")
        expect(readout).to_have_text("16 Nov 2023, 13:13 UTC")


def test_without_data_the_commands_are_shown(browser: Browser, tmp_path: Path) -> None:
    """With nothing measured, recorded or judged, one line says so and by which commands it is."""
    project = central.repository(tmp_path / "repo", 1, 1)
    for path in project.results_dir.rglob("*.json"):
        path.unlink()
    with visiting(browser, alone(project, tmp_path / "site")) as visit:
        page = drawn(visit).page
        expect(page.get_by_role("heading", level=1)).to_have_text("Nothing is watched yet.")
        fold = page.locator(".folds summary")
        expect(fold).to_have_count(1)
        fold.click()
        for command in (
            "stageflow pulse bench",
            "stageflow pulse alert --store FILE.db",
            "stageflow run PIPELINE --telemetry FILE.db",
            "stageflow pulse gate",
            "make load",
            "python -m tools.voice_figures --record .asv/results/voice.jsonl",
        ):
            expect(page.locator(".missing code", has_text=command).first).to_be_visible()
        for view in ("commits", "live", "trust"):
            expect(show(page, view).locator(".empty code").first).to_be_visible()
            expect(page.locator("canvas")).to_have_count(0)
        # asv's pages are not there, so nothing leads to them.
        expect(page.get_by_role("link", name="All benchmarks")).to_have_count(0)


def test_a_simulation_has_a_page_of_its_own(browser: Browser, tmp_path: Path) -> None:
    """It counts nowhere as wrong now; its times are those since its start."""
    project = central.repository(tmp_path / "repo", 2, 2)
    logs = [voice_log(f"{n}", 9000.0, at_s=NOON_S + 60 * n) for n in range(120)]
    sink_of(tmp_path / "t.db", logs, "simulation of an outage").close()
    with visiting(browser, alone(project, tmp_path / "site", tmp_path / "t.db")) as visit:
        page = drawn(visit).page
        expect(page.locator("#attention")).to_have_count(0)
        expect(show(page, "live").locator(".empty")).to_contain_text("There is no telemetry")
        page.get_by_role("link", name="Simulation").click()
        expect(page.locator(".banner")).to_contain_text("This is a simulation.")
        expect(page.locator(".range")).to_contain_text("+0:00 h to +2:01 h")
        expect(page.locator("main canvas").first).to_be_visible()


def test_much_data(browser: Browser, tmp_path: Path) -> None:
    """Thousands of commits and stages are drawn by what the eye can see, in full when looked at."""
    commits, metrics = 1500, 6
    project = central.repository(tmp_path / "repo", commits, metrics)
    sink = sink_of(tmp_path / "t.db", [run_log("1", {f"stage_{n}": 1.0 for n in range(3000)})])
    sink.close()
    home = alone(project, tmp_path / "site", tmp_path / "t.db")
    assert (tmp_path / "site" / "central" / "data.json.js").stat().st_size < 2_000_000
    with visiting(browser, home) as visit:
        page = drawn(visit, "commits?series=engine.Runs.track_005").page
        points = "() => central.chart.data[0]"
        assert 600 < len(page.evaluate(points)) <= 1202
        page.evaluate("central.chart.group.set(1000, 1200)")
        page.wait_for_function(f"({points})().filter(x => x >= 1000 && x <= 1200).length === 201")
        for view in ("status", "commits", "live", "trust"):
            show(page, view)
            assert page.evaluate("document.querySelectorAll('*').length") < 5000, view
        show(page, "live?find=stage_2999")
        expect(page.locator("#stages tbody tr")).to_have_count(1)


def test_live_telemetry_refreshes_itself(browser: Browser, site: Site, tmp_path: Path) -> None:
    """With a store being served, what is written meanwhile appears, unless the page is paused."""
    path = tmp_path / "t.db"
    sink = sink_of(path, [run_log("1", {"a": 10.0})])
    live = LiveTelemetry(path, LiveBudgets(), newest_s=3600)
    with serving(make_server(site.folder, 0, live)) as home, visiting(browser, home) as visit:
        page = drawn(visit, "live").page
        row = page.locator("#stages").get_by_role("row", name="p (whole turn)")
        # Within 2.5 %; of one sample, which is a guess.
        expect(row).to_contain_text("≈ 9.78 ms *")
        expect(row.get_by_role("cell").nth(1)).to_have_text("1")
        sink_of(path, [run_log("2", {"a": 10.0})]).close()
        expect(row.get_by_role("cell").nth(1)).to_have_text("2", timeout=30_000)
        expect(page.locator("#live-text")).to_contain_text("Live, as of")
        page.get_by_role("button", name="Pause").click()
        expect(page.get_by_role("button", name="Go on")).to_be_visible()
    sink.close()
