import { spark } from "./draw.js";

const SPARK_MS = 500;
const COLUMNS = ["product", "last", "change", "bid", "ask", "trend", "rate", "age", "feed", "chain"];
// What is not live is not coloured as if it were.
const MOODS = { live: "good", quiet: "", waiting: "wait", catching_up: "wait", resyncing: "wait" };
const NUMBERS = new Set(["last", "change", "bid", "ask", "rate", "age"]);
const WIDE = new Set(["bid", "ask", "trend", "rate"]);

/** A time of the server, microseconds, as the page's clock shows it. */
export const clockOf = (micros) => new Date(micros / 1000).toLocaleTimeString([], { hour12: false });

/** What is said of numbers that are not of now; empty where they are. */
export function caveat({ state, fresh, asOf }) {
  if (fresh) return "";
  return asOf === null ? words(state) : `${words(state)}, as of ${clockOf(asOf)}`;
}

/** A verdict as it is shown, with how the stream is sent where that is not record by record. */
const verdict = ({ state, mode, lag }) =>
  [words(state), mode === "latest" && "latest", lag && `${lag} behind`].filter(Boolean).join(", ");

/** A state as it is shown. */
export const words = (state) => state.replace("_", " ");

/** Writes only what changed. */
export function write(element, text, className) {
  if (element.firstChild?.data !== text) element.textContent = text;
  if (className !== undefined && element.className !== className) element.className = className;
}

/** How old the newest record is; of what is not of now, when it was. */
function ageOf(freshness) {
  if (!freshness || freshness.asOf === null) return "–";
  if (!freshness.fresh) return `as of ${clockOf(freshness.asOf)}`;
  return freshness.ageMs === null ? "–" : `${(freshness.ageMs / 1000).toFixed(1)} s`;
}

/** The products' rows; `choose(name)` is called when the user picks one. */
export class Table {
  constructor(body, empty, choose) {
    Object.assign(this, { body, empty, choose });
    this.rows = new Map();
  }

  paint(products, chosen, now) {
    for (const product of products.values()) {
      const row = this.rows.get(product.name) ?? this.#add(product.name);
      if (product.dirty) {
        product.dirty = false;
        this.#fields(row, product);
      }
      this.#moving(row, product, now);
      const isChosen = product.name === chosen;
      const isOld = !product.freshness?.fresh;
      if (row.chosen !== isChosen || row.old !== isOld) {
        Object.assign(row, { chosen: isChosen, old: isOld });
        row.element.className = [isChosen && "chosen", isOld && "old"].filter(Boolean).join(" ");
        row.button.setAttribute("aria-pressed", String(isChosen));
      }
    }
  }

  #add(name) {
    const element = document.createElement("tr");
    const cells = {};
    for (const column of COLUMNS) {
      const cell = document.createElement(column === "product" ? "th" : "td");
      const classes = [
        NUMBERS.has(column) && "n",
        WIDE.has(column) && "wide",
        column === "age" && "age",
      ].filter(Boolean);
      cell.className = classes.join(" ");
      cells[column] = element.appendChild(cell);
    }
    cells.product.scope = "row";
    const button = cells.product.appendChild(document.createElement("button"));
    button.type = "button";
    button.textContent = name;
    button.title = `Show price and book of ${name}`;
    button.addEventListener("click", () => this.choose(name));
    const canvas = cells.trend.appendChild(document.createElement("canvas"));
    canvas.className = "spark";
    canvas.setAttribute("aria-hidden", "true");
    const row = { name, element, cells, button, canvas, chosen: null };
    this.rows.set(name, row);
    const names = [...this.rows.keys()].sort();
    const after = this.rows.get(names[names.indexOf(name) + 1]);
    this.body.insertBefore(element, after?.element ?? null);
    this.empty.hidden = true;
    return row;
  }

  #fields({ cells }, product) {
    const { fields, change } = product;
    const direction = ["down", "", "up"][product.direction + 1];
    write(cells.last, fields.last_trade?.price ?? "–", `n ${direction}`.trim());
    const sign = change > 0 ? "+" : "";
    const colour = change > 0 ? "n up" : change < 0 ? "n down" : "n";
    write(cells.change, change === null ? "–" : `${sign}${change.toFixed(2)} %`, colour);
    write(cells.bid, fields.best_bid?.price ?? "–");
    write(cells.ask, fields.best_ask?.price ?? "–");
    const state = product.freshness?.state ?? "waiting";
    write(cells.feed, product.freshness ? verdict(product.freshness) : state, MOODS[state] ?? "bad");
    const whole = product.chain === "unbroken";
    write(cells.chain, product.chain, whole ? (product.freshness?.fresh ? "good" : "") : "wait");
  }

  #moving({ cells, canvas }, product, now) {
    if (now - product.drawn < SPARK_MS) return;
    product.drawn = now;
    write(cells.rate, product.rate.perSecond(now).toFixed(1));
    write(cells.age, ageOf(product.freshness));
    spark(canvas, product.points);
  }
}
