/** Times are microseconds since the Unix epoch, UTC; prices and sizes the venue's decimal strings. */

export type Channel = "ticker" | "trades" | "book";
export type Side = "buy" | "sell";
/** In a ticker the venue may leave out the size of its best bid or ask. */
export interface Quote { price: string; size?: string }
export interface Level extends Quote { size: string }
/** `side` is the taker's. */
export interface Trade { price: string; size: string; side: Side; trade_id: number; time: number }
export interface Stats24h { open?: string; high?: string; low?: string; volume?: string }
export interface Fields {
  last_trade?: Trade | null;
  best_bid?: Quote | null;
  best_ask?: Quote | null;
  stats_24h?: Stats24h | null;
  volume_30d?: string | null;
  /** [side, price, new size]; a size of zero removes the level. */
  changes?: [Side, string, string][];
}
export interface StreamNames { venue: string; channel: Channel; product: string }

export interface TickEvent extends StreamNames {
  type: "tick";
  epoch: number;
  seq: number;
  prev: number | null;
  ts_event: number | null;
  ts_ingest: number;
  fields: Fields;
  /** The venue's own number, where it has one. */
  venue_seq: number | null;
  /** How many ticks it stands for; more than 1 only in mode `latest`. */
  merged: number;
}
export interface SnapshotEvent extends StreamNames {
  type: "snapshot";
  epoch: number;
  seq: number;
  ts_snapshot: number;
  reason: "subscribe" | "resync" | "reset" | "catch_up";
  /** ticker: the fields; trades: `trades`; book: `bids` and `asks`, best first, all parts joined. */
  state: Fields & { trades?: Trade[]; bids?: [string, string][]; asks?: [string, string][] };
}
export interface ResetEvent extends StreamNames {
  type: "reset";
  epoch: number;
  seq: number;
  cause: string;
  repair: "refilled" | "snapshot" | "none";
  missed?: { from: number; to: number; count?: number } | null;
}
/** Trades of an announced gap that were found afterwards; only with the option `late`. */
export interface LateEvent extends StreamNames {
  type: "late";
  epoch: number;
  /** The gap, as it was announced. */
  missed: { from: number; to: number };
  /** Ascending; each one's `seq` is its trade id. */
  ticks: Omit<TickEvent, "type" | "merged">[];
  /** What is missing still; empty: the gap is closed. */
  open: { from: number; to: number }[];
  /** What will not come any more. */
  lost: { from: number; to: number }[];
  /** `found`, `denied`, `expired`, `too_many`, `renumbered`, or `open`: nothing new. */
  reason: string;
}
export interface StatusEvent extends StreamNames {
  type: "status";
  state: "live" | "quiet" | "stale" | "resyncing" | "down";
  since: number;
  /** A text of the ingestor, or the gateway's own word: how old what it serves is. */
  evidence: string | { by: "gateway"; age_ms: number };
}
export interface SubscribedEvent extends StreamNames {
  type: "subscribed";
  epoch: number | null;
  head: number | null;
  start: "live" | "backfill" | "snapshot";
  mode: "full" | "latest";
  /** With `start` "snapshot": why the position cannot be served; with "backfill": what is left out. */
  warning?: PositionWarning | null;
}
export interface BackfillEvent extends StreamNames {
  type: "backfill";
  state: "begin" | "end";
  /** The seq they are asked after, as it was asked; 0: from the beginning. */
  from: number;
  to: number | null;
  count: number | null;
  /** Whether everything after `from` that is retained is given. */
  complete: boolean;
  /** What is left out when it is not. */
  warning?: PositionWarning | null;
}
export interface ModeEvent extends StreamNames {
  type: "mode";
  from: string;
  to: string;
  reason: "slow" | "recovered" | "quota" | "request";
  lag: number;
}
/** The chain did not continue; a fresh snapshot was asked for and comes next. */
export interface ResyncEvent extends StreamNames {
  type: "resync";
  cause: "break" | "epoch" | "behind";
  held: number | null;
  got: number;
}
export interface ErrorBody {
  code: number;
  name: string;
  message: string;
  retry: "no" | "after" | "snapshot" | "reconnect";
}
/** What of a position is not served. */
export interface PositionWarning extends ErrorBody {
  /** Of a backfill: older than `max_minutes`, the archive was away, or it went before it was read. */
  cause?: "age" | "archive" | "expired" | null;
  /** The oldest that can be, or is, given. */
  oldest_seq?: number | null;
  max_minutes?: number | null;
  retry_after_ms?: number | null;
}
export interface StreamErrorEvent extends StreamNames, ErrorBody { type: "streamError" }
export interface ServerErrorEvent extends ErrorBody { type: "serverError" }
export interface ConnectedEvent { type: "connected"; number: number; session: string }
export interface DisconnectedEvent {
  type: "disconnected";
  reason: string;
  retryInMs: number;
  /** How many attempts in a row failed or were of no use, this one included; 0: it stood. */
  attempts: number;
}
/** The gateway goes away soon; the client reconnects by itself. */
export interface DrainEvent { type: "drain"; deadline_ms: number }
/**
 * Coming back would not help (a wrong key; code 0: an address that is none, or that was not reached in
 * `maxAttempts`); the client is closed.
 */
export interface RefusedEvent { type: "refused"; code: number; message: string }

export type MarketDataEvent =
  | TickEvent | LateEvent | SnapshotEvent | ResetEvent | StatusEvent | SubscribedEvent | BackfillEvent
  | ModeEvent | ResyncEvent | StreamErrorEvent | ServerErrorEvent | ConnectedEvent
  | DisconnectedEvent | DrainEvent | RefusedEvent;
export type EventOf<T extends MarketDataEvent["type"]> = Extract<MarketDataEvent, { type: T }>;

export interface ClientOptions {
  /** Sent as the first message, never in the address. */
  apiKey?: string;
  /** Where there is no global WebSocket (Node 20): an implementation, for example of `ws`. */
  WebSocket?: new (url: string, protocol: string) => any;
  /** The longest wait between two attempts to connect (15000). */
  maxBackoffMs?: number;
  /** Attempts in a row without a connection that was of use before it is given up (no limit). */
  maxAttempts?: number;
  /** What happens to the connection is said to it, for example `console`. */
  logger?: { info(message: string): void; warn(message: string): void };
  /** How long one attempt may take (10000). */
  openTimeoutMs?: number;
  /** A connection that stood and is lost is made again at a random time within so long (3000). */
  reconnectSpreadMs?: number;
}
export interface SubscribeOptions {
  channel?: Channel | Channel[];
  venue?: string;
  /** "I hold this: send everything after it", for all or by product; 0 is the oldest retained. */
  fromSeq?: number | Record<string, number>;
  /** The epoch of `fromSeq`. */
  epoch?: number;
  /** `latest` merges ticks when they come faster than they can be taken. */
  mode?: "full" | "latest";
  /** Messages a second for each stream; implies `latest`. */
  maxRate?: number;
  /** Levels a side of book snapshots; 0 is all. A local book needs all. */
  depth?: number;
  snapshot?: boolean;
  /** Trades of an announced gap too, that were found afterwards. */
  late?: boolean;
  onUnrecoverable?: "snapshot" | "error";
}

/** Whether what is held of a stream may be taken for the market now. */
export interface Freshness {
  /**
   * `live` or `quiet` (nothing happens there) when it may; else why not: `offline` (no connection, or
   * two heartbeats long nothing was heard), `refused`, `waiting` (nothing came yet), `resyncing`,
   * `down`, `stale` (older than 10 s, or the gateway says so), `catching_up`.
   */
  state:
    | "live" | "quiet" | "offline" | "refused" | "waiting" | "resyncing" | "down" | "stale" | "catching_up";
  /** Whether it may be shown as live. */
  fresh: boolean;
  /** When it was the market, by the server's clock; null when nothing is held. */
  asOf: number | null;
  /** Of the newest record, from the platform's receiving it until now; null when none came yet. */
  ageMs: number | null;
  /** The newest `status`; empty before the first. */
  feed: string;
  /** `full`, `latest` or `catch_up`; empty before it is known. */
  mode: string;
  /** Records to catch up. */
  lag: number;
}

export declare class MarketDataClient implements AsyncIterable<MarketDataEvent> {
  constructor(url: string | URL, options?: ClientOptions);
  /** How many times it connected. */
  readonly connections: number;
  /** Want these streams, now and after every reconnect. */
  subscribe(products: string | string[], options?: SubscribeOptions): void;
  unsubscribe(products: string | string[], options?: { channel?: Channel | Channel[]; venue?: string }): void;
  /** The local book of a product whose `book` channel is subscribed. */
  book(product: string, venue?: string): OrderBook;
  /** What the client has taken in; give it to `subscribe` to go on after a restart. */
  position(product: string, channel?: Channel, venue?: string): { epoch: number; seq: number } | null;
  /** How old what is held is, and whether it is the market now; null when it is not subscribed. */
  freshness(product: string, channel?: Channel, venue?: string): Freshness | null;
  /** Have every event of a type given to `listener`; the result takes it off again. */
  on<T extends MarketDataEvent["type"]>(type: T, listener: (event: EventOf<T>) => void): () => void;
  on(type: "event", listener: (event: MarketDataEvent) => void): () => void;
  /** Every event from now on. A loop that is slow makes the connection rest; nothing is lost. */
  [Symbol.asyncIterator](): AsyncIterableIterator<MarketDataEvent>;
  /** Drop the connection and connect again, as after a failure. */
  reconnect(): void;
  close(): void;
}

export declare class OrderBook {
  /** Whether it may be believed now. */
  readonly valid: boolean;
  readonly epoch: number | null;
  readonly seq: number | null;
  readonly bestBid: Level | null;
  readonly bestAsk: Level | null;
  readonly size: number;
  /** The best `n` levels of each side, best first; all without `n`. */
  depth(n?: number): { bids: Level[]; asks: Level[] };
}

/** Negative, zero or positive as `a` is less than, equal to or greater than `b`. */
export declare function compareDecimals(a: string, b: string): number;
