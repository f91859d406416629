// The noise dial. The model holds, for each kind of damage and each of eleven steps, the broken text and every model's
// probabilities; the rest is drawn here, without Python.
//
// For tests, data-kd="…" marks what can be driven and read:
//   controls  example (select); text (textarea), read (button); kind-typo, kind-drop, … (radio buttons); strength (range); flip (button)
//   picture   broken: the text as it stands, changed words in <mark>; probabilities, curve: the charts;
//             answer-0, answer-1, …: a tile for each model, data-value the step at which it flips first ("" if never)
//   texts     problem (role=alert), status, summary

const LOOK_OF = ["teacher", "student", "grey"]; // of a teacher, its student, and one that learned from labels, in this order
const SHOWN = 6; // classes

const best = (p) => p.reduce((most, value, c) => (value > p[most] ? c : most), 0);

/** The first step at which a model's first guess is another than at 0; null if there is none. */
function flipOf(ladder) {
  const first = best(ladder[0]), step = ladder.findIndex((p) => best(p) !== first);
  return step < 0 ? null : step;
}

/** What is seen, in one sentence: the same as NoiseDial.summary. */
function sentence(plan, kind, step, ladder, steps) {
  const name = plan.kinds[kind];
  const said = plan.models.map((model, m) => {
    const p = ladder.p[m][step], flip = flipOf(ladder.p[m]);
    const when = flip === null ? "never flips" : `flips first at ${percent(flip / steps)}`;
    return `${model} says ${plan.classes[best(p)]} (${percent(p[best(p)])}) and ${when}`;
  });
  return `${name[0].toUpperCase()}${name.slice(1)}, ${percent(step / steps)} of the words: ${said.join("; ")}.`;
}

/** The broken text as nodes: words that the whole one does not have at this place, or in this number, are marked. */
function marked(whole, broken) {
  const left = new Map();
  for (const word of whole.split(/\s+/)) left.set(word, (left.get(word) ?? 0) + 1);
  return broken.split(/(\s+)/).map((part) => {
    if (!part.trim()) return document.createTextNode(part);
    const count = left.get(part) ?? 0;
    left.set(part, count - 1);
    return count > 0 ? document.createTextNode(part) : el("mark", null, part);
  });
}

function render({ model, el: place }) {
  const draft = drafts(model), get = draft.get, plan = get("plan");
  const set = (changes) => {
    draft.send();
    for (const [name, value] of Object.entries(changes)) model.set(name, value);
    model.save_changes();
  };
  const ladders = () => (get("example") === null ? get("ladders") : get("examples")[get("example")].ladders);

  // ---------------------------------------------------------------- controls
  const own = { value: null, label: "a text of your own" };
  const options = get("examples").map((example, i) => ({
    value: i, label: `${shorten(example.text, 70)}${example.label === null ? "" : `  [${plan.classes[example.label]}]`}`,
  }));
  const pick = choice({ label: "Example", name: "example", value: get("example"), options: [own, ...options] });
  const textId = newId("text");
  const text = el("textarea", { id: textId, class: "kd-text", rows: 1, dir: "auto", "data-kd": "text", spellcheck: "false", ...OWN_KEYS });
  const read = button("Read it", () => submit(), { name: "read", help: "Let all models read this text, broken in every way" });
  const kind = choice({ label: "Damage", name: "kind", value: get("kind"), segments: true, options: Object.entries(plan.kinds).map(([value, label]) => ({ value, label })) });
  const strength = slider({
    label: "Strength", help: "share of the words", name: "strength", min: 0, max: 1, step: 0.1, value: get("strength"),
    marks: [0, 0.5, 1], format: (v) => percent(v),
  });
  const flip = button("Next flip", () => toFlip(), { name: "flip", help: "Turn to the next strength at which a model changes its mind" });

  // ---------------------------------------------------------------- picture
  const broken = el("p", { class: "kd-noise-broken", "data-kd": "broken", dir: "auto" });
  const tiles = plan.models.map((name, m) => tile({ label: name, name: `answer-${m}`, look: LOOK_OF[m], note: true }));
  const bars = barChart({ title: "Probabilities", thickness: 12, room: 54, format: (p) => percent(p, 1), tickFormat: (p) => percent(p), max: 1 });
  const curve = lineChart({
    title: "Probability of each model's first answer", xlabel: "share of the words that are broken", height: 230,
    xmin: 0, xmax: 1, ymin: 0, ymax: 1, formatX: (v) => percent(v), formatY: (v) => percent(v),
  });
  bars.root.dataset.kd = "probabilities";
  curve.root.dataset.kd = "curve";
  const inWords = el("p", { class: "kd-note", "data-kd": "summary" });
  const status = el("p", { class: "kd-note", role: "status", "data-kd": "status" });
  const alerts = el("div");
  const root = el("div", { class: "kd-noise", role: "group", "aria-label": `Noise dial on ${plan.task}` },
    el("div", { class: "kd-noise-text" }, pick.root,
      el("div", null, el("label", { class: "kd-label", for: textId }, "Text"), el("div", { class: "kd-noise-box" }, text, read))),
    alerts, status,
    el("div", { class: "kd-noise-dials" }, kind.root, strength.root, flip),
    broken, el("div", { class: "kd-tiles" }, tiles.map((t) => t.root)),
    el("div", { class: "kd-columns", role: "group", "aria-label": "Charts" }, bars.root, curve.root), inWords);
  place.append(root);
  const show = alertBox(alerts), say = announcer(root);

  let problem = "", seen = null;
  function draw() {
    pick.set(get("example"));
    kind.set(get("kind"));
    strength.set(get("strength"));
    show(problem || get("problem"));
    const ladder = ladders()?.[get("kind")];
    if (!ladder) return;
    const steps = ladder.texts.length - 1, step = Math.round(get("strength") * steps);
    broken.replaceChildren(...marked(ladder.texts[0], ladder.texts[step]));
    const answers = ladder.p.map((rows) => rows[step]);
    tiles.forEach((one, m) => {
      const at = flipOf(ladder.p[m]), p = answers[m];
      one.set(at, `${plan.classes[best(p)]} ${percent(p[best(p)])}`, at === null ? "never flips" : `flips first at ${percent(at / steps)}`);
    });

    // The label, and the classes that any model ranks highest, at any strength: no row jumps while the dial turns.
    const example = get("example"), label = example === null ? null : get("examples")[example].label;
    const most = plan.classes.map((_, c) => (c === label ? Infinity : Math.max(...ladder.p.flatMap((rows) => rows.map((p) => p[c])))));
    const chosen = most.map((_, c) => c).sort((a, b) => most[b] - most[a] || a - b).slice(0, SHOWN).sort((a, b) => a - b);
    bars.update({
      rows: chosen.map((c) => plan.classes[c]), star: label === null ? null : chosen.indexOf(label),
      series: plan.models.map((name, m) => ({ name, look: LOOK_OF[m], values: chosen.map((c) => answers[m][c]) })),
    });
    const words = sentence(plan, get("kind"), step, ladder, steps);
    curve.update({
      label: `Line chart. ${words}`,
      series: plan.models.map((name, m) => {
        const first = best(ladder.p[m][0]);
        return { name, look: LOOK_OF[m], points: ladder.p[m].map((p, i) => [i / steps, p[first]]) };
      }),
    });
    bars.describe(`Bar chart of probabilities. ${words}`);
    setText(inWords, words);
    if (seen !== null && seen !== words) say(words);
    seen = words;
  }
  const redraw = onFrame(draw);

  /** Turn on to the next step at which some model's answer is another than one step before; from the last, to the first. */
  function toFlip() {
    const ladder = ladders()[get("kind")], steps = ladder.texts.length - 1, now = Math.round(get("strength") * steps);
    const at = Array.from({ length: steps }, (_, i) => i + 1).filter((i) => ladder.p.some((rows) => best(rows[i]) !== best(rows[i - 1])));
    if (!at.length) { setText(status, "No model changes its mind, however broken the text is."); return; }
    setText(status, "");
    set({ strength: (at.find((i) => i > now) ?? at[0]) / steps });
    redraw();
  }

  // ---------------------------------------------------------------- the kernel
  let waiting = false;
  const NOBODY = "Typing a text needs a running kernel, and none has answered yet. The examples and the dial work without one.";
  const line = lifeline(model, (said) => { if (!said) waiting = false; setText(status, said); }, { nobody: NOBODY });
  const complain = (said) => { problem = said; setText(status, ""); redraw(); };
  function choose(i) {
    set({ text: get("examples")[i].text, ladders: get("examples")[i].ladders, problem: "", example: i });
    text.value = get("examples")[i].text;
    complain("");
  }
  function submit() {
    const typed = text.value;
    if (!typed.trim()) { complain("The text is empty: type a few words."); return; }
    const known = get("examples").findIndex((example) => example.text === typed);
    if (known >= 0) { choose(known); return; }
    if (typed === get("text")) return;
    complain("");
    waiting = true;
    setText(status, line.alive() ? "The models are reading …" : NOBODY);
    line.ask({ kind: "text", text: typed });
  }
  function newText() {
    if (document.activeElement !== text || !waiting) text.value = get("text");
    waiting = false;
    complain("");
  }

  text.value = get("text");
  pick.onchange((i) => { if (i === null) { text.value = ""; text.focus(); } else choose(i); });
  kind.onchange((v) => { set({ kind: v }); redraw(); });
  strength.onchange((v, moving) => { draft.set("strength", v); redraw(); if (!moving) draft.send(); });
  text.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) { event.preventDefault(); submit(); }
  });
  const ends = [
    themed(root), bars.dispose, curve.dispose, say.dispose, draft.dispose, redraw.cancel, line.dispose,
    follow(model, "kind strength example ladders problem", redraw), follow(model, "text", newText),
    () => root.remove(),
  ];
  draw();
  line.greet();
  return () => ends.forEach((end) => end());
}

export default { render };
