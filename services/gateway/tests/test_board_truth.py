"""The web board tells the truth of how old its data is, in a real, headless Chromium."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Literal

import pytest
from market_data_conformance.proxy import SlowProxy
from playwright.async_api import Page, expect

from services.common.stream.memory.broker import MemoryBroker
from services.gateway.testing import Bench, bench
from services.gateway.tests.test_web_board import (
    ARTIFACTS,
    AS_DEPLOYED,
    PATIENCE_MS,
    STICKING_OUT,
    Prices,
    chromium,
    moving,
    needs_browser,
)

pytestmark = needs_browser

# What is green on the page, and what is not greyed though its row is.
GREEN = """() => [...document.querySelectorAll('#rows .good, #rows .up, #levels .up')]
  .filter(cell => getComputedStyle(cell).color === getComputedStyle(
    document.body.appendChild(Object.assign(document.createElement('i'), {className: 'good'}))
  ).color).map(cell => cell.textContent)"""


@asynccontextmanager
async def board_over(
    line: SlowProxy, gateway: Bench, width: int = 1280
) -> AsyncIterator[tuple[Page, Prices]]:
    """A board that looks at the gateway over this line, live."""
    prices = Prices(gateway)
    await prices.begin()
    await prices.turn()
    async with chromium() as browser, moving(prices, 20):
        page = await browser.new_page(viewport={"width": width, "height": 900})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        await page.goto(f"http://127.0.0.1:{line.port}/")
        await expect(page.locator("#rows tr")).to_have_count(4)
        await expect(page.locator("#book-state")).to_contain_text("verified")
        yield page, prices


async def test_a_line_that_delays_shows_the_datas_age_and_is_not_live() -> None:
    async with (
        bench(MemoryBroker(), **AS_DEPLOYED) as gateway,
        SlowProxy(gateway.port) as line,
        board_over(line, gateway) as (page, _),
    ):
        row = page.locator("#rows tr", has_text="ETH-USD")
        await expect(row).to_contain_text("live")
        await expect(page).to_have_title("Market data")
        # In two steps, each shorter than two heartbeats: the line is slow, and not lost.
        line.delay_s = 6.0
        await expect(row.locator(".age")).to_have_text(re.compile(r"^[6-9]\.\d s$"))
        line.delay_s = 12.0
        await expect(row).to_contain_text("stale")
        await expect(row).to_contain_text("as of")
        await expect(page.locator("#book-state")).to_contain_text("stale")
        await expect(page).to_have_title("\u26a0 4 of 4 not live · Market data")
        assert await page.evaluate(GREEN) == []
        assert await page.locator("#total-breaks").inner_text() == "0"
        line.delay_s = 0.0
        await expect(page).to_have_title("Market data")
        await expect(row).to_contain_text("live")


async def test_a_dead_line_is_noticed_in_two_heartbeats_and_greys_every_number() -> None:
    async with (
        bench(MemoryBroker(), ws_heartbeat_ms=2000) as gateway,
        SlowProxy(gateway.port) as line,
        board_over(line, gateway) as (page, _),
    ):
        await expect(page.locator("#connection")).to_have_text("connected")
        line.dead = True
        row = page.locator("#rows tr", has_text="ETH-USD")
        await expect(row).to_contain_text("offline")
        await expect(row).to_contain_text("as of")
        await expect(page.locator("#connection")).not_to_have_text("connected")
        await expect(page.locator("#log")).to_contain_text("nothing was heard for 4000 ms")
        await expect(page.locator("#book-state")).to_contain_text("offline")
        await expect(page.locator("#chart-text")).to_contain_text("as of")
        await expect(page).to_have_title("\u26a0 offline · Market data")
        assert await page.evaluate(GREEN) == []
        line.dead = False
        await expect(row).to_contain_text("live")
        await expect(page.locator("#book-state")).to_contain_text("verified")


@pytest.mark.parametrize("width", [360, 1280])
async def test_what_is_old_is_legible_in_light_and_dark_and_nothing_is_cut_off(
    width: int, npm_packages: Path
) -> None:
    axe = (npm_packages / "axe-core" / "axe.min.js").read_text()
    async with (
        bench(MemoryBroker(), ws_heartbeat_ms=1000) as gateway,
        SlowProxy(gateway.port) as line,
        board_over(line, gateway, width) as (page, _),
    ):
        line.dead = True
        await expect(page.locator("#rows tr.old")).to_have_count(4)
        await expect(page.locator("#connection.good")).to_have_count(0)
        await expect(page.locator("#book-state")).to_contain_text("offline")
        assert await page.evaluate(STICKING_OUT, "body") == []
        await page.evaluate(axe)
        schemes: tuple[Literal["light", "dark"], ...] = ("light", "dark")
        for scheme in schemes:
            await page.emulate_media(color_scheme=scheme)
            ARTIFACTS.mkdir(parents=True, exist_ok=True)
            await page.screenshot(path=ARTIFACTS / f"board-old-{width}-{scheme}.png")
            result = await page.evaluate("axe.run()")
            assert [(v["id"], v["nodes"]) for v in result["violations"]] == []


@pytest.mark.parametrize("width", [360, 390])
async def test_a_phone_shows_each_rows_age(width: int) -> None:
    async with (
        bench(MemoryBroker(), **AS_DEPLOYED) as gateway,
        SlowProxy(gateway.port) as line,
        board_over(line, gateway, width) as (page, _),
    ):
        age = page.locator("#rows tr", has_text="ETH-USD").locator(".age")
        await expect(age).to_be_in_viewport()
        await expect(age).to_contain_text(" s")


async def test_a_key_is_asked_for_at_once_and_each_reason_is_named() -> None:
    async with (
        bench(
            MemoryBroker(), auth_api_keys="right,none;products=NO-SUCH", **AS_DEPLOYED
        ) as gateway,
        chromium() as browser,
    ):
        prices = Prices(gateway)
        await prices.begin()
        await prices.turn()
        page = await browser.new_page()
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        pill, words = page.locator("#connection"), page.locator("#key-words")
        await page.goto(gateway.http)
        await expect(pill).to_have_text("no key")
        await expect(words).to_have_text("This gateway wants an API key")
        await page.get_by_label("This gateway wants an API key").fill("wrong")
        await page.keyboard.press("Enter")
        await expect(pill).to_have_text("wrong key")
        await expect(words).to_have_text("This API key is wrong; another one:")
        await page.goto(f"{gateway.http}/?api_key=none")
        await expect(page.locator("#empty")).to_have_text(
            "This key covers no product that has been seen."
        )
        assert "none" not in page.url
        await page.goto(f"{gateway.http}/?api_key=right")
        await expect(page.locator("#rows tr")).to_have_count(4)
        await expect(pill).to_have_text("connected")
        await expect(page.locator("#version")).to_contain_text("Gateway ")
        assert "api_key" not in page.url
