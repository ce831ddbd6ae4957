export { MarketDataClient } from "./client.js";
export { OrderBook } from "./book.js";
export { compareDecimals } from "./decimal.js";
