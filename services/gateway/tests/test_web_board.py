"""The web board in a real, headless Chromium."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, async_playwright, expect

from services.common.stream.memory.broker import MemoryBroker, MemoryServer
from services.common.wire import Fields, Level, Stats24h, Trade
from services.gateway.testing import WAIT_S, Bench, Market, bench
from tools.embedded import free_port

ROOT = Path(__file__).resolve().parents[3]
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
# Screenshots are what a person can judge; CI keeps them.
ARTIFACTS = Path(os.environ.get("ARTIFACTS_DIR", ROOT / ".mdf" / "artifacts"))
needs_browser = pytest.mark.skipif(
    CHROMIUM is None, reason="no Chromium was found (Debian: apt-get install chromium)"
)
PATIENCE_MS = 1000 * WAIT_S
# A page that hears nothing for three heartbeats connects again, but never within 5 s: 15 s, as it
# is deployed, are less often the machine's doing than 5.
AS_DEPLOYED: dict[str, Any] = {"ws_heartbeat_ms": 5000}


@contextlib.asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"]
        )
        try:
            yield browser
        finally:
            await browser.close()


class Faults:
    """Everything a page complains of; a lost connection on purpose is no fault."""

    def __init__(self, page: Page) -> None:
        self.found: list[str] = []
        self.expected: tuple[str, ...] = ()
        page.on("pageerror", lambda error: self.found.append(str(error)))
        page.on("console", self._said)

    def _said(self, message: ConsoleMessage) -> None:
        expected = any(part in message.text for part in self.expected)
        if message.type in ("error", "warning") and not expected:
            self.found.append(message.text)


class Prices:
    """Products with prices that wander, and one book."""

    def __init__(self, gateway: Bench, count: int = 4) -> None:
        names = ["BTC-USD", "ETH-USD", "SOL-USD", "DOGE-USD", *(f"P{n}-USD" for n in range(20))]
        self.markets = [gateway.market(name) for name in names[:count]]
        self.book = gateway.market(channel="book")
        self._step = 0

    async def begin(self) -> None:
        rows = [[f"{64000 - n * 3.5:.2f}", f"{0.1 + n % 7:.3f}"] for n in range(40)]
        asks = [[f"{64001 + n * 3.5:.2f}", f"{0.2 + n % 5:.3f}"] for n in range(40)]
        await self.book.publish(self.book.reset({"bids": rows, "asks": asks}))
        for market in self.markets:
            await market.publish(market.status())

    async def turn(self) -> None:
        """One tick of every product, one change of the book."""
        self._step += 1
        for n, market in enumerate(self.markets):
            await market.publish(market.tick(self._fields(n, market)))
        size = f"{self._step % 9 + 0.125:.3f}"
        change = ("buy", f"{63996.50 - self._step % 5 * 3.5:.2f}", size)
        await self.book.publish(self.book.tick(Fields(changes=[change])))

    def _fields(self, n: int, market: Market) -> Fields:
        wave = (self._step * (n + 3) * 7919) % 997 / 997 + self._step / (400 * (n + 1))
        price = (64000, 3200, 150, 0.4)[n % 4] * (1 + wave / 500)
        trade = Trade(f"{price:.2f}", "0.1", "buy", (market.seq or 0) + 7, market.clock())
        return Fields(
            last_trade=trade,
            best_bid=Level(f"{price - 0.01:.2f}", "1"),
            best_ask=Level(f"{price + 0.01:.2f}", "1"),
            stats_24h=Stats24h(open=f"{price * 0.99:.2f}", high="1", low="1", volume="1"),
        )

    async def run(self, ticks_per_s: float) -> None:
        """Publish at this rate, also where the machine was busy for a while."""
        loop = asyncio.get_running_loop()
        began, turns = loop.time(), 0
        while True:
            turns += 1
            await self.turn()
            due = began + turns * (len(self.markets) + 1) / ticks_per_s
            await asyncio.sleep(max(0.0, due - loop.time()))


@contextlib.asynccontextmanager
async def moving(prices: Prices, ticks_per_s: float = 100) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        running = group.create_task(prices.run(ticks_per_s))
        yield
        running.cancel()


async def cell(page: Page, product: str, column: int) -> str:
    row = page.locator("#rows tr", has=page.get_by_role("button", name=product, exact=True))
    return await row.locator("td").nth(column).inner_text()


@needs_browser
async def test_the_board_shows_moving_prices_and_survives_breaks_and_a_restart() -> None:
    server, port = MemoryServer(), free_port()
    async with chromium() as browser:
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        faults = Faults(page)
        async with bench(MemoryBroker(server), http_port=port, **AS_DEPLOYED) as gateway:
            prices = Prices(gateway)
            await prices.begin()
            await prices.turn()
            async with moving(prices):
                await page.goto(gateway.http)
                await expect(page.locator("#connection")).to_have_text("connected")
                await expect(page.locator("#rows tr")).to_have_count(4)
                await expect(page.locator("#book-state")).to_contain_text("verified")
                before = await cell(page, "ETH-USD", 0)
                await page.wait_for_function(
                    "before => [...document.querySelectorAll('#rows tr')]"
                    ".some(row => row.textContent.startsWith('ETH-USD')"
                    " && row.children[1].textContent !== before)",
                    arg=before,
                )
                assert faults.found == []

                await page.get_by_role("button", name="Break my connection").focus()
                await page.keyboard.press("Enter")
                await expect(page.locator("#log")).to_contain_text("every chain unbroken")
                await expect(page.locator("#total-resumes")).to_have_text("1")

                # Keyboard only: another product's price and book.
                await page.get_by_role("button", name="ETH-USD", exact=True).focus()
                await page.keyboard.press("Enter")
                await expect(page.locator("#chart-title")).to_have_text("ETH-USD price")
                await page.get_by_role("button", name="BTC-USD", exact=True).click()
                await expect(page.locator("#book-state")).to_contain_text("verified")
                await shoot(page)
            assert faults.found == []
            # The browser itself says that nobody answers while the gateway is away.
            faults.expected = ("ERR_CONNECTION_REFUSED", "WebSocket connection to")
        await expect(page.locator("#connection")).to_have_text("connecting again")
        async with bench(MemoryBroker(server), http_port=port, **AS_DEPLOYED) as gateway:
            again = Prices(gateway)
            for old, new in zip(
                [*prices.markets, prices.book], [*again.markets, again.book], strict=True
            ):
                new.seq, new.sub = old.seq, old.sub
            async with moving(again):
                await expect(page.locator("#connection")).to_have_text("connected")
                await expect(page.locator("#total-resumes")).to_have_text("2")
                resumed = page.locator("#log li", has_text="every chain unbroken")
                await expect(resumed).to_have_count(2)
            await expect(page.locator("#total-breaks")).to_have_text("0")
        assert faults.found == []


async def shoot(page: Page) -> None:
    """The board on a desk and on a phone, in light and dark."""
    for name, width in (("board", 1280), ("board-phone", 390)):
        await page.set_viewport_size({"width": width, "height": 1000})
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            await page.evaluate(
                "() => new Promise(done => requestAnimationFrame(() =>"
                " requestAnimationFrame(() => requestAnimationFrame(done))))"
            )
            await page.screenshot(path=ARTIFACTS / f"{name}-{scheme}.png", full_page=True)
    await page.set_viewport_size({"width": 1280, "height": 1000})


# What sticks out of its place under `root`; a box that scrolls hides what it cuts off.
STICKING_OUT = """root => {
  const out = [];
  if (document.documentElement.scrollWidth > innerWidth) out.push("the page");
  const boxes = "table, .scroll, button, h2, dl";
  for (const box of document.querySelector(root).querySelectorAll(boxes)) {
    const { right, width } = box.getBoundingClientRect();
    if (width && (right > innerWidth || box.scrollWidth > box.clientWidth + 1)) {
      out.push(`${box.tagName} ${box.id} ${box.textContent.slice(0, 40)}`);
    }
  }
  return out;
}"""


@contextlib.asynccontextmanager
async def awkward_board(width: int) -> AsyncIterator[Page]:
    """A board with a product whose every text is long, and things that have happened."""
    async with bench(MemoryBroker(), **AS_DEPLOYED) as gateway, chromium() as browser:
        prices = Prices(gateway)
        await prices.begin()
        await prices.turn()
        long, book = gateway.market("1INCH-1000SATS"), gateway.market("1INCH-1000SATS", "book")
        trade = Trade("123456.12345678", "0.1", "buy", 7, long.clock())
        stats = Stats24h(open="10000.1", high="1", low="1", volume="1")
        await long.publish(long.tick(Fields(last_trade=trade, stats_24h=stats)))
        await long.publish(long.status("resyncing"))
        rows = {"bids": [["0.00001234", "123456789.1"]], "asks": [["0.00001235", "99999999.12"]]}
        await book.publish(book.reset(rows))
        page = await browser.new_page(viewport={"width": width, "height": 844})
        page.set_default_timeout(PATIENCE_MS)
        expect.set_options(timeout=PATIENCE_MS)
        async with moving(prices):
            await page.goto(gateway.http)
            await expect(page.locator("#rows tr")).to_have_count(5)
            await page.get_by_role("button", name="Break my connection").click()
            await expect(page.locator("#log")).to_contain_text("every chain unbroken")
            yield page


@needs_browser
@pytest.mark.parametrize("width", [360, 390, 1280])
async def test_nothing_is_cut_off_at_any_width(width: int) -> None:
    async with awkward_board(width) as page:
        await expect(page.locator("#book-state")).to_contain_text("verified")
        assert await page.evaluate(STICKING_OUT, "body") == []
        await page.get_by_role("button", name="1INCH-1000SATS").click()
        await expect(page.locator("#book-state")).to_contain_text("2 levels · spread 0.00000001")
        # Such a book's numbers may scroll in their box, within reach of the keyboard.
        assert await page.evaluate(STICKING_OUT, "#products") == []
        row = page.locator("#rows tr", has_text="1INCH-1000SATS")
        for text in ("123456.12345678", "+1134.55 %", "resyncing", "unbroken"):
            await expect(row.get_by_text(text, exact=True)).to_be_in_viewport()


@needs_browser
@pytest.mark.parametrize("width", [390, 1280])
async def test_axe_finds_no_accessibility_fault_in_light_and_dark(
    width: int, npm_packages: Path
) -> None:
    axe = (npm_packages / "axe-core" / "axe.min.js").read_text()
    async with awkward_board(width) as page:
        await expect(page.locator("#book-state")).to_contain_text("verified")
        await page.evaluate(axe)
        for scheme in ("light", "dark"):
            await page.emulate_media(color_scheme=scheme)
            result = await page.evaluate("axe.run()")
            assert len(result["passes"]) > 30
            assert [(v["id"], v["nodes"]) for v in result["violations"]] == []


@needs_browser
async def test_the_board_does_its_work_at_500_ticks_a_second() -> None:
    seconds = float(os.environ.get("BOARD_BENCH_S", "2"))
    async with bench(MemoryBroker(), **AS_DEPLOYED) as gateway, chromium() as browser:
        prices = Prices(gateway, count=20)
        await prices.begin()
        await prices.turn()
        page = await browser.new_page(viewport={"width": 1280, "height": 1000})
        faults = Faults(page)
        async with moving(prices, 500):
            await page.goto(gateway.http)
            rate_shown = page.locator("#total-rate")
            await expect(rate_shown).to_have_text(re.compile(r"^[1-9]\d\d"), timeout=PATIENCE_MS)
            session = await page.context.new_cdp_session(page)
            # The thread's own time: what others do on this machine does not count.
            await session.send("Performance.enable", {"timeDomain": "threadTicks"})

            async def metrics() -> dict[str, float]:
                answer = await session.send("Performance.getMetrics")
                return {row["name"]: row["value"] for row in answer["metrics"]}

            await page.evaluate(
                "() => { window.frames_ = 0; const f = () => { window.frames_ += 1;"
                " requestAnimationFrame(f); }; requestAnimationFrame(f); }"
            )
            first, frames = await metrics(), await page.evaluate("window.frames_")
            await asyncio.sleep(seconds)
            last, more = await metrics(), await page.evaluate("window.frames_")
            rate = float(await page.locator("#total-rate").inner_text())
        took = last["Timestamp"] - first["Timestamp"]
        busy = (last["TaskDuration"] - first["TaskDuration"]) / took
        script = (last["ScriptDuration"] - first["ScriptDuration"]) / took
        report = {
            "ticks_per_s": rate,
            "main_thread_ms_per_s": round(busy * 1000),
            "script_ms_per_s": round(script * 1000),
            "frames_per_s": round((more - frames) / took, 1),
            "heap_mb": round(last["JSHeapUsedSize"] / 1e6, 1),
        }
        _keep("board-500.json", json.dumps(report))
        assert faults.found == []
        assert await page.locator("#total-breaks").inner_text() == "0"


def _keep(name: str, text: str) -> None:
    ARTIFACTS.mkdir(parents=True, exist_ok=True)
    (ARTIFACTS / name).write_text(text)


async def test_every_file_of_the_page_comes_with_a_strict_policy_and_no_other_path_does() -> None:
    import httpx

    async with bench(MemoryBroker()) as gateway, httpx.AsyncClient(base_url=gateway.http) as http:
        for path in ("/", "/board.js", "/board.css", "/icon.svg", "/sdk/client.js"):
            answer = await http.get(path)
            assert answer.status_code == 200
            policy = answer.headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
        for path in ("/sdk/../../app.py", "/sdk/%2e%2e/board.js.map", "/sdk/", "/board"):
            assert (await http.get(path)).status_code == 404
