// The attention viewer: from where each token draws, in the teacher and beside it in a student. Python sends all weights of
// a text once (kdtutor/widgets/attention.py); layers, heads, means and tokens are chosen here.
//
// data-kd, with WHO = teacher or student:
//   text, read                  the box for a text and its button; problem: the alert; notice: what was cut, the kernel
//   side-both, side-teacher, side-student; together     what is shown, and whether layers and heads move together
//   WHO-layer, WHO-head         sliders (data-value); WHO-mean: the mean of all heads; WHO-title; WHO-source: copied from where
//   WHO-tokens                  the list to move in with the arrow keys; WHO-token-I: its tokens, aria-selected
//   WHO-weight-J                what the chosen token draws from token J, data-value 0 to 1; WHO-sum: their sum
//   WHO-whole                   what is folded away: the heat map. WHO-map: the map itself, data-values: the rows of the map as JSON; WHO-cell: the cell under the pointer
//   summary                     all this in one sentence

const PARTS = 65535; // weights come as integers of 16 bits, rows sum to exactly 65535
const MEAN = -1;

/** base64 → Uint16Array; little-endian on every machine that matters, and read as such on the others. */
function unpack(text) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer);
  return Uint16Array.from({ length: bytes.length / 2 }, (_, i) => view.getUint16(2 * i, true));
}

/** The L × L weights of one head, or the mean of all, as rows: fractions. */
function mapOf({ parts, heads }, layer, head, L) {
  const one = (h, i, j) => parts[((layer * heads + h) * L + i) * L + j];
  const cell = head === MEAN
    ? (i, j) => { let sum = 0; for (let h = 0; h < heads; h++) sum += one(h, i, j); return sum / heads / PARTS; }
    : (i, j) => one(head, i, j) / PARTS;
  return Array.from({ length: L }, (_, i) => Float64Array.from({ length: L }, (_, j) => cell(i, j)));
}

const KINDS = {
  special: "put there by the tokenizer; not in the text",
  padding: "padding: masked, so that nobody looks at it",
  unknown: "a piece that the vocabulary lacks",
};
const LAYER = { teacher: "layer", student: "student_layer" }, HEAD = { teacher: "head", student: "student_head" };

/** One model: controls, the list of tokens with lines, and the heat map. */
function attentionCard({ name, model, change, choose, unfold }) {
  const look = LOOKS[name];
  let entry, tokens, kinds, map = [], chosen = 0, rows = [], cells = [], size = 0, step = 28;
  const layer = slider({ label: "layer", min: 0, max: 1, step: 1, value: 0, name: `${name}-layer` });
  const head = slider({ label: "head", min: 0, max: 1, step: 1, value: 0, name: `${name}-head` });
  const mean = toggle({ label: "mean of all heads", name: `${name}-mean` });
  layer.onchange((v) => change(name, "layer", v));
  head.onchange((v) => change(name, "head", v));
  mean.onchange((on) => change(name, "head", on ? MEAN : head.value()));

  const title = el("span", { class: "kd-att-title kd-hidden-text", "data-kd": `${name}-title` });
  const source = el("span", { class: "kd-note", "data-kd": `${name}-source` });
  const queries = el("div", { class: "kd-att-tokens", role: "listbox", "aria-label": `${name}: the token that looks`, "data-kd": `${name}-tokens` });
  const lines = svg("svg", { "aria-hidden": "true", class: "kd-att-lines", preserveAspectRatio: "none" });
  const faint = svg("g"), strong = svg("g");
  lines.append(faint, strong);
  const keys = el("div", { class: "kd-att-keys", role: "list", "aria-label": `${name}: what it draws from each token` });
  const sum = el("span", { class: "kd-value", "data-kd": `${name}-sum` });
  const flow = el("div", { class: "kd-att-flow" },
    el("div", { class: "kd-att-caption" }, "looks (query)"), el("div"), el("div", { class: "kd-att-caption" }, "is looked at (key)"),
    queries, lines, keys,
    el("div"), el("div"), el("div", { class: "kd-att-sum" }, el("span", null, "sum of the row"), sum));

  const grid = svg("g"), labels = svg("g"), frame = svg("rect", { class: "kd-att-frame" }), column = svg("rect", { class: "kd-att-frame kd-att-column", visibility: "hidden" });
  const picture = svg("svg", { role: "img", width: "100%", "data-kd": `${name}-map` }, grid, labels, frame, column);
  const scale = el("span", { class: "kd-note" });
  const pointed = el("span", { class: "kd-att-pointed", "data-kd": `${name}-cell` });
  const body = el("div", { class: "kd-chart-body" }, picture);
  const whole = el("details", { class: "kd-more kd-att-map", "data-kd": `${name}-whole`, ontoggle: () => unfold(whole.open) }, el("summary", OWN_KEYS, "The whole map"), body, el("div", { class: "kd-att-under" }, scale, pointed));
  const root = el("section", { class: "kd-att-card", "aria-label": name, style: { "--kd-look": look.colour } },
    el("div", { class: "kd-att-head" }, key(name, name).root, title, source),
    el("div", { class: "kd-att-controls" }, el("div", { class: "kd-row" }, layer.root, head.root), mean.root),
    el("div", { class: "kd-att-body" }, flow, whole));

  const named = (i) => tokens[i] + (kinds[i] === "word" ? "" : ` (${KINDS[kinds[i]]})`);

  function tokenList() {
    step = tokens.length > 9 ? 24 : 27;
    root.style.setProperty("--kd-step", `${step}px`);
    rows = tokens.map((token, i) => {
      const option = el("div", {
        class: `kd-att-token kd-att-${kinds[i]}`, role: "option", tabindex: -1, dir: "auto", title: named(i), "data-kd": `${name}-token-${i}`, ...OWN_KEYS,
        onpointerenter: () => choose(i), onclick: () => choose(i), onfocus: () => choose(i),
      }, token);
      const bar = el("span", { class: `kd-att-bar kd-att-bar-${name}` }), value = el("span", { class: "kd-att-value", "data-kd": `${name}-weight-${i}` });
      const item = el("div", { class: "kd-att-key", role: "listitem" },
        el("span", { class: `kd-att-token kd-att-${kinds[i]}`, dir: "auto", title: named(i) }, token), el("span", { class: "kd-att-track", "aria-hidden": "true" }, bar), value);
      return { option, item, bar, value, line: svg("path") };
    });
    queries.replaceChildren(...rows.map((r) => r.option));
    keys.replaceChildren(...rows.map((r) => r.item));
    strong.replaceChildren(...rows.map((r) => r.line));
    lines.setAttribute("viewBox", `0 0 100 ${step * tokens.length}`);
    lines.setAttribute("height", step * tokens.length);
    cells = tokens.map(() => tokens.map(() => svg("rect", { class: "kd-att-cell" })));
    grid.replaceChildren(...cells.flat());
  }

  queries.addEventListener("keydown", (event) => {
    const last = tokens.length - 1, chosen = model.get("token"); // the picture may be a frame behind
    const to = { ArrowDown: chosen + 1, ArrowRight: chosen + 1, ArrowUp: chosen - 1, ArrowLeft: chosen - 1, Home: 0, End: last }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    choose(Math.max(0, Math.min(last, to)));
    rows[Math.max(0, Math.min(last, to))].option.focus({ preventScroll: true });
  });

  const curve = (i, j) => { const a = step * (i + 0.5), b = step * (j + 0.5); return `M0,${a} C45,${a} 55,${b} 100,${b}`; };

  // ---- the heat map
  const letters = (text, n) => shorten(text, n);
  let width = 320, left = 90, top = 90, cell = 16;
  function place() {
    const widest = Math.min(12, tokens.reduce((most, t) => Math.max(most, Array.from(t).length), 3));
    left = top = Math.round(widest * 8 + 12);
    cell = Math.max(5, Math.min(30, Math.floor((width - left - 2) / tokens.length)));
    size = cell * tokens.length;
    setAttribute(picture, "height", top + size + 2);
    const all = cell >= 15;
    labels.replaceChildren(...tokens.flatMap((token, i) => (all || i === chosen ? [
      svg("text", { x: left - 6, y: top + cell * (i + 0.5) + 5, "text-anchor": "end", class: i === chosen ? "kd-strong" : "" }, letters(token, 12)),
      svg("text", { x: 0, y: 5, transform: `translate(${left + cell * (i + 0.5)},${top - 6}) rotate(-90)`, class: i === chosen && !all ? "kd-strong" : "" }, letters(token, 12))] : [])));
    cells.forEach((row, i) => row.forEach((rect, j) => {
      setAttribute(rect, "x", left + cell * j + 0.5); setAttribute(rect, "y", top + cell * i + 0.5);
      setAttribute(rect, "width", cell - 1); setAttribute(rect, "height", cell - 1);
    }));
  }
  const at = (event) => {
    const box = picture.getBoundingClientRect();
    const i = Math.floor((event.clientY - box.top - top) / cell), j = Math.floor((event.clientX - box.left - left) / cell);
    return i >= 0 && j >= 0 && i < tokens.length && j < tokens.length ? [i, j] : null;
  };
  picture.addEventListener("pointermove", (event) => {
    const here = at(event);
    column.setAttribute("visibility", here ? "visible" : "hidden");
    if (!here) { setText(pointed, ""); return; }
    const [i, j] = here;
    for (const [attribute, v] of Object.entries({ x: left + cell * j, y: top + cell * i, width: cell, height: cell })) column.setAttribute(attribute, v);
    setText(pointed, `${tokens[i]} draws ${percent(map[i][j], 2)} from ${tokens[j]}`);
    setAttribute(pointed, "data-value", String(map[i][j]));
  });
  picture.addEventListener("pointerleave", () => { column.setAttribute("visibility", "hidden"); setText(pointed, ""); });
  picture.addEventListener("click", (event) => { const here = at(event); if (here) choose(here[0]); });

  let shownMap = "";
  const now = () => [model.get(LAYER[name]), model.get(HEAD[name])];
  /** The largest weight of the map that is chosen: where the scale of all maps has to end. */
  const highest = () => mapOf(entry, ...now(), tokens.length).reduce((most, row) => row.reduce((a, b) => Math.max(a, b), most), 0);
  function draw(full) { // full: the weight that has the full colour
    const L = tokens.length, [l, h] = now();
    chosen = Math.min(model.get("token"), L - 1);
    layer.set(l);
    mean.set(h === MEAN);
    head.input.disabled = h === MEAN;
    if (h !== MEAN) head.set(h);
    setText(title, `layer ${l}, ${h === MEAN ? `mean of ${entry.heads} heads` : `head ${h}`}`);
    const from = entry.sources[l];
    setText(source, from === undefined ? "" : from === null ? "copied from no layer of the teacher" : `copied from the teacher's layer ${from}`);
    if (shownMap !== `${l} ${h} ${full}`) {
      shownMap = `${l} ${h} ${full}`;
      map = mapOf(entry, l, h, L);
      cells.forEach((row, i) => row.forEach((rect, j) => rect.style.setProperty("fill-opacity", (map[i][j] / full).toFixed(3))));
      faint.replaceChildren(...map.flatMap((row, i) => Array.from(row, (w, j) => (w < 0.12 ? null : svg("path", { d: curve(i, j), style: { opacity: (0.5 * w).toFixed(2) } })))).filter(Boolean));
      setText(scale, `full colour is ${percent(full, 1)}`);
      setAttribute(picture, "data-values", JSON.stringify(map.map((row) => Array.from(row))));
      setAttribute(picture, "aria-label", `Heat map of the ${name}'s layer ${l}, ${h === MEAN ? "mean of its heads" : `head ${h}`}: a row for each token that looks, a column for each that is looked at. ${sentence()}`);
    }
    const row = map[chosen];
    rows.forEach(({ option, item, bar, value, line }, j) => {
      setAttribute(option, "aria-selected", j === chosen ? "true" : "false");
      setAttribute(option, "tabindex", j === chosen ? 0 : -1);
      bar.style.setProperty("width", `${(100 * row[j]).toFixed(2)}%`);
      setText(value, percent(row[j], 2));
      setAttribute(value, "data-value", String(row[j]));
      item.classList.toggle("kd-att-most", row[j] >= 0.2);
      setAttribute(line, "d", curve(chosen, j));
      line.style.setProperty("stroke-width", (1 + 8 * row[j]).toFixed(2));
      line.style.setProperty("opacity", Math.min(1, 0.12 + 1.1 * Math.sqrt(row[j])).toFixed(2));
    });
    const total = row.reduce((a, b) => a + b, 0);
    setText(sum, percent(total, 2));
    setAttribute(sum, "data-value", String(total));
    place();
    for (const [attribute, v] of Object.entries({ x: left, y: top + cell * chosen, width: size, height: cell })) setAttribute(frame, attribute, v);
  }

  function sentence() {
    const row = map[Math.min(model.get("token"), tokens.length - 1)];
    const most = Array.from(row, (w, j) => [w, j]).sort((a, b) => b[0] - a[0]).slice(0, 3).filter(([w]) => w >= 0.005);
    const i = Math.min(model.get("token"), tokens.length - 1);
    const said = most.map(([w, j]) => `${percent(w)} from ${j === i ? "itself" : tokens[j]}`).join(", ");
    return `${name[0].toUpperCase()}${name.slice(1)}, ${title.textContent}: ${tokens[i]} draws ${said}.`;
  }

  function load(data) {
    const found = data.models.find((m) => m.name === name);
    tokens = data.tokens; kinds = data.kinds;
    entry = { ...found, parts: unpack(found.weights) };
    for (const [control, count] of [[layer, entry.layers], [head, entry.heads]]) control.resize(count - 1);
    shownMap = "";
    tokenList();
  }

  // A slider of common.js has fixed ends; these are only known with the data.
  for (const control of [layer, head]) control.resize = (most) => {
    control.input.max = most;
    control.input.disabled = most === 0;
  };
  const dispose = onWidth(body, (w) => { width = w; if (map.length) place(); });
  return { root, load, draw, highest, sentence, unfold: (open) => { whole.open = open; }, dispose };
}

function render({ model, el: host }) {
  const root = el("div", { class: "kd-attention", role: "group", "aria-label": "Who looks where" });
  const cards = new Map();
  const names = () => model.get("data").models.map((m) => m.name);

  function change(who, what, value) {
    const traits = what === "layer" ? LAYER : HEAD;
    const entries = Object.fromEntries(model.get("data").models.map((m) => [m.name, m]));
    model.set(traits[who], value);
    if (model.get("together") && entries.student) {
      const sources = entries.student.sources;
      if (what === "head") {
        const other = who === "teacher" ? "student" : "teacher";
        if (value < entries[other].heads) model.set(traits[other], value);
      } else if (who === "student" && sources[value] !== null) model.set("layer", sources[value]);
      else if (who === "teacher" && sources.includes(value)) model.set("student_layer", sources.indexOf(value));
    }
    model.save_changes();
    draw();
  }
  function choose(i) {
    if (i === model.get("token")) return;
    model.set("token", i);
    model.save_changes();
    draw();
  }

  // ---- a text of one's own: Python reads it
  const id = newId("text");
  const box = el("input", { type: "text", id, class: "kd-text", dir: "auto", autocomplete: "off", "data-kd": "text", ...OWN_KEYS });
  const notice = el("p", { class: "kd-note", "data-kd": "notice" });
  const NOBODY = "No answer from Python: this page has no kernel and can show this one text only, or it is busy.";
  const line = lifeline(model, (sentence) => { if (sentence) setText(notice, sentence); else describe(); }, { nobody: NOBODY });
  const ask = () => {
    setText(notice, "Python reads the text …");
    line.ask({ kind: "text", text: box.value });
  };
  const read = button("read it", ask, { name: "read" });
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") ask(); });
  function describe() {
    const { read: kept, total } = model.get("data");
    const cut = total > kept ? `The text has ${total.toLocaleString("en")} tokens; the models read the first ${kept} here. ` : "";
    setText(notice, `${cut}[CLS] and [SEP] are put around the text by the tokenizer.`);
  }

  const side = choice({ label: "show", segments: true, value: model.get("side"), name: "side", options: ["both", "teacher", "student"].map((v) => ({ value: v, label: v })) });
  side.onchange((v) => { model.set("side", v); model.save_changes(); draw(); });
  const together = toggle({ label: "layers and heads move together", name: "together", help: "A student's layer moves the teacher's to the one that it was copied from" });
  together.onchange((v) => { model.set("together", v); model.save_changes(); });
  const options = el("div", { class: "kd-row kd-att-options" }, side.root, together.root);
  const columns = el("div", { class: "kd-att-columns" });
  const summary = el("p", { class: "kd-note", "data-kd": "summary" });
  const problem = el("div");
  const alert = alertBox(problem);
  root.append(
    el("div", { class: "kd-att-ask" }, el("label", { class: "kd-label", for: id }, "Text"), box, read), problem, options, columns, summary, notice);
  const say = announcer(root);
  const drop = [themed(root), keepKeys(root)];
  host.append(root);

  const unfold = (open) => cards.forEach((card) => card.unfold(open)); // both, so that they stay side by side

  function load() {
    const data = model.get("data");
    for (const name of names()) {
      if (!cards.has(name)) {
        cards.set(name, attentionCard({ name, model, change, choose, unfold }));
        columns.append(cards.get(name).root);
        drop.push(cards.get(name).dispose);
      }
      cards.get(name).load(data);
    }
    options.hidden = cards.size < 2;
    together.root.hidden = !data.models.some((m) => m.sources.some((s) => s !== null));
    if (document.activeElement !== box) box.value = model.get("text");
    describe();
    draw();
  }
  const draw = onFrame(() => {
    const shown = model.get("side");
    side.set(shown);
    together.set(model.get("together"));
    for (const [name, card] of cards) card.root.hidden = cards.size > 1 && shown !== "both" && shown !== name;
    const seen = [...cards.values()].filter((card) => !card.root.hidden), full = Math.max(...seen.map((card) => card.highest()));
    for (const card of seen) card.draw(full);
    const text = seen.map((card) => card.sentence()).join(" ");
    if (summary.textContent && summary.textContent !== text) say(text);
    setText(summary, text);
  });
  const complain = () => alert(model.get("problem"));

  load();
  complain();
  drop.push(follow(model, "data", load), follow(model, "layer head student_layer student_head token side together", draw), follow(model, "problem", complain));
  line.greet();
  return () => {
    line.dispose();
    draw.cancel(); say.dispose();
    drop.forEach((end) => end());
  };
}

export default { render };
