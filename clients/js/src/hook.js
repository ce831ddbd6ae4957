import { MarketDataClient } from "./client.js";
import { EMPTY, MarketDataStore } from "./store.js";

// How often it is asked how old what is shown is, also while nothing comes.
const JUDGE_MS = 250;

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
      const judge = () => {
        // It follows one channel; of several the first is meant.
        const [channel] = [how.channel ?? "ticker"].flat();
        for (const name of [names].flat()) store.judge(name, client.freshness(name, channel, how.venue));
      };
      const judging = setInterval(judge, JUDGE_MS);
      client.on("event", (event) => {
        store.take(event, event.channel === "book" ? client.book(event.product) : null);
        if (event.type !== "tick") judge();
      });
      return () => {
        clearInterval(judging);
        client.close();
      };
    }, [store]);
    return useSyncExternalStore(store.subscribe, store.getSnapshot, () => EMPTY);
  };
}
