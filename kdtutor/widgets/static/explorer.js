// The temperature explorer. The model holds both models' logits of one text; all else is computed here, in float64.
//
// For tests, data-kd="…" marks what can be driven and read; data-value holds a number with all its digits:
//   controls  temperature, temperature-box, alpha, alpha-box (number boxes: Enter); t-squared, zoom, all-classes (checkboxes);
//             order-teacher, order-class (radio buttons); example, label (select); text (textarea), read (button)
//   numbers   entropy-teacher, entropy-student, kl, loss-hard, loss-soft, loss-total ("" where there is none: no label)
//   charts    probabilities, gradients: in them a g[data-row=CLASS] for each row, in data-values a number for each series of bars
//             (teacher, student; hard, soft); the row of those that are not drawn is called "n others"
//   texts     problem (role=alert; one for the widget, one below each slider), status, notice, summary

const SHOWN = 30; // classes, before the rest is added up: TemperatureExplorer.rows has the same rule

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

/** The classes to draw, in order; of more than `most`, those that either model ranks highest. T changes no rank. */
function rowsOf(zT, zS, label, order, most) {
  const ranked = (z) => Array.from(z.keys()).sort((a, b) => z[b] - z[a] || a - b);
  const byTeacher = ranked(zT), byStudent = ranked(zS), chosen = new Set();
  for (let i = 0; chosen.size < Math.min(most, zT.length); i++) {
    chosen.add(byTeacher[i]);
    if (chosen.size < most) chosen.add(byStudent[i]);
  }
  if (label !== null) chosen.add(label);
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

function render({ model, el: place }) {
  const draft = drafts(model), get = draft.get;
  const names = get("class_names");
  const set = (changes) => {
    draft.send();
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };

  // ---------------------------------------------------------------- text
  const ownText = { value: null, label: "a text of your own" };
  const pick = choice({ label: "Example", name: "example", value: get("example"), options: [ownText] });
  const label = choice({
    label: "Label", name: "label", value: get("label"),
    options: [{ value: null, label: "unknown" }, ...names.map((name, c) => ({ value: c, label: name }))],
  });
  const textId = newId("text");
  const text = el("textarea", { id: textId, class: "kd-text", rows: 2, dir: "auto", "data-kd": "text", spellcheck: "false", ...OWN_KEYS });
  const read = button("Let both read it", () => submit(), { name: "read" });
  const status = el("p", { class: "kd-note", role: "status", "data-kd": "status" });
  const notice = el("p", { class: "kd-note", "data-kd": "notice" });

  // ---------------------------------------------------------------- settings
  const temperature = slider({
    label: "Temperature T", help: "divides all logits", name: "temperature", min: 0.1, max: 20, log: true, box: true,
    value: get("temperature"), marks: [0.1, 0.2, 0.5, 1, 2, 5, 10, 20], format: (v) => String(Number(v.toPrecision(3))),
  });
  const alpha = slider({
    label: "Weight α", help: "of the hard labels; 1 − α is the teacher's", name: "alpha", min: 0, max: 1, step: 0.01, box: true,
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

  // ---------------------------------------------------------------- numbers
  const entropyTeacher = tile({ label: "teacher's entropy", name: "entropy-teacher", look: "teacher", note: true });
  const entropyStudent = tile({ label: "student's entropy", name: "entropy-student", look: "student", note: true });
  const divergence = tile({ label: "KL(teacher ‖ student)", name: "kl", note: true });
  const hard = tile({ label: "hard loss", name: "loss-hard", look: "hard", note: true });
  const soft = tile({ label: "soft loss", name: "loss-soft", look: "soft", note: true });
  const total = tile({ label: "total loss", name: "loss-total", look: "sum", note: true });
  const tiles = el("div", { class: "kd-tiles" }, [entropyTeacher, entropyStudent, divergence, hard, soft, total].map((t) => t.root));

  // ---------------------------------------------------------------- charts
  const looks = {
    probabilities: [{ name: "teacher", look: "teacher" }, { name: "student", look: "student" }],
    gradients: [{ name: "α · hard", short: "hard", look: "hard" }, { name: "(1 − α) · soft", short: "soft", look: "soft" }, { name: "sum", look: "sum", kind: "mark" }],
  };
  const probabilities = barChart({
    title: "Probabilities at temperature T",
    format: (p) => percent(p, 1), tickFormat: (p) => percent(p, Math.abs(100 * p - Math.round(100 * p)) < 1e-9 ? 0 : 1), max: 1,
  });
  const gradients = barChart({
    title: "Gradient of each weighted term by the student's logits", signed: true, format: (v) => signed(v, 3), tickFormat: (v) => minus(String(v)),
    sides: ["← the step raises it", "the step lowers it →"], max: 1,
  });
  probabilities.root.dataset.kd = "probabilities";
  gradients.root.dataset.kd = "gradients";
  const charts = el("div", { class: "kd-columns", role: "group", "aria-label": "Charts" }, probabilities.root, gradients.root);
  const inWords = el("p", { class: "kd-note", "data-kd": "summary" });

  const alerts = el("div");
  const root = el("div", { class: "kd-explorer", role: "group", "aria-label": "Temperature explorer" },
    el("div", { class: "kd-explorer-text" },
      el("div", { class: "kd-explorer-pick" }, pick.root, label.root),
      el("div", { class: "kd-explorer-own" }, el("label", { class: "kd-label", for: textId }, "Text"), el("div", { class: "kd-explorer-box" }, text, read))),
    notice, status, alerts,
    el("div", { class: "kd-row kd-explorer-sliders" }, temperature.root, alpha.root),
    el("div", { class: "kd-row kd-explorer-switches" }, order.root, tSquared.root, zoom.root, all.root),
    tiles, charts, inWords);
  place.append(root);
  const show = alertBox(alerts);
  const say = announcer(root);

  // ---------------------------------------------------------------- picture
  let problem = ""; // of this page; the model's own is shown where there is none
  let seen = null; // what was last said aloud
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
    if (!zT.length || zT.length !== zS.length || zT.length !== names.length) return;

    const n = explain(zT, zS, y, T, a, square);
    const most = Math.log(names.length).toFixed(2), f = (v) => number(v, 2);
    entropyTeacher.set(n.entropyTeacher, number(n.entropyTeacher), `nats, of at most ${most}`);
    entropyStudent.set(n.entropyStudent, number(n.entropyStudent), `nats, of at most ${most}`);
    divergence.set(n.kl, number(n.kl), `nats, at T = ${Number(T.toPrecision(3))}`);
    hard.set(n.hard, n.hard === null ? "–" : number(n.hard), n.hard === null ? "needs a label" : "−log p(label) at T = 1");
    soft.set(n.soft, number(n.soft), square ? `T² · KL = ${f(T * T)} · ${number(n.kl)}` : "KL, without T²");
    total.set(n.total, number(n.total), n.hard === null ? `${f(1 - a)} · ${f(n.soft)}; no hard term` : `${f(a)} · ${f(n.hard)} + ${f(1 - a)} · ${f(n.soft)}`);

    const shown = rowsOf(zT, zS, y, get("order"), get("all_classes") ? Infinity : SHOWN);
    const rest = names.length - shown.length;
    const cut = (values) => {
      const some = shown.map((c) => values[c]);
      if (rest) some.push(values.reduce((sum, v) => sum + v, 0) - some.reduce((sum, v) => sum + v, 0));
      return some;
    };
    const rows = shown.map((c) => names[c]);
    if (rest) rows.push(rest === 1 ? "1 other" : `${rest} others`);
    const scrolls = get("all_classes") && names.length > SHOWN; // both charts together; by keyboard, too
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
    setText(inWords, words);
    if (seen !== null && seen !== words) say(words);
    seen = words;
  }
  function newExamples() {
    const options = get("examples").map((example, i) => ({ value: i, label: `${shorten(example.text, 76)}${example.label === null ? "" : `  [${names[example.label]}]`}`, group: example.why }));
    pick.setOptions([ownText, ...options]);
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
  let heard = false, waiting = false, patience = null;
  const ask = (content) => { try { model.send(content); } catch { /* no kernel: nobody answers */ } };
  const answered = (content) => {
    if (content?.kind !== "pong") return;
    heard = true;
    waiting = false;
    setText(status, "");
  };
  const NOBODY = "Typing a text needs a running kernel, and none has answered yet. The examples and all sliders work without one.";
  function choose(i) {
    const example = get("examples")[i];
    set({ teacher_logits: example.teacher, student_logits: example.student, label: example.label, notice: example.notice, problem: "", text: example.text, example: i });
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
    setText(status, heard ? "The models are reading …" : NOBODY);
    clearTimeout(patience);
    patience = setTimeout(() => { if (waiting) setText(status, heard ? "The kernel is busy; the text waits for its turn." : NOBODY); }, 2000);
    ask({ kind: "text", text: typed });
  }

  const redraw = onFrame(draw), inTheEnd = atRest((words) => words(), 120);
  newExamples();
  text.value = get("text");
  pick.onchange((i) => { if (i === null) { text.value = ""; text.focus(); } else choose(i); });
  label.onchange((y) => set({ label: y }));
  const slid = (name) => (v, moving) => { draft.set(name, v); redraw(); if (!moving) draft.send(); };
  temperature.onchange(slid("temperature"));
  alpha.onchange(slid("alpha"));
  order.onchange((v) => set({ order: v }));
  tSquared.onchange((v) => set({ t_squared: v }));
  zoom.onchange((v) => set({ zoom: v }));
  all.onchange((v) => set({ all_classes: v }));
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  model.on("msg:custom", answered);
  const ends = [
    themed(root), probabilities.dispose, gradients.dispose, say.dispose, draft.dispose, redraw.cancel, inTheEnd.cancel,
    follow(model, "temperature alpha t_squared order zoom all_classes label example teacher_logits student_logits problem notice", redraw),
    follow(model, "text", newText), follow(model, "examples", newExamples),
    () => { model.off("msg:custom", answered); clearTimeout(patience); root.remove(); },
  ];
  draw();
  ask({ kind: "ping" });
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
