// Decimal strings compared as what they say, never as floating point.

/** One text for one value: "9289.70" and "9289.7" are the same price. */
export function canonical(text) {
  const [whole, fraction = ""] = text.split(".");
  const digits = fraction.replace(/0+$/, "");
  const head = whole.replace(/^(-?)0+(?=\d)/, "$1");
  return digits ? `${head}.${digits}` : head;
}

export function isZero(text) {
  return !/[1-9]/.test(text);
}

/** Negative, zero or positive as `a` is less than, equal to or greater than `b`. */
export function compareDecimals(a, b) {
  const x = canonical(a);
  const y = canonical(b);
  if (x === y) return 0;
  const negative = x.startsWith("-");
  if (negative !== y.startsWith("-")) return negative ? -1 : 1;
  return negative ? compareSizes(y.slice(1), x.slice(1)) : compareSizes(x, y);
}

function compareSizes(x, y) {
  const xDot = x.indexOf(".");
  const yDot = y.indexOf(".");
  const xWhole = xDot < 0 ? x.length : xDot;
  const yWhole = yDot < 0 ? y.length : yDot;
  if (xWhole !== yWhole) return xWhole - yWhole;
  // Whole parts of one length, and "." sorts before digits: text order is numeric order.
  return x < y ? -1 : 1;
}
