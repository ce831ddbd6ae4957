// The page: what the SDK hands out is kept in the model at once and painted with the next frame.

import { MarketDataClient } from "./sdk/index.js";
import { chart } from "./board/draw.js";
import { Ladder } from "./board/ladder.js";
import { Product, Rate } from "./board/model.js";
import { caveat, Table, write } from "./board/table.js";

const LOOK_FOR_PRODUCTS_MS = 5000;
const CHART_MS = 100;
const JUDGE_MS = 250;
const CONNECTED = "connected";
// A connection that stands, and on which nothing was heard for two heartbeats.
const SILENT = "nothing is heard";
const LOG_LINES = 200;

const element = (id) => document.getElementById(id);
// Kept by the tab alone, never in the address: that goes into histories, logs and screenshots.
const KEY = "api_key";
const address = new URL(location.href);
if (address.searchParams.has(KEY)) {
  sessionStorage.setItem(KEY, address.searchParams.get(KEY));
  address.searchParams.delete(KEY);
  history.replaceState(null, "", address);
}
const apiKey = sessionStorage.getItem(KEY);
const url = `${location.protocol.replace("http", "ws")}//${location.host}/ws`;

const products = new Map();
const table = new Table(element("rows"), element("empty"), choose);
const ladder = new Ladder(element("levels"), element("book-state"));
const total = new Rate(Date.now());
const counts = { breaks: 0, resumes: 0 };
let chosen = null;
let client = null;
let refused = false;
let bookDirty = true;
let paintedAt = 0;
// What a lost connection cost, from its end to the last stream that goes on.
let outage = null;

function say(text, kind = "") {
  const log = element("log");
  const line = document.createElement("li");
  const time = document.createElement("time");
  time.textContent = new Date().toLocaleTimeString([], { hour12: false });
  const words = document.createElement("span");
  words.className = kind;
  words.textContent = text;
  line.append(time, words);
  log.prepend(line);
  while (log.children.length > LOG_LINES) log.lastChild.remove();
}

function show(text, kind) {
  write(element("connection"), text, `pill ${kind}`);
}

function choose(name) {
  if (chosen === name) return;
  if (chosen) client.unsubscribe(chosen, { channel: "book" });
  chosen = name;
  client.subscribe(name, { channel: "book" });
  write(element("chart-title"), `${name} price`);
  write(element("book-title"), `${name} order book`);
  bookDirty = true;
  paintedAt = 0;
}

/** Without a key that is right there is nothing to follow, and nothing to try again. */
function askForKey(text) {
  refused = true;
  client.close();
  show(apiKey ? "wrong key" : "no key", "bad");
  write(element("key-words"), text);
  element("key").hidden = false;
}

const ask = (path) => fetch(path, { headers: apiKey ? { "X-API-Key": apiKey } : {} });

async function lookForVersion() {
  const answer = await ask("/v1/status");
  if (answer.ok) write(element("version"), `Gateway ${(await answer.json()).version}.`);
}

async function lookForProducts() {
  const answer = await ask("/v1/products");
  if (answer.status === 401) {
    askForKey(apiKey ? "This API key is wrong; another one:" : "This gateway wants an API key");
  }
  if (!answer.ok) return;
  const none = apiKey ? "This key covers no product that has been seen." : "No product has been seen yet.";
  write(element("empty"), none);
  if (!element("version").textContent) await lookForVersion();
  const listed = (await answer.json()).products.filter((one) => one.channels.includes("ticker"));
  const fresh = listed.map((one) => one.product).filter((name) => !products.has(name));
  if (!fresh.length) return;
  for (const name of fresh) products.set(name, new Product(name, Date.now()));
  client.subscribe(fresh);
  if (!chosen) choose(fresh.includes("BTC-USD") ? "BTC-USD" : fresh[0]);
}

const named = (event) => `${event.product} ${event.channel}`;

const handlers = {
  connected(event) {
    show(CONNECTED, "good");
    if (event.number > 1) {
      counts.resumes += 1;
      outage ??= { at: Date.now(), ticks: 0, waiting: 0 };
    }
  },
  disconnected(event) {
    judge();
    show("connecting again", "wait");
    outage ??= { at: Date.now(), ticks: 0, waiting: 0 };
    outage.waiting = 0;
    // What was to be made up for is asked for anew.
    for (const product of products.values()) product.refill = null;
    say(`Connection lost: ${event.reason}`, "wait");
  },
  refused(event) {
    say(event.message, "bad");
    if (event.code === 2000 || event.code === 2001) askForKey(event.message);
    else show("refused", "bad");
  },
  subscribed(event) {
    if (outage && event.start === "backfill") outage.waiting += 1;
    if (!event.warning) return;
    const instead = event.start === "backfill" ? "" : "; a snapshot instead";
    say(`${named(event)}: ${event.warning.message}${instead}`, "wait");
  },
  backfill(event) {
    if (event.channel === "ticker") products.get(event.product)?.backfill(event.state, event.complete);
    if (!outage || event.state !== "end") return;
    outage.ticks += event.count ?? 0;
    outage.waiting -= 1;
    if (outage.waiting > 0) return;
    const seconds = ((Date.now() - outage.at) / 1000).toFixed(2);
    say(`Resumed after ${seconds} s: ${outage.ticks} missed ticks came, every chain unbroken`, "good");
    outage = null;
  },
  snapshot(event) {
    if (event.channel === "ticker") products.get(event.product)?.snapshot(event.state, event.reason);
    else bookDirty = true;
    if (event.reason === "resync") say(`${named(event)}: healed by a snapshot`, "good");
  },
  tick(event) {
    const now = Date.now();
    const product = products.get(event.product);
    if (event.channel !== "ticker" || !product?.refill) total.add(now, event.merged);
    if (event.channel === "ticker") products.get(event.product)?.tick(event, now);
    else bookDirty = true;
  },
  reset(event) {
    const missed = event.missed ? `, ${event.missed.from} to ${event.missed.to} missed` : "";
    say(`${named(event)}: starts over (${event.cause}, ${event.repair}${missed})`, "wait");
    if (event.channel === "ticker") products.get(event.product)?.reset(event.cause, event.repair);
    else bookDirty = true;
  },
  resync(event) {
    counts.breaks += 1;
    say(`${named(event)}: chain broken (${event.cause}), asked for a snapshot`, "bad");
    const product = event.channel === "ticker" && products.get(event.product);
    if (product) Object.assign(product, { chain: "resyncing", dirty: true });
    bookDirty = true;
  },
  status(event) {
    const why = event.evidence?.by ? `data ${Math.round(event.evidence.age_ms / 1000)} s old` : event.evidence;
    const product = products.get(event.product);
    if (!product) return;
    if (event.channel === "ticker") {
      const news = product.feed ? product.feed !== event.state : !["live", "quiet"].includes(event.state);
      if (news) say(`${named(event)}: ${event.state} (${why})`);
      Object.assign(product, { feed: event.state, dirty: true });
    } else if (!["live", "quiet"].includes(event.state)) {
      say(`${named(event)}: ${event.state} (${why})`, "wait");
    }
  },
  mode(event) {
    say(`${named(event)}: ${event.from} to ${event.to} (${event.reason})`, "wait");
  },
  drain() {
    show("the gateway restarts", "wait");
    say("The gateway says it will restart", "wait");
  },
  streamError(event) {
    say(`${named(event)}: ${event.name}: ${event.message}`, "bad");
  },
  serverError(event) {
    say(`${event.name}: ${event.message}`, "bad");
  },
};

/** Ask the SDK what may be taken for the market now; also where nothing comes that could say so. */
function judge() {
  let old = 0;
  let connected = false;
  for (const product of products.values()) {
    const freshness = client.freshness(product.name);
    if (!freshness) continue;
    product.judged(freshness);
    old += !freshness.fresh;
    connected ||= freshness.state !== "offline";
  }
  bookDirty = true;
  const all = products.size;
  const pill = element("connection").textContent;
  if (all && !connected && pill === CONNECTED) show(SILENT, "wait");
  else if (connected && pill === SILENT) show(CONNECTED, "good");
  const mark = !all ? "" : !connected ? "⚠ offline · " : old ? `⚠ ${old} of ${all} not live · ` : "";
  document.title = `${mark}Market data`;
}

function paint() {
  requestAnimationFrame(paint);
  const now = Date.now();
  table.paint(products, chosen, now);
  if (now - paintedAt < CHART_MS) return;
  paintedAt = now;
  write(element("total-rate"), total.perSecond(now).toFixed(0));
  write(element("total-breaks"), String(counts.breaks));
  write(element("total-resumes"), String(counts.resumes));
  const product = products.get(chosen);
  if (!product) return;
  const text = product.fields.last_trade?.price ?? "";
  const decimals = text.split(".")[1]?.length ?? 0;
  chart(element("chart"), product.points, decimals, product.freshness?.fresh, product.healed);
  const old = product.freshness && caveat(product.freshness);
  const traded = `${chosen} last traded at ${text}${old ? ` (${old})` : ""}`;
  write(element("chart-text"), product.points.length ? traded : "");
  if (bookDirty) {
    bookDirty = false;
    ladder.paint(client.book(chosen), client.freshness(chosen, "book"));
  }
}

client = new MarketDataClient(url, { apiKey });
// A page in the background paints no frames; its title is seen all the same.
setInterval(judge, JUDGE_MS);
client.on("event", (event) => handlers[event.type]?.(event));
element("break").addEventListener("click", () => {
  say("You broke the connection");
  client.reconnect();
});
element("key").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem(KEY, element("api-key").value);
  location.reload();
});

// Canvases do not take other colours by themselves.
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
  paintedAt = 0;
  for (const product of products.values()) product.drawn = 0;
});

async function keepLooking() {
  try {
    await lookForProducts();
  } catch {
    // The gateway is away; the connection says so already.
  }
  if (!refused) setTimeout(keepLooking, LOOK_FOR_PRODUCTS_MS);
}
keepLooking();
requestAnimationFrame(paint);
