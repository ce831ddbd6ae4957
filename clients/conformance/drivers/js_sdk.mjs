// The JavaScript SDK as the conformance kit wants a client: one line of JSON for each event.
import { MarketDataClient } from "../../js/src/index.js";

const { URL: url, PRODUCT: product, CHANNEL: channel } = process.env;
// The kit waits for seconds, and is alone.
const client = new MarketDataClient(url, { reconnectSpreadMs: 50 });
client.subscribe(product, { channel });
const row = (level) => (level ? [level.price, level.size] : null);
client.on("event", (event) => {
  if (!["tick", "snapshot", "reset"].includes(event.type)) return;
  const book = channel === "book" ? client.book(product) : null;
  const best = book && {
    best_bid: row(book.bestBid),
    best_ask: row(book.bestAsk),
    levels: book.size,
    valid: book.valid,
  };
  console.log(JSON.stringify({ event: event.type, epoch: event.epoch, seq: event.seq, ...best }));
});
