// What the page knows of a product, without a document.
import assert from "node:assert/strict";
import { test } from "node:test";
import { Product } from "../../http/web/board/model.js";

const SECOND = 1_000_000;
const tick = (second, price) => ({
  merged: 1,
  ts_event: second * SECOND,
  ts_ingest: second * SECOND + 7,
  fields: { last_trade: { price: String(price) } },
});
const drawn = (product) => product.points.map(({ at, price, gap }) => [at / 1000, price, Boolean(gap)]);

test("ticks that came late are drawn when they happened, are no rate of now, and are marked", () => {
  const product = new Product("BTC-USD", 0);
  product.tick(tick(1, 10), 1000);
  product.tick(tick(2, 11), 2000);
  product.backfill("begin", true);
  for (const second of [3, 4, 5]) product.tick(tick(second, 10 + second), 60_000);
  product.backfill("end", true);
  product.tick(tick(61, 20), 61_000);
  assert.deepEqual(drawn(product), [
    [1, 10, false], [2, 11, false], [3, 13, false], [4, 14, false], [5, 15, false], [61, 20, false],
  ]);
  assert.deepEqual(product.healed, [[2000, 5000]]);
  assert.equal(product.rate.perSecond(62_000), 0.2);
});

test("what is not known is a gap, however it was lost", () => {
  for (const lose of [
    (product) => product.reset("gap", "snapshot"),
    (product) => product.snapshot({ last_trade: { price: "15", time: 5 * SECOND } }, "catch_up"),
    (product) => (product.backfill("begin", true), product.backfill("end", false)),
  ]) {
    const product = new Product("BTC-USD", 0);
    product.tick(tick(1, 10), 1000);
    lose(product);
    product.tick(tick(6, 16), 6000);
    assert.equal(product.points.filter((point) => point.gap).length, 1);
    assert.deepEqual(product.healed, []);
  }
});

test("a gap that was refilled, and the first snapshot, are none", () => {
  const product = new Product("BTC-USD", 0);
  product.snapshot({ last_trade: { price: "9", time: SECOND / 2 } }, "subscribe");
  product.tick(tick(1, 10), 1000);
  product.reset("gap", "refilled");
  product.tick(tick(2, 11), 2000);
  assert.equal(product.points.some((point) => point.gap), false);
});
