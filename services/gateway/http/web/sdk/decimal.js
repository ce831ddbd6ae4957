// Decimal strings compared as what they say, never as floating point.

// As the platform reads them: plain digits, rarely with an exponent ("5.1e-7"). Prices and sizes have
// no sign; what is computed from them may.
const DECIMAL = /^(-?)(\d{1,40})(?:\.(\d{1,40}))?(?:[eE]([+-]?\d{1,2}))?$/;

/** Whether `text` is a price or size that the platform gives. */
export function isDecimal(text) {
  return typeof text === "string" && DECIMAL.test(text) && !text.startsWith("-");
}

/**
 * One text for one value: "9289.70" and "9289.7" are the same price, and so are "1e-7" and
 * "0.0000001". Throws RangeError on what is no decimal number.
 */
export function canonical(text) {
  const parts = DECIMAL.exec(text);
  if (parts === null) throw new RangeError(`not a decimal number: ${text}`);
  const [, sign, whole, fraction = "", exponent = "0"] = parts;
  let digits = whole + fraction;
  let point = whole.length + Number(exponent);
  if (point < 0) {
    digits = "0".repeat(-point) + digits;
    point = 0;
  }
  digits = digits.padEnd(point, "0");
  const head = digits.slice(0, point).replace(/^0+/, "") || "0";
  const tail = digits.slice(point).replace(/0+$/, "");
  const value = tail ? `${head}.${tail}` : head;
  return value === "0" ? value : sign + value;
}

export function isZero(text) {
  return canonical(text) === "0";
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
