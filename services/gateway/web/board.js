"use strict";

// The client's whole rule, per stream: a snapshot replaces; an incr applies when its prev is the seq
// held; an older one is a duplicate; anything else asks for a resync.

const rows = new Map();
const body = document.getElementById("rows");
const connection = document.getElementById("connection");
const key = new URLSearchParams(location.hash.slice(1)).get("api_key");
let socket = null;
let attempt = 0;
let resume = 0;
let timer = null;

function rowOf(product) {
  let row = rows.get(product);
  if (row) return row;
  const element = document.createElement("tr");
  const cells = {};
  for (const name of ["product", "last", "bid", "ask", "seq", "ticks", "feed", "chain"]) {
    const cell = document.createElement(name === "product" ? "th" : "td");
    if (name === "product") cell.scope = "row";
    if (["last", "bid", "ask", "seq", "ticks"].includes(name)) cell.className = "n";
    cells[name] = element.appendChild(cell);
  }
  row = { product, element, cells, epoch: null, seq: null, ticks: 0, fields: {}, feed: "", chain: "waiting", dirty: true };
  rows.set(product, row);
  const after = [...rows.keys()].sort().indexOf(product);
  body.insertBefore(element, body.children[after] || null);
  document.getElementById("empty").hidden = true;
  return row;
}

function send(message) {
  if (socket && socket.readyState === WebSocket.OPEN) socket.send(JSON.stringify(message));
}

function askResync(row) {
  if (row.chain === "resyncing") return;
  row.chain = "resyncing";
  send({ type: "resync", product: row.product, channel: "ticker" });
}

function onIncr(message) {
  const tick = message.tick;
  const row = rowOf(tick.product);
  const prev = "prev" in message ? message.prev : tick.prev;
  row.dirty = true;
  if (row.chain === "resyncing") return;
  if (row.epoch !== null && tick.epoch !== row.epoch) return askResync(row);
  if (row.seq !== null && tick.seq <= row.seq) return;
  if (row.seq !== null && prev !== row.seq) return askResync(row);
  Object.assign(row.fields, tick.fields);
  row.epoch = tick.epoch;
  row.seq = tick.seq;
  row.ticks += message.merged || 1;
  row.chain = "unbroken";
}

const handlers = {
  welcome() { setConnection("connected", "good"); attempt = 0; },
  snapshot(message) {
    const snapshot = message.snapshot;
    const row = rowOf(snapshot.product);
    Object.assign(row, { fields: { ...snapshot.state }, epoch: snapshot.epoch, seq: snapshot.seq, chain: "unbroken", dirty: true });
  },
  incr: onIncr,
  reset(message) {
    const row = rowOf(message.product);
    Object.assign(row, { fields: {}, epoch: message.epoch, seq: message.seq, chain: "reset: " + message.cause, dirty: true });
  },
  status(message) { const row = rowOf(message.product); row.feed = message.state; row.dirty = true; },
  hb(message) {
    for (const [stream, head] of Object.entries(message.heads || {})) {
      const row = rows.get(stream.split(":")[2]);
      if (row && row.seq !== null && head > row.seq) askResync(row);
    }
  },
  drain(message) {
    const [low, high] = message.reconnect_after_ms;
    resume = low + Math.random() * (high - low);
    setConnection("the gateway restarts", "wait");
  },
  error(message) { setConnection(message.name + ": " + message.message, "bad"); },
};

function setConnection(text, kind) {
  connection.textContent = text;
  connection.className = kind;
}

async function subscribe() {
  const headers = key ? { "X-API-Key": key } : {};
  const answer = await fetch("/v1/products", { headers });
  const listed = answer.ok ? (await answer.json()).products : [];
  const fresh = listed.filter((one) => one.channels.includes("ticker")).map((one) => one.product)
    .filter((product) => !(rows.has(product) && rows.get(product).subscribed));
  if (fresh.length === 0) return;
  const held = {};
  for (const product of fresh) {
    const row = rowOf(product);
    row.subscribed = true;
    if (row.seq !== null) held[product] = row.seq;
  }
  send({ type: "subscribe", channel: "ticker", products: fresh, ...(Object.keys(held).length ? { from_seq: held } : {}) });
}

function connect() {
  socket = new WebSocket((location.protocol === "https:" ? "wss://" : "ws://") + location.host + "/ws", "md.v1.json");
  socket.onopen = () => {
    if (key) send({ type: "auth", api_key: key });
    for (const row of rows.values()) row.subscribed = false;
    subscribe().catch(() => setConnection("the product list did not answer", "bad"));
    timer = setInterval(() => subscribe().catch(() => {}), 5000);
  };
  socket.onmessage = (event) => {
    const message = JSON.parse(event.data);
    const handler = handlers[message.type];
    if (handler) handler(message);
  };
  socket.onclose = () => {
    clearInterval(timer);
    attempt += 1;
    const wait = resume || Math.random() * Math.min(15000, 250 * 2 ** attempt);
    resume = 0;
    setConnection("connecting again", "wait");
    setTimeout(connect, wait);
  };
}

function paint() {
  for (const row of rows.values()) {
    if (!row.dirty) continue;
    row.dirty = false;
    const { cells, fields } = row;
    const last = fields.last_trade ? fields.last_trade.price : "";
    const before = cells.last.textContent;
    cells.product.textContent = row.product;
    if (last !== before && before !== "" && last !== "") {
      cells.last.className = "n " + (Number(last) > Number(before) ? "up" : "down");
    }
    cells.last.textContent = last;
    cells.bid.textContent = fields.best_bid ? fields.best_bid.price : "";
    cells.ask.textContent = fields.best_ask ? fields.best_ask.price : "";
    cells.seq.textContent = row.seq === null ? "" : String(row.seq);
    cells.ticks.textContent = String(row.ticks);
    cells.feed.textContent = row.feed;
    cells.feed.className = row.feed === "live" ? "good" : row.feed === "quiet" ? "" : "wait";
    cells.chain.textContent = row.chain;
    cells.chain.className = row.chain === "unbroken" ? "good" : "wait";
  }
  requestAnimationFrame(paint);
}

connect();
requestAnimationFrame(paint);
