// Against the gateway whose addresses the environment holds; the test suite starts it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MarketDataClient } from "../src/index.js";

const { GATEWAY_URL, BREAKING_URL, KEYED_URL } = process.env;
const options = { skip: GATEWAY_URL ? false : "no gateway: GATEWAY_URL is not set" };

async function until(client, type) {
  for await (const event of client) if (event.type === type) return event;
  throw new Error(`no ${type} came`);
}

test("a subscription gives a snapshot, then verified ticks", options, async () => {
  const client = new MarketDataClient(GATEWAY_URL);
  client.subscribe("BTC-USD");
  const types = [];
  let held = null;
  for await (const event of client) {
    types.push(event.type);
    if (event.type === "snapshot") held = event.seq;
    if (event.type === "tick") {
      assert.equal(event.prev, held);
      held = event.seq;
      assert.match(event.fields.last_trade.price, /^\d+\.5$/);
      if (types.length > 10) break;
    }
  }
  assert.equal(types[0], "connected");
  client.close();
});

test("a book is kept from its snapshot and changes", options, async () => {
  const client = new MarketDataClient(GATEWAY_URL);
  client.subscribe("BTC-USD", { channel: "book" });
  await until(client, "tick");
  const book = client.book("BTC-USD");
  assert.equal(book.valid, true);
  assert.equal(book.bestAsk.price, "500");
  assert.ok(book.depth(3).bids.length > 0);
  client.close();
});

test("one bad product is told, the others go on", options, async () => {
  const client = new MarketDataClient(GATEWAY_URL);
  client.subscribe(["NO-SUCH", "BTC-USD"]);
  const seen = {};
  for await (const event of client) {
    seen[event.type] = event;
    if (seen.streamError && seen.snapshot) break;
  }
  assert.equal(seen.streamError.code, 3000);
  client.close();
});

test("after unsubscribe nothing of the stream is handed out", options, async () => {
  const client = new MarketDataClient(GATEWAY_URL);
  client.subscribe(["BTC-USD", "ETH-USD"]);
  await until(client, "tick");
  client.unsubscribe("BTC-USD");
  let others = 0;
  for await (const event of client) {
    if (event.type !== "tick") continue;
    assert.equal(event.product, "ETH-USD");
    others += 1;
    if (others === 3) break;
  }
  client.close();
});

test("a wrong key is refused and not tried again", options, async () => {
  const client = new MarketDataClient(KEYED_URL, { apiKey: "wrong" });
  client.subscribe("BTC-USD");
  await assert.rejects(until(client, "tick"), /key_invalid/);
  const right = new MarketDataClient(KEYED_URL, { apiKey: "right" });
  right.subscribe("BTC-USD");
  await until(right, "snapshot");
  right.close();
});

test("a reader that is slower than the stream loses nothing", options, async () => {
  const client = new MarketDataClient(GATEWAY_URL);
  client.subscribe("ETH-USD", { fromSeq: 0 });
  let held = null;
  let ticks = 0;
  for await (const event of client) {
    if (event.type !== "tick") continue;
    if (held !== null) assert.equal(event.prev, held);
    held = event.seq;
    ticks += 1;
    if (ticks === 5) client.reconnect();
    if (ticks === 40) break;
  }
  client.close();
});

test("reconnects at random points under load", options, async (t) => {
  const client = new MarketDataClient(BREAKING_URL, { maxBackoffMs: 50 });
  const end = Number(process.env.RECONNECTS);
  const seqs = [];
  client.subscribe("SOL-USD", { fromSeq: 0 });
  for await (const event of client) {
    if (event.type === "tick") seqs.push(event.seq);
    if (event.type === "tick" && client.connections > end) break;
  }
  client.close();
  // The suite compares them with what was published.
  t.diagnostic(`ticks ${JSON.stringify(seqs)}`);
});
