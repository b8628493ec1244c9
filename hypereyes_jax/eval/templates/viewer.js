"use strict";
// The trajectory viewer: a question's image with the boxes a policy drew, and what each search returned.
const TURN_COLOURS = ["#5b7cfa", "#f08c00", "#12a87b", "#e0457b", "#9b5de5", "#00a5cf", "#b8860b", "#e4572e", "#6c757d"];
const STOPS = {
  no_action: "neither call nor answer", turn_limit: "out of turns", truncated: "turn too long",
  context_limit: "context full", unreadable: "crop unreadable", infrastructure: "search was down",
};

function verdict(run) {
  if (run.correct === true) return ["yes", "✓ right"];
  if (run.correct === false) return ["no", "✗ wrong"];
  return ["", run.masked === "judge" ? "judge was down" : run.masked ? "search was down" : "not judged"];
}

// A box of a crop of a crop, in fractions of the first image it was cut from; null when it can't be traced.
function region(run, images, source, box, depth = 0) {
  const [x1, y1, x2, y2] = (box || [0, 0, 1, 1]).map((v) => Math.min(1, Math.max(0, v)));
  if (!(x2 > x1 && y2 > y1)) return null;
  const number = /^img_(\d+)$/.exec(source || "img_0");
  if (number && +number[1] < images.length) return { image: images[+number[1]], box: [x1, y1, x2, y2] };
  const parent = run.turns.flatMap((turn) => turn.invocations).find((call) => call.crop_id && call.crop_id === source);
  // a crop is made before it is searched, so following sources always ends; the bound is for damaged files
  const outer = parent && depth < 50 ? region(run, images, parent.source, parent.box, depth + 1) : null;
  if (!outer) return null;
  const [a, b, c, d] = outer.box;
  return { image: outer.image, box: [a + x1 * (c - a), b + y1 * (d - b), a + x2 * (c - a), b + y2 * (d - b)] };
}

function counted(n, one, many) {
  return `${n} ${n === 1 ? one : many}`;
}

function hit(result) {
  const node = el("div", { class: "hit", onclick: () => node.classList.toggle("open") },
    el("b", {}, result.title || "untitled"), el("span", { class: "score" }, result.score.toFixed(2)), el("p", {}, result.content));
  return node;
}

function crop(place) {
  const canvas = el("canvas");
  const picture = new Image();
  picture.onload = () => {
    const [x1, y1, x2, y2] = place.box;
    const [w, h] = [Math.max(1, (x2 - x1) * picture.naturalWidth), Math.max(1, (y2 - y1) * picture.naturalHeight)];
    [canvas.width, canvas.height] = [Math.round(w), Math.round(h)];
    canvas.getContext("2d").drawImage(picture, x1 * picture.naturalWidth, y1 * picture.naturalHeight, w, h, 0, 0, canvas.width, canvas.height);
  };
  picture.src = page.images[place.image];
  return canvas;
}

function runView(run, images) {
  const [tone, word] = verdict(run);
  const boxes = new Map(); // image number -> [{box, label, colour, call}]
  let count = 0;
  const turns = run.turns.map((turn, t) => {
    const colour = TURN_COLOURS[t % TURN_COLOURS.length];
    const calls = turn.invocations.map((invocation) => {
      count += 1;
      const label = String(count);
      const looks = invocation.tool === "image_search";
      const place = looks ? region(run, images, invocation.source, invocation.box) : null;
      const what = looks ? (invocation.box ? invocation.crop_id || "crop" : `whole ${invocation.source || "image"}`) : invocation.query;
      const node = el("div", { class: "call", style: `--k:${colour}` },
        place ? crop(place) : el("div", { class: "query" }, looks ? "▧" : "⌕"),
        el("div", {}, el("div", { class: "what" }, el("b", {}, label), what),
          invocation.error ? el("div", { class: "trouble" }, invocation.error) : null,
          ...invocation.hits.map(hit),
          invocation.error || invocation.hits.length ? null : el("div", { class: "what" }, "nothing found")));
      if (place && invocation.box) {
        const drawn = { box: place.box, label, colour, node };
        boxes.set(place.image, [...(boxes.get(place.image) || []), drawn]);
        node.addEventListener("pointerenter", () => drawn.rect.classList.add("on"));
        node.addEventListener("pointerleave", () => drawn.rect.classList.remove("on"));
      }
      return node;
    });
    if (!turn.is_round && !turn.reason) return null;
    return el("div", { class: "turn" },
      el("div", { class: "head" }, el("b", {}, `Turn ${t + 1}`),
        el("span", {}, turn.is_round ? counted(calls.length, "search", "searches") : "answer"),
        turn.seconds ? el("span", {}, `${turn.seconds.toFixed(2)} s`) : null),
      turn.reason ? el("p", { class: "reason" }, turn.reason) : null,
      turn.malformed ? el("p", { class: "trouble" }, turn.malformed) : null,
      ...calls,
      turn.skipped ? el("p", { class: "trouble" }, `${counted(turn.skipped, "search", "searches")} beyond the limit, not made`) : null);
  });
  const mosaics = images.map((number) => {
    const drawn = boxes.get(number) || [];
    const overlay = el("svg", { viewBox: "0 0 1 1", preserveAspectRatio: "none" });
    const badges = [];
    for (const item of drawn) {
      const [x1, y1, x2, y2] = item.box;
      const frame = { x: x1, y: y1, width: x2 - x1, height: y2 - y1 };
      item.rect = el("rect", { ...frame, class: "box", style: `stroke:${item.colour}`,
        onpointerenter: () => { item.rect.classList.add("on"); item.node.classList.add("on"); },
        onpointerleave: () => { item.rect.classList.remove("on"); item.node.classList.remove("on"); } });
      overlay.append(el("rect", { ...frame, class: "halo" }), item.rect);
      badges.push(el("span", { class: "badge", style: `left:${100 * x1}%;top:${100 * y1}%;background:${item.colour}` }, item.label));
    }
    return el("div", { class: "mosaic" }, el("img", { src: page.images[number], alt: "the question's image" }), overlay, ...badges);
  });
  const cost = run.extra && run.extra.cost ? `cost ${run.extra.cost}` : null;
  const stats = [counted(run.rounds, "round", "rounds"), counted(run.invocations, "search", "searches"),
    run.tokens ? `${(run.tokens / 1000).toFixed(1)} k tokens` : null, run.seconds ? `${run.seconds.toFixed(1)} s` : null, cost,
    ...(run.worth || [])];
  return el("article", { class: `panel run stage-${run.key.replace(/\W/g, "")}` },
    el("header", {}, el("h4", {}, run.name, el("span", { class: `verdict ${tone}` }, word)),
      el("div", { class: "stats" }, ...stats.filter(Boolean).map((text) => el("span", {}, text)))),
    ...mosaics, ...turns,
    el("div", { class: "final" }, el("div", { class: "label" }, "Answer"),
      el("div", { class: `said ${tone}` }, run.answer === null ? `none: ${STOPS[run.stop] || run.stop}` : run.answer),
      run.why ? el("p", { class: "trouble" }, run.why) : null),
    el("details", { class: "written" }, el("summary", {}, "Word for word"), ...run.turns.flatMap((turn) => [
      el("pre", {}, turn.text), turn.observation ? el("pre", { class: "shown" }, turn.observation) : null]).filter(Boolean)));
}

function questionView(question) {
  const [answer, ...aliases] = question.answers;
  return [
    el("div", { class: "panel ask" }, el("h3", {}, question.text),
      el("div", { class: "truth" }, question.kind ? el("span", { class: "tag" }, question.kind) : null,
        question.split ? el("span", { class: "tag" }, question.split) : null,
        answer === undefined ? null : "expected ", answer === undefined ? null : el("b", {}, answer),
        aliases.length ? ` (or ${aliases.join(", ")})` : null)),
    el("div", { class: "runs" }, ...question.runs.map((run) => runView(run, question.images))),
  ];
}

(function viewer() {
  const list = document.getElementById("list");
  if (!list) return;
  const stage = document.getElementById("stage");
  const picks = page.questions.map((question, i) => el("button", { class: "pick", type: "button", onclick: () => open(i) },
    question.images.length ? el("img", { src: page.images[question.images[0]], alt: "" }) : el("div", { class: "none" }, "⌕"),
    el("div", {}, el("div", { class: "q" }, question.text),
      el("div", { class: "marks" }, ...question.runs.map((run) => el("span", { class: `mk ${verdict(run)[0]}`, title: verdict(run)[1] }, run.name))))));
  function open(i) {
    picks.forEach((pick, j) => pick.setAttribute("aria-current", String(i === j)));
    stage.replaceChildren(...questionView(page.questions[i]));
  }
  list.append(...picks);
  list.addEventListener("keydown", (event) => {
    const by = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const next = by && picks[picks.indexOf(document.activeElement) + by];
    if (next) { event.preventDefault(); next.focus(); next.click(); }
  });
  open(0);
})();
