// The hook on React itself, in a document of jsdom, against the gateway of GATEWAY_URL.
import assert from "node:assert/strict";
import { afterEach, test } from "node:test";
import { JSDOM } from "jsdom";

const dom = new JSDOM('<!doctype html><main id="root"></main>', { pretendToBeVisual: true });
const { window } = dom;
Object.assign(globalThis, {
  window,
  document: window.document,
  requestAnimationFrame: window.requestAnimationFrame.bind(window),
});
// Node 20 has none; later ones have one that cannot be assigned to.
Object.defineProperty(globalThis, "navigator", { value: window.navigator, configurable: true });
// React looks at the document when it is loaded.
const { createElement, StrictMode } = await import("react");
const { createRoot } = await import("react-dom/client");
const { useMarketData } = await import("market-data-fanout-client/react");

const url = process.env.GATEWAY_URL;
const sockets = [];
// How many of the next connections find nobody, so that a loss lasts longer than a paint.
let astray = 0;
class Counted extends WebSocket {
  constructor(address, ...args) {
    super(astray-- > 0 ? "ws://127.0.0.1:1/ws" : address, ...args);
    sockets.push(this);
  }
}
const open = () => sockets.filter((socket) => socket.readyState < 2).length;

let view = null;
let renders = 0;
function Prices({ products, options }) {
  renders += 1;
  view = useMarketData(products, { url, WebSocket: Counted, ...options });
  return createElement("p", null, view.status, " ", Object.keys(view.ticks).sort().join(","));
}

let root = null;
function render(props, strict = false) {
  root ??= createRoot(document.getElementById("root"));
  const prices = createElement(Prices, props);
  root.render(strict ? createElement(StrictMode, null, prices) : prices);
}
async function until(condition, what) {
  const deadline = Date.now() + 15_000;
  while (!condition()) {
    if (Date.now() > deadline) throw new Error(`not ${what}: ${JSON.stringify(view)}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}
const shown = () => document.getElementById("root").textContent;

afterEach(async () => {
  root?.unmount();
  root = null;
  await until(() => open() === 0, "closed after unmounting");
  sockets.length = 0;
  renders = 0;
});

test("it shows ticks and merged state, and stays on one connection however often it renders", async () => {
  render({ products: ["BTC-USD"] });
  await until(() => shown() === "connected BTC-USD", "shown");
  assert.ok(view.snapshot["BTC-USD"].last_trade.price);
  assert.equal(view.error, null);
  for (let n = 0; n < 5; n += 1) {
    const before = renders;
    render({ products: ["BTC-USD"], options: {} });
    await until(() => renders > before, "rendered again");
  }
  const held = view.ticks["BTC-USD"].seq;
  await until(() => view.ticks["BTC-USD"].seq > held, "moving");
  assert.equal(sockets.length, 1);
});

test("in StrictMode, which mounts twice, one connection is left and it follows", async () => {
  render({ products: "BTC-USD" }, true);
  await until(() => shown() === "connected BTC-USD", "shown");
  const held = view.ticks["BTC-USD"].seq;
  await until(() => view.ticks["BTC-USD"].seq > held, "moving");
  assert.equal(open(), 1);
});

for (const strict of [false, true]) {
  test(`other products are subscribed and the old ones forgotten${strict ? ", in StrictMode" : ""}`, async () => {
    render({ products: ["BTC-USD"] }, strict);
    await until(() => shown() === "connected BTC-USD", "shown");
    render({ products: ["ETH-USD", "SOL-USD"] }, strict);
    await until(() => shown() === "connected ETH-USD,SOL-USD", "changed");
    assert.deepEqual(Object.keys(view.snapshot).sort(), ["ETH-USD", "SOL-USD"]);
    await until(() => open() === 1, "on one connection");
  });
}

test("other options begin anew; a book is the verified local one", async () => {
  render({ products: ["BTC-USD"] });
  await until(() => shown() === "connected BTC-USD", "shown");
  render({ products: ["BTC-USD"], options: { channel: "book" } });
  await until(() => view.snapshot["BTC-USD"]?.bestAsk, "a book");
  assert.equal(view.snapshot["BTC-USD"].bestAsk.price, "500");
  assert.equal(view.snapshot["BTC-USD"].valid, true);
});

test("an unknown product is an error and the others go on", async () => {
  render({ products: ["NO-SUCH", "BTC-USD"] });
  await until(() => view.error && view.ticks["BTC-USD"], "told");
  assert.equal(view.error.code, 3000);
});

test("a lost connection shows, and comes back by itself", async () => {
  render({ products: ["BTC-USD"] });
  await until(() => shown() === "connected BTC-USD", "shown");
  const held = view.ticks["BTC-USD"].seq;
  astray = 2;
  sockets[0].close();
  await until(() => !shown().startsWith("connected"), "the loss shown");
  await until(() => view.freshness["BTC-USD"].state === "offline", "known to be old");
  assert.ok(view.freshness["BTC-USD"].asOf > 0);
  await until(() => sockets.length > 1 && shown() === "connected BTC-USD", "connected again");
  await until(() => view.ticks["BTC-USD"].seq > held, "moving");
  await until(() => view.freshness["BTC-USD"].fresh, "fresh again");
});
