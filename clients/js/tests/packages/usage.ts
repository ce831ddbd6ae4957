// How the SDK is used from TypeScript; it is compiled, not run.
import {
  compareDecimals, MarketDataClient, type EventOf, type MarketDataEvent, type OrderBook,
} from "market-data-fanout-client";
import { useMarketData, type MarketDataView } from "market-data-fanout-client/react";

const client = new MarketDataClient(new URL("ws://127.0.0.1:8080/ws"), { apiKey: "k", maxBackoffMs: 500, maxAttempts: 9, logger: console });
client.subscribe(["BTC-USD"], { channel: ["ticker", "book"], fromSeq: { "BTC-USD": 7 }, epoch: 1, depth: 0 });
client.subscribe("ETH-USD", { mode: "latest", maxRate: 5, onUnrecoverable: "error" });
// @ts-expect-error: no such channel
client.subscribe("BTC-USD", { channel: "candles" });
// @ts-expect-error: no such option
client.subscribe("BTC-USD", { fromSequence: 7 });

const off: () => void = client.on("tick", (event) => {
  const price: string | undefined = event.fields.last_trade?.price;
  const merged: number = event.merged;
  // @ts-expect-error: decimals are strings
  const wrong: number | undefined = event.fields.last_trade?.price;
  void [price, merged, wrong];
});
off();
client.on("event", (event: MarketDataEvent) => void event.type);
// @ts-expect-error: no such event
client.on("ticks", () => undefined);

function told(event: MarketDataEvent): string {
  switch (event.type) {
    case "tick": return `${event.product} ${event.seq} follows ${event.prev}`;
    case "snapshot": return `${event.reason} ${event.state.bids?.[0]?.[0] ?? ""}`;
    case "late": return `${event.ticks.length} of ${event.missed.from}, ${event.open.length} open`;
    case "reset": return `${event.cause} ${event.missed?.from ?? ""}`;
    case "status": return `${event.state} since ${event.since}`;
    case "subscribed": return `${event.start} ${event.warning?.code ?? ""}`;
    case "backfill": return `${event.state} ${event.complete}`;
    case "mode": return `${event.reason} ${event.lag}`;
    case "resync": return `${event.cause} ${event.got}`;
    case "streamError": return `${event.product}: ${event.retry}`;
    case "serverError": return event.name;
    case "connected": return `${event.number} ${event.session}`;
    case "disconnected": return `${event.reason} ${event.retryInMs} ${event.attempts}`;
    case "drain": return `${event.deadline_ms}`;
    case "refused": return `${event.code} ${event.message}`;
  }
  // Every event is told above.
  const none: never = event;
  return none;
}

async function follow(): Promise<void> {
  for await (const event of client) console.log(told(event));
  const book: OrderBook = client.book("BTC-USD");
  const best: string | undefined = book.bestBid?.price;
  const deep: string[] = book.depth(5).asks.map((level) => level.size);
  const held: { epoch: number; seq: number } | null = client.position("BTC-USD", "book");
  const tick: EventOf<"tick"> | null = null;
  console.log(book.valid, best, deep, held, tick, compareDecimals("1.0", "1"));
  // @ts-expect-error: the client's to change
  book.valid = true;
  client.unsubscribe("BTC-USD", { channel: "book" });
  client.close();
}
void follow;

function view(): string {
  const { status, ticks, snapshot, freshness, error }: MarketDataView = useMarketData(["BTC-USD"], { maxRate: 10, apiKey: "k" });
  const state = snapshot["BTC-USD"];
  const price = state && "last_trade" in state ? state.last_trade?.price : undefined;
  const fresh: boolean | undefined = freshness["BTC-USD"]?.fresh;
  const age: number | null | undefined = freshness["BTC-USD"]?.ageMs;
  const own = client.freshness("BTC-USD", "book")?.asOf;
  // @ts-expect-error: no such state
  const odd = freshness["BTC-USD"]?.state === "green";
  void [fresh, age, own, odd];
  return `${status} ${ticks["BTC-USD"]?.seq} ${price} ${error?.message ?? ""}`;
}
void view;
