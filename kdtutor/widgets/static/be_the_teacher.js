// Be the teacher: soft targets by hand for one text, and two small students that learn from it here, while a bar is dragged.
// Python sends the students' weights before the lesson, the text, related and other texts as the student sees them
// (kdtutor/widgets/be_the_teacher.py); every step of gradient descent is taken in this file, in float64.
//
// data-kd:
//   level-1 … level-3, level-0  radio buttons: the level that is played, 0: none; goal: what is to be reached, data-reached "yes" or "no"
//   lesson                      the choice of a text; text, read: the box for one's own and its button; lesson-text, label
//   target-C                    the slider of class C (its number), data-value 0 to 1; target-rest: of all classes without one
//   preset-label, preset-teacher, preset-even
//   steps, temperature          sliders; replay: the button; step-now: after how many steps the picture is, data-value
//   beliefs-0                   a line: the text itself; beliefs-1 …: its related texts, each beside the bar of its class. On each:
//                               data-start, data-yours, data-label, the three students' probabilities of all C classes, as JSON
//   right-yours, right-label    tiles: of how many of these texts the first guess is right, data-value
//   score-start, score-yours, score-label               tiles: how often right on the other texts, data-value 0 to 1
//   more, details               what is folded away: other lessons and settings; all beliefs, class by class
//   notice (and pieces), problem, summary

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

/** What a lesson changes: for each student the logits of every text, before and after. u0: what a mistake has changed before. */
function school({ W, x, related, others, spoiled = null }) {
  const see = (v) => ({ z: W.map((w) => dot(w, v)), alike: dot(v, x) });
  const texts = [x, ...related].map(see), rest = others.x.map(see);
  const xx = texts[0].alike, u0 = spoiled === null ? new Float64Array(W.length) : teach(texts[0].z, xx, onehot(spoiled.label, W.length), spoiled.steps, spoiled.rate, 1);
  const first = texts[0].z.map((v, c) => v + xx * u0[c]);
  const logits = (text, u) => text.z.map((v, c) => v + text.alike * u[c]);
  const guess = (z) => z.reduce((best, v, c) => (v > z[best] ? c : best), 0);
  return {
    start: u0,
    lesson: (target, steps, rate, T) => teach(first, xx, target, steps, rate, T).map((v, c) => v + u0[c]),
    beliefs: (u) => texts.map((text) => softmax(logits(text, u))),
    score: (u) => rest.reduce((right, text, i) => right + (guess(logits(text, u)) === others.labels[i]), 0) / Math.max(1, rest.length),
  };
}

// ------------------------------------------------------------------------------------------------ the instrument

const onehot = (label, n) => Array.from({ length: n }, (_, c) => Number(c === label));

const SPOILED = 20; // steps by which a mistake is taught: levels.py has the same numbers
const ENOUGH = 0.5; // what a student gives the lesson's class when it has learned the lesson
const largest = (p) => p.reduce((top, v, c) => (v > p[top] ? c : top), 0);

/** Is a level won? The same rule as levels.reached. truth: the classes of all texts, the lesson's first; before, now: beliefs. */
function reached(level, truth, before, now, target) {
  const right = now.map((p, i) => largest(p) === truth[i]);
  if (now[0][truth[0]] < ENOUGH || !right[0]) return false;
  if (level.level === 2) return right[level.watched] && largest(target) === truth[0];
  return before.every((p, i) => largest(p) !== truth[i] || right[i]);
}

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

/** A text in one line: how sure each student is of its true class, and whether its first guess is right. */
function textLine({ place, text, note, patterns }) {
  const part = (look) => {
    const bar = hatchedBar(patterns, look), value = el("span", { class: "kd-btt-number", "data-part": look });
    return { bar, value, root: el("div", { class: "kd-btt-track" }, bar) };
  };
  const yours = part("student"), byLabel = part("hard"), before = el("span", { class: "kd-btt-before", title: "before the lesson" });
  const root = el("div", { class: "kd-btt-line", role: "listitem", "data-kd": `beliefs-${place}` },
    el("span", { class: "kd-btt-text", dir: "auto", title: text }, el("span", { class: "kd-btt-why" }, note), text),
    el("span", { class: "kd-btt-bars", "aria-hidden": "true" }, yours.root, byLabel.root, before),
    el("span", { class: "kd-btt-numbers" }, yours.value, byLabel.value));
  const set = (truth, beliefs) => {
    for (const [who, p] of Object.entries(beliefs)) setAttribute(root, `data-${who}`, JSON.stringify(p));
    for (const [{ bar, value }, p] of [[yours, beliefs.yours], [byLabel, beliefs.label]]) {
      const right = largest(p) === truth;
      bar.style.setProperty("width", `${(100 * p[truth]).toFixed(2)}%`);
      setText(value, `${percent(p[truth])} ${right ? "✓" : "✗"}`);
      value.classList.toggle("kd-btt-wrong", !right);
    }
    before.style.setProperty("left", `${(100 * beliefs.start[truth]).toFixed(2)}%`);
    root.classList.toggle("kd-btt-saved", largest(beliefs.yours) === truth && largest(beliefs.label) !== truth);
  };
  return { root, set };
}

/** A text with what both students believe of it, class by class. */
function panel({ heading, text, why }) {
  const chart = barChart({ rows: [], series: [], max: 1, thickness: 12, format: (v) => percent(v), tickFormat: (v) => percent(v) });
  const root = el("section", { class: "kd-btt-panel" },
    el("div", { class: "kd-btt-why" }, heading), el("p", { class: "kd-btt-full", dir: "auto" }, text), why ? el("p", { class: "kd-note" }, why) : null, chart.root);
  return { root, chart };
}

function render({ model, el: host }) {
  const root = el("div", { class: "kd-teacher-game", role: "group", "aria-label": "Be the teacher" });
  let lesson, pupils, rest = [], lines = [], panels = [], bars = [], replaying = null;
  const classes = () => model.get("class_names");
  const motion = glides(root);
  const put = (changes) => {
    stop();
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const change = (changes) => { motion.glide(); put(changes); draw(); };

  // ---- the game
  const LEVELS = { 1: "1 · Save it", 2: "2 · Without naming", 3: "3 · Undo a mistake", 0: "Free play" };
  const offered = [...model.get("levels").map((l) => l.level), 0];
  const play = choice({ label: "Level", name: "level", value: 0, segments: true, options: offered.map((number_) => ({ value: number_, label: LEVELS[number_] })) });
  const levelNow = () => model.get("levels").find((l) => l.level === model.get("level"));
  play.onchange((number_) => {
    const level = model.get("levels").find((l) => l.level === number_);
    const found = level ? model.get("lessons").find((l) => l.text === level.text) : lesson;
    motion.glide();
    put({ level: number_, text: found.text, label: found.label, target: onehot(found.label, classes().length), steps: 20, temperature: 1 });
    load();
  });
  const goal = el("p", { class: "kd-btt-goal", "data-kd": "goal" });
  const tally = { yours: tile({ label: "right, your way", name: "right-yours", look: "student" }), label: tile({ label: "by the label", name: "right-label", look: "hard" }) };

  // ---- choose a text
  const pick = choice({ label: "the lesson", options: [], value: "", name: "lesson" });
  pick.onchange((text) => {
    const found = model.get("lessons").find((l) => l.text === text);
    put({ level: 0, text, label: found.label, target: onehot(found.label, classes().length) });
    load();
  });
  const id = newId("text");
  const box = el("input", { type: "text", id, class: "kd-text", dir: "auto", autocomplete: "off", "data-kd": "text", ...OWN_KEYS });
  const notice = el("p", { class: "kd-note", role: "status", "data-kd": "notice", hidden: true }), pieces = el("p", { class: "kd-pieces", "data-kd": "pieces" });
  const inform = (text) => { setText(notice, text); notice.hidden = !text; };
  const NOBODY = "No answer from Python: this page has no kernel, or it is busy. The texts in the list need none.";
  const line = lifeline(model, (sentence) => inform(sentence || lesson?.notice || ""), { nobody: NOBODY });
  const ask = () => {
    inform("The teacher reads the text …");
    line.ask({ kind: "text", text: box.value });
  };
  box.addEventListener("keydown", (event) => { if (event.key === "Enter") ask(); });

  // ---- the target
  const setTarget = (t) => { motion.still(); put({ target: t }); draw(); };
  const presets = el("div", { class: "kd-row kd-btt-presets", role: "group", "aria-label": "Set your target to" },
    button("the label", () => change({ target: onehot(model.get("label"), classes().length) }), { name: "preset-label" }),
    button("the teacher's answer", () => change({ target: lesson.teacher.slice() }), { name: "preset-teacher" }),
    button("all the same", () => change({ target: classes().map(() => 1 / classes().length) }), { name: "preset-even" }));
  const label = choice({ label: "the label", options: [], value: 0, name: "label", help: "what the other student gets" });
  label.onchange((c) => change({ label: c }));

  // ---- the training
  const steps = slider({ label: "Steps", min: 0, max: 100, step: 1, value: 20, name: "steps", help: "of gradient descent on this one text" });
  steps.onchange((v) => { motion.still(); put({ steps: v }); draw(); });
  const T = slider({ label: "temperature T", min: 0.5, max: 10, log: true, value: 1, name: "temperature", marks: [0.5, 1, 2, 5, 10], help: "of the soft loss, T² · KL" });
  T.onchange((v) => { motion.still(); put({ temperature: v }); draw(); });
  const now = el("span", { class: "kd-note", "data-kd": "step-now" });
  const stop = () => { cancelAnimationFrame(replaying); replaying = null; };
  const replay = button("▶ Watch it learn", () => {
    stop();
    motion.still();
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

  const tiles = { start: tile({ label: "before the lesson", name: "score-start" }), yours: tile({ label: "by your target", name: "score-yours", look: "student" }), label: tile({ label: "by the label", name: "score-label", look: "hard" }) };
  const many = el("div", { class: "kd-label" });
  const lessonText = el("p", { class: "kd-btt-lesson", dir: "auto", "data-kd": "lesson-text" });
  const board = el("div", { class: "kd-btt-board", role: "group", "aria-label": "your target, and beside each bar the texts of that class" });
  const related = el("div", { class: "kd-btt-related" });
  const about = el("p", { class: "kd-note" });
  const summary = el("p", { class: "kd-note kd-btt-summary", "data-kd": "summary" });
  const problem = el("div"), alert = alertBox(problem);
  const more = el("details", { class: "kd-more", "data-kd": "more" }, el("summary", OWN_KEYS, "Other lessons and settings"),
    el("div", { class: "kd-btt-choose" }, pick.root,
      el("div", { class: "kd-choice" }, el("label", { class: "kd-label", for: id }, "or a text of your own"), el("div", { class: "kd-btt-ask" }, box, button("read it", ask, { name: "read" }))),
      label.root, T.root));
  const details = el("details", { class: "kd-more kd-btt-about", "data-kd": "details", ontoggle: () => draw() }, el("summary", OWN_KEYS, "Class by class, other texts, and what these students are"),
    related, many, el("div", { class: "kd-tiles" }, Object.values(tiles).map((t) => t.root)), about);
  const patterns = hatches(["student", "hard"]);
  root.append(
    svg("svg", { width: 0, height: 0, class: "kd-hidden-text", "aria-hidden": "true" }, patterns.defs),
    el("div", { class: "kd-btt-top" }, play.root, el("div", { class: "kd-tiles" }, tally.yours.root, tally.label.root)),
    goal, problem,
    el("div", { class: "kd-btt-bar" }, lessonText, presets),
    notice, pieces,
    el("div", { class: "kd-chart-head" }, key("your target: drag its bars", "teacher").root,
      el("span", { class: "kd-btt-keys" }, "belief in the true class, ✓ if first ", key("your student", "student").root, key("the label's student", "hard").root, el("span", { class: "kd-key" }, el("i", { class: "kd-btt-mark" }), "before"))),
    board,
    el("div", { class: "kd-row kd-btt-controls" }, steps.root, el("div", { class: "kd-btt-replay" }, replay, now)),
    summary, more, details);
  const say = announcer(root);
  lights(root);
  host.append(root);
  const drop = [themed(root), keepKeys(root), motion.dispose, line.dispose];

  /** The shown rows: the telling classes, and all others as one. */
  const rows = (p) => [...lesson.classes.map((c) => p[c]), ...(rest.length ? [rest.reduce((sum, c) => sum + p[c], 0)] : [])];
  const rowNames = () => [...lesson.classes.map((c) => classes()[c]), ...(rest.length ? [`${rest.length} others`] : [])];
  const truthOf = (i) => (i === 0 ? lesson.label : lesson.related[i - 1].label);
  const textOf = (i) => (i === 0 ? lesson.text : lesson.related[i - 1].text);

  function load() {
    const found = model.get("lessons").find((l) => l.text === model.get("text"));
    if (!found) return; // the text came before its lesson
    lesson = found;
    const C = classes().length, others = model.get("others"), level = levelNow();
    rest = classes().map((_, c) => c).filter((c) => !lesson.classes.includes(c));
    pupils = school({
      W: floats(model.get("start"), C), x: floats(lesson.x)[0], related: lesson.related.map((near) => floats(near.x)[0]),
      others: { x: floats(others.x, others.labels.length), labels: others.labels },
      spoiled: level && level.mistake !== null ? { label: level.mistake, steps: SPOILED, rate: model.get("learning_rate") } : null,
    });
    play.set(model.get("level"));
    pick.setOptions(model.get("lessons").map((l) => ({ value: l.text, label: shorten(l.text, 90) })));
    pick.set(lesson.text);
    label.setOptions(classes().map((name, c) => ({ value: c, label: name })));
    setText(lessonText, `“${shorten(lesson.text, 300)}”`);
    inform(lesson.notice ?? "");
    pieces.hidden = !lesson.pieces?.length;
    pieces.replaceChildren(...(lesson.pieces ?? []).map((piece) => el("code", { class: piece.known ? "" : "kd-unknown", dir: "auto" }, piece.text)));
    lines = [0, ...lesson.related.map((_, i) => i + 1)].map((i) => ({
      truth: truthOf(i),
      ...textLine({ place: i, text: textOf(i), patterns, note: i === 0 ? "the lesson: " : lesson.related[i - 1].why === "unrelated" ? "unrelated: " : "" }),
    }));
    bars = [...lesson.classes.map((c) => [c]), ...(rest.length ? [rest] : [])].map((group, i) => {
      const isRest = i >= lesson.classes.length;
      return { group, ...targetBar({ name: isRest ? "target-rest" : `target-${group[0]}`, title: isRest ? `${rest.length} others` : classes()[group[0]], oninput: (p) => setTarget(rescaled(model.get("target"), group, p)) }) };
    });
    board.replaceChildren(...bars.map((bar) => {
      const here = lines.filter((l) => bar.group.includes(l.truth));
      return el("div", { class: "kd-btt-row" }, bar.root, here.length ? el("div", { class: "kd-btt-lines", role: "list", "aria-label": `texts of the class ${bar.group.length > 1 ? "others" : classes()[bar.group[0]]}` }, here.map((l) => l.root)) : el("div"));
    }));
    panels.forEach((p) => p.chart.dispose());
    panels = lines.map((_, i) => (i === 0
      ? panel({ heading: "the lesson", text: `“${shorten(lesson.text, 200)}”` })
      : panel({
        text: `“${shorten(textOf(i), 200)}”`, heading: lesson.related[i - 1].why === "unrelated" ? "an unrelated text" : "a related text",
        why: `${classes()[truthOf(i)]} · likeness x·x′ ${signed(lesson.related[i - 1].alike).replace("+", "")}`,
      })));
    related.replaceChildren(...panels.map((p) => p.root));
    setText(many, `${others.labels.length} other texts of the validation split: how often the first guess is right`);
    const d = floats(lesson.x)[0].length;
    setText(about, `Each is a linear softmax classifier: ${C} × ${d} numbers W, and the logits of a text are W x. All it sees of a text is x: the mean of the teacher's word vectors over the text's pieces, projected on ${d} principal components, of length 1. Word order is lost. Before the lesson it learned the labels of ${model.get("taught")} training texts. Then two copies take the same number of steps on this one text: W ← W − η T (p − t) xᵀ with η = ${model.get("learning_rate")}; for one, t is your target (softened at T), for the other the label, at T = 1. So a text x′ moves in proportion to x·x′. The related texts are those nearest by x·x′ among those of the teacher's first and second guess; the unrelated one has x·x′ nearest to 0.`);
    draw();
  }

  /** What is to be reached in this level, and, once it is, why it worked. */
  function goalOf(level, won) {
    const names = classes(), label_ = names[lesson.label], watched = level ? `“${shorten(textOf(level.watched), 60)}”` : "";
    if (!level) return "Free play: drag a bar, and watch the texts beside it.";
    const kept = `Believe the lesson (${label_}, ${percent(ENOUGH)} or more)`;
    return {
      1: won ? `✓ Saved. A little ${names[truthOf(level.watched)]} in your target keeps ${watched}; the label says “not ${names[truthOf(level.watched)]}”, and loses it.`
        : `The label alone loses ${watched}. ${kept}, and lose no text that was right before.`,
      2: won ? `✓ Taught. You never put ${names[truthOf(level.watched)]} first, and still ${watched} is learned: a small bar is enough. That is dark knowledge.`
        : `${watched} is wrong. Teach it without naming its class: the tallest bar of your target stays on ${label_}. ${kept}.`,
      3: won ? `✓ Undone. The label ${label_} alone pushes ${names[level.mistake]} too far down; a soft target says how much of it was right.`
        : `By mistake both students were first taught that the lesson is ${names[level.mistake]}. Undo it: ${kept.toLowerCase()}, and all that was right before is right again.`,
    }[level.level];
  }

  function show(count) {
    const target = model.get("target"), rate = model.get("learning_rate"), y = model.get("label"), level = levelNow();
    const u = { start: pupils.start, yours: pupils.lesson(target, count, rate, model.get("temperature")), label: pupils.lesson(onehot(y, target.length), count, rate, 1) };
    const beliefs = Object.fromEntries(Object.entries(u).map(([who, v]) => [who, pupils.beliefs(v)]));
    bars.forEach((bar) => bar.set(bar.group.reduce((sum, c) => sum + target[c], 0)));
    setText(now, `after step ${count} of ${model.get("steps")}`);
    setAttribute(now, "data-value", String(count));
    lines.forEach((l, i) => l.set(l.truth, { start: beliefs.start[i], yours: beliefs.yours[i], label: beliefs.label[i] }));
    for (const who of ["yours", "label"]) {
      const right = lines.filter((l, i) => largest(beliefs[who][i]) === l.truth).length;
      tally[who].set(right, `${right} of ${lines.length}`);
    }
    const won = level ? reached(level, lines.map((l) => l.truth), pupils.beliefs(new Float64Array(target.length)), beliefs.yours, target) : false;
    setText(goal, goalOf(level, won));
    setAttribute(goal, "data-reached", won ? "yes" : "no");
    if (details.open) showDetails(beliefs, target);
    for (const [who, v] of Object.entries(u)) { const right = pupils.score(v); tiles[who].set(right, percent(right, 1)); }
    return { beliefs, won };
  }

  function showDetails(beliefs, target) {
    panels.forEach(({ chart }, i) => {
      const of = Object.fromEntries(Object.entries(beliefs).map(([who, all]) => [who, all[i]]));
      const first = (p) => `${classes()[largest(p)]} ${percent(p[largest(p)])}`;
      chart.update({
        rows: rowNames(), star: lesson.classes.indexOf(lines[i].truth),
        label: `What the students believe of “${shorten(textOf(i), 100)}”: ${first(of.yours)} by your target, ${first(of.label)} by the label; before: ${first(of.start)}.`,
        series: [
          { name: "by your target", look: "student", values: rows(of.yours) }, { name: "by the label", look: "hard", values: rows(of.label) },
          { name: "before", look: "sky", kind: "mark", values: rows(of.start) }, ...(i ? [] : [{ name: "target", look: "teacher", kind: "mark", values: rows(target) }])],
      });
    });
  }

  let wasWon = false;
  const draw = onFrame(() => {
    if (!lesson || lesson.text !== model.get("text")) return;
    steps.set(model.get("steps"));
    T.set(model.get("temperature"));
    label.set(model.get("label"));
    play.set(model.get("level"));
    const { beliefs, won } = show(Math.round(model.get("steps")));
    const text = lesson.related.length ? sentence(beliefs) : "";
    inTheEnd(won && !wasWon ? `${goal.textContent} ${text}` : text, text);
    wasWon = won;
  });
  const WORDS = { "Your target": "teacher", "your student": "student", "taught by the label": "hard" };
  const inTheEnd = atRest((said, text) => { // nobody can read or hear it while a bar is dragged
    if (summary.textContent && summary.textContent !== text) say(said);
    setWords(summary, text, WORDS);
  }, 120);

  function ranking(p, n = 2) {
    const order = p.map((v, c) => [v, c]).sort((a, b) => b[0] - a[0]).slice(0, n).filter(([v], i) => !i || v >= 0.005);
    return order.map(([v, c]) => `${classes()[c]} ${percent(v)}`).join(" and ");
  }
  function sentence(beliefs) {
    const apart = lesson.related.map((_, i) => beliefs.yours[i + 1].reduce((sum, v, c) => sum + Math.abs(v - beliefs.label[i + 1][c]), 0));
    const i = largest(apart), lead = `Your target is ${ranking(model.get("target"))}, the label is ${classes()[model.get("label")]}. After ${Math.round(model.get("steps"))} steps your student believes ${ranking(beliefs.yours[0])}.`;
    return apart[i] < 0.01 ? `${lead} Both students are the same: move a bar.` : `${lead} Of “${shorten(lesson.related[i].text, 100)}” (${classes()[lesson.related[i].label]}) it believes ${ranking(beliefs.yours[i + 1])}; taught by the label, ${ranking(beliefs.label[i + 1])}.`;
  }

  const complain = () => alert(model.get("problem"));
  const reload = onFrame(load);
  load();
  complain();
  drop.push(follow(model, "text lessons level", reload), follow(model, "target label steps temperature learning_rate", () => { motion.glide(); draw(); }), follow(model, "problem", complain));
  line.greet();
  return () => {
    stop(); draw.cancel(); reload.cancel(); inTheEnd.cancel(); say.dispose();
    panels.forEach((p) => p.chart.dispose());
    drop.forEach((end) => end());
    root.remove();
  };
}

export default { render };
