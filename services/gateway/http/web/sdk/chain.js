// The client's whole rule: what may be believed of one stream.
//
// snapshot   replaces everything held
// incr       another epoch: ask `resync`; seq not above the held one: a duplicate, ignored; prev
//            equal to the held seq: applies; anything else: ask `resync`
// reset      drops the state; it is a link of the chain itself
// hb         a head above what is held for longer than one heartbeat: ask `resync`
//
// From asking `resync` until its snapshot (or a reset) comes, nothing applies.

export class Chain {
  /** `seq` is what the user says to hold already; 0 and null hold nothing. */
  constructor(seq = null, epoch = null) {
    this.seq = seq || null;
    this.epoch = epoch;
    this.waiting = false;
    // What is only claimed may lie between two records.
    this.claimed = this.seq !== null;
    this.ahead = null;
  }

  snapshot(epoch, seq) {
    this.#hold(epoch, seq);
  }

  /** "apply", "ignore", or why `resync` has to be asked: "break", "epoch". */
  incr(epoch, seq, prev) {
    if (this.waiting) return "ignore";
    if (this.epoch !== null && epoch !== this.epoch) return this.#broken("epoch");
    if (this.seq !== null) {
      if (seq <= this.seq) return "ignore";
      const follows = prev === this.seq || (this.claimed && (prev === null || prev < this.seq));
      if (!follows) return this.#broken("break");
    }
    this.#hold(epoch, seq);
    return "apply";
  }

  /** "apply", or "ignore" for one that is held already. */
  reset(epoch, seq) {
    const same = this.epoch === null || epoch === this.epoch;
    if (!this.waiting && this.seq !== null && same && seq <= this.seq) return "ignore";
    this.#hold(epoch, seq);
    return "apply";
  }

  /** "apply" when all is well, "behind" when `resync` has to be asked; times in milliseconds. */
  head(seq, now, heartbeat) {
    if (this.waiting || this.seq === null || seq <= this.seq) {
      this.ahead = null;
      return "apply";
    }
    if (this.ahead === null || this.seq >= this.ahead.seq) {
      this.ahead = { seq, now };
      return "apply";
    }
    return now - this.ahead.now < heartbeat ? "apply" : this.#broken("behind");
  }

  /** What was asked on the old connection has no answer any more; the position stays good. */
  reconnected() {
    this.waiting = false;
    this.ahead = null;
  }

  #hold(epoch, seq) {
    this.epoch = epoch;
    this.seq = seq;
    this.waiting = this.claimed = false;
    if (this.ahead !== null && seq >= this.ahead.seq) this.ahead = null;
  }

  #broken(why) {
    this.waiting = true;
    this.ahead = null;
    return why;
  }
}
