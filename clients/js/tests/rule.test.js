// The rule, the book and the hook's store, without a socket.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { OrderBook } from "../src/book.js";
import { MarketDataClient } from "../src/client.js";
import { Chain } from "../src/chain.js";
import { compareDecimals, isDecimal } from "../src/decimal.js";
import { createUseMarketData } from "../src/hook.js";
import { Protocol, Refused } from "../src/protocol.js";
import { Facts, judge, lostAfterUs, ServerClock, silentAfterUs } from "../src/freshness.js";
import { longestWaitMs } from "../src/reconnect.js";
import { MarketDataStore } from "../src/store.js";

const NAMES = { venue: "coinbase", channel: "book", product: "BTC-USD" };
const snapshot = (seq, more = {}) => ({
  type: "snapshot",
  reason: "subscribe",
  snapshot: { ...NAMES, epoch: 1, seq, ts_snapshot: 1, state: { bids: [["10", "1"]], asks: [["11", "1"]] } },
  ...more,
});
const incr = (seq, prev, epoch = 1) => ({
  type: "incr",
  tick: { ...NAMES, epoch, seq, prev, ts_ingest: 1, fields: { changes: [["buy", String(seq), "1"]] } },
});
const subscribed = () => {
  const protocol = new Protocol();
  protocol.subscribe(["BTC-USD"], ["book"], "coinbase", null, null, {});
  protocol.opened();
  protocol.ready(0);
  return protocol;
};

test("decimals are compared as numbers are, whatever their text", () => {
  const ordered = ["-10.5", "-2", "0", "0.000001", "0.10", "1", "2.05", "2.5", "9289.70", "10000"];
  for (let i = 0; i < ordered.length; i += 1) {
    for (let j = 0; j < ordered.length; j += 1) {
      assert.equal(Math.sign(compareDecimals(ordered[i], ordered[j])), Math.sign(i - j));
    }
  }
  assert.equal(compareDecimals("9289.70", "9289.7"), 0);
  assert.equal(compareDecimals("007", "7.0"), 0);
});

const shared = (name) =>
  JSON.parse(readFileSync(new URL(`../../conformance/market_data_conformance/${name}`, import.meta.url), "utf8"));

test("how old data is and what may be shown as live, by the cases that all clients share", () => {
  const { lost, clock, verdicts } = shared("freshness.json");
  for (const { heartbeat, silent_after, lost_after } of lost) {
    assert.deepEqual([silentAfterUs(heartbeat), lostAfterUs(heartbeat)], [silent_after, lost_after]);
  }
  for (const { about, heard, now } of clock) {
    const found = new ServerClock();
    for (const [server, at, asked] of heard) found.heard(server, at, asked);
    for (const [at, expected] of now) assert.equal(found.now(at), expected, about);
  }
  for (const { about, facts, context, state, age_ms } of verdicts) {
    const { as_of, ...others } = facts;
    const { server_now, ...given } = context;
    const held = Object.assign(new Facts(), others, { asOf: as_of });
    const found = judge(held, { ...given, serverNow: server_now });
    assert.deepEqual([found.state, found.ageMs], [state, age_ms], about);
    assert.equal(found.fresh, ["live", "quiet"].includes(state), about);
    assert.deepEqual([found.mode, found.lag], [facts.mode, facts.lag], about);
  }
  assert.ok(lost.length && clock.length && verdicts.length);
});

test("numbers are read as the platform reads them, by the vectors all readers share", () => {
  const file = new URL("../../conformance/market_data_conformance/decimals.json", import.meta.url);
  const { ascending, invalid } = JSON.parse(readFileSync(file, "utf8"));
  ascending.forEach((texts, i) => {
    for (const text of texts) {
      assert.ok(isDecimal(text), text);
      ascending.forEach((others, j) => {
        for (const other of others) {
          assert.equal(Math.sign(compareDecimals(text, other)), Math.sign(i - j), `${text} ${other}`);
        }
      });
    }
  });
  for (const text of invalid) assert.ok(!isDecimal(text), text);
});

test("one price in two notations is one level", () => {
  const book = new OrderBook();
  book.replace(1, 1, [["5.1e-7", "150000"], ["5e-7", "10000"], ["0.00000008", "8000"]], [["6e-7", "1"]]);
  assert.deepEqual(book.bestBid, { price: "5.1e-7", size: "150000" });
  book.apply(1, 2, [["buy", "0.00000051", "0e-8"], ["buy", "5.0E-7", "1e4"]]);
  assert.deepEqual(book.depth().bids, [{ price: "5.0E-7", size: "1e4" }, { price: "0.00000008", size: "8000" }]);
});

test("a chain applies only what follows", () => {
  const chain = new Chain();
  chain.snapshot(1, 10);
  assert.equal(chain.incr(1, 10, 9), "ignore");
  assert.equal(chain.incr(1, 12, 10), "apply");
  assert.equal(chain.incr(1, 15, 14), "break");
  assert.equal(chain.incr(1, 16, 15), "ignore");
  chain.snapshot(1, 16);
  assert.equal(chain.incr(2, 17, 16), "epoch");
});

test("a head is behind only after a whole heartbeat", () => {
  const chain = new Chain();
  chain.snapshot(1, 10);
  assert.equal(chain.head(12, 0, 5000), "apply");
  assert.equal(chain.head(12, 4000, 5000), "apply");
  assert.equal(chain.head(12, 5000, 5000), "behind");
});

test("a claimed position may lie between two records, once", () => {
  const chain = new Chain(105);
  assert.equal(chain.incr(1, 107, 100), "apply");
  assert.equal(chain.incr(1, 110, 105), "break");
});

test("a book holds the newest size of each price, best first", () => {
  const book = new OrderBook();
  book.replace(1, 1, [["9.5", "1"], ["10", "2"]], [["11", "1"], ["10.50", "3"]]);
  book.apply(1, 2, [["buy", "10.00", "5"], ["sell", "10.5", "0"], ["sell", "99", "0.00"], ["buy", "9.75", "1"]]);
  assert.deepEqual(book.bestBid, { price: "10.00", size: "5" });
  assert.deepEqual(book.bestAsk, { price: "11", size: "1" });
  assert.deepEqual(book.depth(2).bids.map((level) => level.price), ["10.00", "9.75"]);
  assert.equal(book.size, 4);
});

test("a break makes the book invalid until the snapshot that was asked for", () => {
  const protocol = subscribed();
  protocol.take(snapshot(1), 0);
  protocol.take(incr(2, 1), 0);
  const { book } = protocol.streams.get("coinbase:book:BTC-USD");
  assert.equal(protocol.take(incr(5, 4), 0)[0].type, "resync");
  assert.equal(book.valid, false);
  assert.equal(protocol.ready(0)[0].type, "resync");
  assert.deepEqual(protocol.take(incr(6, 5), 0), []);
  protocol.take(snapshot(6), 0);
  assert.equal(book.valid, true);
});

test("after a reset a lost connection asks the book anew and not from its position", () => {
  const protocol = subscribed();
  protocol.take(snapshot(1), 0);
  protocol.take({ type: "reset", ...NAMES, epoch: 1, seq: 9, prev: 1, cause: "gap" }, 0);
  protocol.take(snapshot(9, { part: 1, last: false }), 0);
  protocol.opened();
  assert.equal("from_seq" in protocol.ready(0)[0], false);
  protocol.take(snapshot(9, { part: 1, last: false }), 0);
  const [whole] = protocol.take(snapshot(9, { part: 2, last: true }), 0);
  assert.equal(whole.state.bids.length, 2);
  protocol.opened();
  assert.deepEqual(protocol.ready(0)[0].from_seq, { "BTC-USD": 9 });
});

test("a command that the rate limit refused is said again when told", () => {
  const protocol = subscribed();
  protocol.subscribe(["ETH-USD"], ["ticker"], "coinbase", null, null, {});
  const [command] = protocol.ready(0);
  protocol.take({ type: "rate_limit", scope: "commands", id: command.id, retry_after_ms: 500 }, 1000);
  assert.deepEqual(protocol.ready(1499), []);
  assert.deepEqual(protocol.ready(1500), [command]);
});

test("a wrong key refuses", () => {
  const error = { type: "error", code: 2001, name: "key_invalid", message: "no", retry: "no" };
  assert.throws(() => subscribed().take(error, 0), Refused);
});

test("the hook's store merges ticks into the snapshot and renders once for a repaint", async () => {
  const store = new MarketDataStore();
  let renders = 0;
  const repainted = new Promise((resolve) =>
    store.subscribe(() => {
      renders += 1;
      resolve();
    }),
  );
  const names = { venue: "coinbase", channel: "ticker", product: "BTC-USD" };
  store.take({ type: "connected" });
  store.take({ type: "snapshot", ...names, state: { volume_30d: "1", best_bid: { price: "1", size: "1" } } });
  store.take({ type: "tick", ...names, seq: 2, fields: { best_bid: { price: "2", size: "1" } } });
  await repainted;
  const view = store.getSnapshot();
  assert.equal(renders, 1);
  assert.equal(view.status, "connected");
  assert.equal(view.ticks["BTC-USD"].seq, 2);
  assert.deepEqual(view.snapshot["BTC-USD"], { volume_30d: "1", best_bid: { price: "2", size: "1" } });
});

test("the hook opens one client for a mount and closes it at the end", async () => {
  let cleanup = null;
  const opened = [];
  class Socket {
    constructor(url) {
      opened.push(this);
      this.url = url;
      this.closed = false;
    }
    close() {
      this.closed = true;
    }
  }
  const hooks = {
    useMemo: (make) => make(),
    useEffect: (act) => (cleanup = act()),
    useSyncExternalStore: (_subscribe, get) => get(),
  };
  const view = createUseMarketData(hooks)(["BTC-USD"], { url: "ws://one/ws", WebSocket: Socket });
  assert.equal(view.status, "connecting");
  await new Promise((resolve) => setImmediate(resolve));
  assert.deepEqual(opened.map((socket) => socket.url), ["ws://one/ws"]);
  cleanup();
  assert.equal(opened[0].closed, true);
});

const part = (seq, number, last) =>
  snapshot(seq, {
    part: number,
    last,
    snapshot: {
      ...NAMES,
      epoch: 1,
      seq,
      ts_snapshot: 1,
      state: { bids: [[String(number), "1"]], asks: [] },
    },
  });

test("only the parts of one snapshot, in order, are a book", () => {
  const befores = [
    // Unsubscribed and subscribed again while a snapshot came: its end is for nobody.
    [part(5, 2, false), part(5, 3, true)],
    [part(5, 3, true)],
    // One that ended in the middle, and the end of yet another.
    [part(5, 1, false), part(6, 2, true)],
    [part(5, 1, false), part(5, 3, true)],
  ];
  for (const before of befores) {
    const protocol = subscribed();
    const { book } = protocol.streams.get("coinbase:book:BTC-USD");
    for (const message of before) {
      assert.deepEqual(protocol.take(message, 0), []);
      assert.equal(book.valid, false);
    }
    assert.deepEqual(protocol.take(part(9, 1, false), 0), []);
    const [whole] = protocol.take(part(9, 2, true), 0);
    assert.deepEqual(whole.state.bids, [["1", "1"], ["2", "1"]]);
    assert.equal(book.valid, true);
  }
});

test("late trades are handed out as they came", () => {
  const protocol = subscribed();
  const late = { type: "late", ...NAMES, epoch: 1, missed: { from: 1, to: 2 }, ticks: [], open: [] };
  assert.deepEqual(protocol.take(late, 0), [late]);
  assert.deepEqual(protocol.take({ ...late, product: "OTHER" }, 0), []);
});

test("who lost a connection that stood is spread, others try soon", () => {
  const bound = (failures, established, maxMs = 15_000) =>
    longestWaitMs(failures, { established, spreadMs: 3000, maxMs });
  assert.equal(bound(0, true), 3000);
  assert.equal(bound(0, true, 500), 500);
  assert.deepEqual([0, 1, 2].map((n) => bound(n, false)), [50, 100, 200]);
  assert.equal(bound(60, false), 15_000);
});

test("who is not reached in so many attempts is told, and the logger with it", async () => {
  class Nobody {
    readyState = 0;
    constructor() {
      setTimeout(() => this.onclose?.({ code: 1006, reason: "" }), 0);
    }
    close() {}
  }
  const said = [];
  const logger = { info: (text) => said.push(text), warn: (text) => said.push(text) };
  const client = new MarketDataClient("ws://one/ws", { WebSocket: Nobody, maxAttempts: 3, logger });
  const attempts = [];
  client.on("disconnected", (event) => attempts.push(event.attempts));
  await assert.rejects(async () => {
    for await (const event of client) assert.equal(event.type === "refused" || event.type === "disconnected", true);
  }, /ws:\/\/one\/ws was not reached in 3 attempts/);
  assert.deepEqual(attempts, [1, 2]);
  assert.equal(said.length, 3);
});

test("an address that no WebSocket takes ends the client with a word", async () => {
  class Strict {
    constructor(url) {
      throw new SyntaxError(`the address ${url} is invalid`);
    }
  }
  const client = new MarketDataClient("nonsense://x", { WebSocket: Strict });
  const refused = new Promise((resolve) => client.on("refused", resolve));
  const events = client[Symbol.asyncIterator]();
  assert.equal((await refused).code, 0);
  assert.equal((await events.next()).value.type, "refused");
  await assert.rejects(() => events.next(), Refused);
});
