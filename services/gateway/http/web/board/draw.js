// Lines on canvases, in the page's own colours.

const colours = () => {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { accent: of("--accent"), soft: of("--soft"), line: of("--line"), good: of("--good"), bad: of("--bad") };
};
let palette = null;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => (palette = null));

function fit(canvas) {
  const scale = devicePixelRatio || 1;
  const width = Math.round(canvas.clientWidth * scale);
  const height = Math.round(canvas.clientHeight * scale);
  if (canvas.width !== width || canvas.height !== height) {
    canvas.width = width;
    canvas.height = height;
  }
  const context = canvas.getContext("2d");
  context.setTransform(scale, 0, 0, scale, 0, 0);
  context.clearRect(0, 0, canvas.clientWidth, canvas.clientHeight);
  palette ??= colours();
  return [context, canvas.clientWidth, canvas.clientHeight];
}

function extent(points) {
  let low = Infinity;
  let high = -Infinity;
  for (const { price } of points) {
    if (price < low) low = price;
    if (price > high) high = price;
  }
  const room = (high - low) * 0.08 || Math.abs(high) * 0.0001 || 1;
  return [low - room, high + room];
}

function trace(context, points, x, y) {
  context.beginPath();
  let first = true;
  for (const point of points) {
    if (first || point.gap) context.moveTo(x(point.at), y(point.price));
    else context.lineTo(x(point.at), y(point.price));
    first = false;
  }
}

export function spark(canvas, points) {
  const [context, width, height] = fit(canvas);
  const shown = points.slice(-120);
  if (shown.length < 2 || !width) return;
  const [low, high] = extent(shown);
  const begin = shown[0].at;
  const span = shown[shown.length - 1].at - begin || 1;
  trace(
    context,
    shown,
    (at) => ((at - begin) / span) * (width - 2) + 1,
    (price) => height - ((price - low) / (high - low)) * height,
  );
  context.strokeStyle = shown[shown.length - 1].price >= shown[0].price ? palette.good : palette.bad;
  context.lineWidth = 1.5;
  context.stroke();
}

/** `healed`: times of which the ticks came later; they are marked below the line. */
export function chart(canvas, points, decimals, fresh, healed) {
  const [context, width, height] = fit(canvas);
  context.font = "11px system-ui, sans-serif";
  context.fillStyle = palette.soft;
  if (points.length < 2) {
    context.fillText("Waiting for prices", 8, 16);
    return;
  }
  const [low, high] = extent(points);
  const right = context.measureText(high.toFixed(decimals)).width + 14;
  const bottom = 20;
  const begin = points[0].at;
  const span = points[points.length - 1].at - begin || 1;
  const x = (at) => ((at - begin) / span) * (width - right);
  const y = (price) => (height - bottom) * (1 - (price - low) / (high - low));
  context.strokeStyle = palette.line;
  context.lineWidth = 1;
  for (let i = 0; i < 5; i += 1) {
    const price = low + ((high - low) * (i + 0.5)) / 5;
    context.beginPath();
    context.moveTo(0, y(price));
    context.lineTo(width - right, y(price));
    context.stroke();
    context.fillText(price.toFixed(decimals), width - right + 8, y(price) + 4);
  }
  const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });
  context.fillText(clock(begin), 0, height - 5);
  const end = clock(points[points.length - 1].at);
  context.fillText(end, width - right - context.measureText(end).width, height - 5);
  points.forEach((point, i) => {
    if (!point.gap || !i) return;
    context.fillStyle = palette.line;
    context.fillRect(x(points[i - 1].at), 0, Math.max(2, x(point.at) - x(points[i - 1].at)), height - bottom);
  });
  context.fillStyle = palette.good;
  for (const [from, to] of healed) {
    const left = x(Math.max(from, begin));
    if (to >= begin) context.fillRect(left, height - bottom, Math.max(3, x(to) - left), 3);
  }
  trace(context, points, x, y);
  context.strokeStyle = fresh ? palette.accent : palette.soft;
  context.lineWidth = 1.75;
  context.lineJoin = "round";
  context.stroke();
  const last = points[points.length - 1];
  context.beginPath();
  context.arc(x(last.at), y(last.price), 3, 0, 7);
  context.fillStyle = fresh ? palette.accent : palette.soft;
  context.fill();
}
