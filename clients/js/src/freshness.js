// How old data is, and whether it may be taken for the market now.
//
// Times are whole microseconds: the server's since the Unix epoch, the client's own on a clock that
// never goes back, from wherever. The same rule stands in every SDK, and one file of cases holds
// them to it (clients/conformance/market_data_conformance/freshness.json).

// What is older is not shown as live; a gateway says `stale` of what is so old by itself.
export const LIMIT_US = 10_000_000;
const LOST_HEARTBEATS = 2;
// However short heartbeats are, a connection is not given up sooner.
const LOST_AT_LEAST_US = 3_000_000;
// Two clocks drift apart by a part in so many.
const DRIFT = 10_000;
// When a line's delay is known less well than this the worst that it may be is taken.
const UNSURE_US = 1_000_000;

/** A line on which nothing was heard for so long says nothing of now: two heartbeats. */
export const silentAfterUs = (heartbeat) => LOST_HEARTBEATS * heartbeat;

/** A connection on which nothing was heard for so long is given up; 0: before the first word. */
export const lostAfterUs = (heartbeat) =>
  heartbeat === 0 ? LIMIT_US : Math.max(LOST_AT_LEAST_US, silentAfterUs(heartbeat));

/**
 * What the server's clock shows now, by what it showed in its messages. A message was on its way for
 * some time, so that the server's clock is ahead of what it says by no less than nothing; and where
 * it answers something, by no more than the answer took. A line that delays everything alike is
 * known by the second, or by how little it delayed before.
 */
export class ServerClock {
  // The server's clock less ours: at least this, as it was found then; and at most this.
  #least = null;
  #found = 0;
  #most = null;

  /** A message said `server`, and came at `now`; it answers what was asked at `asked`. */
  heard(server, now, asked = null) {
    const least = server - now;
    const most = asked === null ? null : server - asked;
    if (this.#least === null || least >= this.#atLeast(now)) this.#find(least, now);
    if (most !== null && (this.#most === null || most < this.#most)) this.#most = most;
    if (this.#most !== null && this.#atLeast(now) > this.#most) {
      // Both cannot be: one of the clocks was set, or this is another server.
      this.#find(least, now);
      this.#most = most;
    }
  }

  /** The server's time, rather too late than too early; null before anything was heard. */
  now(now) {
    if (this.#least === null) return null;
    const least = this.#atLeast(now);
    const unsure = this.#most !== null && this.#most - least > UNSURE_US;
    return now + (unsure ? this.#most : least);
  }

  #find(least, now) {
    this.#least = least;
    this.#found = now;
  }

  #atLeast(now) {
    return this.#least - Math.floor((now - this.#found) / DRIFT);
  }
}

/** What is known of one stream. */
export class Facts {
  // The gateway takes the subscription, on this connection; null: no answer yet.
  accepted = null;
  // The newest `status`; empty before the first.
  feed = "";
  // How it is sent: `full`, `latest` or `catch_up`.
  mode = "";
  // Records to catch up, by the gateway's word.
  lag = 0;
  // When the newest record held was received by the platform (`ts_ingest`).
  newest = null;
  // What is held was the newest at this time by the server's clock.
  asOf = null;

  /** A record that was received at `at` is held. */
  ingested(at) {
    if (this.newest === null || at > this.newest) this.newest = at;
    this.current(at);
  }

  /** What is held is all there was at `at`. */
  current(at) {
    if (this.asOf === null || at > this.asOf) this.asOf = at;
  }
}

/**
 * The verdict on one stream: see `Freshness` in index.d.ts. `silent`: for how long nothing was heard,
 * null without a connection; `broken`: its chain waits for a snapshot; `backfilling`: ticks of the
 * past are coming.
 */
export function judge(facts, { silent, heartbeat, serverNow, broken, backfilling }) {
  const state = stateOf(facts, { silent, heartbeat, serverNow, broken, backfilling });
  const age = serverNow === null || facts.newest === null ? null : serverNow - facts.newest;
  return {
    state,
    fresh: state === "live" || state === "quiet",
    asOf: facts.asOf,
    ageMs: age === null ? null : Math.floor(Math.max(0, age) / 1000),
    feed: facts.feed,
    mode: facts.mode,
    lag: facts.lag,
  };
}

const micros = (milliseconds) => Math.round(milliseconds * 1000);

/**
 * The connection, and the server's clock as far as it was told on it. Milliseconds are those of
 * `Protocol.take`.
 */
export class Line {
  clock = new ServerClock();
  heartbeatMs = 0;
  // When something was last heard on the connection that stands; null without one.
  heard = null;
  #asked = null;
  // The newest time that the server told on this connection.
  #told = null;

  /** A connection stands that was asked for at `asked`; nothing was heard on it yet. */
  opened(asked) {
    this.lost();
    this.#asked = asked;
  }

  /** The connection ended. */
  lost() {
    this.heard = this.#asked = this.#told = null;
  }

  /** The first message: it answers the asking for the connection. */
  welcomed(serverTime, now) {
    this.#hear(serverTime, now, this.#asked);
  }

  /** A message told the server's time. */
  says(serverTime, now) {
    this.#hear(serverTime, now, null);
  }

  /** A stream holds all there was when the server last told its time: what it told before. */
  caughtUp(facts) {
    if (this.#told !== null && facts.accepted !== null) facts.current(this.#told);
  }

  judge(facts, now, { broken, backfilling }) {
    return judge(facts, {
      silent: this.heard === null ? null : micros(now - this.heard),
      heartbeat: micros(this.heartbeatMs),
      serverNow: this.clock.now(micros(now)),
      broken,
      backfilling,
    });
  }

  #hear(serverTime, now, asked) {
    if (serverTime === undefined || serverTime === null) return;
    this.#told = serverTime;
    this.clock.heard(serverTime, micros(now), asked === null ? null : micros(asked));
  }
}

function stateOf(facts, { silent, heartbeat, serverNow, broken, backfilling }) {
  if (silent === null || (heartbeat && silent > silentAfterUs(heartbeat))) return "offline";
  if (facts.accepted === false) return "refused";
  if (facts.asOf === null || facts.accepted === null) return "waiting";
  if (broken) return "resyncing";
  if (["down", "stale", "resyncing"].includes(facts.feed)) return facts.feed;
  if (backfilling || facts.mode === "catch_up") return "catching_up";
  const limit = Math.max(LIMIT_US, silentAfterUs(heartbeat));
  if (serverNow === null || serverNow - facts.asOf > limit) return "stale";
  return facts.feed === "quiet" ? "quiet" : "live";
}
