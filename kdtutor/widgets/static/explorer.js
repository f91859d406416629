// The temperature explorer. The model holds both models' logits of one text; all else is computed here, in float64.
//
// For tests, data-kd="…" marks what can be driven and read; data-value holds a number with all its digits:
//   controls  temperature, temperature-box, alpha, alpha-box (number boxes: Enter); t-squared, zoom, all-classes (checkboxes);
//             order-teacher, order-class (radio buttons); example, label (select); text (textarea), read (button)
//   more      the folded rest of the controls (order, zoom, all classes); link (button, on an exported page): the address with T, α and text
//   numbers   entropy-teacher, entropy-student, kl, loss-hard, loss-soft, loss-total ("" where there is none: no label)
//   charts    probabilities, gradients: in them a g[data-row=CLASS] for each row, in data-values a number for each series of bars
//             (teacher, student; hard, soft); the row of those that are not drawn is called "n others"
//   loss      the stacked bar: its parts have data-value α · hard and (1 − α) · soft
//   texts     problem (role=alert; one for the widget, one below each slider), status, notice (and pieces: of a text that nobody can
//             read), summary: its words light their parts of the picture

const SHOWN = 8; // classes, before the rest is added up: TemperatureExplorer.rows has the same rule
const SCROLLS = 30; // of more classes than these the charts scroll by themselves
const WORDS = {
  "the teacher's": "teacher", "the student's": "student", "hard loss": "hard", "soft loss": "soft", total: "sum",
};

/** All numbers of one setting. zT, zS: logits (C,). label: a class, or null: then hard is null and adds nothing. */
function explain(zT, zS, label, T, alpha, tSquared) {
  const pT = softmax(zT, T), pS = softmax(zS, T), plain = kl(zT, zS, T);
  const square = tSquared ? T * T : 1;
  const hard = label === null ? null : -logSoftmax(zS)[label];
  const soft = square * plain;
  // ∂/∂z_S of the hard term is p_S − onehot, at T = 1; of KL it is (p_S − p_T) / T.
  const atOne = softmax(zS);
  return {
    teacher: pT, student: pS, entropyTeacher: entropy(zT, T), entropyStudent: entropy(zS, T), kl: plain, hard, soft,
    total: alpha * (hard ?? 0) + (1 - alpha) * soft,
    pullHard: atOne.map((p, c) => (label === null ? 0 : alpha * (p - (c === label ? 1 : 0)))),
    pullSoft: pS.map((p, c) => ((1 - alpha) * square * (p - pT[c])) / T),
  };
}

/** The classes to draw, in order; of more than `most`, the label and those that either model ranks highest. T changes no rank. */
function rowsOf(zT, zS, label, order, most) {
  const ranked = (z) => Array.from(z.keys()).sort((a, b) => z[b] - z[a] || a - b);
  const byTeacher = ranked(zT), byStudent = ranked(zS), chosen = new Set(label === null ? [] : [label]);
  for (let i = 0; chosen.size < Math.min(most, zT.length); i++) {
    chosen.add(byTeacher[i]);
    if (chosen.size < most) chosen.add(byStudent[i]);
  }
  return (order === "teacher" ? byTeacher : Array.from(zT.keys())).filter((c) => chosen.has(c));
}

/** What is seen, in one sentence: the same as TemperatureExplorer.summary. */
function sentence(n, names, label, T, alpha, tSquared) {
  const ranking = (p) => {
    const said = Array.from(p.keys()).sort((a, b) => p[b] - p[a] || a - b).slice(0, 3).map((c) => `${names[c]} ${percent(p[c])}`);
    return said.length > 1 ? `${said.slice(0, -1).join(", ")} and ${said.at(-1)}` : said[0];
  };
  const hard = label === null ? "there is no label" : `hard loss ${n.hard.toFixed(2)}`;
  const square = tSquared ? `T²${NBSP}·${NBSP}KL` : "KL without T²";
  return `At T = ${Number(T.toPrecision(3))} the teacher's probabilities are ${ranking(n.teacher)}, the student's ${ranking(n.student)}; `
    + `${hard}, soft loss (${square}) ${Math.abs(n.soft).toFixed(2)}, total ${Math.abs(n.total).toFixed(2)} nats at α = ${alpha.toFixed(2)}.`;
}

/** The largest soft loss that any T of the slider makes of this text: where the axis of the losses ends, so that it stands still. */
function mostOf(zT, zS, label, tSquared) {
  const soft = [0.5, 1, 2, 4, 8, 20].map((T) => (tSquared ? T * T : 1) * kl(zT, zS, T));
  return roundUp(Math.max(0.1, label === null ? 0 : -logSoftmax(zS)[label], ...soft), FINE);
}

/** total = α · hard + (1 − α) · soft, as numbers and as one bar of two parts: {root, set(n, alpha, tSquared, most)}. */
function lossBar() {
  const patterns = hatches(["hard", "soft"]);
  const named = (name) => el("span", { class: "kd-value", "data-kd": `loss-${name}` });
  const total = named("total"), hard = named("hard"), soft = named("soft");
  const weights = { hard: el("span"), soft: el("span") }, note = el("span", { class: "kd-help" });
  const parts = ["hard", "soft"].map((look) => hatchedBar(patterns, look));
  const end = el("span", { class: "kd-help" });
  const root = el("div", { class: "kd-tile kd-explorer-loss", "data-kd": "loss" },
    svg("svg", { width: 0, height: 0, "aria-hidden": "true", class: "kd-hidden-text" }, patterns.defs),
    el("div", { class: "kd-explorer-sum" },
      el("span", { "data-part": "sum" }, "total ", total), el("span", null, "="),
      el("span", { "data-part": "hard" }, weights.hard, key("hard", "hard").root, " ", hard), el("span", null, "+"),
      el("span", { "data-part": "soft" }, weights.soft, key("soft", "soft").root, " ", soft)),
    el("div", { class: "kd-explorer-track" }, parts), el("div", { class: "kd-explorer-end" }, note, end));
  const write = (node, value, text) => { setText(node, text); setAttribute(node, "data-value", value === null ? "" : String(value)); };
  const set = (n, alpha, tSquared, most) => {
    write(total, n.total, number(n.total));
    write(hard, n.hard, n.hard === null ? "–" : number(n.hard));
    write(soft, n.soft, number(n.soft));
    setText(weights.hard, `${number(alpha, 2)} · `);
    setText(weights.soft, `${number(1 - alpha, 2)} · `);
    setText(note, `${n.hard === null ? "no label, no hard loss" : "hard: −log p(label), at T = 1"}; soft: ${tSquared ? "T² · KL" : "KL, without T²"}, in nats`);
    setText(end, `bar: 0 to ${most}`);
    const shares = [alpha * (n.hard ?? 0), (1 - alpha) * Math.max(0, n.soft)];
    parts.forEach((part, i) => {
      part.style.setProperty("width", `${((100 * shares[i]) / most).toFixed(2)}%`);
      setAttribute(part, "data-value", String(shares[i]));
    });
  };
  return { root, set };
}

function render({ model, el: place }) {
  const draft = drafts(model), get = draft.get;
  const names = get("class_names");
  const set = (changes) => {
    motion.glide();
    draft.send();
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
    noted();
  };

  // ---------------------------------------------------------------- text
  const ownText = { value: null, label: "a text of your own" };
  const pick = choice({ label: "Example", name: "example", value: get("example"), options: [ownText] });
  const label = choice({
    label: "Label", name: "label", value: get("label"),
    options: [{ value: null, label: "unknown" }, ...names.map((name, c) => ({ value: c, label: name }))],
  });
  const textId = newId("text");
  const text = el("textarea", { id: textId, class: "kd-text", rows: 1, dir: "auto", "data-kd": "text", spellcheck: "false", ...OWN_KEYS });
  const read = button("Read it", () => submit(), { name: "read", help: "Let both models read this text" });
  const status = el("p", { class: "kd-note kd-explorer-status", role: "status", "data-kd": "status" });
  const notice = el("p", { class: "kd-note", "data-kd": "notice" }), pieces = el("p", { class: "kd-pieces", "data-kd": "pieces" });

  // ---------------------------------------------------------------- settings
  const temperature = slider({
    label: "Temperature T", help: "divides all logits", name: "temperature", min: 0.1, max: 20, log: true, box: true,
    value: get("temperature"), marks: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20], format: (v) => String(Number(v.toPrecision(3))),
  });
  const alpha = slider({
    label: "Weight α", help: "of the hard labels", name: "alpha", min: 0, max: 1, step: 0.01, box: true,
    value: get("alpha"), marks: [0, 0.25, 0.5, 0.75, 1], format: (v) => String(Number(v.toFixed(3))),
  });
  const order = choice({
    label: "Order of the classes", name: "order", value: get("order"), segments: true,
    options: [{ value: "teacher", label: "by teacher" }, { value: "class", label: "as in the task" }],
  });
  const tSquared = toggle({ label: "T² in the soft loss", name: "t-squared", value: get("t_squared") });
  const zoom = toggle({ label: "Zoom in", name: "zoom", value: get("zoom"), help: "End each axis at its longest bar" });
  const all = toggle({ label: `All ${names.length} classes`, name: "all-classes", value: get("all_classes") });
  all.root.hidden = names.length <= SHOWN;
  const link = button("Link to this", () => { noted.now(); setText(status, "The page's address now holds T, α and the text: copy it."); }, { name: "link" });
  link.hidden = !exported();
  const more = el("details", { class: "kd-more", "data-kd": "more" }, el("summary", OWN_KEYS, "More"),
    el("div", { class: "kd-row" }, order.root, zoom.root, all.root, link));

  // ---------------------------------------------------------------- numbers
  const entropyTeacher = tile({ label: "entropy, teacher", name: "entropy-teacher", look: "teacher" });
  const entropyStudent = tile({ label: "entropy, student", name: "entropy-student", look: "student" });
  const divergence = tile({ label: "KL(teacher ‖ student)", name: "kl", help: "nats, at T", part: "teacher student" });
  for (const one of [entropyTeacher, entropyStudent]) one.root.title = `nats, of at most ${Math.log(names.length).toFixed(2)}`;
  const losses = lossBar();
  const tiles = el("div", { class: "kd-tiles" }, [entropyTeacher, entropyStudent, divergence, losses].map((t) => t.root));

  // ---------------------------------------------------------------- charts
  const looks = {
    probabilities: [{ name: "teacher", look: "teacher" }, { name: "student", look: "student" }],
    gradients: [{ name: "α · hard", short: "hard", look: "hard" }, { name: "(1 − α) · soft", short: "soft", look: "soft" }, { name: "sum", look: "sum", kind: "mark" }],
  };
  const probabilities = barChart({
    title: "Probabilities at temperature T", thickness: 12, room: 54,
    format: (p) => percent(p, 1), tickFormat: (p) => percent(p, Math.abs(100 * p - Math.round(100 * p)) < 1e-9 ? 0 : 1), max: 1,
  });
  const gradients = barChart({
    title: "Gradient by each of the student's logits", signed: true, thickness: 12, room: 54, format: (v) => signed(v, 3), tickFormat: (v) => minus(String(v)),
    sides: ["← step raises", "step lowers →"], max: 1,
  });
  probabilities.root.dataset.kd = "probabilities";
  gradients.root.dataset.kd = "gradients";
  const charts = el("div", { class: "kd-columns", role: "group", "aria-label": "Charts" }, probabilities.root, gradients.root);
  const inWords = el("p", { class: "kd-note", "data-kd": "summary" });

  const alerts = el("div");
  const controls = el("div", { class: "kd-stays" },
    el("div", { class: "kd-row kd-explorer-sliders" }, temperature.root, alpha.root), el("div", { class: "kd-explorer-switches" }, tSquared.root, more));
  const root = el("div", { class: "kd-explorer", role: "group", "aria-label": "Temperature explorer" },
    el("div", { class: "kd-explorer-text" }, pick.root,
      el("div", { class: "kd-explorer-own" }, el("label", { class: "kd-label", for: textId }, "Text"), el("div", { class: "kd-explorer-box" }, text, read)), label.root),
    alerts, status, controls, el("div", { class: "kd-explorer-reading" }, notice, pieces), tiles, charts, inWords);
  place.append(root);
  const show = alertBox(alerts);
  const say = announcer(root);
  const motion = glides(root);
  lights(root);

  // ---------------------------------------------------------------- picture
  let problem = ""; // of this page; the model's own is shown where there is none
  let seen = null; // what was last said aloud
  let most = 1, mostFor = ""; // the end of the losses' axis, and what it was computed for
  function draw() {
    const zT = get("teacher_logits"), zS = get("student_logits"), y = get("label"), T = get("temperature"), a = get("alpha"), square = get("t_squared");
    temperature.set(T);
    alpha.set(a);
    order.set(get("order"));
    tSquared.set(square);
    zoom.set(get("zoom"));
    all.set(get("all_classes"));
    pick.set(get("example"));
    label.set(y);
    show(problem || get("problem"));
    setText(notice, get("notice"));
    showPieces(get("pieces") ?? []);
    if (!zT.length || zT.length !== zS.length || zT.length !== names.length) return;

    const n = explain(zT, zS, y, T, a, square);
    entropyTeacher.set(n.entropyTeacher, number(n.entropyTeacher));
    entropyStudent.set(n.entropyStudent, number(n.entropyStudent));
    divergence.set(n.kl, number(n.kl));
    const text_ = [get("text"), y, square].join("|");
    if (text_ !== mostFor) [most, mostFor] = [mostOf(zT, zS, y, square), text_];
    losses.set(n, a, square, Math.max(most, roundUp(Math.max(n.total, 1e-6), FINE)));

    const shown = rowsOf(zT, zS, y, get("order"), get("all_classes") ? Infinity : SHOWN);
    const rest = names.length - shown.length;
    const cut = (values) => {
      const some = shown.map((c) => values[c]);
      if (rest) some.push(values.reduce((sum, v) => sum + v, 0) - some.reduce((sum, v) => sum + v, 0));
      return some;
    };
    const rows = shown.map((c) => names[c]);
    if (rest) rows.push(rest === 1 ? "1 other" : `${rest} others`);
    const scrolls = get("all_classes") && names.length > SCROLLS; // both charts together; by keyboard, too
    charts.classList.toggle("kd-scroll", scrolls);
    if (scrolls) charts.tabIndex = 0; else charts.removeAttribute("tabindex");
    const star = y === null ? null : shown.indexOf(y);
    const series = (chart, ...values) => values.map((v, i) => ({ ...chart[i], values: cut(v) }));
    const bars = series(looks.probabilities, n.teacher, n.student);
    const pulls = series(looks.gradients, n.pullHard, n.pullSoft, n.pullHard.map((v, c) => v + n.pullSoft[c]));
    const largest = Math.max(...pulls.flatMap((s) => s.values.map(Math.abs)));
    probabilities.update({ rows, star, series: bars, max: get("zoom") ? null : 1 });
    gradients.update({ rows, star, series: pulls, max: roundUp(Math.max(largest, get("zoom") ? 1e-6 : 0.2), FINE) });
    const words = () => describe(n, sentence(n, names, y, T, a, square));
    if (seen === null) words();
    else inTheEnd(words);
  }
  /** The picture in words: for a slider under way nobody can read or hear them, so they come when it rests. */
  function describe(n, words) {
    probabilities.describe(`Bar chart of probabilities. ${words}`);
    gradients.describe(`Bar chart of the gradients, per class: ${pullsInWords(n, names)}.`);
    setWords(inWords, words, WORDS);
    if (seen !== null && seen !== words) say(words);
    seen = words;
  }
  function newExamples() {
    const options = get("examples").map((example, i) => ({ value: i, label: `${shorten(example.text, 76)}${example.label === null ? "" : `  [${names[example.label]}]`}`, group: example.why }));
    pick.setOptions([ownText, ...options]);
  }
  /** A text that the models can hardly read, piece by piece as they do. */
  function showPieces(list) {
    const all_ = JSON.stringify(list);
    if (pieces.kdPieces === all_) return;
    pieces.kdPieces = all_;
    pieces.hidden = !list.length;
    pieces.replaceChildren(...list.map((piece) => el("code", { class: piece.known ? "" : "kd-unknown", dir: "auto" }, piece.text)));
  }
  function newText() {
    if (document.activeElement !== text || !waiting) text.value = get("text");
    waiting = false;
    complain("");
  }
  function complain(said) {
    problem = said;
    setText(status, "");
    redraw();
  }

  // ---------------------------------------------------------------- the kernel
  // Whether there is one shows only in its answer: an exported page has none, and a busy one takes its time.
  let waiting = false;
  const NOBODY = "Typing a text needs a running kernel, and none has answered yet. The examples and all sliders work without one.";
  const line = lifeline(model, (sentence) => { if (!sentence) waiting = false; setText(status, sentence); }, { nobody: NOBODY });
  function choose(i) {
    const example = get("examples")[i];
    set({ teacher_logits: example.teacher, student_logits: example.student, label: example.label, notice: example.notice, pieces: example.pieces ?? [], problem: "", text: example.text, example: i });
    newText();
    text.value = example.text;
  }
  function submit() {
    const typed = text.value;
    if (!typed.trim()) { complain("The text is empty: type a few words."); return; }
    const known = get("examples").findIndex((example) => example.text === typed);
    if (known >= 0) { choose(known); return; }
    if (typed === get("text")) return;
    if (!get("can_read")) { complain("This explorer has no models to read a new text: pick one of the examples."); return; }
    complain("");
    waiting = true;
    setText(status, line.alive() ? "The models are reading …" : NOBODY);
    motion.glide();
    line.ask({ kind: "text", text: typed });
  }

  // ---------------------------------------------------------------- the page's address
  const home = address(["T", "alpha", "text"]);
  const note = () => home.write({ T: temperature.value(), alpha: alpha.value(), text: get("text") });
  const noted = atRest(note, 300);
  noted.now = note;
  function followLink() {
    const said = home.read(), known = get("examples").findIndex((example) => example.text === said.text);
    if (said.text !== undefined && known < 0 && said.text !== get("text")) return; // of another instrument, or of a kernel that is gone
    if (known >= 0 && known !== get("example")) choose(known);
    const inside = (value, low, high) => value !== undefined && Number(value) >= low && Number(value) <= high;
    const changes = { ...(inside(said.T, 0.1, 20) ? { temperature: Number(said.T) } : {}), ...(inside(said.alpha, 0, 1) ? { alpha: Number(said.alpha) } : {}) };
    if (!Object.keys(changes).length) return;
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
    if (document.querySelector(".kd-explorer") === root) root.scrollIntoView({ block: "nearest" });
  }

  const redraw = onFrame(draw), inTheEnd = atRest((words) => words(), 120);
  newExamples();
  text.value = get("text");
  pick.onchange((i) => { if (i === null) { text.value = ""; text.focus(); } else choose(i); });
  label.onchange((y) => set({ label: y }));
  const slid = (name) => (v, moving) => {
    if (moving) motion.still(); else motion.glide();
    draft.set(name, v);
    redraw();
    if (!moving) draft.send();
    noted();
  };
  temperature.onchange(slid("temperature"));
  alpha.onchange(slid("alpha"));
  order.onchange((v) => set({ order: v }));
  tSquared.onchange((v) => set({ t_squared: v }));
  zoom.onchange((v) => set({ zoom: v }));
  all.onchange((v) => set({ all_classes: v }));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  addEventListener("hashchange", followLink);
  const ends = [
    themed(root), stuck(controls), probabilities.dispose, gradients.dispose, say.dispose, draft.dispose, redraw.cancel, inTheEnd.cancel, noted.cancel, motion.dispose, line.dispose,
    follow(model, "temperature alpha t_squared order zoom all_classes label example teacher_logits student_logits problem notice pieces", () => { motion.glide(); redraw(); }),
    follow(model, "text", newText), follow(model, "examples", newExamples),
    () => { removeEventListener("hashchange", followLink); root.remove(); },
  ];
  draw();
  followLink();
  line.greet();
  return () => ends.forEach((end) => end());
}

/** Which class each weighted term raises and lowers most. */
function pullsInWords(n, names) {
  return Object.entries({ hard: n.pullHard, soft: n.pullSoft }).map(([name, v]) => {
    let low = 0, high = 0;
    v.forEach((x, c) => { if (x < v[low]) low = c; if (x > v[high]) high = c; });
    return v[low] === 0 ? `the ${name} term pulls at nothing` : `the ${name} term raises ${names[low]} most (${signed(v[low], 3)}) and lowers ${names[high]} most (${signed(v[high], 3)})`;
  }).join("; ");
}

export default { render };
