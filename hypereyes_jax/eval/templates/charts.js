"use strict";
// Line and stacked charts as SVG. All text goes through text nodes.
const page = JSON.parse(document.getElementById("data").textContent);

function el(tag, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "text", "rect", "circle", "g"].includes(tag);
  const node = svg ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

(function theme() {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const follow = () => { root.dataset.theme = dark.matches ? "dark" : "light"; };
  follow();
  dark.addEventListener("change", follow);
  document.getElementById("theme").addEventListener("click", () => {
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
  });
})();

// As many as the largest chart has series, and told apart without colour vision by their lightness.
const SERIES_COLOURS = ["var(--rl)", "var(--sft)", "var(--good)", "var(--bad)", "var(--series-5)", "var(--series-6)",
  "var(--series-7)", "var(--series-8)", "var(--series-9)", "var(--series-10)"];

function ticks(low, high, count) {
  const raw = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 5, 10].map((m) => m * power).find((s) => s >= raw);
  const found = [];
  const first = Math.ceil(low / step - 1e-9);
  // counted, because adding a step to a number far larger than it goes nowhere
  for (let i = 0; i <= 2 * count && (first + i) * step <= high + step * 1e-6; i += 1) found.push((first + i) * step);
  return found;
}

function show(value, unit) {
  if (unit === "%") return `${+value.toFixed(Math.abs(value) < 10 ? 1 : 0)} %`;
  const size = Math.abs(value);
  if (size !== 0 && (size < 1e-3 || size >= 1e5)) return value.toExponential(1);
  return String(+value.toPrecision(3));
}

// Centred moving average; edges use what there is. A series that mostly stands still (a reference) is exact as it is.
function smooth(points) {
  const reach = Math.floor(points.length / 24);
  const still = points.filter((p, i) => i && p[1] === points[i - 1][1]).length;
  if (reach < 1 || still > points.length / 3) return points;
  return points.map(([step], i) => {
    const near = points.slice(Math.max(0, i - reach), i + reach + 1);
    return [step, near.reduce((sum, p) => sum + p[1], 0) / near.length];
  });
}

function stack(lines) {
  const below = new Map();
  return lines.map((line) => ({
    ...line,
    points: line.points.map(([step, value]) => {
      const from = below.get(step) || 0;
      below.set(step, from + value);
      return [step, from + value, from];
    }),
  }));
}

function chart(panel, height) {
  const scale = panel.unit === "%" ? 100 : 1;
  const scaled = panel.lines.map((line) => ({ ...line, points: line.points.map(([s, v]) => [s, v * scale]) }));
  const lines = panel.stacked ? stack(scaled) : scaled;
  const colour = (i) => SERIES_COLOURS[i % SERIES_COLOURS.length];
  const plot = el("svg", { height });
  const tip = el("div", { class: "tip", hidden: "" });
  const many = lines.length > 1;
  const keys = lines.map((line, i) => el("span", {}, el("i", { style: `background:${colour(i)}` }), line.label));
  const node = el("article", { class: "panel chart" }, el("h4", {}, panel.title), panel.note ? el("p", { class: "note" }, panel.note) : null,
    plot, many ? el("div", { class: "keys" }, ...keys) : null, tip);

  const all = lines.flatMap((line) => line.points);
  const steps = [...new Set(all.map((p) => p[0]))].sort((a, b) => a - b);
  const [first, last] = [steps[0], steps[steps.length - 1]];
  let [low, high] = [Math.min(...all.map((p) => p[1])), Math.max(...all.map((p) => p[1]))];
  if (low > 0 && (panel.stacked || low < 0.6 * high)) low = 0;
  if (panel.unit === "%" && high > 60) high = 100;
  if (high === low) [low, high] = [low - 0.5, high + 0.5];
  if (panel.unit !== "%") high += (high - low) * 0.06;
  const edge = { left: 46, right: 10, top: 10, bottom: 22 };

  function draw() {
    const width = node.clientWidth - 34;
    if (width <= 0) return;
    const x = (s) => edge.left + ((s - first) / (last - first || 1)) * (width - edge.left - edge.right);
    const y = (v) => height - edge.bottom - ((v - low) / (high - low)) * (height - edge.top - edge.bottom);
    const path = (points) => points.map((p, i) => `${i ? "L" : "M"}${x(p[0]).toFixed(1)} ${y(p[1]).toFixed(1)}`).join("");
    const cursor = el("line", { class: "cursor", y1: edge.top, y2: height - edge.bottom, visibility: "hidden" });
    plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    plot.replaceChildren(
      ...ticks(low, high, 5).flatMap((t) => [
        el("line", { class: "grid", x1: edge.left, x2: width - edge.right, y1: y(t), y2: y(t) }),
        el("text", { x: edge.left - 7, y: y(t) + 4, "text-anchor": "end" }, show(t, panel.unit)),
      ]),
      ...(last > first ? ticks(first, last, 5).filter(Number.isInteger) : [first]).map((t) => el("text", { x: x(t), y: height - 4, "text-anchor": "middle" }, String(t))),
      ...lines.flatMap((line, i) => {
        const stroke = `stroke:${colour(i)}`;
        if (line.points.length === 1) return [el("circle", { cx: x(first), cy: y(line.points[0][1]), r: 4, style: `fill:${colour(i)}` })];
        if (panel.stacked) {
          const floor = line.points.map((p) => [p[0], p[2]]).reverse();
          return [el("path", { d: `${path(line.points)}L${path(floor).slice(1)}Z`, style: `fill:${colour(i)};opacity:.75` })];
        }
        const soft = smooth(line.points);
        return [soft === line.points ? null : el("path", { class: "raw", d: path(line.points), style: stroke }),
          el("path", { class: "line", d: path(soft), style: stroke })].filter(Boolean);
      }),
      cursor,
    );
    plot.onpointermove = (event) => {
      const box = plot.getBoundingClientRect();
      const near = steps.reduce((best, s) => (Math.abs(x(s) - (event.clientX - box.left)) < Math.abs(x(best) - (event.clientX - box.left)) ? s : best));
      for (const end of ["x1", "x2"]) cursor.setAttribute(end, x(near));
      cursor.setAttribute("visibility", "visible");
      tip.replaceChildren(el("div", {}, `step ${near}`), ...lines.flatMap((line, i) => {
        const point = line.points.find((p) => p[0] === near);
        const value = point && (panel.stacked ? point[1] - point[2] : point[1]);
        return point ? [el("div", {}, el("i", { style: `background:${colour(i)}` }), many ? `${line.label} ` : "", el("b", {}, show(value, panel.unit)))] : [];
      }));
      tip.hidden = false;
      const left = box.left - node.getBoundingClientRect().left + x(near) + 12;
      tip.style.left = `${left + tip.offsetWidth > node.clientWidth ? left - tip.offsetWidth - 24 : left}px`;
      tip.style.top = "62px";
    };
    plot.onpointerleave = () => { tip.hidden = true; cursor.setAttribute("visibility", "hidden"); };
  }
  return { node, draw };
}

for (const [id, panels, height] of [["charts", page.panels, 210], ["further", page.further, 130]]) {
  const place = document.getElementById(id);
  if (!place) continue;
  for (const { node, draw } of panels.map((panel) => chart(panel, height))) {
    place.append(node);
    draw();
    new ResizeObserver(draw).observe(node);
  }
}
