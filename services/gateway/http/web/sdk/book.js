import { canonical, compareDecimals, isZero } from "./decimal.js";

// One side of a book: levels best first, found by bisection.
class Side {
  constructor(better, rows = []) {
    this.better = better;
    this.levels = rows.map(([price, size]) => ({ price, size }));
    this.levels.sort((a, b) => better * compareDecimals(a.price, b.price));
  }

  set(price, size) {
    const wanted = canonical(price);
    let low = 0;
    let high = this.levels.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.better * compareDecimals(this.levels[middle].price, wanted) < 0) low = middle + 1;
      else high = middle;
    }
    const held = low < this.levels.length && canonical(this.levels[low].price) === wanted;
    // Removing a level that is not held is normal: it was born and died in one batch.
    if (isZero(size)) {
      if (held) this.levels.splice(low, 1);
    } else {
      this.levels.splice(low, held ? 1 : 0, { price, size });
    }
  }
}

/**
 * One product's book, kept from a verified stream. `valid` tells whether it may be believed: false
 * before the first snapshot, after a reset, and from a break until the snapshot that heals it.
 */
export class OrderBook {
  #bids = new Side(-1);
  #asks = new Side(1);

  constructor() {
    this.valid = false;
    this.epoch = null;
    this.seq = null;
  }

  get bestBid() {
    return this.#bids.levels[0] ?? null;
  }

  get bestAsk() {
    return this.#asks.levels[0] ?? null;
  }

  /** Number of levels on both sides. */
  get size() {
    return this.#bids.levels.length + this.#asks.levels.length;
  }

  /** The best `n` levels of each side, best first. */
  depth(n = Infinity) {
    return { bids: this.#bids.levels.slice(0, n), asks: this.#asks.levels.slice(0, n) };
  }

  replace(epoch, seq, bids, asks) {
    this.#bids = new Side(-1, bids);
    this.#asks = new Side(1, asks);
    this.epoch = epoch;
    this.seq = seq;
    this.valid = true;
  }

  apply(epoch, seq, changes) {
    for (const [side, price, size] of changes) {
      (side === "buy" ? this.#bids : this.#asks).set(price, size);
    }
    this.epoch = epoch;
    this.seq = seq;
  }
}
