// Be the teacher: soft targets by hand for one text, and two small students that learn from it here, while a bar is dragged.
// Python sends the students' weights before the lesson, the text, related and other texts as the student sees them
// (kdtutor/widgets/be_the_teacher.py); every step of gradient descent is taken in this file, in float64.
//
// data-kd:
//   lesson                      the choice of a text; text, read: the box for one's own and its button; lesson-text, label
//   target-C                    the slider of class C (its number), data-value 0 to 1; target-rest: of all classes without one
//   preset-label, preset-teacher, preset-even
//   steps, temperature          sliders; replay: the button; step-now: after how many steps the picture is, data-value
//   beliefs-0                   a panel: the text itself; beliefs-1 …: its related texts. On each: data-start, data-yours,
//                               data-label, the three students' probabilities of all C classes, as JSON
//   score-start, score-yours, score-label               tiles: how often right on the other texts, data-value 0 to 1
//   notice, problem, summary

// ------------------------------------------------------------------------------------------------ the students

/** base64 of float32 → rows × n numbers. */
function floats(text, rows = 1) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const view = new DataView(bytes.buffer), n = bytes.length / 4 / rows;
  return Array.from({ length: rows }, (_, i) => Float64Array.from({ length: n }, (_, j) => view.getFloat32(4 * (i * n + j), true)));
}

const dot = (a, b) => { let sum = 0; for (let i = 0; i < a.length; i++) sum += a[i] * b[i]; return sum; };

/** t^(1/T), normalised. */
function soften(target, T) {
  const powers = target.map((t) => t ** (1 / T)), sum = powers.reduce((a, b) => a + b, 0);
  return powers.map((v) => v / sum);
}

/**
 * `steps` of gradient descent on T² KL(t_T ‖ softmax(W x / T)). The gradient is T (p_T − t_T) xᵀ: whatever the number of
 * steps, W has changed by u xᵀ, a column times one and the same row. So only u, (C,), is followed: the logits of x itself
 * are z + (x·x) u, those of any other text x' are W x' + (x·x') u. z: W x before the first step.
 */
function teach(z, xx, target, steps, rate, T) {
  const t = soften(target, T), u = new Float64Array(z.length);
  for (let step = 0; step < steps; step++) {
    const p = softmax(z.map((v, c) => v + xx * u[c]), T);
    for (let c = 0; c < u.length; c++) u[c] -= rate * T * (p[c] - t[c]);
  }
  return u;
}

const NOTHING = 1e-12; // targets below this have no proportions to keep

/** Targets in which `places` have `p` together; they and all others keep their proportions, or share evenly if all are 0. */
function rescaled(target, places, p) {
  const inside = new Set(places), result = target.slice();
  for (const [group, total] of [[target.map((_, c) => c).filter((c) => inside.has(c)), p], [target.map((_, c) => c).filter((c) => !inside.has(c)), 1 - p]]) {
    const sum = group.reduce((a, c) => a + target[c], 0);
    for (const c of group) result[c] = total * (sum > NOTHING ? target[c] / sum : 1 / group.length);
  }
  const sum = result.reduce((a, b) => a + b, 0);
  return result.map((v) => v / sum);
}

/** What a lesson changes: for each student the logits of every text, before and after. */
function school({ W, x, related, others }) {
  const see = (v) => ({ z: W.map((w) => dot(w, v)), alike: dot(v, x) });
  const texts = [x, ...related].map(see), rest = others.x.map(see);
  const first = texts[0].z, xx = texts[0].alike;
  const logits = (text, u) => text.z.map((v, c) => v + text.alike * u[c]);
  const guess = (z) => z.reduce((best, v, c) => (v > z[best] ? c : best), 0);
  return {
    lesson: (target, steps, rate, T) => teach(first, xx, target, steps, rate, T),
    beliefs: (u) => texts.map((text) => softmax(logits(text, u))),
    score: (u) => rest.reduce((right, text, i) => right + (guess(logits(text, u)) === others.labels[i]), 0) / Math.max(1, rest.length),
  };
}

// ------------------------------------------------------------------------------------------------ the instrument

const onehot = (label, n) => Array.from({ length: n }, (_, c) => Number(c === label));

/** One bar to drag: a range input whose track is the bar. */
function targetBar({ name, title, oninput }) {
  const id = newId("target");
  const input = el("input", { type: "range", id, min: 0, max: 1, step: 0.01, class: "kd-btt-range", "data-kd": name, ...OWN_KEYS, oninput: () => oninput(Number(input.value)) });
  const label = el("label", { class: "kd-btt-name", for: id, dir: "auto", title }, title);
  const shown = el("output", { class: "kd-value", for: id, "aria-hidden": "true" });
  const set = (p) => {
    if (Math.abs(Number(input.value) - p) > 0.005 || document.activeElement !== input) input.value = p;
    input.style.setProperty("--part", `${(100 * p).toFixed(2)}%`);
    setAttribute(input, "data-value", String(p));
    setAttribute(input, "aria-valuetext", percent(p, 1));
    setText(shown, percent(p, 1));
  };
  return { root: el("div", { class: "kd-btt-target" }, label, input, shown), set };
}

/** A text with what both students believe of it. */
function panel({ place, heading, text, why }) {
  const chart = barChart({ rows: [], series: [], max: 1, format: (v) => percent(v), tickFormat: (v) => percent(v) });
  const verdict = el("p", { class: "kd-note kd-btt-verdict" });
  const root = el("section", { class: "kd-btt-panel", "data-kd": `beliefs-${place}` },
    el("div", { class: "kd-btt-why" }, heading), el("p", { class: "kd-btt-text", dir: "auto" }, text), why ? el("p", { class: "kd-note" }, why) : null, chart.root, verdict);
  return { root, chart, verdict };
}

function render({ model, el: host }) {
  const root = el("div", { class: "kd-teacher-game" });
  let lesson, pupils, rest = [], panels = [], bars = [], hand = 0, replaying = null;

  // ---- choose a text
  const pick = choice({ label: "the lesson", options: [], value: "", name: "lesson" });
  pick.onchange((text) => {
    const found = model.get("lessons").find((l) => l.text === text);
    stop();
    model.set("text", text);
    model.set("label", found.label);
    model.set("target", onehot(found.label, model.get("class_names").length));
    model.save_changes();
    load();
  });
  const id = newId("text");
  const box = el("input", { type: "text", id, class: "kd-text", dir: "auto", autocomplete: "off", "data-kd": "text", ...OWN_KEYS });
  const notice = el("p", { class: "kd-note", "data-kd": "notice", hidden: true });
  const inform = (text) => { setText(notice, text); notice.hidden = !text; };
  let waiting = null, heard = false;
  const ask = () => {
    inform("The teacher reads the text …");
    clearTimeout(waiting);
    waiting = setTimeout(() => inform("No answer from Python: it is busy, or this page has no kernel; the texts in the list need none."), heard ? 20000 : 4000);
    model.send({ kind: "text", text: box.value });
  };
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") ask(); });
  const hear = (message) => {
    if (message?.kind === "pong") heard = true;
    if (message?.kind === "read") { clearTimeout(waiting); inform(""); }
  };

  // ---- the target
  const targets = el("div", { class: "kd-btt-targets", role: "group", "aria-label": "your target" });
  const setTarget = (t) => { stop(); model.set("target", t); model.save_changes(); draw(); };
  const classes = () => model.get("class_names");
  const presets = el("div", { class: "kd-row kd-btt-presets" },
    button("the label", () => setTarget(onehot(model.get("label"), classes().length)), { name: "preset-label" }),
    button("the teacher's answer", () => setTarget(lesson.teacher.slice()), { name: "preset-teacher" }),
    button("all the same", () => setTarget(classes().map(() => 1 / classes().length)), { name: "preset-even" }));
  const label = choice({ label: "the label", options: [], value: 0, name: "label", help: "what the other student gets" });
  label.onchange((c) => { stop(); model.set("label", c); model.save_changes(); draw(); });

  // ---- the training
  const steps = slider({ label: "steps", min: 0, max: 100, step: 1, value: 20, name: "steps", help: "of gradient descent on this one text" });
  steps.onchange((v) => { stop(); model.set("steps", v); model.save_changes(); draw(); });
  const T = slider({ label: "temperature T", min: 0.5, max: 10, log: true, value: 1, name: "temperature", marks: [0.5, 1, 2, 5, 10], help: "of the soft loss, T² · KL" });
  T.onchange((v) => { stop(); model.set("temperature", v); model.save_changes(); draw(); });
  const now = el("span", { class: "kd-note", "data-kd": "step-now" });
  const stop = () => { cancelAnimationFrame(replaying); replaying = null; };
  const replay = button("show the lesson again", () => {
    stop();
    const total = model.get("steps"), began = performance.now();
    if (prefersReducedMotion()) { draw(); return; }
    const tick = (time) => {
      const done = Math.min(1, Math.max(0, time - began) / 1600);
      show(Math.round(done * total));
      replaying = done < 1 ? requestAnimationFrame(tick) : null;
    };
    show(0);
    replaying = requestAnimationFrame(tick);
  }, { name: "replay" });

  const tiles = { start: tile({ label: "before the lesson", name: "score-start" }), yours: tile({ label: "by your target", name: "score-yours" }), label: tile({ label: "by the label", name: "score-label" }) };
  const many = el("div", { class: "kd-label" });
  const manyPanel = el("section", { class: "kd-btt-panel kd-btt-many" }, many, el("div", { class: "kd-tiles" }, Object.values(tiles).map((t) => t.root)));
  const lessonText = el("p", { class: "kd-btt-lesson", dir: "auto", "data-kd": "lesson-text" });
  const firstPanel = el("div"), related = el("div", { class: "kd-btt-related" });
  const about = el("p", { class: "kd-note" });
  const summary = el("p", { class: "kd-note", "data-kd": "summary" });
  const problem = el("div"), alert = alertBox(problem);
  root.append(
    el("div", { class: "kd-title" }, "Be the teacher"),
    el("div", { class: "kd-btt-choose" }, pick.root,
      el("div", { class: "kd-choice" }, el("label", { class: "kd-label", for: id }, "or a text of your own"), el("div", { class: "kd-btt-ask" }, box, button("read it", ask, { name: "read" })))),
    problem, notice,
    el("div", { class: "kd-columns kd-btt-main" },
      el("div", null,
        el("div", { class: "kd-btt-why" }, "the lesson"), lessonText,
        el("div", { class: "kd-chart-head" }, key("your target: drag the bars", "teacher").root), targets, presets),
      firstPanel),
    el("div", { class: "kd-row kd-btt-controls" }, steps.root, T.root, label.root, el("div", { class: "kd-btt-replay" }, replay, now)),
    el("div", { class: "kd-btt-heading" }, "What else they believe now"),
    related,
    summary,
    el("details", { class: "kd-btt-about" }, el("summary", OWN_KEYS, "What are these students?"), about));
  const say = announcer(root);
  const drop = [themed(root), keepKeys(root)];
  host.append(root);

  /** The shown rows: the telling classes, and all others as one. */
  const rows = (p) => [...lesson.classes.map((c) => p[c]), ...(rest.length ? [rest.reduce((sum, c) => sum + p[c], 0)] : [])];
  const rowNames = () => [...lesson.classes.map((c) => classes()[c]), ...(rest.length ? [`${rest.length} others`] : [])];
  const best = (p) => p.reduce((top, v, c) => (v > p[top] ? c : top), 0);

  function load() {
    const found = model.get("lessons").find((l) => l.text === model.get("text"));
    if (!found) return; // the text came before its lesson
    lesson = found;
    const C = classes().length, others = model.get("others");
    rest = classes().map((_, c) => c).filter((c) => !lesson.classes.includes(c));
    pupils = school({
      W: floats(model.get("start"), C), x: floats(lesson.x)[0], related: lesson.related.map((near) => floats(near.x)[0]),
      others: { x: floats(others.x, others.labels.length), labels: others.labels },
    });
    pick.setOptions(model.get("lessons").map((l) => ({ value: l.text, label: shorten(l.text, 90) })));
    pick.set(lesson.text);
    label.setOptions(classes().map((name, c) => ({ value: c, label: name })));
    setText(lessonText, `“${shorten(lesson.text, 300)}”`);
    bars = [...lesson.classes.map((c) => [c]), ...(rest.length ? [rest] : [])].map((group, i) => {
      const isRest = i >= lesson.classes.length;
      return { group, ...targetBar({ name: isRest ? "target-rest" : `target-${group[0]}`, title: isRest ? `${rest.length} others` : classes()[group[0]], oninput: (p) => setTarget(rescaled(model.get("target"), group, p)) }) };
    });
    targets.replaceChildren(...bars.map((bar) => bar.root));
    panels.forEach((p) => p.chart.dispose());
    panels = [panel({ place: 0, heading: "what the students believe of it", text: "" }),
      ...lesson.related.map((near, i) => panel({
        place: i + 1, text: `“${shorten(near.text, 200)}”`, heading: near.why === "unrelated" ? "an unrelated text" : "a related text",
        why: `${classes()[near.label]} · likeness x·x′ ${signed(near.alike).replace("+", "")}`,
      }))];
    firstPanel.replaceChildren(panels[0].root);
    related.replaceChildren(...panels.slice(1).map((p) => p.root), manyPanel);
    setText(many, `${others.labels.length} other texts of the validation split: how often the first guess is right`);
    const d = floats(lesson.x)[0].length;
    setText(about, `Each is a linear softmax classifier: ${C} × ${d} numbers W, and the logits of a text are W x. All it sees of a text is x: the mean of the teacher's word vectors over the text's pieces, projected on ${d} principal components, of length 1. Word order is lost. Before the lesson it learned the labels of ${model.get("taught")} training texts. Then two copies take the same number of steps on this one text: W ← W − η T (p − t) xᵀ with η = ${model.get("learning_rate")}; for one, t is your target (softened at T), for the other the label, at T = 1. So a text x′ moves in proportion to x·x′. The related texts are those nearest by x·x′ among those of the teacher's first and second guess; the unrelated one has x·x′ nearest to 0.`);
    draw();
  }

  function show(count) {
    const names = rowNames(), target = model.get("target"), rate = model.get("learning_rate"), y = model.get("label");
    const zero = new Float64Array(target.length);
    const changes = { start: zero, yours: pupils.lesson(target, count, rate, model.get("temperature")), label: pupils.lesson(onehot(y, target.length), count, rate, 1) };
    const beliefs = Object.fromEntries(Object.entries(changes).map(([who, u]) => [who, pupils.beliefs(u)]));
    bars.forEach((bar) => bar.set(bar.group.reduce((sum, c) => sum + target[c], 0)));
    setText(now, `after step ${count} of ${model.get("steps")}`);
    setAttribute(now, "data-value", String(count));
    panels.forEach(({ root: box_, chart, verdict }, i) => {
      const [before, yours, byLabel] = ["start", "yours", "label"].map((who) => beliefs[who][i]);
      const truth = i === 0 ? y : lesson.related[i - 1].label;
      for (const who of ["start", "yours", "label"]) setAttribute(box_, `data-${who}`, JSON.stringify(beliefs[who][i]));
      const said = `${classes()[best(yours)]} ${percent(yours[best(yours)])} by your target, ${classes()[best(byLabel)]} ${percent(byLabel[best(byLabel)])} by the label; before: ${classes()[best(before)]} ${percent(before[best(before)])}`;
      chart.update({
        rows: names, star: lesson.classes.indexOf(truth), label: `What the students believe of “${shorten(i ? lesson.related[i - 1].text : lesson.text, 100)}”: ${said}.`,
        series: [
          { name: "by your target", look: "student", values: rows(yours) }, { name: "by the label", look: "hard", values: rows(byLabel) },
          { name: "before", look: "sky", kind: "mark", values: rows(before) }, ...(i ? [] : [{ name: "target", look: "teacher", kind: "mark", values: rows(target) }])],
      });
      const sign = (p) => (best(p) === truth ? "✓" : "✗");
      setText(verdict, i ? `first guess: ${classes()[best(yours)]} ${sign(yours)} by your target, ${classes()[best(byLabel)]} ${sign(byLabel)} by the label` : "");
    });
    for (const [who, u] of Object.entries(changes)) { const right = pupils.score(u); tiles[who].set(right, percent(right, 1)); }
    return beliefs;
  }

  const draw = onFrame(() => {
    if (!lesson || lesson.text !== model.get("text")) return;
    steps.set(model.get("steps"));
    T.set(model.get("temperature"));
    label.set(model.get("label"));
    const beliefs = show(Math.round(model.get("steps")));
    const text = lesson.related.length ? sentence(beliefs) : "";
    if (summary.textContent && summary.textContent !== text) say(text);
    setText(summary, text);
  });

  function ranking(p, n = 2) {
    const order = p.map((v, c) => [v, c]).sort((a, b) => b[0] - a[0]).slice(0, n).filter(([v], i) => !i || v >= 0.005);
    return order.map(([v, c]) => `${classes()[c]} ${percent(v)}`).join(" and ");
  }
  function sentence(beliefs) {
    const apart = lesson.related.map((_, i) => beliefs.yours[i + 1].reduce((sum, v, c) => sum + Math.abs(v - beliefs.label[i + 1][c]), 0));
    const i = best(apart), lead = `Your target is ${ranking(model.get("target"))}, the label is ${classes()[model.get("label")]}. After ${Math.round(model.get("steps"))} steps your student believes ${ranking(beliefs.yours[0])}.`;
    return apart[i] < 0.01 ? `${lead} Both students are the same: move a bar.` : `${lead} Of “${shorten(lesson.related[i].text, 100)}” (${classes()[lesson.related[i].label]}) it believes ${ranking(beliefs.yours[i + 1])}; taught by the label, ${ranking(beliefs.label[i + 1])}.`;
  }

  const complain = () => alert(model.get("problem"));
  const reload = onFrame(load);
  load();
  complain();
  drop.push(follow(model, "text lessons", reload), follow(model, "target label steps temperature learning_rate", draw), follow(model, "problem", complain));
  model.on("msg:custom", hear);
  model.send({ kind: "ping" });
  return () => {
    model.off("msg:custom", hear);
    clearTimeout(waiting);
    stop(); draw.cancel(); reload.cancel(); say.dispose();
    panels.forEach((p) => p.chart.dispose());
    drop.forEach((end) => end());
  };
}

export default { render };
