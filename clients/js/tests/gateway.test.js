// Against the gateway whose addresses the environment holds; the test suite starts it.
import assert from "node:assert/strict";
import { test } from "node:test";
import { MarketDataClient } from "../src/index.js";

const { GATEWAY_URL, KEYED_URL } = process.env;
const BREAKING = { time: process.env.BREAKING_BY_TIME_URL, bytes: process.env.BREAKING_BY_BYTES_URL };
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

for (const [by, url] of Object.entries(BREAKING)) {
  test(`reconnects at random points (${by}) under load`, options, async (t) => {
    const client = new MarketDataClient(url, { maxBackoffMs: 50 });
    const end = Number(process.env.RECONNECTS);
    const seqs = { ticker: [], book: [] };
    client.subscribe("SOL-USD", { channel: ["ticker", "book"], fromSeq: 0 });
    const book = client.book("SOL-USD");
    for await (const event of client) {
      if (event.type !== "tick") continue;
      seqs[event.channel].push(event.seq);
      // Where the loop stands, a later tick may be in the book already: it stands at `book.seq`.
      if (client.connections > end && book.valid && seqs.ticker.length) break;
    }
    client.close();
    const { bids, asks } = book.depth();
    // The suite compares them with what was published.
    t.diagnostic(`held ${JSON.stringify({ by, ...seqs, at: book.seq, bids, asks })}`);
  });
}
