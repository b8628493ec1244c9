"use strict";
// What each slot of the engine did and when, on a canvas: thousands of spans are too many for SVG.
const SPAN_COLOURS = { decode: "--rl", extend: "--sft", parked: "--base", waiting: "--base", evicted: "--bad", search: "--good", encode: "--good", copy: "--good" };

function share(shares) {
  const parts = Object.entries(shares).sort((a, b) => b[1] - a[1]).map(([name, part]) => `${name} ${(100 * part).toFixed(0)} %`);
  const idle = 1 - Object.values(shares).reduce((sum, part) => sum + part, 0);
  return idle > 0.005 ? [...parts, `idle ${(100 * idle).toFixed(0)} %`].join(", ") : parts.join(", ");
}

function timeline(data) {
  const row = Math.max(5, Math.min(14, 300 / data.lanes.length));
  const canvas = el("canvas", { class: "lanes" });
  const notes = Object.entries(data.shares).map(([kind, shares]) => `${kind === "slot" ? "slots" : kind}: ${share(shares)}`);
  const style = (name) => getComputedStyle(document.documentElement).getPropertyValue(SPAN_COLOURS[name] || "--faint");
  const keys = data.kinds.map((name) => el("span", {}, el("i", { style: `background:var(${SPAN_COLOURS[name] || "--faint"})` }), name));
  const drawn = data.shown_seconds < 0.99 * data.seconds ? `, the first ${data.shown_seconds.toFixed(1)} s drawn` : "";
  const node = el("article", { class: "panel chart" }, el("h4", {}, data.title),
    el("p", { class: "note" }, `${data.seconds.toFixed(1)} s${drawn}. ${notes.join("; ")}`),
    canvas, el("div", { class: "keys" }, ...keys));
  function draw() {
    const width = node.clientWidth - 34;
    if (width <= 0) return;
    const dense = window.devicePixelRatio || 1;
    const height = data.lanes.length * row;
    [canvas.width, canvas.height] = [width * dense, height * dense];
    canvas.style.height = `${height}px`;
    const pen = canvas.getContext("2d");
    pen.scale(dense, dense);
    data.lanes.forEach((lane, i) => {
      for (const [kind, start, end] of lane.spans) {
        pen.fillStyle = style(data.kinds[kind]);
        const x = (start / data.shown_seconds) * width;
        pen.fillRect(x, i * row, Math.max(0.5, ((end - start) / data.shown_seconds) * width), row - 1);
      }
    });
  }
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  return { node, draw };
}

(function timelines() {
  const place = document.getElementById("timelines");
  if (!place) return;
  const more = document.getElementById("more-timelines");
  page.timelines.map(timeline).forEach(({ node, draw }, i) => {
    (i ? more : place).append(node);
    draw();
    new ResizeObserver(draw).observe(node);
  });
})();
