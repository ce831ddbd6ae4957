// The protocol without a socket: fed with messages, it says what to hand out and what to send.
// One `Protocol` outlives its connections: it holds every stream's position.

import { OrderBook } from "./book.js";
import { Chain } from "./chain.js";
import { Facts, Line } from "./freshness.js";

export const SUBPROTOCOL = "md.v1.json";
// So that a command stays far below the 64 KiB a gateway takes.
const PRODUCTS_PER_COMMAND = 500;

/** When to ask again what was refused until then, in milliseconds. */
const retryAt = (refusal, now) => now + (refusal.retry_after_ms ?? 1000);
export const nameOf = (record) => `${record.venue}:${record.channel}:${record.product}`;

class StreamState {
  constructor(venue, channel, product, options, fromSeq, epoch) {
    Object.assign(this, { venue, channel, product, options, fromSeq });
    this.chain = new Chain(fromSeq, fromSeq ? epoch : null);
    this.book = channel === "book" ? new OrderBook() : null;
    this.parts = [];
    this.backfilling = false;
    // The state is void until a snapshot comes; without it a book cannot go on.
    this.stateDue = false;
    // How `drain` named a position of this stream.
    this.cursor = null;
    this.facts = new Facts();
  }

  get names() {
    return { venue: this.venue, channel: this.channel, product: this.product };
  }

  /** What to ask with: [kind of position, its epoch, the position]. */
  position() {
    const { seq, epoch } = this.chain;
    if (this.stateDue && this.channel === "book") return ["none", null, null];
    if (seq === null) return ["from_seq", null, this.fromSeq];
    if (this.cursor && this.cursor.epoch === epoch && this.cursor.seq === seq) {
      return ["cursor", null, this.cursor.cursor];
    }
    return ["from_seq", epoch, seq];
  }
}

export class Refused extends Error {
  constructor(code, message) {
    super(`${message} (code ${code})`);
    this.name = "Refused";
    this.code = code;
  }
}

export class Protocol {
  constructor() {
    this.streams = new Map();
    this.connections = 0;
    this.heartbeatMs = 0;
    this.line = new Line();
    this.reconnectAfterMs = null;
    this.outbox = [];
    this.unanswered = new Map();
    this.ids = 0;
  }

  subscribe(products, channels, venue, fromSeq, epoch, options) {
    const chosen = [];
    for (const channel of channels) {
      for (const product of products) {
        const seq = fromSeq !== null && typeof fromSeq === "object" ? fromSeq[product] : fromSeq;
        const stream = new StreamState(venue, channel, product, options, seq ?? null, epoch);
        this.streams.set(nameOf(stream), stream);
        chosen.push(stream);
      }
    }
    for (const command of this.#subscriptions(chosen)) this.#command(command);
  }

  unsubscribe(products, channels, venue) {
    for (const channel of channels) {
      for (const product of products) this.streams.delete(`${venue}:${channel}:${product}`);
      this.#command({ type: "unsubscribe", venue, channel, products });
    }
  }

  /**
   * A connection stands, which was asked for at `asked`: everything wanted is asked for, from where
   * it is held.
   */
  opened(asked = null) {
    this.connections += 1;
    this.line.opened(asked);
    this.reconnectAfterMs = null;
    this.outbox = [];
    this.unanswered.clear();
    for (const stream of this.streams.values()) {
      stream.chain.reconnected();
      stream.parts = [];
      stream.backfilling = false;
      stream.facts.accepted = null;
    }
    for (const command of this.#subscriptions(this.streams.values())) this.#command(command);
  }

  /** Commands whose time has come, in order; `now` in milliseconds. */
  ready(now) {
    const due = this.outbox.filter((entry) => entry.due <= now);
    if (due.length) this.outbox = this.outbox.filter((entry) => entry.due > now);
    return due.map((entry) => entry.command);
  }

  get nextDue() {
    return this.outbox.length ? Math.min(...this.outbox.map((entry) => entry.due)) : null;
  }

  /** Whether what is held of a stream may be taken for the market now; null: it is not wanted. */
  freshness(name, now) {
    const stream = this.streams.get(name);
    if (!stream) return null;
    const broken = stream.chain.waiting || (stream.stateDue && stream.channel === "book");
    return this.line.judge(stream.facts, now, { broken, backfilling: stream.backfilling });
  }

  /** Take in one server message; the events to hand out. */
  take(message, now) {
    this.line.heard = now;
    if (message.type === "incr") return this.#incr(message);
    if (message.type !== "rate_limit" && message.type !== "error") {
      this.unanswered.delete(message.id);
    }
    switch (message.type) {
      case "welcome":
        this.heartbeatMs = this.line.heartbeatMs = message.heartbeat_ms ?? 0;
        this.line.welcomed(message.server_time, now);
        return [{ type: "connected", number: this.connections, session: message.session }];
      case "snapshot":
        return this.#snapshot(message);
      case "reset":
        return this.#reset(message);
      case "hb":
        return this.#heartbeat(message, now);
      case "subscribed":
        return this.#subscribed(message, now);
      case "late":
      case "status":
      case "mode":
        return this.#told(message);
      case "backfill": {
        const stream = this.streams.get(nameOf(message));
        if (!stream) return [];
        stream.backfilling = message.state === "begin";
        if (!stream.backfilling) this.line.caughtUp(stream.facts);
        return [message];
      }
      case "rate_limit":
        return this.#rateLimited(message, now);
      case "drain":
        return this.#drain(message);
      case "error":
        return this.#error(message, now);
      default:
        // Types that are not known are ignored, so that older clients live on.
        return [];
    }
  }

  #incr(message) {
    const tick = message.tick;
    const stream = this.streams.get(nameOf(tick));
    if (!stream) return [];
    const prev = "prev" in message ? message.prev : (tick.prev ?? null);
    const held = stream.chain.seq;
    const verdict = stream.chain.incr(tick.epoch, tick.seq, prev);
    if (verdict === "ignore") return [];
    if (verdict !== "apply") return [this.#resync(stream, verdict, held, tick.seq)];
    stream.facts.ingested(tick.ts_ingest);
    if (stream.book?.valid) stream.book.apply(tick.epoch, tick.seq, tick.fields.changes ?? []);
    return [{ ...tick, type: "tick", prev, merged: message.merged ?? 1 }];
  }

  #told(message) {
    const stream = this.streams.get(nameOf(message));
    if (!stream) return [];
    if (message.type === "status") stream.facts.feed = message.state;
    if (message.type === "mode") {
      stream.facts.mode = message.to;
      stream.facts.lag = message.to === "catch_up" ? (message.lag ?? 0) : 0;
    }
    return [message];
  }

  #snapshot(message) {
    const stream = this.streams.get(nameOf(message.snapshot));
    if (!stream) return [];
    const { part = 1, snapshot } = message;
    const begun = stream.parts.at(-1) ?? snapshot;
    const same = begun.epoch === snapshot.epoch && begun.seq === snapshot.seq;
    if (part !== stream.parts.length + 1 || !same) {
      // What is held belongs to a snapshot whose end never came.
      stream.parts = [];
      // And this to one whose beginning was for an earlier subscription.
      if (part !== 1) return [];
    }
    stream.parts.push(snapshot);
    if (message.last === false) return [];
    const parts = stream.parts;
    stream.parts = [];
    stream.stateDue = false;
    const { epoch, seq } = message.snapshot;
    stream.chain.snapshot(epoch, seq);
    this.line.caughtUp(stream.facts);
    let state = parts[0].state;
    if (stream.book) {
      const side = (name) => parts.flatMap((part) => part.state[name] ?? []);
      state = { bids: side("bids"), asks: side("asks") };
      stream.book.replace(epoch, seq, state.bids, state.asks);
    }
    return [{ ...message.snapshot, type: "snapshot", reason: message.reason, state }];
  }

  #reset(message) {
    const stream = this.streams.get(nameOf(message));
    if (!stream || stream.chain.reset(message.epoch, message.seq) === "ignore") return [];
    stream.parts = [];
    stream.stateDue = true;
    if (stream.book) stream.book.valid = false;
    return [message];
  }

  #heartbeat(message, now) {
    const events = [];
    this.line.says(message.server_time, now);
    for (const [name, head] of Object.entries(message.heads ?? {})) {
      const stream = this.streams.get(name);
      if (!stream || stream.backfilling || head === null) continue;
      const held = stream.chain.seq;
      const verdict = stream.chain.head(head, now, this.heartbeatMs);
      if (verdict !== "apply") events.push(this.#resync(stream, verdict, held, head));
      else if (held !== null && head <= held) this.line.caughtUp(stream.facts);
    }
    return events;
  }

  #subscribed(message, now) {
    const events = [];
    for (const result of message.results ?? []) {
      const stream = this.streams.get(nameOf(result));
      if (!stream) continue;
      const { ok, seq, error, ...rest } = result;
      const retried = error?.retry === "after";
      Object.assign(stream.facts, { accepted: retried ? null : Boolean(ok), mode: rest.mode ?? "", lag: 0 });
      if (ok) {
        events.push({ ...rest, type: "subscribed", head: seq ?? null });
        continue;
      }
      if (retried) {
        const due = retryAt(error, now);
        for (const command of this.#subscriptions([stream])) this.#command(command, due);
      }
      events.push({ ...stream.names, ...error, type: "streamError" });
    }
    return events;
  }

  #rateLimited(message, now) {
    const command = this.unanswered.get(message.id);
    if (message.scope === "commands" && command) {
      // It was not obeyed: say it again when told.
      this.outbox.push({ due: retryAt(message, now), command });
    }
    return [];
  }

  #drain(message) {
    this.reconnectAfterMs = message.reconnect_after_ms ?? [0, 1000];
    for (const [name, resume] of Object.entries(message.resume ?? {})) {
      const stream = this.streams.get(name);
      if (stream && resume.cursor) stream.cursor = resume;
    }
    return [{ type: "drain", deadline_ms: message.deadline_ms }];
  }

  #error(message, now) {
    if (message.code >= 2000 && message.code < 2005) {
      throw new Refused(message.code, `${message.name}: ${message.message}`);
    }
    const stream = this.streams.get(message.stream);
    if (!stream) return [{ ...message, type: "serverError" }];
    const command = this.unanswered.get(message.id);
    // The same stands in the stream's result, where it is acted on.
    if (command?.type === "subscribe") return [];
    if (command && message.retry === "after") {
      this.outbox.push({ due: retryAt(message, now), command });
    }
    return [{ ...stream.names, ...message, type: "streamError" }];
  }

  #resync(stream, cause, held, got) {
    if (stream.book) stream.book.valid = false;
    this.#command({ type: "resync", ...stream.names });
    return { type: "resync", ...stream.names, cause, held, got };
  }

  /** As few commands as can be: one for all that share channel, options and epoch. */
  *#subscriptions(streams) {
    const groups = new Map();
    for (const stream of streams) {
      const [kind, epoch, position] = stream.position();
      const { venue, channel, options } = stream;
      const key = JSON.stringify([venue, channel, options, kind, epoch]);
      if (!groups.has(key)) groups.set(key, { venue, channel, options, kind, epoch, held: [] });
      groups.get(key).held.push([stream.product, position]);
    }
    for (const { venue, channel, options, kind, epoch, held } of groups.values()) {
      for (let start = 0; start < held.length; start += PRODUCTS_PER_COMMAND) {
        const part = held.slice(start, start + PRODUCTS_PER_COMMAND);
        const known = Object.fromEntries(part.filter(([, position]) => position !== null));
        yield {
          type: "subscribe",
          venue,
          channel,
          products: part.map(([product]) => product),
          batch: true,
          ...options,
          ...(Object.keys(known).length ? { [kind]: known } : {}),
          ...(epoch !== null ? { epoch } : {}),
        };
      }
    }
  }

  #command(command, due = 0) {
    this.ids += 1;
    const numbered = { ...command, id: this.ids };
    this.unanswered.set(this.ids, numbered);
    this.outbox.push({ due, command: numbered });
  }
}
