// What the page knows of each product; nothing here touches the document.

const RATE_SECONDS = 5;
const POINT_MS = 250;
const POINTS = 1200;
const HEALED = 50;

/** Events a second over the last five whole seconds. */
export class Rate {
  constructor(now) {
    this.first = Math.floor(now / 1000);
    this.second = this.first;
    this.counts = new Array(RATE_SECONDS + 1).fill(0);
  }

  add(now, count = 1) {
    this.#turn(now);
    this.counts[0] += count;
  }

  perSecond(now) {
    this.#turn(now);
    const whole = Math.min(RATE_SECONDS, this.second - this.first);
    // The running second is not over yet, so it does not count.
    return whole ? this.counts.slice(1, whole + 1).reduce((a, b) => a + b) / whole : this.counts[0];
  }

  #turn(now) {
    const second = Math.floor(now / 1000);
    const passed = Math.min(second - this.second, this.counts.length);
    for (let i = 0; i < passed; i += 1) {
      this.counts.pop();
      this.counts.unshift(0);
    }
    this.second = second;
  }
}

export class Product {
  constructor(name, now) {
    this.name = name;
    this.fields = {};
    this.feed = "";
    this.chain = "waiting";
    this.rate = new Rate(now);
    // The SDK's verdict on what is held, and the second it is as of; null before the first.
    this.freshness = null;
    this.direction = 0;
    // Prices for drawing by the venue's time, one for each quarter of a second: the last of it. No
    // line leads to one that has a `gap` before it: what came between is not known.
    this.points = [];
    // What was missed for a while and came afterwards: [from, to], by the venue's time.
    this.healed = [];
    this.refill = null;
    this.hole = false;
    this.dirty = true;
    this.drawn = 0;
  }

  /** `reason`: all but the first time it says that what came before it was not given. */
  snapshot(state, reason) {
    this.fields = { ...state };
    this.chain = "unbroken";
    if (reason !== "subscribe") this.hole = true;
    const time = state.last_trade?.time;
    if (time) this.#price(time / 1000);
    this.dirty = true;
  }

  /** What was missed comes now, or has come. */
  backfill(state, complete) {
    if (state === "begin") {
      this.refill = { from: this.points.at(-1)?.at ?? null, count: 0 };
      return;
    }
    const { from, count } = this.refill ?? { from: null, count: 0 };
    this.refill = null;
    if (!complete) this.hole = true;
    else if (count && from !== null) this.healed.push([from, this.points.at(-1).at]);
    if (this.healed.length > HEALED) this.healed.shift();
  }

  tick(tick, now) {
    const before = this.fields.last_trade?.price;
    for (const [name, value] of Object.entries(tick.fields)) {
      if (value !== null) this.fields[name] = value;
    }
    // What is made up for is none of this second's.
    if (this.refill) this.refill.count += 1;
    else this.rate.add(now, tick.merged);
    this.chain = "unbroken";
    const step = Number(this.fields.last_trade?.price) - Number(before);
    if (step) this.direction = Math.sign(step);
    this.#price((tick.ts_event ?? tick.ts_ingest) / 1000);
    this.dirty = true;
  }

  /** The stream starts over; unless what was missed is given, it is not known. */
  reset(cause, repair) {
    this.fields = {};
    if (repair !== "refilled") this.hole = true;
    this.chain = `reset: ${cause}`;
    this.dirty = true;
  }

  /** Take in the verdict of now. */
  judged(freshness) {
    const news = freshness.state !== this.freshness?.state;
    this.freshness = freshness;
    if (news || !freshness.fresh) this.dirty = true;
  }

  /** Percent since the opening 24 hours ago, or null. */
  get change() {
    const open = Number(this.fields.stats_24h?.open);
    const last = Number(this.fields.last_trade?.price);
    return open && Number.isFinite(last) ? ((last - open) / open) * 100 : null;
  }

  #price(time) {
    const price = Number(this.fields.last_trade?.price);
    if (!Number.isFinite(price)) return;
    const at = Math.floor(time / POINT_MS) * POINT_MS;
    const newest = this.points[this.points.length - 1];
    // The venue's clock went back: the line does not.
    if (newest && at < newest.at) return;
    if (newest?.at === at && !this.hole) newest.price = price;
    else this.points.push({ at, price, gap: this.hole && newest !== undefined });
    this.hole = false;
    if (this.points.length > POINTS) this.points.splice(0, POINTS / 10);
  }
}
