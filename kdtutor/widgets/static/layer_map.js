// The layer map: lines from the teacher's layers to the student's, and the CKA of all layers after a training by them
// (kdtutor/widgets/layer_map.py).
//
// A line is drawn by dragging from one model's layer to the other's, or by choosing one layer and then the other: click,
// tap, or Enter. Arrow keys move between layers; Delete takes a layer's lines away; Escape lets go.
//
// What tests and other scripts can rely on: the root has the class kd-layer-map, data-status (ready, training) and data-kernel
// ("yes" once a kernel has answered). Inside it data-kd, with S and T layers counted from the embeddings, is
//   teacher-T student-S           the layers: buttons, aria-pressed while one is chosen
//   line-S                        the student's line, data-teacher
//   preset                        a list of maps to begin with; clear: no lines
//   start stop                    the buttons; progress: the bar
//   result-I                      a training, data-accuracy, data-kl; pressed if it is shown
//   beside                        the list of what stands at the left
//   map-beside map-shown          the heat maps, data-values: rows of the student's layers as JSON
//   summary problem no-kernel     sentences

const NO_KERNEL = "Training needs a running kernel, and none has answered. You can draw lines, and look at the trainings that were kept.";
const STEP = 46, NODE = 34; // px from layer to layer, and of a layer

const layerName = (i) => (i ? `layer ${i}` : "layer 0, the embeddings");
const sameLines = (a, b) => JSON.stringify(a) === JSON.stringify(b);

/** The two models' layers with the lines between them: {root, draw(pairs), dispose()}. change(pairs) tells of new ones. */
function drawingBoard({ depths, change, say }) {
  const height = STEP * Math.max(depths.teacher, depths.student);
  const at = (side, i) => (height * (i + 0.5)) / depths[side];
  const lines = svg("svg", { "aria-hidden": "true", class: "kd-lm-lines", width: "100%", height });
  const strokes = svg("g"), rubber = svg("path", { class: "kd-lm-rubber", visibility: "hidden" });
  lines.append(strokes, rubber);
  const nodes = { teacher: [], student: [] }, other = { teacher: "student", student: "teacher" };
  let pairs = [], chosen = null, drag = null, width = 200, clickIsOver = false;

  const choose = (node) => {
    chosen = node;
    for (const side of ["teacher", "student"]) nodes[side].forEach((n, i) => setAttribute(n, "aria-pressed", String(chosen?.side === side && chosen.i === i)));
  };
  function connect(a, b) {
    const s = a.side === "student" ? a.i : b.i, t = a.side === "student" ? b.i : a.i;
    const had = pairs.some(([x, y]) => x === s && y === t);
    const rest = pairs.filter(([x]) => x !== s);
    change(had ? rest : [...rest, [s, t]].sort(([x], [y]) => x - y));
    say(had ? `No line to the student's ${layerName(s)} any more.` : `The student's ${layerName(s)} learns from the teacher's ${layerName(t)}.`);
    choose(null);
  }
  function pick(node) {
    if (!chosen || chosen.side === node.side) choose(chosen?.side === node.side && chosen.i === node.i ? null : node);
    else connect(chosen, node);
  }
  function keys(event, node) {
    const go = (side, i) => { event.preventDefault(); nodes[side][Math.max(0, Math.min(depths[side] - 1, i))].focus(); };
    if (event.key === "ArrowDown") go(node.side, node.i + 1);
    else if (event.key === "ArrowUp") go(node.side, node.i - 1);
    else if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
      const side = event.key === "ArrowRight" ? "student" : "teacher";
      if (side !== node.side) go(side, Math.round(((node.i + 0.5) / depths[node.side]) * depths[side] - 0.5));
    } else if (event.key === "Delete" || event.key === "Backspace") {
      event.preventDefault();
      change(pairs.filter(([s, t]) => (node.side === "student" ? s : t) !== node.i));
      say(`No lines at the ${node.side}'s ${layerName(node.i)}.`);
    } else if (event.key === "Escape" && chosen) { event.stopPropagation(); choose(null); }
  }
  const column = (side) => {
    nodes[side] = Array.from({ length: depths[side] }, (_, i) => {
      const node = { side, i };
      return el("button", {
        type: "button", class: `kd-lm-node kd-lm-${side}`, "aria-pressed": "false", "data-kd": `${side}-${i}`, "data-side": side, "data-i": i,
        "aria-label": `${side}, ${layerName(i)}`, style: { top: `${at(side, i) - NODE / 2}px` }, ...OWN_KEYS,
        onclick: () => { if (!clickIsOver) pick(node); }, onkeydown: (event) => keys(event, node),
        onpointerdown: (event) => { if (event.isPrimary && event.button === 0) drag = { node, x: event.clientX, y: event.clientY }; },
      }, String(i));
    });
    return el("div", { class: "kd-lm-column", role: "group", "aria-label": `${side}'s layers`, style: { height: `${height}px` } }, nodes[side]);
  };
  const heads = ["teacher", "student"].map((side) => key(side, side).root);
  const root = el("div", { class: "kd-lm-board" }, heads[0], el("span"), heads[1], column("teacher"), el("div", { class: "kd-lm-between" }, lines), column("student"));

  const curve = (y1, x2, y2, x1 = 0) => `M${x1},${y1} C${(2 * x1 + x2) / 3},${y1} ${(x1 + 2 * x2) / 3},${y2} ${x2},${y2}`;
  const move = (event) => {
    if (!drag || Math.hypot(event.clientX - drag.x, event.clientY - drag.y) < 6) return;
    const box = lines.getBoundingClientRect(), from = at(drag.node.side, drag.node.i);
    rubber.setAttribute("d", curve(from, event.clientX - box.left, event.clientY - box.top, drag.node.side === "teacher" ? 0 : width));
    rubber.setAttribute("visibility", "visible");
  };
  const end = (event) => {
    const from = drag?.node;
    drag = null;
    rubber.setAttribute("visibility", "hidden");
    if (!from || event.type === "pointercancel") return;
    const host = root.getRootNode(), found = (host.elementFromPoint ? host : document).elementFromPoint(event.clientX, event.clientY);
    const node = found?.closest?.(".kd-lm-node");
    if (!node || !root.contains(node) || node.dataset.side !== other[from.side]) return;
    clickIsOver = true; // what some browsers still send is no second choice
    setTimeout(() => { clickIsOver = false; });
    connect(from, { side: node.dataset.side, i: Number(node.dataset.i) });
  };
  for (const [name, fn] of [["pointermove", move], ["pointerup", end], ["pointercancel", end]]) window.addEventListener(name, fn);

  function draw(now = pairs) {
    pairs = now;
    strokes.replaceChildren(...pairs.flatMap(([s, t]) => {
      const d = curve(at("teacher", t), width, at("student", s));
      return [svg("path", { d, class: "kd-lm-line", "data-kd": `line-${s}`, "data-teacher": t }), markerAt(width - 5, at("student", s))];
    }));
    nodes.student.forEach((node, s) => {
      const line = pairs.find(([x]) => x === s);
      setAttribute(node, "aria-label", `student, ${layerName(s)}${line ? `, learns from the teacher's ${layerName(line[1])}` : ""}`);
    });
  }
  const markerAt = (x, y) => svg("path", { d: `M${x - 8},${y - 6} L${x + 4},${y} L${x - 8},${y + 6} z`, class: "kd-lm-tip" });
  const watch = onWidth(lines.parentNode, (w) => { width = w; draw(); });
  const dispose = () => {
    watch();
    for (const [name, fn] of [["pointermove", move], ["pointerup", end], ["pointercancel", end]]) window.removeEventListener(name, fn);
  };
  return { root, draw, dispose };
}

/** A heat map with its numbers: {root, update(title, values, pairs)}. values: rows of the student's layers, from 0 to 1. */
function similarityMap(name) {
  const title = el("div", { class: "kd-chart-title" });
  const picture = svg("svg", { role: "img", width: "100%", "data-kd": name });
  const root = el("div", { class: "kd-lm-map" }, title, picture);
  const left = 44, top = 28, cell = 36;
  function update(text, values, pairs) {
    setText(title, text);
    const columns = values[0].length, rows = values.length;
    const width = left + cell * columns + 2;
    picture.setAttribute("viewBox", `0 0 ${width} ${top + cell * rows + 24}`);
    picture.style.setProperty("max-width", `${width}px`); // letters stay of their size
    setAttribute(picture, "data-values", JSON.stringify(values));
    const most = values.map((row, s) => `${layerName(s)} is most like the teacher's ${layerName(row.indexOf(Math.max(...row)))} (${Math.max(...row).toFixed(2)})`);
    setAttribute(picture, "aria-label", `Heat map of linear CKA, ${text}: the student's ${most.join(", ")}.`);
    picture.replaceChildren(
      ...values.flatMap((row, s) => row.flatMap((value, t) => [
        svg("rect", { class: "kd-lm-cell", x: left + cell * t + 1, y: top + cell * s + 1, width: cell - 2, height: cell - 2, style: { "--kd-value": value.toFixed(3) } }),
        svg("text", { x: left + cell * (t + 0.5), y: top + cell * (s + 0.5) + 5, "text-anchor": "middle" }, String(Math.round(100 * value)))])),
      ...pairs.map(([s, t]) => svg("rect", { class: "kd-lm-frame", x: left + cell * t + 1.5, y: top + cell * s + 1.5, width: cell - 3, height: cell - 3 })),
      ...values.map((_, s) => svg("text", { class: "kd-quiet", x: left - 6, y: top + cell * (s + 0.5) + 5, "text-anchor": "end" }, String(s))),
      ...values[0].map((_, t) => svg("text", { class: "kd-quiet", x: left + cell * (t + 0.5), y: top - 8, "text-anchor": "middle" }, String(t))),
      svg("text", { class: "kd-quiet", x: left + (cell * columns) / 2, y: top + cell * rows + 18, "text-anchor": "middle" }, "teacher's layer"),
      svg("text", { class: "kd-quiet", "text-anchor": "middle", transform: `translate(11,${top + (cell * rows) / 2}) rotate(-90)` }, rows > 3 ? "student's layer" : "student's"));
  }
  return { root, update };
}

function render({ model, el: host }) {
  const plan = model.get("plan"), cleanups = [];
  const alive = { known: false, timer: null };
  const root = el("section", { class: "kd kd-layer-map", "aria-label": `Layer map on ${plan.task}` });
  const say = announcer(root);

  const setPairs = (pairs) => { model.set("pairs", pairs); model.save_changes(); showStored(); draw(); };
  const board = drawingBoard({ depths: plan, change: setPairs, say });
  const preset = choice({ label: "Begin with", name: "preset", value: null, options: [] });
  preset.onchange((name) => setPairs(plan.presets[name] ?? model.get("pairs")));
  const clear = button("Clear", () => setPairs([]), { name: "clear", help: "Take all lines away" });

  const send = (action) => {
    model.send({ do: action });
    clearTimeout(alive.timer);
    alive.timer = setTimeout(() => showKernel(alive.known ? "" : NO_KERNEL), 2500);
  };
  const start = button(`Train ${plan.steps} steps by these lines`, () => send("start"), { name: "start" });
  const stop = button("Stop", () => send("stop"), { name: "stop" });
  const progress = el("progress", { class: "kd-lm-progress", max: plan.steps, value: 0, "aria-label": "Training", "data-kd": "progress" });
  const noKernel = el("p", { class: "kd-note", "data-kd": "no-kernel", hidden: true });
  const formula = el("code");

  const beside = choice({ label: "At the left", name: "beside", value: model.get("beside"), options: [] });
  beside.onchange((i) => { model.set("beside", i); model.save_changes(); draw(); });
  const maps = { beside: similarityMap("map-beside"), shown: similarityMap("map-shown") };
  const table = el("div", { class: "kd-lm-results", role: "group", "aria-label": "Trainings, to show at the right" });
  const summary = el("p", { class: "kd-note", "data-kd": "summary" });

  root.append(el("div", { class: "kd-title" }, "Which layer teaches which?"),
    el("p", { class: "kd-note" }, "Drag from a layer to one of the other model, or choose one and then the other. The same line once more takes it away. 0 is the embeddings."),
    el("div", { class: "kd-lm-columns" },
      el("div", null,
        board.root, el("div", { class: "kd-row kd-lm-tools" }, preset.root, clear)),
      el("div", null,
        el("div", { class: "kd-lm-maps" }, maps.beside.root, maps.shown.root),
        el("p", { class: "kd-note" }, "Linear CKA on validation texts, in hundredths; a frame is a pair that a training brought together."),
        beside.root, table)),
    el("p", { class: "kd-lm-formula" }, "minimises ", formula),
    el("div", { class: "kd-row kd-lm-tools" }, start, stop), progress, noKernel);
  const complain = alertBox(root);
  root.append(summary);
  cleanups.push(board.dispose, say.dispose, themed(root), keepKeys(root));
  host.append(root);

  function showKernel(sentence) {
    noKernel.hidden = !sentence;
    setText(noKernel, sentence);
    root.dataset.kernel = alive.known ? "yes" : "no";
    showStatus();
  }
  function showStatus() {
    const training = model.get("status") === "training", gone = !noKernel.hidden;
    root.dataset.status = model.get("status");
    start.disabled = training || gone;
    stop.disabled = !training || gone;
  }
  /** Lines that somebody trained by already bring what came of it. */
  function showStored() {
    const found = model.get("results").findLastIndex((result) => result.steps && sameLines(result.pairs, model.get("pairs")));
    if (found < 0 || model.get("status") === "training") return;
    model.set("shown", found);
    model.save_changes();
  }

  const cell = (name, text) => el("span", null, el("span", { class: "kd-hidden-text" }, `${name} `), text);
  let listed = "";
  function lists() {
    const results = model.get("results");
    const names = JSON.stringify(results.map((result) => [result.name, result.accuracy]));
    if (names !== listed) {
      listed = names;
      beside.setOptions(results.map((result, i) => ({ value: i, label: result.name })));
      table.replaceChildren(
        el("div", { class: "kd-lm-row kd-lm-head", "aria-hidden": "true" }, el("span", null, "training"), el("span", null, "accuracy"), el("span", null, "KL, nats")),
        ...results.map((result, i) => el("button", {
          type: "button", class: "kd-lm-row", "data-kd": `result-${i}`, "data-accuracy": result.accuracy, "data-kl": result.kl, ...OWN_KEYS,
          onclick: () => { model.set("shown", i); if (result.steps) model.set("pairs", result.pairs); model.save_changes(); draw(); },
        }, el("span", null, result.name), cell("accuracy", percent(result.accuracy, 1)), cell("KL in nats", result.kl.toFixed(2)))));
    }
    [...table.querySelectorAll("button")].forEach((node, i) => setAttribute(node, "aria-pressed", String(i === model.get("shown"))));
    beside.set(model.get("beside"));
  }

  const draw = onFrame(() => {
    const pairs = model.get("pairs"), results = model.get("results"), now = model.get("now");
    board.draw(pairs);
    const known = Object.entries(plan.presets).find(([, lines]) => sameLines(lines, pairs));
    const options = Object.keys(plan.presets).map((name) => ({ value: name, label: name }));
    preset.setOptions(known ? options : [...options, { value: "own", label: "lines of your own" }]);
    preset.set(known ? known[0] : "own");
    const dict = pairs.map(([s, t]) => `${s}: ${t}`).join(", ");
    setText(formula, plan.objective + (pairs.length ? ` + ${plan.weight} * HiddenStates({${dict}})` : ""));

    lists();
    const left = results[model.get("beside")], training = now.steps !== undefined;
    const right = training ? now : results[model.get("shown")];
    maps.beside.update(left.name, left.similarity, left.pairs);
    maps.shown.update(training ? `${now.name}, step ${now.steps}` : right.name, right.similarity, right.pairs);
    progress.value = right.steps;
    progress.hidden = !training;
    setText(summary, training ? `Training: step ${now.steps} of ${plan.steps}, accuracy ${percent(now.accuracy)}, ${now.kl.toFixed(2)} nats from the teacher.` : model.get("summary"));
  });
  cleanups.push(draw.cancel);

  const heard = () => {
    clearTimeout(alive.timer);
    alive.known = true;
    showKernel("");
  };
  cleanups.push(
    follow(model, "pairs results shown beside now", draw),
    follow(model, "now results status", () => { heard(); showStatus(); draw(); }),
    follow(model, "summary", () => { draw(); say(model.get("summary")); }),
    follow(model, "problem", () => complain(model.get("problem"))),
    () => clearTimeout(alive.timer),
  );
  model.on("msg:custom", heard);
  cleanups.push(() => model.off("msg:custom", heard));
  showKernel("");
  complain(model.get("problem"));
  draw();
  send("ping"); // finds out whether there is a kernel
  return () => {
    for (const ends of cleanups) ends();
    root.remove();
  };
}

export default { render };
