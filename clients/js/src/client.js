import { Protocol, Refused, SUBPROTOCOL } from "./protocol.js";
import { lostAfterUs } from "./freshness.js";
import { longestWaitMs } from "./reconnect.js";

// Events that may wait for a slow `for await`; beyond it the connection rests until half are taken.
const MAX_WAITING = 10_000;

const now = () => performance.now();
const list = (value) => (Array.isArray(value) ? value : [value]);
const given = (options) =>
  Object.fromEntries(Object.entries(options).filter(([, value]) => value !== undefined));

/**
 * Verified market data from a gateway, kept up over lost connections. Every tick of a stream is
 * handed out once and in order, across reconnects and gateways. See index.d.ts.
 */
export class MarketDataClient {
  #protocol = new Protocol();
  #listeners = new Map();
  #iterators = new Set();
  #socket = null;
  #timer = null;
  #wakeAt = Infinity;
  #heard = 0;
  #failures = 0;
  // Attempts in a row that came to nothing, and whether the connection that stands did not.
  #inVain = 0;
  #ofUse = false;
  #established = false;
  #closed = false;
  #resting = false;

  constructor(url, options = {}) {
    const { apiKey = null, maxBackoffMs = 15_000, openTimeoutMs = 10_000 } = options;
    const { reconnectSpreadMs = 3000 } = options;
    const Socket = options.WebSocket ?? globalThis.WebSocket;
    if (!Socket) {
      throw new TypeError(
        "There is no global WebSocket here (Node 20): pass one as options.WebSocket",
      );
    }
    Object.assign(this, { url: String(url), apiKey, maxBackoffMs, openTimeoutMs });
    this.reconnectSpreadMs = reconnectSpreadMs;
    this.maxAttempts = options.maxAttempts ?? Infinity;
    this.logger = options.logger ?? null;
    this.Socket = Socket;
    // After this turn, so that what is subscribed and listened to in it counts from the start.
    queueMicrotask(() => this.#connect());
  }

  get connections() {
    return this.#protocol.connections;
  }

  subscribe(products, options = {}) {
    const { channel = "ticker", venue = "coinbase", fromSeq = null, epoch = null } = options;
    const more = given({
      mode: options.mode,
      max_rate: options.maxRate,
      depth: options.depth,
      snapshot: options.snapshot,
      late: options.late,
      on_unrecoverable: options.onUnrecoverable,
    });
    this.#protocol.subscribe(list(products), list(channel), venue, fromSeq, epoch, more);
    this.#sendReady();
  }

  unsubscribe(products, { channel = "ticker", venue = "coinbase" } = {}) {
    this.#protocol.unsubscribe(list(products), list(channel), venue);
    this.#sendReady();
  }

  book(product, venue = "coinbase") {
    const stream = this.#protocol.streams.get(`${venue}:book:${product}`);
    if (!stream) throw new Error(`not subscribed to ${venue}:book:${product}`);
    return stream.book;
  }

  position(product, channel = "ticker", venue = "coinbase") {
    const chain = this.#protocol.streams.get(`${venue}:${channel}:${product}`)?.chain;
    if (!chain || chain.seq === null || chain.epoch === null) return null;
    return { epoch: chain.epoch, seq: chain.seq };
  }

  freshness(product, channel = "ticker", venue = "coinbase") {
    return this.#protocol.freshness(`${venue}:${channel}:${product}`, now());
  }

  /** Call `listener` with every event of a type, or with all of them ("event"); returns its end. */
  on(type, listener) {
    if (!this.#listeners.has(type)) this.#listeners.set(type, new Set());
    this.#listeners.get(type).add(listener);
    return () => this.#listeners.get(type).delete(listener);
  }

  /** Every event from now on. */
  [Symbol.asyncIterator]() {
    const iterator = { waiting: [], wake: null, error: null, ended: this.#closed };
    this.#iterators.add(iterator);
    const end = () => {
      this.#iterators.delete(iterator);
      this.#takeRest();
      return Promise.resolve({ value: undefined, done: true });
    };
    return {
      next: async () => {
        while (true) {
          if (iterator.waiting.length) {
            const value = iterator.waiting.shift();
            this.#takeRest();
            return { value, done: false };
          }
          if (iterator.error) throw iterator.error;
          if (iterator.ended) return end();
          await new Promise((resolve) => (iterator.wake = resolve));
        }
      },
      return: end,
      [Symbol.asyncIterator]() {
        return this;
      },
    };
  }

  /** Drop the connection and connect again, as after a failure; for tests and demonstrations. */
  reconnect() {
    if (this.#socket) this.#lost(this.#socket, "asked to reconnect");
  }

  close() {
    this.#end(null);
  }

  // ------------------------------------------------------------------ connection

  #connect() {
    if (this.#closed || this.#socket || this.#resting) return;
    let socket;
    try {
      socket = new this.Socket(this.url, SUBPROTOCOL);
    } catch (error) {
      // Not an address that a WebSocket can be opened to; trying again would not help.
      this.#end(new Refused(0, error.message));
      return;
    }
    this.#established = false;
    this.#socket = socket;
    const asked = (this.#heard = now());
    const mine = (act) => (event) => {
      if (this.#socket === socket) act(event);
    };
    socket.onopen = mine(() => {
      this.#established = true;
      this.#heard = now();
      this.#protocol.opened(asked);
      this.logger?.info(`connected to ${this.url}`);
      if (this.apiKey) this.#send({ type: "auth", api_key: this.apiKey });
      this.#sendReady();
    });
    socket.onmessage = mine((event) => this.#receive(event.data));
    socket.onclose = mine((event) =>
      this.#lost(socket, `closed with ${event.code}${event.reason ? `: ${event.reason}` : ""}`),
    );
    // A close that says more follows, though not from every implementation when a handshake fails.
    socket.onerror = mine(() =>
      setTimeout(() => {
        if (this.#socket === socket) this.#lost(socket, "the connection failed");
      }, 0),
    );
    this.#arm();
  }

  #receive(data) {
    const socket = this.#socket;
    this.#heard = now();
    try {
      const decoded = JSON.parse(data);
      for (const message of list(decoded)) {
        const events = this.#protocol.take(message, this.#heard);
        if (events.length && message.type !== "welcome") {
          this.#failures = 0;
          this.#ofUse = true;
        }
        // Whatever a listener does must not stop the chain, nor be hidden.
        for (const event of events) {
          if (event.type === "streamError" || event.type === "serverError") {
            this.logger?.warn(`${event.name}: ${event.message}`);
          }
          this.#hand(event);
        }
        if (this.#socket !== socket) return;
      }
    } catch (error) {
      if (error instanceof Refused) this.#end(error);
      else if (this.#socket === socket) this.#lost(socket, `malformed message: ${error.message}`);
      return;
    }
    this.#sendReady();
  }

  #lost(socket, reason) {
    this.#abandon(socket);
    if (this.#closed || this.#resting) return;
    const attempts = (this.#inVain = this.#ofUse ? 0 : this.#inVain + 1);
    this.#ofUse = false;
    if (attempts >= this.maxAttempts) {
      this.#end(new Refused(0, `${this.url} was not reached in ${attempts} attempts: ${reason}`));
      return;
    }
    let delay;
    const after = this.#protocol.reconnectAfterMs;
    if (after) {
      this.#protocol.reconnectAfterMs = null;
      delay = after[0] + Math.random() * (after[1] - after[0]);
    } else {
      delay =
        Math.random() *
        longestWaitMs(this.#failures, {
          established: this.#established,
          spreadMs: this.reconnectSpreadMs,
          maxMs: this.maxBackoffMs,
        });
      this.#failures += 1;
    }
    this.#wake(delay, () => this.#connect());
    this.logger?.warn(`no connection to ${this.url}: ${reason}; again in ${Math.round(delay)} ms`);
    this.#hand({ type: "disconnected", reason, retryInMs: delay, attempts });
  }

  #abandon(socket) {
    this.#socket = null;
    this.#protocol.line.lost();
    this.#sleep();
    socket.onopen = socket.onmessage = socket.onclose = null;
    socket.onerror = () => {};
    try {
      socket.close();
    } catch {
      // It never opened.
    }
  }

  #end(error) {
    if (this.#closed) return;
    this.#closed = true;
    this.#sleep();
    if (this.#socket) this.#abandon(this.#socket);
    if (error) this.logger?.warn(error.message);
    if (error) this.#hand({ type: "refused", code: error.code, message: error.message });
    for (const iterator of this.#iterators) {
      iterator.error = error;
      iterator.ended = true;
      iterator.wake?.();
    }
  }

  // ------------------------------------------------------------------ commands and time

  #send(command) {
    if (this.#socket?.readyState === 1) this.#socket.send(JSON.stringify(command));
  }

  #sendReady() {
    if (this.#socket?.readyState !== 1) return;
    if (this.#protocol.outbox.length) {
      for (const command of this.#protocol.ready(now())) this.#send(command);
    }
    this.#arm();
  }

  /** See to it that something happens when the next command is due, or nothing is heard. */
  #arm() {
    const opening = this.#socket?.readyState !== 1;
    const silence = opening
      ? this.openTimeoutMs
      : lostAfterUs(Math.round(this.#protocol.heartbeatMs * 1000)) / 1000;
    const due = opening ? null : this.#protocol.nextDue;
    const at = Math.min(due ?? Infinity, this.#heard + silence);
    // A timer that comes too early only looks again: it is not set anew with every message.
    if (this.#timer !== null && this.#wakeAt <= at) return;
    this.#wake(at - now(), () => {
      if (now() - this.#heard >= silence) {
        this.#lost(this.#socket, `nothing was heard for ${silence} ms`);
      } else if (opening) {
        this.#arm();
      } else {
        this.#sendReady();
      }
    });
  }

  #wake(delay, act) {
    this.#sleep();
    this.#wakeAt = now() + Math.max(0, delay);
    this.#timer = setTimeout(() => {
      this.#sleep();
      act();
    }, Math.max(0, delay));
  }

  #sleep() {
    clearTimeout(this.#timer);
    this.#timer = null;
    this.#wakeAt = Infinity;
  }

  // ------------------------------------------------------------------ handing out

  #hand(event) {
    for (const type of [event.type, "event"]) {
      for (const listener of this.#listeners.get(type) ?? []) {
        try {
          listener(event);
        } catch (error) {
          // A listener's fault is its own: it surfaces as uncaught, and the chain goes on.
          queueMicrotask(() => {
            throw error;
          });
        }
      }
    }
    for (const iterator of this.#iterators) {
      iterator.waiting.push(event);
      if (iterator.waiting.length > MAX_WAITING) this.#rest();
      iterator.wake?.();
    }
  }

  /** Too much waits for a slow reader: what comes next is read from the gateway's log later. */
  #rest() {
    if (this.#resting || !this.#socket) return;
    this.#resting = true;
    this.#abandon(this.#socket);
  }

  #takeRest() {
    if (!this.#resting) return;
    for (const iterator of this.#iterators) {
      if (iterator.waiting.length > MAX_WAITING / 2) return;
    }
    this.#resting = false;
    this.#connect();
  }
}
