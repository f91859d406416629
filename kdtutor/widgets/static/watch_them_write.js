// Watch them write: teacher and students write side by side, token by token (kdtutor/widgets/watch_them_write.py).
//
// The model holds, for each example, what each wrote and both models' log-probabilities at each of its steps; which token
// is shown, the probabilities at T and the divergences at T and β are computed here, in float64.
//
// What tests and other scripts can rely on: the root has the class kd-writing, data-step (0 for the first token) and
// data-playing (yes, no). Inside it data-kd is, with W counting the writers from the teacher (0) and I the tokens,
//   example                     the list of examples; text, write: one of your own, which needs a kernel
//   temperature beta            sliders, and -box their number boxes
//   first back next last play   the buttons
//   token-W-I                   what was written: buttons, aria-pressed at the present step, data-value the divergence in nats
//   ended-W                     a sentence, where a writer has written all
//   alternatives-W              the chart of a step: g[data-row=TOKEN] with data-values, the teacher's and the student's probability
//   here-W mean-W               the divergence at this step, and its mean over what W wrote: data-value with all digits
//   summary status problem      sentences

const ALTERNATIVES = 6;
const PACE = 900; // ms a token
const SCALE = 1000; // log-probabilities come as whole thousandths
const REST = "all others";
const FULL = 1.0; // nats: where the shade of a token is darkest

/** Rows of log-probabilities (n, width) from base64 of int16, little end first. */
function rowsOfBytes(text, width) {
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const view = new DataView(bytes.buffer), rows = [];
  for (let at = 0; at < bytes.length; at += 2 * width) {
    rows.push(Array.from({ length: width }, (_, i) => view.getInt16(at + 2 * i, true) / SCALE));
  }
  return rows;
}

/** JSD_β of two rows of logits at T, in nats, without T²: KL(teacher ‖ student) at β = 0, KL(student ‖ teacher) at 1. */
function divergence(zT, zS, T, beta) {
  const p = logSoftmax(zT, T), q = logSoftmax(zS, T);
  const between = (a, b) => a.reduce((sum, l, c) => sum + Math.exp(l) * (l - b[c]) + (Math.exp(b[c]) - Math.exp(l)), 0);
  if (beta === 0) return between(p, q);
  if (beta === 1) return between(q, p);
  const m = p.map((l, c) => Math.log(beta * Math.exp(l) + (1 - beta) * Math.exp(q[c])));
  return beta * between(p, m) + (1 - beta) * between(q, m);
}

const measure = (beta) => (beta === 0 ? "KL(teacher ‖ student)" : beta === 1 ? "KL(student ‖ teacher)" : `JSD at β = ${Number(beta.toFixed(2))}`);

/** One writer's column: {root, update(writer, pieces, step, T, beta), dispose()}. */
function column(W, name, look, go) {
  const isTeacher = W === 0;
  const tokens = el("div", { class: "kd-ww-tokens", role: "group", "aria-label": `What ${name} writes` });
  const ended = el("p", { class: "kd-note", "data-kd": `ended-${W}` });
  const chart = barChart({ title: "", thickness: 11, room: 56, format: (p) => percent(p, 1), tickFormat: (p) => percent(p), max: 1 });
  chart.root.dataset.kd = `alternatives-${W}`;
  const here = tile({ label: isTeacher ? "its own entropy here" : "divergence here", name: `here-${W}`, help: "nats, at T", look });
  const mean = tile({ label: "mean over its text", name: `mean-${W}`, help: "nats a token, at T" });
  const root = el("section", { class: "kd-ww-column", "aria-label": name },
    el("div", { class: "kd-ww-name" }, key(name, look).root), tokens, ended, chart.root, el("div", { class: "kd-tiles" }, here.root, mean.root));
  let written = null, buttons = [];

  function update(writer, pieces, step, T, beta) {
    const values = writer.own.map((own, i) => (isTeacher ? entropy(own, T) : divergence(writer.teacher[i], own, T, beta)));
    if (written !== writer) {
      written = writer;
      buttons = writer.tokens.map((token, i) => {
        const small = el("span", { class: "kd-ww-value" });
        const node = el("button", { type: "button", class: "kd-ww-token", "data-kd": `token-${W}-${i}`, onclick: () => go(i), ...OWN_KEYS }, el("span", { dir: "auto" }, pieces[token]), small);
        return { node, small };
      });
      tokens.replaceChildren(...buttons.map((b) => b.node));
    }
    buttons.forEach(({ node, small }, i) => {
      node.classList.toggle("kd-ww-later", i > step);
      setAttribute(node, "aria-pressed", String(i === step));
      setAttribute(node, "data-value", String(values[i]));
      setAttribute(node, "aria-label", `token ${i + 1}, ${pieces[writer.tokens[i]]}, ${values[i].toFixed(2)} nats`);
      node.style.setProperty("--kd-value", isTeacher ? "0" : Math.min(1, values[i] / FULL).toFixed(3));
      setText(small, values[i].toFixed(2));
    });

    const at = Math.min(step, writer.tokens.length - 1), over = step > at;
    setText(ended, over ? `has ended; this is its last token, ${at + 1}` : "");
    const own = softmax(writer.own[at], T), teacher = isTeacher ? own : softmax(writer.teacher[at], T);
    // Both models' likeliest, and what was written, which is the first at every T.
    const ranked = Array.from(own.keys()).sort((a, b) => Math.max(own[b], teacher[b]) - Math.max(own[a], teacher[a]) || a - b);
    const shown = ranked.slice(0, ALTERNATIVES), token = writer.tokens[at];
    if (!shown.includes(token)) shown[shown.length - 1] = token;
    const series = isTeacher ? [] : [{ name: "teacher", look: "teacher", values: shown.map((c) => teacher[c]) }];
    const said = shown.slice(0, 3).map((c) => `${pieces[c]} ${percent(own[c])}`).join(", ");
    chart.update({
      title: `Token ${at + 1}`, rows: shown.map((c) => pieces[c]), star: shown.indexOf(token),
      series: [...series, { name, look, values: shown.map((c) => own[c]) }],
      label: `Bar chart: what ${name} might write as token ${at + 1}: ${said}${isTeacher ? "" : `; the teacher, after the same text, ${shown.slice(0, 3).map((c) => `${pieces[c]} ${percent(teacher[c])}`).join(", ")}`}.`,
    });
    here.set(values[at], number(values[at]));
    const average = values.reduce((sum, v) => sum + v, 0) / values.length;
    mean.set(average, number(average));
    return { token: pieces[token], p: own[token], value: values[at], over };
  }
  return { root, update, dispose: chart.dispose };
}

function render({ model, el: place }) {
  const draft = drafts(model), get = draft.get;
  const names = get("names"), looks = ["teacher", "student", "twin", "pink", "sky", "green"];
  const decoded = new Map();
  let timer = null, problem = "";

  /** The example that is shown, its bytes as numbers: once each. */
  function entry() {
    const now = get("shown");
    if (!decoded.has(now)) {
      decoded.clear();
      const width = now.pieces.length;
      decoded.set(now, { ...now, writers: now.writers.map((w) => ({ ...w, own: rowsOfBytes(w.own, width), teacher: w.teacher && rowsOfBytes(w.teacher, width) })) });
    }
    return decoded.get(now);
  }
  const length = () => Math.max(...entry().writers.map((w) => w.tokens.length));
  function go(step) {
    model.set("step", Math.max(0, Math.min(length() - 1, step)));
    model.save_changes();
    redraw();
  }

  // ---------------------------------------------------------------- controls
  const pick = choice({ label: "They are given", name: "example", value: get("example"), options: [] });
  const textId = newId("own");
  const text = el("input", { type: "text", id: textId, class: "kd-text", dir: "auto", "data-kd": "text", spellcheck: "false", autocomplete: "off", ...OWN_KEYS });
  const write = button("Write", () => submit(), { name: "write", help: "Let the models write to this text" });
  const status = el("p", { class: "kd-note", role: "status", "data-kd": "status" });
  const temperature = slider({
    label: "Temperature T", help: "of the probabilities and the divergence", name: "temperature", min: 0.1, max: 10, log: true, box: true,
    value: get("temperature"), marks: [0.1, 0.5, 1, 2, 5, 10], format: (v) => String(Number(v.toPrecision(3))),
  });
  const beta = slider({
    label: "β", help: "0: KL(teacher ‖ student), 1: KL(student ‖ teacher)", name: "beta", min: 0, max: 1, step: 0.01, box: true,
    value: get("beta"), marks: [0, 0.25, 0.5, 0.75, 1], format: (v) => String(Number(v.toFixed(2))),
  });
  const play = button("Play", () => (timer ? pause() : start()), { name: "play", help: "Write on, token by token" });
  const buttons = {
    first: button("First", () => { pause(); go(0); }, { name: "first" }), back: button("Back", () => { pause(); go(get("step") - 1); }, { name: "back" }),
    next: button("Next", () => { pause(); go(get("step") + 1); }, { name: "next" }), last: button("Last", () => { pause(); go(Infinity); }, { name: "last" }),
  };
  const columns = names.map((name, W) => column(W, name, looks[W % looks.length], (step) => { pause(); go(step); }));
  const reference = el("p", { class: "kd-note", "data-kd": "reference" });
  const inWords = el("p", { class: "kd-note", "data-kd": "summary" });
  const alerts = el("div");
  const controls = el("div", { class: "kd-stays" }, el("div", { class: "kd-row" }, temperature.root, beta.root));
  const root = el("div", { class: "kd-writing", role: "group", "aria-label": "Watch them write" },
    el("div", { class: "kd-title" }, "Watch them write"),
    el("p", { class: "kd-note" }, "Each takes its likeliest token and goes on from its own text. The teacher judges the students' tokens: it reads what they wrote, not what it would have written."),
    el("div", { class: "kd-ww-given" }, pick.root, el("div", null, el("label", { class: "kd-label", for: textId }, "Or a text of your own"), el("div", { class: "kd-ww-box" }, text, write))),
    alerts, status, controls, el("div", { class: "kd-row kd-ww-steps" }, play, Object.values(buttons), reference),
    el("div", { class: "kd-ww-columns" }, columns.map((c) => c.root)), inWords);
  place.append(root);
  const show = alertBox(alerts), say = announcer(root);

  // ---------------------------------------------------------------- time
  function start() {
    if (get("step") >= length() - 1) go(0);
    timer = setInterval(() => { if (get("step") >= length() - 1) pause(); else go(get("step") + 1); }, PACE);
    redraw();
  }
  function pause() {
    clearInterval(timer);
    timer = null;
    redraw();
  }

  // ---------------------------------------------------------------- picture
  let seen = null;
  function draw() {
    const now = entry(), T = get("temperature"), b = get("beta"), step = Math.min(get("step"), length() - 1);
    temperature.set(T);
    beta.set(b);
    pick.set(get("example"));
    show(problem || get("problem"));
    root.dataset.step = step;
    root.dataset.playing = timer ? "yes" : "no";
    setText(play, timer ? "Pause" : "Play");
    buttons.first.disabled = buttons.back.disabled = step === 0;
    buttons.next.disabled = buttons.last.disabled = step >= length() - 1;
    const merged = now.pieces.at(-1) === REST ? `The ${now.pieces.length - 1} likeliest tokens are told apart, all others count as one.` : "";
    setText(reference, [now.reference && `In the data: ${now.reference}.`, merged].filter(Boolean).join(" "));
    const said = columns.map((c, W) => ({ name: names[W], ...c.update(now.writers[W], now.pieces, step, T, b) }));
    const words = `Token ${step + 1} after “${shorten(now.text, 60)}”: ${said.map((s, W) => `${s.name} ${s.over ? "has ended" : `writes ${s.token} (${percent(s.p)}${W ? `, ${s.value.toFixed(2)} nats` : ""})`}`).join("; ")}; ${measure(b)} at T = ${Number(T.toPrecision(3))}.`;
    setText(inWords, words);
    if (seen !== null && seen !== words && !timer) say(words);
    seen = words;
  }
  const redraw = onFrame(draw);
  function listed() {
    const options = get("examples").map((example, i) => ({ value: i, label: shorten(example.text, 76) }));
    pick.setOptions(get("example") === null ? [{ value: null, label: "a text of your own" }, ...options] : options);
    pick.set(get("example"));
  }
  function choose(i) {
    pause();
    problem = "";
    for (const [name, value] of Object.entries({ problem: "", example: i, shown: get("examples")[i], text: get("examples")[i].text, step: 0 })) model.set(name, value);
    model.save_changes();
    listed();
    redraw();
  }

  // ---------------------------------------------------------------- the kernel
  const NOBODY = "A text of your own needs a running kernel, and none has answered yet. The examples, T and β work without one.";
  const line = lifeline(model, (sentence) => setText(status, sentence), { nobody: NOBODY });
  function submit() {
    const typed = text.value.trim(), known = get("examples").findIndex((example) => example.text === typed);
    problem = typed ? "" : "The text is empty: type something for them to go on from.";
    redraw();
    if (known >= 0) choose(known);
    else if (typed) {
      setText(status, line.alive() ? "The models are writing …" : NOBODY);
      line.ask({ kind: "text", text: typed });
    }
  }
  text.addEventListener("keydown", (event) => { if (event.key === "Enter" && !event.isComposing) submit(); });
  pick.onchange((i) => { if (i !== null) choose(i); });
  const slid = (name) => (v, moving) => { draft.set(name, v); redraw(); if (!moving) draft.send(); };
  temperature.onchange(slid("temperature"));
  beta.onchange(slid("beta"));
  const ends = [
    themed(root), stuck(controls), keepKeys(root), say.dispose, draft.dispose, redraw.cancel, line.dispose, ...columns.map((c) => c.dispose),
    follow(model, "temperature beta step shown problem", redraw), follow(model, "example examples", listed),
    follow(model, "shown", () => pause()), () => clearInterval(timer), () => root.remove(),
  ];
  listed();
  draw();
  line.greet();
  return () => ends.forEach((end) => end());
}

export default { render };
