import { MarketDataClient } from "./client.js";
import { EMPTY, MarketDataStore } from "./store.js";

/** The hook for the React (or Preact) that is given; `react.js` gives it React itself. */
export function createUseMarketData({ useEffect, useMemo, useSyncExternalStore }) {
  return function useMarketData(products, options = {}) {
    const { url, apiKey, WebSocket, ...subscription } = options;
    const wanted = JSON.stringify([products, subscription]);
    const store = useMemo(() => new MarketDataStore(), [url, apiKey, wanted]);
    useEffect(() => {
      const page = globalThis.location;
      const own = page && `${page.protocol.replace("http", "ws")}//${page.host}/ws`;
      const client = new MarketDataClient(url ?? own, { apiKey, WebSocket });
      const [names, how] = JSON.parse(wanted);
      client.subscribe(names, how);
      client.on("event", (event) => {
        store.take(event, event.channel === "book" ? client.book(event.product) : null);
      });
      return () => client.close();
    }, [store]);
    return useSyncExternalStore(store.subscribe, store.getSnapshot, () => EMPTY);
  };
}
