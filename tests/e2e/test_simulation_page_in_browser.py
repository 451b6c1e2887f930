"""The page of a failed simulation, in a real browser, with every other address blocked."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Literal

import pytest
from playwright.sync_api import Browser, expect

from stageflow import Pipeline, stage
from stageflow.testing import Simulation, explore
from tests.utils.browser import violations, visiting

pytestmark = pytest.mark.slow


async def lost_visit(sim: Simulation) -> None:
    """Two runs of a pipeline, and a stage that loses an update; the first is called <b>."""
    visits = 0

    @stage
    async def count(user: str) -> str:
        nonlocal visits
        for _ in range(len(user)):  # the second is late in asyncio's own order
            await asyncio.sleep(0)
        seen = visits
        await asyncio.sleep(0)
        visits = seen + 1
        return user

    async with asyncio.TaskGroup() as group:
        for name in ("<b>", "the second"):
            context = sim.context({"user": name})
            group.create_task(Pipeline("turn", [count]).run(context), name=name)
    assert visits == 2, "a visit is lost: <b>"


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pages") / "new" / "failure.html"
    # The browser's driver has a loop that runs on this thread.
    with ThreadPoolExecutor() as pool, pytest.raises(AssertionError):
        pool.submit(explore, lost_visit, page=path).result()
    return path


@pytest.mark.parametrize(
    ("width", "scheme"), [(1440, "light"), (390, "light"), (1440, "dark"), (390, "dark")]
)
def test_the_page_shows_tasks_arrows_and_deviations(
    browser: Browser, page_path: Path, width: int, scheme: Literal["light", "dark"]
) -> None:
    """On a screen and on a phone, light and dark, readable, and without a file beside it."""
    size = {"width": width, "height": 900}
    with visiting(browser, page_path.as_uri(), viewport=size, color_scheme=scheme) as visit:
        visit.go("")
        page = visit.page
        expect(page.get_by_role("heading", name="AssertionError")).to_be_visible()
        expect(page.locator("#message")).to_contain_text("a visit is lost: <b>")
        expect(page.locator("#events li").first).to_contain_text("0.000 s run 1: pipeline.started")
        rows, dots = page.locator("#steps li[id]"), page.locator("#steps circle")
        assert rows.count() == dots.count() > 8
        ringed = page.locator("#steps circle[stroke]").count()
        assert ringed == page.locator("#steps li.deviates").count() >= 1
        expect(page.locator("#steps li.deviates").first).to_contain_text("asyncio's own order has")
        expect(rows.filter(has_text="<b>").first).to_contain_text("woken by Task-")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert violations(page) == []
