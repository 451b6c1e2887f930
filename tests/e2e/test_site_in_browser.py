"""The published site in a real browser, with every address outside it blocked."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from stageflow.pulse.dashboard import ENTRY, GRID
from stageflow.pulse.history import make_server
from tests.utils import asv_repo
from tests.utils.browser import Visit, serving, violations, visiting

pytestmark = pytest.mark.slow

BENCHMARKS = ["time_added_later", "time_work", "track_steps"]
# Counts the pixels of a canvas that have the blue of asv's plots: frames and axes are grey.
DRAWN_PIXELS = """canvas => {
    const data = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
    let drawn = 0;
    for (let i = 0; i < data.length; i += 4) {
        drawn += data[i + 3] > 0 && data[i + 2] - data[i] > 60;
    }
    return drawn;
}"""


@pytest.fixture(scope="module")
def site_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The published site of the measured repository of this session."""
    measured = asv_repo.measured(tmp_path_factory)
    assert measured.exit_code == 0, measured.output
    return measured.repo.path / ".asv" / "html"


@pytest.fixture(scope="module")
def served(site_dir: Path) -> Iterator[str]:
    """The address of the site on a server of this machine."""
    with serving(make_server(site_dir, 0)) as address:
        yield address


@pytest.fixture(params=["served", "opened from disk"])
def visit(request: pytest.FixtureRequest, browser: Browser, site_dir: Path) -> Iterator[Visit]:
    """A visit to the site, which must end without an error and without a look outside."""
    from_disk = f"{site_dir.as_uri()}/"
    home = from_disk if request.param != "served" else request.getfixturevalue("served")
    with visiting(browser, home) as visit:
        yield visit


def test_every_page_shows_what_was_measured(visit: Visit) -> None:
    """Central Pulse leads to asv's grid, and this to a graph, the list, regressions, a commit."""
    visit.go(ENTRY)
    expect(visit.page.locator(".verdict h1")).to_have_text("Nothing is watched yet.")
    visit.page.get_by_role("link", name="All benchmarks").click()
    grid_shows_every_benchmark(visit.page)
    commit = visit.page.evaluate(
        """() => {
            const newest = Object.keys($.asv.main_json.revision_to_hash).map(Number).sort().pop();
            return $.asv.main_json.show_commit_url + $.asv.get_commit_hash(newest);
        }"""
    )
    assert violations(visit.page) == []
    visit.page.get_by_role("link", name="Benchmark list").click()
    rows = visit.page.locator("#summarylist-body tbody tr")
    expect(rows).to_have_count(len(BENCHMARKS))
    expect(rows.filter(has_text="work.track_steps")).to_contain_text("steps")
    assert violations(visit.page) == []
    visit.page.get_by_role("link", name="Regressions").click()
    expect(visit.page.locator("#regressions-body table").first).to_be_visible()
    assert violations(visit.page) == []
    # A table keeps its order in the address, and a graph takes it for nothing of its own.
    assert "sort=" in visit.page.evaluate("location.hash")
    graph_draws_the_measured_values(visit, "#work.track_steps?sort=3&dir=desc")
    assert violations(visit.page) == []
    info = "$.asv.format_hash_string({ location: ['work'], params: { sort: [3], x: [1] } })"
    assert visit.page.evaluate(info) == "#work?x=1"
    # The frame of Central Pulse is on asv's page, too, and leads back.
    visit.page.get_by_label("Pages").get_by_role("link", name="Commits").click()
    expect(visit.page.locator("#history")).to_contain_text("3 commits, 3 series")
    visit.go(commit)
    shown = visit.page.locator("#commit")
    expect(shown).to_contain_text("Escape <this> & that")
    expect(shown).to_contain_text("stageflow/__init__.py")


def grid_shows_every_benchmark(page: Page) -> None:
    """Check that there is a drawn plot for each benchmark, also for one with a single point."""
    cells = page.locator("#summarygrid-display .benchmark-container")
    expect(cells).to_have_count(len(BENCHMARKS))
    assert sorted(text.strip() for text in cells.all_inner_texts()) == BENCHMARKS
    canvases = cells.locator("canvas.flot-base")
    expect(canvases).to_have_count(len(BENCHMARKS))
    assert all(canvas.evaluate(DRAWN_PIXELS) > 10 for canvas in canvases.all())
    assert page.evaluate("$.asv.main_json.project") == "stageflow"


def graph_draws_the_measured_values(visit: Visit, place: str) -> None:
    """Check that a benchmark has one point for each commit, at the values that were measured."""
    visit.open(place)
    canvas = visit.page.locator("#main-graph canvas.flot-base")
    expect(canvas).to_have_count(1)
    # asv draws it anew once the values have been read.
    drawn = f"({DRAWN_PIXELS})(document.querySelector('#main-graph canvas.flot-base'))"
    visit.page.wait_for_function(f"() => {drawn} > 500")
    base = asv_repo.BASE_STEPS
    data = visit.page.evaluate("$('#main-graph').data('plot').getData()[0].data.map(p => p[1])")
    assert data == [base, base + 5_000, base + 5_000]


def test_names_in_results_run_nothing(browser: Browser, site_dir: Path, tmp_path: Path) -> None:
    """The pages of asv show them as HTML; results come from other machines and branches."""
    site = Path(shutil.copytree(site_dir, tmp_path / "site"))
    evil = "<img src='x' onerror='window.ran = 1'><script>window.ran = 1</script>"
    index = json.loads((site / "index.json").read_text(encoding="utf-8"))
    for benchmark in index["benchmarks"].values():
        benchmark.update(pretty_name=evil, code=evil)
    for machine in index["machines"].values():
        machine.update(cpu=evil, os=evil)
    text = json.dumps(index)
    (site / "index.json").write_text(text, encoding="utf-8")
    (site / "index.json.js").write_text(f"stageflowOffline({text});", encoding="utf-8")
    page = browser.new_page()
    with serving(make_server(site, 0)) as home:
        for place in ("", "#work.track_steps", "#/summarylist"):
            page.goto(f"{home}{GRID}{place}")
            page.wait_for_load_state("networkidle")
            for link in page.locator(".benchmark-container, .asv-navigation a, td a").all():
                link.dispatch_event("mouseover")
            assert page.evaluate("window.ran") is None
        expect(page.locator("img[src=x]").first).to_be_attached()
    page.close()
