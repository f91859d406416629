// What all instruments share: elements, controls, numbers, charts. Plain functions without exports: Python puts this file
// before the instrument's own one (kdtutor/widgets/base.py). What a person typed is data: it only ever becomes a text
// node or an attribute. Each part that listens to the page has dispose(), for the cleanup function of render.

// ------------------------------------------------------------------------------------------------ elements

const SVG_NAMESPACE = "http://www.w3.org/2000/svg";

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes ?? {})) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name === "style" && typeof value === "object") {
      for (const [property, text] of Object.entries(value)) node.style.setProperty(property, text);
    } else node.setAttribute(name, value === true ? "" : String(value));
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

/** An HTML element. attributes: strings, numbers, true/false; on… are listeners; style may be an object. */
function el(tag, attributes, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

/** The same in SVG. */
function svg(tag, attributes, ...children) {
  return fill(document.createElementNS(SVG_NAMESPACE, tag), attributes, children);
}

let lastId = 0;
const module_ = Math.random().toString(36).slice(2, 8); // two instruments on a page must not share ids
const newId = (name) => `kd-${name}-${module_}-${++lastId}`;

/** Writing to the page costs layout even where nothing changes: these write only what is new. */
function setText(node, text) {
  if (node.kdText !== text) node.textContent = node.kdText = text;
}
function setAttribute(node, name, value) {
  const cache = (node.kdAttributes ??= {});
  if (cache[name] !== value) node.setAttribute(name, (cache[name] = value));
}

/** Follow a model: fn() after each change of these traits (names in one string); returns what ends it. */
function follow(model, names, fn) {
  const events = names.split(" ").map((name) => `change:${name}`);
  for (const event of events) model.on(event, fn);
  return () => events.forEach((event) => model.off(event, fn));
}

/**
 * What a slider under way sets: {get(name), set(name, value), send(), dispose()}. `get` has it at once; the kernel, and with
 * it the model, hears of it ten times a second, for each message makes the page around draw its signs of a busy kernel. Until
 * then the value is kept here and not in the model, where the echo of an older message could undo it.
 */
function drafts(model) {
  const values = new Map();
  let rest = null, latest = null;
  const send = () => {
    clearTimeout(rest);
    clearTimeout(latest);
    latest = null;
    if (!values.size) return;
    const all = [...values];
    values.clear();
    for (const [name, value] of all) model.set(name, value);
    model.save_changes();
  };
  return {
    get: (name) => (values.has(name) ? values.get(name) : model.get(name)),
    set: (name, value) => {
      values.set(name, value);
      clearTimeout(rest);
      rest = setTimeout(send, 80);
      latest ??= setTimeout(send, 250);
    },
    send, dispose: send,
  };
}

/** fn, run at most once in an animation frame, with the latest arguments. `.cancel()` forgets a pending run. */
function onFrame(fn) {
  let pending = 0, latest;
  const later = (...values) => {
    latest = values;
    if (!pending) pending = requestAnimationFrame(() => { pending = 0; fn(...latest); });
  };
  later.cancel = () => { cancelAnimationFrame(pending); pending = 0; };
  return later;
}

/** fn, run once nothing has asked for it for so many ms, with the latest arguments. `.cancel()` forgets a pending run. */
function atRest(fn, ms) {
  let timer = null;
  const later = (...values) => { clearTimeout(timer); timer = setTimeout(fn, ms, ...values); };
  later.cancel = () => clearTimeout(timer);
  return later;
}

/** The page was exported: no kernel is behind it, and its address is its own. */
const exported = () => document.querySelector('script[type="application/vnd.jupyter.widget-state+json"]') !== null;

/**
 * Python's end of the line: {ask(content), alive(), dispose()}. say(sentence) is called with "" when it answers, and with what
 * to do when it does not. A kernel that was restarted forgets the widget; Jupyter tells of the cut line ("comm_live_update"),
 * and a ping shows whether anybody is left. Every answer of Python's counts (model's "msg:custom").
 */
function lifeline(model, say, { nobody, greeting = { kind: "ping" } }) {
  const RESTARTED = "Python was restarted and no longer knows this picture: run the cell above again. Until then everything here works that needs no Python.";
  const SILENT = "Python has not answered yet. It is busy with another cell, or it was restarted and no longer knows this picture; then run the cell above again.";
  let alive = false, timer = null;
  const ask = (content, sentence = alive ? SILENT : nobody, patience = 2000) => {
    clearTimeout(timer);
    timer = setTimeout(() => say(sentence), patience);
    try { model.send(content); } catch { /* the line is cut: nobody answers */ }
  };
  const heard = () => { clearTimeout(timer); alive = true; say(""); };
  const cut = () => ask(greeting, RESTARTED, 1500);
  model.on("msg:custom", heard);
  model.on("comm_live_update", cut);
  return {
    ask, heard, alive: () => alive,
    greet: (sentence = "") => ask(greeting, sentence),
    dispose: () => { clearTimeout(timer); model.off("msg:custom", heard); model.off("comm_live_update", cut); },
  };
}

/** What a link says of an instrument, "#T=4&alpha=0.1": read() → {name: text} of those names that it has; write(values). */
function address(names) {
  const read = () => {
    const said = new URLSearchParams(exported() ? location.hash.slice(1) : "");
    return Object.fromEntries(names.filter((name) => said.has(name)).map((name) => [name, said.get(name)]));
  };
  const write = (values) => {
    if (!exported()) return;
    try { history.replaceState(history.state, "", `#${new URLSearchParams(values)}`); } catch { /* a page inside another one */ }
  };
  return { read, write };
}

/** Lets the bars of `root` glide to their next places: glide() before a change that is no drag; still() while one goes on. */
function glides(root) {
  const DRAG = 600; // ms after a move in which what comes back from Python still belongs to it
  let timer = null, moved = -DRAG;
  const stop = () => { clearTimeout(timer); root.classList.remove("kd-glides"); };
  const still = () => { stop(); moved = performance.now(); };
  const glide = () => {
    if (performance.now() - moved < DRAG) return;
    root.classList.add("kd-glides");
    clearTimeout(timer);
    timer = setTimeout(stop, 320);
  };
  return { glide, still, dispose: stop };
}

/** Controls that stay in sight: tells the style sheet how much of the page's top is taken, and whether they are stuck there. */
function stuck(node) {
  const look = onFrame(() => {
    const bar = document.querySelector(".mobile-header"), taken = bar ? bar.getBoundingClientRect().height : 0;
    node.style.setProperty("--kd-top", `${taken}px`);
    const above = node.getBoundingClientRect().top - node.parentElement.getBoundingClientRect().top;
    node.classList.toggle("kd-stuck", above > node.offsetTop + 1 || node.getBoundingClientRect().top <= taken + 0.5);
  });
  addEventListener("scroll", look, { passive: true, capture: true });
  addEventListener("resize", look);
  look();
  return () => { look.cancel(); removeEventListener("scroll", look, { capture: true }); removeEventListener("resize", look); };
}

/** Words (data-lights) that light the parts of the picture with that name (data-part): hovered, focused, or pressed to stay. */
function lights(root) {
  let held = "";
  const show = (name) => root.querySelectorAll("[data-part]").forEach((part) => part.classList.toggle("kd-dim", Boolean(name) && !part.dataset.part.split(" ").includes(name)));
  const named = (event) => event.target.closest?.("[data-lights]")?.dataset.lights ?? "";
  for (const over of ["pointerover", "focusin"]) root.addEventListener(over, (event) => { if (named(event)) show(named(event)); });
  for (const out of ["pointerout", "focusout"]) root.addEventListener(out, (event) => { if (named(event)) show(held); });
  root.addEventListener("click", (event) => {
    if (!named(event)) return;
    held = held === named(event) ? "" : named(event);
    root.querySelectorAll(".kd-word").forEach((word) => word.setAttribute("aria-pressed", String(word.dataset.lights === held)));
    show(held);
  });
}

/** Writes a sentence in which each of `words` ({word: part}) is a button that lights its part: lights(). */
function setWords(node, text, words) {
  if (node.kdText === text) return;
  node.kdText = text;
  const pattern = new RegExp(`(${Object.keys(words).sort((a, b) => b.length - a.length).join("|")})`);
  const seen = new Set(); // each word once: a sentence is no keyboard
  node.replaceChildren(...text.split(pattern).map((piece) => {
    const part = words[piece];
    if (!part || seen.has(part)) return piece;
    seen.add(part);
    return el("button", { type: "button", class: "kd-word", "data-lights": part, "aria-pressed": "false", style: { "--kd-word": LOOKS[part]?.colour ?? "var(--kd-line)" }, ...OWN_KEYS }, piece);
  }));
}

const prefersReducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

// ------------------------------------------------------------------------------------------------ light or dark

function luminance(colour) {
  const channels = colour.match(/[\d.]+/g)?.map(Number);
  if (!channels || channels.length < 3 || (channels.length > 3 && channels[3] < 0.5)) return null; // transparent
  const scale = colour.startsWith("color(") ? 1 : 255;
  const [r, g, b] = channels.map((c) => c / scale).map((c) => (c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

/** Is the page around `root` dark? What it says of itself counts first, then what it looks like. */
function isDark(root) {
  const { documentElement: html, body } = document;
  const jupyter = body?.getAttribute("data-jp-theme-light");
  if (jupyter) return jupyter === "false";
  const code = body?.getAttribute("data-vscode-theme-kind") ?? "";
  if (code || body?.matches(".vscode-dark, .vscode-light, .vscode-high-contrast")) {
    return /dark|high-contrast$/.test(code) || body.matches(".vscode-dark, .vscode-high-contrast:not(.vscode-high-contrast-light)");
  }
  for (const place of [body, html]) {
    const said = place?.getAttribute("data-theme") ?? place?.getAttribute("theme") ?? "";
    if (/^(dark|light)$/.test(said)) return said === "dark";
  }
  for (let node = root.parentElement; node; node = node.parentElement) {
    const light = luminance(getComputedStyle(node).backgroundColor);
    if (light !== null) return light < 0.2;
  }
  return matchMedia("(prefers-color-scheme: dark)").matches;
}

/** Make `root` an instrument: class "kd", and data-theme "light" or "dark" that follows the page. Returns what ends it. */
function themed(root) {
  root.classList.add("kd");
  const look = onFrame(() => root.setAttribute("data-theme", isDark(root) ? "dark" : "light"));
  root.setAttribute("data-theme", isDark(root) ? "dark" : "light");
  const watch = new MutationObserver(look);
  const attributeFilter = ["class", "style", "theme", "data-theme", "data-jp-theme-light", "data-vscode-theme-kind", "data-mode"];
  for (const node of [document.documentElement, document.body]) watch.observe(node, { attributes: true, attributeFilter });
  const system = matchMedia("(prefers-color-scheme: dark)");
  system.addEventListener("change", look);
  look(); // once more when root stands in the page
  return () => { look.cancel(); watch.disconnect(); system.removeEventListener("change", look); };
}

// ------------------------------------------------------------------------------------------------ controls

// JupyterLab would take arrow keys and letters for shortcuts unless the control itself has this attribute.
const OWN_KEYS = { "data-lm-suppress-shortcuts": "true" };

/** Keeps keys inside the instrument from the notebook around it; returns what ends it. */
function keepKeys(root) {
  const stop = (event) => { if (event.key !== "Escape") event.stopPropagation(); };
  root.addEventListener("keydown", stop);
  return () => root.removeEventListener("keydown", stop);
}

/**
 * A labelled slider, with `box: true` a number box beside it: {root, input, box, value(), set(value), onchange(fn)}.
 * fn(value, moving) runs while it is dragged, and with moving false for a typed number. log: equal ways are equal factors. marks: values to write below and to snap to.
 * A number that does not fit is answered by one sentence (onproblem, by default below the slider), and nothing changes.
 */
function slider({ label, min, max, step = 0.01, value = min, log = false, format = String, help, box = false, marks = [], name, onproblem }) {
  const STEPS = 400; // of a logarithmic slider
  const listeners = [];
  let current = value;
  const place = (v) => (log ? (STEPS * Math.log(v / min)) / Math.log(max / min) : v);
  const read = (position) => {
    if (!log) return Number(position);
    if (position <= 0) return min;
    if (position >= STEPS) return max;
    const near = marks.find((mark) => Math.abs(place(mark) - position) <= 0.5);
    return near ?? Number((min * (max / min) ** (position / STEPS)).toPrecision(3));
  };
  const id = newId("slider");
  const input = el("input", { type: "range", id, min: log ? 0 : min, max: log ? STEPS : max, step: log ? 1 : step, "data-kd": name, ...OWN_KEYS });
  const typed = box ? el("input", { type: "text", inputmode: "decimal", autocomplete: "off", class: "kd-box", "aria-label": `${label}, as a number`, "data-kd": name && `${name}-box`, ...OWN_KEYS }) : null;
  const shown = box ? null : el("output", { class: "kd-value", for: id, "aria-hidden": "true" });
  const scale = marks.length ? el("div", { class: "kd-ticks", "aria-hidden": "true" },
    marks.map((mark) => el("span", { style: { left: `${(100 * (place(mark) - place(min))) / (place(max) - place(min))}%` } }, format(mark)))) : null;
  const alert = el("div");
  const root = el("div", { class: "kd-slider" },
    el("div", { class: "kd-slider-head" }, el("label", { class: "kd-label", for: id }, label, help ? el("span", { class: "kd-help" }, help) : null), typed ?? shown),
    input, scale, alert);
  const complain = onproblem ?? alertBox(alert);

  const show = () => {
    const position = String(Math.round(place(current) * 1e9) / 1e9);
    if (read(input.value) !== current) input.value = position;
    setAttribute(input, "aria-valuetext", format(current));
    setAttribute(input, "data-value", String(current));
    if (shown) setText(shown, format(current));
    if (typed && document.activeElement !== typed) typed.value = format(current);
  };
  const change = (v, moving) => {
    if (v === current) return;
    current = v;
    complain("");
    show();
    for (const listener of listeners) listener(v, moving);
  };
  const parse = () => {
    const text = typed.value.trim().replace("−", "-").replace(",", ".");
    const number = text === "" ? NaN : Number(text);
    if (number >= min && number <= max) { complain(""); change(number, false); }
    else complain(`${label} is a number from ${format(min)} to ${format(max)}, and “${typed.value.slice(0, 20)}” is not; it stays at ${format(current)}.`);
    typed.value = format(current);
  };
  input.addEventListener("input", () => change(read(input.value), true));
  typed?.addEventListener("change", parse);
  typed?.addEventListener("keydown", (event) => { if (event.key === "Enter") parse(); });
  show();
  return { root, input, box: typed, value: () => current, set: (v) => { current = v; show(); }, onchange: (fn) => listeners.push(fn) };
}

function button(label, onclick, { help, name } = {}) {
  return el("button", { type: "button", class: "kd-button", title: help, "data-kd": name, onclick, ...OWN_KEYS }, label);
}

/**
 * One of several: {root, input, set(value), onchange(fn), setOptions(options)}. options: [{value, label, group}].
 * segments: all options side by side, as radio buttons; otherwise a list to open.
 */
function choice({ label, options, value, segments = false, help, name }) {
  const listeners = [];
  const tell = (v) => listeners.forEach((listener) => listener(v));
  if (segments) {
    const group = newId("choice"), inputs = new Map();
    const labels = options.map((option) => {
      const input = el("input", { type: "radio", name: group, "data-kd": name && `${name}-${option.value}`, onchange: () => tell(option.value), ...OWN_KEYS });
      inputs.set(option.value, input);
      return el("label", null, input, option.label);
    });
    const set = (v) => inputs.forEach((input, key) => { input.checked = key === v; });
    set(value);
    const root = el("fieldset", { class: "kd-choice kd-segments", "data-kd": name }, el("legend", { class: "kd-label" }, label), el("div", null, labels));
    return { root, set, onchange: (fn) => listeners.push(fn) };
  }
  const id = newId("choice");
  let values = [], current = value;
  const select = el("select", { class: "kd-select", id, "data-kd": name, ...OWN_KEYS, onchange: () => { current = values[select.selectedIndex]; tell(current); } });
  const set = (v) => {
    current = v;
    const index = values.indexOf(v);
    if (select.selectedIndex !== index) select.selectedIndex = index;
  };
  const setOptions = (list) => {
    values = list.map((option) => option.value);
    const groups = new Map();
    const nodes = [];
    list.forEach((option, i) => {
      const node = el("option", { value: i, dir: "auto" }, option.label);
      if (!option.group) { nodes.push(node); return; }
      if (!groups.has(option.group)) {
        groups.set(option.group, el("optgroup", { label: option.group }));
        nodes.push(groups.get(option.group));
      }
      groups.get(option.group).append(node);
    });
    select.replaceChildren(...nodes);
    set(current);
  };
  setOptions(options);
  const root = el("div", { class: "kd-choice" }, el("label", { class: "kd-label", for: id }, label, help ? el("span", { class: "kd-help" }, help) : null), select);
  return { root, input: select, set, setOptions, onchange: (fn) => listeners.push(fn) };
}

/** On or off: {root, input, set(value), onchange(fn)}. */
function toggle({ label, value = false, name, help }) {
  const listeners = [];
  const input = el("input", { type: "checkbox", "data-kd": name, ...OWN_KEYS, onchange: () => listeners.forEach((fn) => fn(input.checked)) });
  input.checked = value;
  const root = el("label", { class: "kd-toggle", title: help }, input, label);
  return { root, input, set: (v) => { input.checked = v; }, onchange: (fn) => listeners.push(fn) };
}

/** say(text): read aloud by a screen reader, at most once a second, the last text only. */
function announcer(root) {
  const region = el("div", { class: "kd-hidden-text", "aria-live": "polite", role: "status" });
  root.append(region);
  let timer = null, waiting = null;
  const say = (text) => {
    waiting = text;
    timer ??= setTimeout(() => { timer = null; setText(region, waiting); }, 1000);
  };
  say.dispose = () => clearTimeout(timer);
  return say;
}

/** show(text): one sentence, read aloud at once; "" hides it. */
function alertBox(root) {
  const box = el("div", { class: "kd-alert", role: "alert", "data-kd": "problem", hidden: true });
  root.append(box);
  return (text) => { setText(box, text); box.hidden = !text; };
}

/** A number with its name: {root, set(value, text, note)}; data-value has all its digits. note: room for a small line below. part: see lights(). */
function tile({ label, name, help, look, part = look, note = false }) {
  const value = el("span", { class: "kd-tile-value", "data-kd": name });
  const small = note ? el("span", { class: "kd-tile-note" }) : null;
  const root = el("div", { class: "kd-tile", title: help, "data-part": part, style: look ? { "border-left": `6px solid ${LOOKS[look].colour}` } : undefined },
    el("span", { class: "kd-tile-label" }, label), value, small);
  const set = (number_, text, noted = "") => {
    setText(value, text);
    if (small) setText(small, noted);
    setAttribute(value, "data-value", number_ === null ? "" : String(number_));
  };
  return { root, set };
}

// ------------------------------------------------------------------------------------------------ numbers

const NBSP = "\u00a0";
const minus = (text) => text.replace("-", "−");

/** percent(0.123, 1) is "12.3 %". */
const percent = (p, digits = 0) => `${(100 * p).toFixed(digits)}${NBSP}%`;

/** signed(-0.25) is "−0.25", and what rounds to zero is "+0.00", without doubt on which side. */
function signed(x, digits = 2) {
  const text = x.toFixed(digits);
  return Number(text) === 0 ? (0).toFixed(digits) : minus(x > 0 ? `+${text}` : text);
}

/** number(1.2345) is "1.234"; what would round to nothing is "2.3·10⁻⁵". */
function number(x, digits = 3) {
  if (Math.abs(x) < 1e-12) return (0).toFixed(digits); // rounding, not a number
  if (Math.abs(x) >= 0.5 * 10 ** -digits) return minus(Math.abs(x) >= 10000 ? x.toPrecision(5) : x.toFixed(digits));
  const [mantissa, exponent] = x.toExponential(1).split("e");
  const raised = [...String(Number(exponent))].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[Number(c)])).join("");
  return minus(`${mantissa}·10${raised}`);
}

// The formulas of kdtutor/objectives/formulas.py, in float64, the largest logit taken off first.

/** log softmax(z / T): (C,). */
function logSoftmax(z, T = 1) {
  const top = z.reduce((a, b) => Math.max(a, b), -Infinity); // spreading a long array would overflow the stack
  const scaled = Array.from(z, (v) => (v - top) / T);
  const log = Math.log(scaled.reduce((sum, v) => sum + Math.exp(v), 0));
  return scaled.map((v) => v - log);
}

/** softmax(z / T): (C,). */
function softmax(z, T = 1) {
  return logSoftmax(z, T).map(Math.exp);
}

/** −Σ p log p in nats, p = softmax(z / T). */
function entropy(z, T = 1) {
  return logSoftmax(z, T).reduce((sum, l) => sum - Math.exp(l) * l, 0);
}

/** KL(p ‖ q) = Σ p (log p − log q) in nats. Σ (q − p), which is 0 on paper, takes the rounding of both softmaxes away. */
function kl(zp, zq, T = 1) {
  const p = logSoftmax(zp, T), q = logSoftmax(zq, T);
  return p.reduce((sum, l, c) => sum + Math.exp(l) * (l - q[c]) + (Math.exp(q[c]) - Math.exp(l)), 0);
}

// ------------------------------------------------------------------------------------------------ looks

/** Colour, hatching, marker and dashes of each role, as in kdtutor/plots/style.py. */
const LOOKS = {
  teacher: { colour: "var(--kd-teacher)", hatch: "", marker: "square", dash: "" },
  student: { colour: "var(--kd-student)", hatch: "slash", marker: "circle", dash: "7 4" },
  green: { colour: "var(--kd-green)", hatch: "dots", marker: "triangle", dash: "9 3 2 3" },
  grey: { colour: "var(--kd-grey)", hatch: "cross", marker: "diamond", dash: "2 3" },
  pink: { colour: "var(--kd-pink)", hatch: "backslash", marker: "triangle-down", dash: "9 2" },
  orange: { colour: "var(--kd-orange)", hatch: "vertical", marker: "plus", dash: "9 2 2 2 2 2" },
  sky: { colour: "var(--kd-sky)", hatch: "horizontal", marker: "cross", dash: "2 2" },
};
LOOKS.soft = LOOKS.green; // T²·KL
LOOKS.hard = LOOKS.grey; // cross-entropy with the label
LOOKS.plain = LOOKS.pink; // KL without T²
LOOKS.twin = LOOKS.orange; // the same student without a teacher
LOOKS.sum = { colour: "var(--kd-ink)", hatch: "", marker: "diamond", dash: "" };

const HATCHES = {
  slash: "M-2,2 l4,-4 M0,8 l8,-8 M6,10 l4,-4",
  backslash: "M-2,6 l4,4 M0,0 l8,8 M6,-2 l4,4",
  cross: "M0,0 l8,8 M0,8 l8,-8",
  dots: "M2,2 h1.6 M6,6 h1.6",
  vertical: "M2,0 v8 M6,0 v8",
  horizontal: "M0,2 h8 M0,6 h8",
};

/** Patterns for hatched bars: <defs> and fill(look), what to write as an element's fill. */
function hatches(looks) {
  const ids = new Map();
  const defs = svg("defs");
  for (const look of new Set(looks)) {
    const { colour, hatch } = LOOKS[look];
    if (!hatch) continue;
    ids.set(look, newId("hatch"));
    defs.append(svg("pattern", { id: ids.get(look), width: 8, height: 8, patternUnits: "userSpaceOnUse" },
      svg("rect", { width: 8, height: 8, style: { fill: colour } }),
      svg("path", { d: HATCHES[hatch], style: { stroke: "var(--kd-ink)", "stroke-width": hatch === "dots" ? "1.8" : "1.1", opacity: "0.75", fill: "none" } })));
  }
  return { defs, fill: (look) => (ids.has(look) ? `url(#${ids.get(look)})` : LOOKS[look].colour) };
}

/** A bar in HTML with a look, for bars of one line; patterns: hatches(…) whose defs stand in the page. Its width is what the caller sets. */
function hatchedBar(patterns, look, class_ = "") {
  return el("span", { class: `kd-fill kd-hatched ${class_}`, "data-part": look },
    svg("svg", { width: "100%", height: "100%", "aria-hidden": "true" }, svg("rect", { width: "100%", height: "100%", style: { fill: patterns.fill(look) } })));
}

/** A marker's outline as path data. */
function markerPath(shape, x, y, r) {
  return {
    square: `M${x - r},${y - r} h${2 * r} v${2 * r} h${-2 * r} z`,
    circle: `M${x - r},${y} a${r},${r} 0 1 0 ${2 * r},0 a${r},${r} 0 1 0 ${-2 * r},0 z`,
    triangle: `M${x},${y - r} l${r},${2 * r} h${-2 * r} z`,
    "triangle-down": `M${x},${y + r} l${r},${-2 * r} h${-2 * r} z`,
    diamond: `M${x},${y - r * 1.2} l${r * 1.2},${r * 1.2} l${-r * 1.2},${r * 1.2} l${-r * 1.2},${-r * 1.2} z`,
    plus: `M${x - r},${y} h${2 * r} M${x},${y - r} v${2 * r}`,
    cross: `M${x - r},${y - r} l${2 * r},${2 * r} M${x + r},${y - r} l${-2 * r},${2 * r}`,
  }[shape];
}
function markerStyle(shape, colour) {
  const thin = shape === "plus" || shape === "cross";
  return { fill: thin ? "none" : colour, stroke: thin ? colour : "var(--kd-ink)", "stroke-width": thin ? "2.4" : "1" };
}
const marker = (shape, x, y, r, colour) => svg("path", { d: markerPath(shape, x, y, r), style: markerStyle(shape, colour) });

/** A swatch and a name; kind: "bar", "line" or "mark". Pointed at, it lights its part (lights). */
function key(name, look, kind = "bar") {
  const picture = svg("svg", { width: kind === "line" ? 34 : 22, height: 14, "aria-hidden": "true" });
  if (kind === "bar") {
    const patterns = hatches([look]);
    picture.append(patterns.defs, svg("rect", { class: "kd-bar", x: 1, y: 1, width: 20, height: 12, style: { fill: patterns.fill(look) } }));
  } else {
    const { colour, dash, marker: shape } = LOOKS[look];
    if (kind === "line") picture.append(svg("line", { x1: 0, x2: 34, y1: 7, y2: 7, style: { stroke: colour, "stroke-width": "2.4", "stroke-dasharray": dash } }));
    picture.append(marker(shape, kind === "line" ? 17 : 11, 7, 4, colour));
  }
  const text = el("span", null, name);
  return { root: el("span", { class: "kd-key", "data-lights": look }, picture, text), set: (value) => setText(text, value) };
}

/** About `count` round numbers from low to high. */
function ticks(low, high, count = 4) {
  const rough = (high - low) / count;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 2.5, 5, 10].find((m) => m * power >= rough * 0.999) ?? 10);
  const marks = [];
  for (let i = Math.ceil(low / step - 1e-9); i * step <= high + 1e-9 * step; i++) marks.push(Number((i * step).toPrecision(12)));
  return marks;
}

/** The smallest round number that is not below x: the end of an axis that jumps seldom. */
function roundUp(x, steps = [1, 2, 5, 10]) {
  const power = 10 ** Math.floor(Math.log10(x));
  return Number((power * (steps.find((m) => m * power >= x * 0.9999) ?? 10)).toPrecision(6));
}
const FINE = [1, 1.5, 2, 3, 4, 6, 8, 10];

const shorten = (text, length) => {
  const letters = Array.from(text); // an emoji is one letter
  return letters.length > length ? `${letters.slice(0, Math.max(1, length - 1)).join("")}…` : text;
};

let pen = null; // measures without touching the page
const widths = new Map();
/** The width of a chart's text in px, bold, so that it never turns out wider. */
function textWidth(text) {
  pen ??= document.createElement("canvas").getContext("2d");
  pen.font = '700 14px system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", "Noto Sans", Arial, sans-serif';
  if (!widths.has(text)) widths.set(text, pen.measureText(text).width);
  return widths.get(text);
}
/** The text, cut to fit into so many px. */
function fitText(text, room) {
  if (textWidth(text) <= room) return text;
  const letters = Array.from(text);
  let most = Math.max(1, Math.min(letters.length - 1, Math.floor(room / 4)));
  while (most > 1 && textWidth(`${letters.slice(0, most).join("")}…`) > room) most--;
  return `${letters.slice(0, most).join("")}…`;
}

/** The name below an axis, centred at `middle`; where it would stick out it is moved, and squeezed where there is no room at all. */
function axisName(text, middle, y, width) {
  const long = textWidth(text), half = Math.min(long, width) / 2;
  const squeezed = long > width ? { textLength: width, lengthAdjust: "spacingAndGlyphs" } : {};
  return svg("text", { x: Math.max(half, Math.min(middle, width - half)), y, "text-anchor": "middle", ...squeezed }, text);
}

/** Runs fn(width) when the width of `node` changes, from its first layout on; returns what ends it. */
function onWidth(node, fn) {
  const watch = new ResizeObserver((entries) => {
    const width = Math.floor(entries[entries.length - 1].contentRect.width);
    if (width > 0) fn(width);
  });
  watch.observe(node);
  return () => watch.disconnect();
}

// ------------------------------------------------------------------------------------------------ charts

/**
 * Grouped horizontal bars: {root, update(changes), dispose()}.
 * rows: names. series: [{name, look, values, kind: "bar" | "mark"}], each with a value for each row. label: the sentence for
 * screen readers. title, format, max (of the axis; by default what fits), signed (bars on both sides of zero),
 * star: the row with the true class, or null. sides: two words below a signed axis. columns: the values stand in columns
 * at the right instead of at the bars' ends (by default where there are more than 12 rows). thickness of a bar in px.
 * update takes any of these; only numbers, names and texts that changed are written to the page. describe(label) alone.
 */
function barChart(options) {
  const state = { rows: [], series: [], format: (v) => percent(v, 1), label: "", title: "", signed: false, max: null, star: null, sides: null, columns: null, thickness: 17, ...options };
  const title = el("span", { class: "kd-chart-title" });
  const head = el("div", { class: "kd-chart-head" }, title);
  // What moves with the values (bars, numbers) lies above what stands still, in nodes of its own: few to lay out and paint.
  const drawing = svg("svg", { role: "img", width: "100%", height: 10 });
  const moving = svg("svg", { class: "kd-above", "aria-hidden": "true", width: "100%", height: 10 });
  const body = el("div", { class: "kd-chart-body" }, drawing, moving);
  const root = el("div", { class: "kd-chart" }, head, body);
  let width = 480, built = "", arranged = "", place = {}, keys = [], lines = [], shapes = [], axis = [], columns = [], parts = {};

  const bars = () => state.series.filter((s) => s.kind !== "mark");

  function layout() {
    const inColumns = state.columns ?? state.rows.length > 12;
    const thickness = inColumns ? 9 : state.thickness;
    const widest = state.rows.reduce((most, name) => Math.max(most, textWidth(`★ ${shorten(name, 60)}`)), 40);
    const gutter = Math.min(widest + 10, Math.max(width < 300 ? 80 : 104, width * 0.34), 220);
    const column = width < 420 ? 58 : 66;
    const right = inColumns ? column * bars().length + 8 : state.room ?? 62;
    const left = gutter + (state.signed && !inColumns ? 52 : 0);
    const rowHeight = thickness * bars().length + (inColumns ? 7 : thickness < 14 ? 4 : 10), top = inColumns ? 48 : 26;
    const plot = Math.max(40, width - left - right), bottom = top + state.rows.length * rowHeight;
    return { inColumns, thickness, gutter, column, left, rowHeight, top, bottom, plot, zero: state.signed ? left + plot / 2 : left };
  }

  function build() { // the nodes; their places and texts come later
    const patterns = hatches(state.series.map((s) => s.look));
    keys = state.series.map((s) => key(s.name, s.look, s.kind === "mark" ? "mark" : "bar"));
    head.replaceChildren(title, ...keys.map((k) => k.root));
    shapes = state.series.map((s) => (s.kind === "mark"
      ? svg("path", { class: "kd-mark", "data-part": s.look, style: markerStyle(LOOKS[s.look].marker, LOOKS[s.look].colour) })
      : svg("path", { class: "kd-bar", "data-part": s.look, style: { fill: patterns.fill(s.look) } })));
    parts = { grid: svg("g"), zero: svg("line", { class: "kd-axis" }), sides: [svg("text", { class: "kd-quiet", "text-anchor": "end" }), svg("text", { class: "kd-quiet" })] };
    parts.heads = place.inColumns ? bars().map(() => svg("text", { class: "kd-quiet", "text-anchor": "end" })) : [];
    axis = [];
    lines = state.rows.map(() => {
      const tip = svg("title"), band = svg("rect", { class: "kd-band", x: 0 }), name = svg("text", { "text-anchor": "end" });
      const touch = svg("rect", { x: 0, fill: "none", "pointer-events": "all" }); // what shows the tip: all of the row
      const values = place.inColumns ? [] : bars().map((s) => svg("text", { class: `kd-end${place.thickness < 14 ? " kd-dense" : ""}`, "data-part": s.look }));
      return { group: svg("g", null, tip, touch, name), tip, band, touch, name, values };
    });
    // A column of numbers is one text of many lines: a browser lays it out much faster than as many texts of one.
    columns = place.inColumns ? bars().map((s) => el("div", { class: "kd-above kd-column", "data-part": s.look, "aria-hidden": "true" })) : [];
    drawing.replaceChildren(...lines.map((l) => l.band), parts.grid, ...lines.map((l) => l.group), ...parts.sides, ...parts.heads);
    moving.replaceChildren(patterns.defs, ...shapes, ...lines.flatMap((l) => l.values), parts.zero);
    body.replaceChildren(drawing, moving, ...columns);
  }

  function arrange() { // all that does not depend on the values
    const { gutter, column, rowHeight, top, bottom, zero } = place;
    setText(title, state.title);
    title.hidden = !state.title;
    keys.forEach((k, i) => k.set(state.series[i].name));
    for (const part of [drawing, moving]) setAttribute(part, "height", bottom + (state.sides ? 26 : 6));
    setAttribute(parts.zero, "x1", zero); setAttribute(parts.zero, "x2", zero);
    setAttribute(parts.zero, "y1", top - 4); setAttribute(parts.zero, "y2", bottom);
    const beyond = Math.max(0, zero + 8 + textWidth(state.sides?.[1] ?? "") - width); // px by which the right one would stick out
    parts.sides.forEach((text, i) => {
      setText(text, state.sides?.[i] ?? "");
      setAttribute(text, "x", zero + (i ? 8 : -8) - beyond); setAttribute(text, "y", bottom + 20);
    });
    const end = (i) => width - column * (bars().length - 1 - i) - 4;
    parts.heads.forEach((text, i) => {
      setText(text, bars()[i].short ?? bars()[i].name);
      setAttribute(text, "x", end(i)); setAttribute(text, "y", 14);
    });
    columns.forEach((node, i) => {
      const style = { left: end(i) - column, top, width: column, height: bottom - top, "line-height": rowHeight };
      for (const [name, px] of Object.entries(style)) node.style.setProperty(name, `${px}px`);
    });
    lines.forEach((line, row) => {
      const y = top + row * rowHeight, starred = row === state.star;
      for (const rect of [line.band, line.touch]) {
        setAttribute(rect, "y", y); setAttribute(rect, "width", width); setAttribute(rect, "height", rowHeight);
      }
      setAttribute(line.band, "visibility", row % 2 ? "hidden" : "visible");
      setText(line.name, fitText(`${starred ? "★ " : ""}${shorten(state.rows[row], 60)}`, gutter - 8));
      setAttribute(line.name, "class", starred ? "kd-strong" : "");
      setAttribute(line.name, "x", gutter - 8); setAttribute(line.name, "y", y + rowHeight / 2 + 5);
      setText(line.tip, state.rows[row]);
      setAttribute(line.group, "data-row", state.rows[row]);
    });
  }

  function describe(label) { setAttribute(drawing, "aria-label", (state.label = label)); }

  function drawAxis(x, max) {
    const few = place.plot < 240; // no room for more than the ends and the middle
    const ends = !state.signed && place.plot < 110 ? [0, max] : [state.signed ? -max : max / 2, 0, max];
    const marks = few ? ends : ticks(state.signed ? -max : 0, max, Math.min(5, Math.floor(place.plot / 70)));
    while (axis.length < marks.length) {
      const tick = { line: svg("line", { class: "kd-grid" }), text: svg("text", { "text-anchor": "middle", class: "kd-quiet" }) };
      axis.push(tick);
      parts.grid.append(tick.line, tick.text);
    }
    const digits = state.tickFormat ?? state.format;
    axis.forEach((tick, i) => {
      const used = i < marks.length;
      setAttribute(tick.line, "visibility", used ? "visible" : "hidden");
      setAttribute(tick.text, "visibility", used ? "visible" : "hidden");
      if (!used) return;
      const at = x(marks[i]);
      setAttribute(tick.line, "x1", at); setAttribute(tick.line, "x2", at);
      setAttribute(tick.line, "y1", place.top - 4); setAttribute(tick.line, "y2", place.bottom);
      setAttribute(tick.text, "x", at); setAttribute(tick.text, "y", place.top - 10);
      setText(tick.text, digits(marks[i]));
    });
  }

  function draw() {
    const nodes = [state.rows.length, state.columns, ...state.series.map((s) => `${s.look} ${s.kind}`)].join("|");
    const still = JSON.stringify([width, state.rows, state.star, state.title, state.sides, state.signed, state.series.map((s) => [s.name, s.short])]);
    if (nodes !== built || still !== arranged) {
      place = layout();
      if (nodes !== built) build();
      arrange();
      [built, arranged] = [nodes, still];
    }
    describe(state.label);
    const { inColumns, thickness, rowHeight, top, plot, zero } = place;
    let largest = 0;
    for (const s of state.series) for (const v of s.values) if (Math.abs(v) > largest) largest = Math.abs(v);
    const max = state.max ?? roundUp(largest || 1, FINE);
    const scale = (state.signed ? plot / 2 : plot) / max;
    const x = (v) => Math.round(10 * (zero + scale * v)) / 10;
    drawAxis(x, max);

    // One path a series: a browser lays out and paints two shapes much faster than fifty.
    const thick = bars().length, first = (rowHeight - thickness * thick) / 2;
    let bar = 0;
    const marks = state.series.filter((s) => s.kind === "mark");
    /** Where a number stands: at its bar's end, or behind the mark that would lie on it. */
    const endOf = (row, v, at) => {
      const side = v < 0 ? -1 : 1, hit = marks.map((s) => side * (x(s.values[row]) - at)).filter((d) => d > -8 && d < 62);
      return at + side * (5 + (hit.length ? Math.max(0, Math.max(...hit) + 4) : 0));
    };
    state.series.forEach((s, i) => {
      if (s.kind === "mark") {
        setAttribute(shapes[i], "d", s.values.map((v, row) => markerPath(LOOKS[s.look].marker, x(v), top + (row + 0.5) * rowHeight, 5)).join(""));
        return;
      }
      const nth = bar++;
      if (inColumns) setText(columns[nth], s.values.map((v) => state.format(v)).join("\n"));
      setAttribute(shapes[i], "d", s.values.map((v, row) => {
        const at = x(v), y = top + row * rowHeight + first + nth * thickness;
        if (!inColumns) {
          const text = lines[row].values[nth];
          setText(text, state.format(v));
          setAttribute(text, "text-anchor", v < 0 ? "end" : "start");
          const to = `translate(${endOf(row, v, at)}px,${y + thickness / 2 + 4.5}px)`;
          if (text.kdAt !== to) text.style.transform = text.kdAt = to;
        }
        return `M${zero},${y + 0.5}H${at}v${thickness - 1.5}H${zero}z`;
      }).join(""));
    });
    lines.forEach(({ group }, row) => setAttribute(group, "data-values", bars().map((s) => s.values[row]).join(" ")));
  }

  const dispose = onWidth(body, (w) => { if (w !== width) { width = w; draw(); } });
  draw();
  return { root, body, describe, update: (changes) => { Object.assign(state, changes); draw(); }, dispose };
}

/**
 * Lines with markers, dashes and a key: {root, update(changes), dispose()}.
 * series: [{name, look, points: [[x, y], …]}]; xlabel, ylabel, label (the sentence for screen readers), title, height in px,
 * xmin/xmax/ymin/ymax, xlog/ylog, formatX/formatY, guides: [{y, label, look}] dotted lines. Thousands of points are thinned to what
 * the width can show.
 */
function lineChart(options) {
  const state = { series: [], xlabel: "", ylabel: "", label: "", title: "", height: 240, xlog: false, ylog: false, formatX: (v) => String(v), formatY: (v) => String(v), guides: [], ...options };
  const title = el("span", { class: "kd-chart-title" });
  const head = el("div", { class: "kd-chart-head" }, title);
  const drawing = svg("svg", { role: "img", width: "100%", height: state.height });
  const body = el("div", { class: "kd-chart-body" }, drawing);
  const root = el("div", { class: "kd-chart" }, head, body);
  const layers = { grid: svg("g"), guides: svg("g"), curves: svg("g"), labels: svg("g") };
  drawing.append(...Object.values(layers));
  let width = 480, keys = "";

  const good = (s) => s.points.filter(([a, b]) => Number.isFinite(a) && Number.isFinite(b) && (!state.xlog || a > 0) && (!state.ylog || b > 0));

  function draw() {
    const names = JSON.stringify(state.series.map((s) => [s.name, s.look]));
    if (names !== keys) {
      head.replaceChildren(title, ...state.series.map((s) => key(s.name, s.look, "line").root));
      keys = names;
    }
    setText(title, state.title);
    title.hidden = !state.title;
    setAttribute(drawing, "aria-label", state.label);
    const height = state.height;
    setAttribute(drawing, "height", height);
    const kept = state.series.map(good);
    const range = (i, low, high) => {
      let [a, b] = [Infinity, -Infinity];
      for (const points of kept) for (const p of points) { if (p[i] < a) a = p[i]; if (p[i] > b) b = p[i]; }
      if (!(a <= b)) [a, b] = [low ?? 0, high ?? 1];
      [a, b] = [low ?? a, high ?? b];
      return a === b ? [a, b + (Math.abs(b) || 1)] : [a, b];
    };
    let [x0, x1] = range(0, state.xmin, state.xmax), [y0, y1] = range(1, state.ymin, state.ymax);
    if (!state.ylog) { // round ends, so that the axis stands still while the curve grows
      const marks = ticks(y0, y1, 4), step = marks.length > 1 ? marks[1] - marks[0] : 1;
      y0 = state.ymin ?? Math.floor(y0 / step + 1e-9) * step; y1 = state.ymax ?? Math.ceil(y1 / step - 1e-9) * step;
    }
    const left = 62, right = 14, top = 10, bottom = state.xlabel ? 44 : 24;
    const way = (v, a, b, log) => (log ? Math.log(v / a) / Math.log(b / a) : (v - a) / (b - a));
    const X = (v) => left + way(v, x0, x1, state.xlog) * Math.max(40, width - left - right);
    const Y = (v) => height - bottom - way(v, y0, y1, state.ylog) * (height - top - bottom);
    const marksOf = (a, b, log, count) => (log ? [1, 2, 5].flatMap((m) => Array.from({ length: 24 }, (_, i) => m * 10 ** (i - 12))).filter((v) => v >= a * 0.999 && v <= b * 1.001).sort((p, q) => p - q) : ticks(a, b, count));

    layers.grid.replaceChildren(
      ...marksOf(y0, y1, state.ylog, 4).flatMap((v) => [
        svg("line", { class: "kd-grid", x1: left, x2: width - right, y1: Y(v), y2: Y(v) }),
        svg("text", { class: "kd-quiet", x: left - 7, y: Y(v) + 5, "text-anchor": "end" }, state.formatY(v))]),
      ...marksOf(x0, x1, state.xlog, Math.max(2, Math.floor(width / 110))).flatMap((v) => [
        svg("line", { class: "kd-grid", x1: X(v), x2: X(v), y1: top, y2: height - bottom }),
        svg("text", { class: "kd-quiet", x: X(v), y: height - bottom + 18, "text-anchor": "middle" }, state.formatX(v))]),
      svg("line", { class: "kd-axis", x1: left, x2: width - right, y1: height - bottom, y2: height - bottom }),
      svg("line", { class: "kd-axis", x1: left, x2: left, y1: top, y2: height - bottom }),
      axisName(state.xlabel, (left + width - right) / 2, height - 6, width),
      svg("text", { x: 0, y: 0, "text-anchor": "middle", transform: `translate(13,${(top + height - bottom) / 2}) rotate(-90)` }, state.ylabel));
    layers.guides.replaceChildren(...state.guides.filter((guide) => guide.y >= y0 && guide.y <= y1).flatMap((guide) => [
      svg("line", { x1: left, x2: width - right, y1: Y(guide.y), y2: Y(guide.y), "data-part": guide.look, style: { stroke: LOOKS[guide.look]?.colour ?? "var(--kd-ink)", "stroke-width": guide.look ? "2.2" : "1.2", "stroke-dasharray": "2 4" } }),
      svg("text", { class: "kd-quiet", x: width - right - 4, y: Y(guide.y) - 5, "text-anchor": "end" }, guide.label)]));
    layers.curves.replaceChildren(...state.series.flatMap((s, i) => {
      const { colour, dash, marker: shape } = LOOKS[s.look], points = kept[i];
      if (!points.length) return [];
      const thin = Math.max(1, Math.ceil(points.length / Math.max(50, width)));
      const shown = points.filter((_, j) => j % thin === 0 || j === points.length - 1);
      const path = shown.map(([a, b], j) => `${j ? "L" : "M"}${X(a).toFixed(1)},${Y(b).toFixed(1)}`).join("");
      const every = Math.max(1, Math.ceil(shown.length / 8));
      const dots = shown.filter((_, j) => (shown.length - 1 - j) % every === 0).map(([a, b]) => marker(shape, X(a), Y(b), 4, colour));
      return [svg("path", { d: path, style: { fill: "none", stroke: colour, "stroke-width": "2.2", "stroke-dasharray": dash, "stroke-linejoin": "round" } }), ...dots];
    }));
  }

  const dispose = onWidth(body, (w) => { if (w !== width) { width = w; draw(); } });
  draw();
  return { root, update: (changes) => { Object.assign(state, changes); draw(); }, dispose };
}
