import { canonical } from "../sdk/decimal.js";
import { caveat, write } from "./table.js";

const LEVELS = 12;

/** `a` less `b`, with as many places as they have and no zeros behind. */
function difference(a, b) {
  const places = Math.max(...[a, b].map((price) => canonical(price).split(".")[1]?.length ?? 0));
  const text = (Number(a) - Number(b)).toFixed(places);
  return text.includes(".") ? text.replace(/\.?0+$/, "") : text;
}

/** The best levels of a book, with bars for how much rests down to each. */
export class Ladder {
  constructor(body, state) {
    Object.assign(this, { body, state });
    this.rows = Array.from({ length: LEVELS }, () => {
      const row = body.appendChild(document.createElement("tr"));
      const cell = (className) => {
        const td = row.appendChild(document.createElement("td"));
        td.className = `n ${className}`;
        const bar = td.appendChild(document.createElement("i"));
        bar.className = "bar";
        return { bar, text: td.appendChild(document.createElement("span")) };
      };
      return { bidSize: cell("bid"), bid: cell(""), ask: cell(""), askSize: cell("ask") };
    });
  }

  /** `freshness`: the SDK's verdict on the book; null when none is followed. */
  paint(book, freshness) {
    this.body.className = freshness?.fresh ? "" : "old";
    const { bids, asks } = book ? book.depth(LEVELS) : { bids: [], asks: [] };
    const sums = (levels) => {
      let sum = 0;
      return levels.map((level) => (sum += Number(level.size)));
    };
    const [bidSums, askSums] = [sums(bids), sums(asks)];
    const most = Math.max(bidSums.at(-1) ?? 0, askSums.at(-1) ?? 0) || 1;
    this.rows.forEach((row, i) => {
      write(row.bidSize.text, bids[i]?.size ?? "");
      write(row.bid.text, bids[i]?.price ?? "", "up");
      write(row.ask.text, asks[i]?.price ?? "", "down");
      write(row.askSize.text, asks[i]?.size ?? "");
      row.bidSize.bar.style.width = `${((bidSums[i] ?? 0) / most) * 100}%`;
      row.askSize.bar.style.width = `${((askSums[i] ?? 0) / most) * 100}%`;
    });
    if (!book?.valid) {
      write(this.state, "not known: a snapshot is awaited", "wait quiet");
    } else if (!freshness?.fresh) {
      write(this.state, freshness ? caveat(freshness) : "waiting", "bad quiet");
    } else {
      const text = bids.length && asks.length ? ` · spread ${difference(asks[0].price, bids[0].price)}` : "";
      write(this.state, `verified · ${book.size} levels${text}`, "quiet");
    }
  }
}
