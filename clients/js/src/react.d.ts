import type {
  ClientOptions, Freshness, OrderBook, RefusedEvent, ServerErrorEvent, SnapshotEvent, StreamErrorEvent,
  SubscribeOptions, TickEvent,
} from "./index.js";

export interface MarketDataView {
  status: "connecting" | "connected" | "reconnecting" | "refused";
  /** The newest tick of each product. */
  ticks: Record<string, TickEvent>;
  /** The state of each product, ticks merged in; of the channel `book` the local book. */
  snapshot: Record<string, SnapshotEvent["state"] | OrderBook | undefined>;
  /** Whether what is shown of each product is the market now: state, age, mode, lag. */
  freshness: Record<string, Freshness | undefined>;
  error: StreamErrorEvent | ServerErrorEvent | RefusedEvent | null;
}

/**
 * Follow one channel of some products while the component is mounted. It renders at most once for
 * each repaint of the screen. `url` is that of the page's own host unless given.
 */
export declare function useMarketData(
  products: string | string[],
  options?: SubscribeOptions & Pick<ClientOptions, "apiKey" | "WebSocket"> & { url?: string },
): MarketDataView;
