// The chart of models: accuracy against what a model costs, the Pareto front, a budget, and what is behind each mark
// (kdtutor/widgets/model_chart.py).
//
// A model is chosen by pointing at its mark, or by arrow keys from mark to mark, in the order of the axis. Nothing here needs a
// kernel.
//
// What tests and other scripts can rely on: the root has the class kd-models and data-cost (milliseconds, bytes, throughput).
// Inside it data-kd, with I from 0 in the order of the models, is
//   cost-milliseconds cost-bytes cost-throughput   the radio buttons of the axis; budget: the slider
//   point-I             the marks: data-front (yes, no), data-best (yes, no), data-cost, data-accuracy
//   row-I               the rows of the table, data-front
//   detail              what is said of the chosen one, data-chosen
//   summary             a sentence

const bytesOf = (b) => (b >= 1e6 ? `${(b / 1e6).toFixed(1)}${NBSP}MB` : `${(b / 1e3).toFixed(1)}${NBSP}kB`);
const msOf = (v) => `${Number(v.toPrecision(2))}${NBSP}ms`;
const rateOf = (v) => `${Math.round(v).toLocaleString("en-US")}${NBSP}texts/s`;
const COSTS = {
  milliseconds: { label: "one text at a time", axis: "milliseconds for one text (batch size 1)", sign: 1, format: msOf, bound: "at most" },
  bytes: { label: "bytes", axis: "size on disk", sign: 1, format: bytesOf, bound: "at most" },
  throughput: { label: "texts per second", axis: "texts per second, in batches", sign: -1, format: rateOf, bound: "at least" },
};
const OTHERS = ["student", "green", "pink", "orange", "sky", "grey"];

/** The places of the models that none dominates, from the cheapest to the dearest. */
function paretoFront(models, cost) {
  const price = (m) => COSTS[cost].sign * m[cost];
  const dominates = (a, b) => price(a) <= price(b) && a.accuracy >= b.accuracy && (price(a) < price(b) || a.accuracy > b.accuracy);
  return models.map((_, i) => i).filter((i) => !models.some((other) => dominates(other, models[i]))).sort((i, j) => price(models[i]) - price(models[j]));
}

/** The most accurate model within a budget, the cheaper of two that are as good; undefined if there is none. */
function bestWithin(models, cost, budget) {
  const price = (i) => COSTS[cost].sign * models[i][cost];
  const fits = models.map((_, i) => i).filter((i) => budget === null || price(i) <= COSTS[cost].sign * budget);
  return fits.sort((i, j) => models[j].accuracy - models[i].accuracy || price(i) - price(j))[0];
}

/** Do two rectangles, each [left, top, width, height], lie on each other? */
const overlap = (a, b) => a[0] < b[0] + b[2] && b[0] < a[0] + a[2] && a[1] < b[1] + b[3] && b[1] < a[1] + a[3];

function render({ model, el: host }) {
  const { models } = model.get("plan"), cleanups = [], HEIGHT = 380;
  const looks = [];
  for (const { name } of models) looks.push(/^teacher/i.test(name) && !looks.includes("teacher") ? "teacher" : OTHERS[looks.filter((l) => l !== "teacher").length % OTHERS.length]);
  const root = el("section", { class: "kd kd-models", "aria-label": "The chart of models" });
  const say = announcer(root);

  // The ends of the three axes, logarithmic, with room for names.
  const ends = Object.fromEntries(Object.keys(COSTS).map((cost) => {
    const values = models.map((m) => m[cost]);
    return [cost, [Math.min(...values) / 1.8, Math.max(...values) * 2.5]];
  }));
  const marksOf = (low, high) => {
    const steps = high / low > 200 ? [1] : [1, 2, 5];
    return Array.from({ length: 24 }, (_, i) => steps.map((m) => m * 10 ** (i - 9))).flat().filter((v) => v >= low && v <= high);
  };

  function choose(i) {
    if (model.get("chosen") === i) return;
    model.set("chosen", i);
    model.save_changes();
  }
  function keys(event, i) {
    const cost = model.get("cost"), order = models.map((_, k) => k).sort((a, b) => models[a][cost] - models[b][cost]), at = order.indexOf(i);
    const next = { ArrowRight: at + 1, ArrowUp: at + 1, ArrowLeft: at - 1, ArrowDown: at - 1, Home: 0, End: order.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    points[order[Math.max(0, Math.min(order.length - 1, next))]].group.focus();
  }

  const cost = choice({ label: "What it costs", segments: true, value: model.get("cost"), name: "cost", options: Object.entries(COSTS).map(([value, { label }]) => ({ value, label })) });
  cost.onchange((value) => { model.set("cost", value); model.set("budget", null); model.save_changes(); });
  const PLACES = 100; // of the budget's slider, along the axis; the last one is no budget
  const valueAt = (place) => { const [low, high] = ends[model.get("cost")]; return low * (high / low) ** (place / PLACES); };
  const placeOf = (value) => { const [low, high] = ends[model.get("cost")]; return Math.max(0, Math.min(PLACES, Math.round((PLACES * Math.log(value / low)) / Math.log(high / low)))); };
  const noneAt = () => (COSTS[model.get("cost")].sign > 0 ? PLACES : 0);
  const told = (place) => (place === noneAt() ? "no limit" : `${COSTS[model.get("cost")].bound} ${COSTS[model.get("cost")].format(valueAt(place))}`);
  const budget = slider({ label: "Budget", min: 0, max: PLACES, step: 1, value: PLACES, format: told, name: "budget" });
  const sent = drafts(model);
  budget.onchange((place) => { sent.set("budget", place === noneAt() ? null : valueAt(place)); draw(); });

  // The chart: the grid below, then the front, then the marks.
  const drawing = svg("svg", { role: "group", "aria-label": "Models, by cost and accuracy", width: "100%", height: HEIGHT });
  const beyond = svg("rect", { class: "kd-models-beyond", y: 10 }), grid = svg("g", { "aria-hidden": "true" }), front = svg("path", { class: "kd-models-front" });
  const points = models.map((m, i) => {
    const parts = { bar: svg("path", { style: { stroke: "var(--kd-ink)", "stroke-width": "1.4", fill: "none" } }), ring: svg("circle", { class: "kd-models-ring", r: 14 }), touch: svg("circle", { r: 22, fill: "transparent" }), mark: svg("path"), name: svg("text", { "aria-hidden": "true" }) };
    const group = svg("g", { class: "kd-models-point", role: "button", tabindex: -1, "data-kd": `point-${i}`, "data-accuracy": m.accuracy, onclick: () => group.focus(), onpointerenter: () => choose(i), onfocus: () => choose(i), onkeydown: (event) => keys(event, i), ...OWN_KEYS }, ...Object.values(parts));
    return { group, ...parts };
  });
  drawing.append(beyond, grid, front, ...points.map((p) => p.group));
  const body = el("div", { class: "kd-chart-body" }, drawing);
  const detail = el("div", { class: "kd-models-detail", "data-kd": "detail" });
  const table = el("table", { class: "kd-models-table" });
  const summary = el("p", { class: "kd-note", "data-kd": "summary" });
  root.append(el("div", { class: "kd-title" }, "Which model?"),
    el("div", { class: "kd-row" }, cost.root, budget.root),
    el("div", { class: "kd-models-columns" }, el("div", { class: "kd-chart" }, body), el("div", null, detail, summary)),
    el("details", { class: "kd-more" }, el("summary", { "data-kd": "more", ...OWN_KEYS }, "All numbers"), el("div", { class: "kd-models-scroll", tabindex: 0, role: "region", "aria-label": "All numbers" }, table)));
  cleanups.push(say.dispose, themed(root), keepKeys(root), sent.dispose);
  host.append(root);

  const interval = (m) => `${percent(m.accuracy, 1)} (${percent(m.low, 1)} to ${percent(m.high, 1)})`;
  const costs = (m) => [bytesOf(m.bytes), msOf(m.milliseconds), rateOf(m.throughput)];
  let width = 560, last = null;

  function drawChart(axis, fronted, best, limit) {
    const left = 62, right = 16, top = 10, bottom = 46, [x0, x1] = ends[axis];
    const floor = Math.floor(Math.min(...models.map((m) => m.low)) * 20 - 0.2) / 20, ceiling = Math.min(1, Math.ceil(Math.max(...models.map((m) => m.high)) * 20 + 0.2) / 20);
    const X = (v) => left + (Math.log(v / x0) / Math.log(x1 / x0)) * (width - left - right);
    const Y = (v) => HEIGHT - bottom - ((v - floor) / (ceiling - floor)) * (HEIGHT - top - bottom);
    grid.replaceChildren(
      ...ticks(floor, ceiling, 5).flatMap((v) => [svg("line", { class: "kd-grid", x1: left, x2: width - right, y1: Y(v), y2: Y(v) }), svg("text", { class: "kd-quiet", x: left - 8, y: Y(v) + 5, "text-anchor": "end" }, percent(v))]),
      ...marksOf(x0, x1).filter((v, i, all) => width > 520 || all.length < 6 || i % 2 === 0).flatMap((v) => [svg("line", { class: "kd-grid", x1: X(v), x2: X(v), y1: top, y2: HEIGHT - bottom }), svg("text", { class: "kd-quiet", x: X(v), y: HEIGHT - bottom + 18, "text-anchor": "middle" }, COSTS[axis].format(v).replace(`${NBSP}texts/s`, ""))]),
      svg("line", { class: "kd-axis", x1: left, x2: width - right, y1: HEIGHT - bottom, y2: HEIGHT - bottom }),
      axisName(COSTS[axis].axis, (left + width) / 2, HEIGHT - 6, width));
    const from = limit === null ? width : COSTS[axis].sign > 0 ? X(limit) : left, to = limit === null ? width : COSTS[axis].sign > 0 ? width - right : X(limit);
    setAttribute(beyond, "x", from); setAttribute(beyond, "width", Math.max(0, to - from)); setAttribute(beyond, "height", HEIGHT - top - bottom);
    setAttribute(front, "d", fronted.map((i, k) => `${k ? "L" : "M"}${X(models[i][axis]).toFixed(1)},${Y(models[i].accuracy).toFixed(1)}`).join(""));
    const taken = models.map((m) => [X(m[axis]) - 12, Y(m.accuracy) - 12, 24, 24]); // marks, and then names: left, top, width, height
    models.forEach((m, i) => {
      const p = points[i], x = X(m[axis]), y = Y(m.accuracy), { colour, marker: shape } = LOOKS[looks[i]], onFront = fronted.includes(i);
      setAttribute(p.bar, "d", `M${x},${Y(m.low)}V${Y(m.high)}M${x - 5},${Y(m.low)}h10M${x - 5},${Y(m.high)}h10`);
      for (const circle of [p.ring, p.touch]) { setAttribute(circle, "cx", x); setAttribute(circle, "cy", y); }
      setAttribute(p.mark, "d", markerPath(shape, x, y, 8));
      for (const [name, value] of Object.entries(markerStyle(shape, onFront || shape === "plus" || shape === "cross" ? colour : "var(--kd-paper)"))) p.mark.style.setProperty(name, value);
      if (!onFront) { p.mark.style.setProperty("stroke", colour); p.mark.style.setProperty("stroke-width", "2.4"); }
      const ends = x > width * 0.62;
      setText(p.name, `${i === best && limit !== null ? "★ " : ""}${fitText(m.name, Math.max(60, ends ? x - left - 20 : width - x - 30))}`);
      // Behind its mark and below it, or before it and above: the front runs from the lower left to the upper right. Where
      // another mark or name lies there, the next free corner.
      const long = textWidth(p.name.textContent), corners = ends ? [[-16, -10], [-16, 20], [16, -10], [16, 20]] : [[16, 20], [16, -10], [-16, -10], [-16, 20]];
      const placed = corners.map(([dx, dy]) => ({ dx, dy, box: [dx < 0 ? x + dx - long : x + dx, y + dy - 13, long, 16] }));
      const free = placed.find(({ box }) => box[0] > left && box[0] + long <= width && !taken.some((other, k) => k !== i && overlap(box, other))) ?? placed[0];
      taken.push(free.box);
      setAttribute(p.name, "x", x + free.dx); setAttribute(p.name, "y", y + free.dy); setAttribute(p.name, "text-anchor", free.dx < 0 ? "end" : "start");
    });
  }

  const draw = onFrame(() => {
    const axis = model.get("cost"), limit = sent.get("budget"), chosen = model.get("chosen");
    const fronted = paretoFront(models, axis), best = bestWithin(models, axis, limit), m = models[chosen];
    root.dataset.cost = axis;
    cost.set(axis);
    budget.set(limit === null ? noneAt() : placeOf(limit));
    setAttribute(budget.input, "aria-valuetext", told(budget.value()));
    drawChart(axis, fronted, best, limit);
    const state = (i) => `${fronted.includes(i) ? "on the Pareto front" : "dominated"}${i === best && limit !== null ? ", the best within the budget" : ""}`;
    models.forEach((each, i) => {
      const { group } = points[i];
      setAttribute(group, "data-front", fronted.includes(i) ? "yes" : "no"); setAttribute(group, "data-best", i === best ? "yes" : "no");
      setAttribute(group, "data-cost", each[axis]); setAttribute(group, "aria-pressed", String(i === chosen)); setAttribute(group, "tabindex", i === chosen ? 0 : -1);
      setAttribute(group, "aria-label", `${each.name}: ${interval(each)}, ${costs(each).join(", ")}; ${state(i)}`);
    });
    setAttribute(detail, "data-chosen", chosen);
    detail.replaceChildren(el("p", null, el("strong", null, m.name), `, ${state(chosen)}`), el("p", null, `${interval(m)} of ${m.texts.toLocaleString("en-US")} texts`), el("p", null, costs(m).join(", ")), ...(m.recipe ? [el("p", null, `Recipe: ${m.recipe}`)] : []));
    table.replaceChildren(el("tbody", null, el("tr", null, ["model", "accuracy (95 %)", "bytes", "one text", "in batches", "parameters", "front"].map((text) => el("th", { scope: "col" }, text))),
      models.map((each, i) => el("tr", { "data-kd": `row-${i}`, "data-front": fronted.includes(i) ? "yes" : "no" }, el("th", { scope: "row" }, each.name),
        [interval(each), ...costs(each), each.parameters.toLocaleString("en-US"), fronted.includes(i) ? "yes" : "no"].map((text) => el("td", null, text))))));
    setText(summary, `Pareto front: ${fronted.map((i) => models[i].name).join(", ")}. ${limit === null ? "" : best === undefined ? "No model is within the budget." : `Best within the budget (${told(budget.value())}): ${models[best].name}.`}`);
    if (last !== null && last !== limit) say(summary.textContent);
    last = limit;
  });
  cleanups.push(draw.cancel, follow(model, "cost budget chosen", draw), onWidth(body, (w) => { if (w !== width) { width = w; draw(); } }));
  draw();
  return () => {
    for (const ends of cleanups) ends();
    root.remove();
  };
}

export default { render };
