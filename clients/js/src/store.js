// What a user interface shows of a client, gathered into one immutable view for each repaint.

const repaint = (act) =>
  typeof requestAnimationFrame === "function" ? requestAnimationFrame(act) : setTimeout(act, 16);

/** What is shown before the first event, and on a server. */
export const EMPTY = Object.freeze({
  status: "connecting",
  ticks: {},
  snapshot: {},
  freshness: {},
  error: null,
});
// What of a verdict is news; an age is by the second.
const gist = ({ state, feed, mode, lag, ageMs }) =>
  JSON.stringify([state, feed, mode, lag, ageMs === null ? null : Math.floor(ageMs / 1000)]);

/** An external store as React's `useSyncExternalStore` wants it. */
export class MarketDataStore {
  #view = EMPTY;
  #next = EMPTY;
  #listeners = new Set();
  #scheduled = false;

  /** Take in an event of the client; `book` gives a product's local book. */
  take(event, book) {
    const next = (change) => this.#change({ ...this.#next, ...change });
    switch (event.type) {
      case "connected":
        return next({ status: "connected", error: null });
      case "disconnected":
        return next({ status: "reconnecting" });
      case "refused":
        return next({ status: "refused", error: event });
      case "streamError":
      case "serverError":
        return next({ error: event });
      case "snapshot":
        return this.#state(event.product, event.state);
      case "tick":
        next({ ticks: { ...this.#next.ticks, [event.product]: event } });
        return this.#tick(event, book);
      case "reset":
        return this.#state(event.product, undefined);
      default:
        return undefined;
    }
  }

  /** Take in the client's verdict on a product, of now. */
  judge(product, freshness) {
    const held = this.#next.freshness[product];
    if (held && gist(held) === gist(freshness)) return;
    this.#change({ ...this.#next, freshness: { ...this.#next.freshness, [product]: freshness } });
  }

  subscribe = (listener) => {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  };

  getSnapshot = () => this.#view;

  #tick(event, book) {
    const held = this.#next.snapshot[event.product];
    if (event.channel === "book") {
      if (book?.valid) this.#state(event.product, book);
    } else if (event.channel === "trades") {
      const trades = [...(held?.trades ?? []), event.fields.last_trade].slice(-100);
      this.#state(event.product, { trades });
    } else {
      const fresh = Object.entries(event.fields).filter(([, value]) => value !== null);
      this.#state(event.product, { ...held, ...Object.fromEntries(fresh) });
    }
  }

  #state(product, state) {
    this.#change({ ...this.#next, snapshot: { ...this.#next.snapshot, [product]: state } });
  }

  #change(view) {
    this.#next = view;
    if (this.#scheduled) return;
    this.#scheduled = true;
    repaint(() => {
      this.#scheduled = false;
      this.#view = this.#next;
      for (const listener of this.#listeners) listener();
    });
  }
}
