// Live distillation: buttons, settings, curves and the probe's distributions (kdtutor/widgets/live.py).
//
// Python sends `now`, a small message for each picture with the points that are new, and `curves`, all points, when
// training pauses or when a view asks for them. A view keeps its own copy, and asks when the numbers of points differ.
//
// What tests and other scripts can rely on: the root has the class kd-live, data-status (ready, training, paused, finished),
// data-step and data-kernel ("yes" once a kernel has answered). Inside it data-kd is
//   start pause step reset                               the buttons
//   temperature alpha learning-rate weight-0 weight-1 …  the sliders; with -box behind it, the fields to type in
//   at speed left loss                                   numbers: data-value has all digits sent
//   score-student score-twin kl-student kl-twin          the last score; the KL divergence of the distributions shown
//   formula                                              the objective as it is now
//   progress                                             the bar
//   chart-score chart-losses chart-probe                 the pictures; data-points: how many points the longest curve has
//   replay                                               the slider over the recorded distributions (the step shown)
//   no-kernel problem notes                              sentences

const LIVE_LOOKS = { teacher: "teacher", student: "student", twin: "hard" };
const TERM_LOOKS = ["student", "soft", "pink", "orange", "sky"]; // of the student's terms; the first is hard labels, as a rule
const NO_KERNEL = "Start, Pause, Step, Reset and the settings need a running kernel, and none has answered. What was recorded is shown.";
const NO_ANSWER = "The kernel has not answered yet: it is busy with another cell, or it is gone.";
const STATUS_WORDS = { ready: "not started", training: "training", paused: "paused", finished: "finished" };

const seconds = (s) => (s < 100 ? `${Math.round(s)}${NBSP}s` : s < 6000 ? `${Math.round(s / 60)}${NBSP}min` : `${(s / 3600).toFixed(1)}${NBSP}h`);
const plainNumber = (x) => minus(String(Number(x.toPrecision(3))));

/** Mean of the last `window` values at each point; gaps (null) stay gaps. points: [[x, y], …]. */
function smooth(points, window) {
  const kept = [];
  return points.map(([x, y]) => {
    if (y === null) { kept.length = 0; return [x, null]; }
    kept.push(y);
    if (kept.length > window) kept.shift();
    return [x, kept.reduce((a, b) => a + b, 0) / kept.length];
  });
}

/** The points that a view has: all of `curves`, then what each `now` adds. */
function liveStore(model, askForAll) {
  const all = { losses: [], scores: [], snapshots: [] };
  const stepOf = (row) => (Array.isArray(row) ? row[0] : row.step);
  let reached = -1;
  function takeWhole() {
    const curves = model.get("curves") ?? {};
    for (const name in all) all[name] = [...(curves[name] ?? [])];
  }
  function takeNow() {
    const now = model.get("now") ?? {};
    if (now.step === undefined) return;
    if (now.step < reached) for (const name in all) all[name] = []; // it was reset
    reached = now.step;
    let whole = true;
    for (const name in all) {
      const last = all[name].length ? stepOf(all[name][all[name].length - 1]) : -1;
      all[name].push(...now.fresh[name].filter((row) => stepOf(row) > last));
      whole &&= all[name].length === now.lengths[name];
    }
    if (!whole) askForAll();
  }
  return { all, takeWhole, takeNow };
}

function render({ model, el: host }) {
  const plan = model.get("plan"), start = plan.start;
  const runs = plan.probe.who.filter((who) => who !== "teacher");
  const cleanups = [];
  const alive = { known: false, timer: null };

  // ------------------------------------------------------------------------------------------ parts

  const buttons = {};
  const send = (action) => {
    model.send({ do: action });
    clearTimeout(alive.timer);
    alive.timer = setTimeout(() => showKernel(alive.known ? NO_ANSWER : NO_KERNEL), 2500);
  };
  for (const [action, label, help] of [
    ["start", "Start", "Train on, step after step"],
    ["pause", "Pause", "Stop after the step in hand"],
    ["step", "Step", "Take one step"],
    ["reset", "Reset", "Back to the initial weights and settings"],
  ]) buttons[action] = button(label, () => send(action), { help, name: action });

  const sliders = {};
  const setting = (trait, options) => {
    const control = slider({ value: start[trait], box: true, format: plainNumber, name: trait.replace("_", "-"), ...options });
    control.onchange((v) => { model.set(trait, v); model.save_changes(); });
    cleanups.push(follow(model, trait, () => { const v = model.get(trait); if (v !== null) control.set(v); }));
    if (model.get(trait) !== null) control.set(model.get(trait));
    sliders[trait] = control;
  };
  if (start.temperature !== null) {
    const marks = [0.1, 0.5, 1, 2, 4, 10, 20];
    setting("temperature", { label: "Temperature T", min: Math.min(0.1, start.temperature), max: Math.max(20, start.temperature), log: true, marks });
  }
  if (start.alpha !== null) setting("alpha", { label: "α, weight of hard labels", min: 0, max: 1, step: 0.01, marks: [0, 0.25, 0.5, 0.75, 1] });
  setting("learning_rate", {
    label: "Learning rate (peak)", log: true, format: (v) => (v < 0.001 ? minus(v.toExponential()) : plainNumber(v)),
    min: Math.max(1e-9, start.learning_rate / 100), max: Math.min(10, start.learning_rate * 100),
    marks: [0.01, 0.1, 1, 10, 100].map((factor) => Number((factor * start.learning_rate).toPrecision(3))),
  });
  const weights = (start.weights && plan.terms.length > 1 ? start.weights : []).map((weight, i) => {
    const control = slider({ label: `Weight of ${plan.terms[i]}`, min: 0, max: Math.max(1, 2 * weight), value: weight, step: 0.01, box: true, format: plainNumber, name: `weight-${i}` });
    control.onchange((v) => {
      const all = [...model.get("weights")];
      all[i] = v;
      if (all.every((w) => w === 0)) { complain("With every weight 0 there is nothing to learn; the last one stays as it was."); showWeights(); return; }
      model.set("weights", all);
      model.save_changes();
    });
    return control;
  });
  const showWeights = () => weights.forEach((control, i) => control.set(model.get("weights")[i]));
  if (weights.length) { showWeights(); cleanups.push(follow(model, "weights", showWeights)); }

  const controls = el("fieldset", { class: "kd-live-controls" },
    el("legend", { class: "kd-hidden-text" }, "Training"),
    el("div", { class: "kd-row kd-live-buttons" }, Object.values(buttons)),
    el("div", { class: "kd-row" }, Object.values(sliders).map((s) => s.root), weights.map((s) => s.root)));

  const tiles = {
    at: tile({ label: `step, of ${plan.total.toLocaleString("en")}`, name: "at" }),
    speed: tile({ label: "steps a second", name: "speed" }),
    left: tile({ label: "time left", name: "left" }),
    loss: tile({ label: "loss of this step", name: "loss" }),
  };
  for (const who of runs) tiles[`score-${who}`] = tile({ label: `${plan.fraction ? "accuracy" : "correlation"}, ${who}`, name: `score-${who}`, help: plan.score });
  if (plan.probe.who.includes("teacher") && plan.probe.kind !== "value") {
    for (const who of runs) tiles[`kl-${who}`] = tile({ label: `KL(teacher ‖ ${who})`, name: `kl-${who}`, help: "on the probe text, in nats, at the step shown" });
  }
  if (!plan.scored) for (const who of runs) tiles[`score-${who}`].root.hidden = true;

  const progress = el("progress", { class: "kd-live-progress", max: plan.total, value: 0, "aria-label": "Training", "data-kd": "progress" });
  const formula = el("code", { "data-kd": "formula" });
  const state = el("strong");
  const noKernel = el("p", { class: "kd-note kd-live-warning", "data-kd": "no-kernel", hidden: true });

  const scoreChart = lineChart({ title: capital(plan.score), xlabel: "step", xmin: 0, xmax: plan.total, ymin: plan.fraction ? 0 : undefined, height: 275,
    formatY: plan.fraction ? (v) => percent(v) : (v) => minus(String(v)), series: [] });
  const points = Math.ceil(plan.total / plan.width), window = Math.max(1, Math.floor(points / 20));
  const over = window * plan.width;
  const lossChart = lineChart({ title: over > 1 ? `Loss terms, each the mean over ${over} steps` : "Loss terms", xlabel: "step", xmin: 0, xmax: plan.total, ymin: 0, height: 275, formatY: (v) => minus(String(v)), series: [] });
  const isValue = plan.probe.kind === "value";
  const probeChart = barChart({ title: isValue ? "Their answers" : "Their probabilities", format: isValue ? (v) => minus(v.toFixed(2)) : (v) => percent(v, 1), tickFormat: isValue ? undefined : (v) => percent(v), signed: isValue,
    rows: [], series: plan.probe.who.map((who) => ({ name: who, look: LIVE_LOOKS[who], values: [] })) });
  for (const [name, chart] of [["score", scoreChart], ["losses", lossChart], ["probe", probeChart]]) {
    chart.root.setAttribute("data-kd", `chart-${name}`);
    cleanups.push(chart.dispose);
  }
  const replay = slider({ label: "Distributions at step", min: 0, max: plan.total, step: 1, value: 0, format: (v) => v.toLocaleString("en"), name: "replay" });
  replay.input.step = 1;
  let follows = true; // the replay shows the newest
  replay.onchange((v) => {
    const last = store.all.snapshots[store.all.snapshots.length - 1];
    follows = !last || v >= last.step;
    draw();
  });
  const truth = plan.probe.truth === null ? null : el("span", null, isValue ? " — true value " : " — true: ", el("strong", { dir: "auto" }, plan.probe.truth));
  const probe = el("div", null,
    el("p", { class: "kd-live-text" }, "Probe: ", el("q", { dir: "auto", "data-kd": "probe-text" }, plan.probe.text), truth),
    probeChart.root, replay.root);

  const root = el("section", { class: "kd kd-live", "aria-label": `Live distillation on ${plan.task}` },
    el("div", { class: "kd-title" }, `Live distillation on ${plan.task}`, plan.twin ? `: the student, and a twin (${plan.twin})` : ""),
    controls, noKernel);
  const complain = alertBox(root);
  root.append(
    el("p", { class: "kd-live-state" }, state, " ", formula), progress,
    el("div", { class: "kd-tiles" }, Object.values(tiles).map((t) => t.root)),
    el("div", { class: "kd-columns kd-live-charts" }, el("div", null, el("div", { hidden: !plan.scored }, scoreChart.root), lossChart.root), probe),
    el("div", { "data-kd": "notes" }, plan.notes.map((note) => el("p", { class: "kd-note" }, note))));
  const say = announcer(root);
  cleanups.push(say.dispose, themed(root), keepKeys(root));

  // ------------------------------------------------------------------------------------------ drawing

  const store = liveStore(model, () => model.send({ do: "whole" }));

  function showKernel(sentence) {
    noKernel.hidden = !sentence;
    setText(noKernel, sentence);
    controls.disabled = !alive.known;
    root.dataset.kernel = alive.known ? "yes" : "no";
  }

  function showStatus() {
    const status = model.get("status");
    root.dataset.status = status;
    setText(state, `${capital(STATUS_WORDS[status])}.`);
    setText(buttons.start, status === "paused" ? "Continue" : "Start");
    buttons.start.disabled = status === "training" || status === "finished";
    buttons.step.disabled = buttons.start.disabled;
    buttons.pause.disabled = status !== "training";
    buttons.reset.disabled = status === "ready";
  }

  const draw = onFrame(() => {
    const now = model.get("now") ?? {}, { scores, losses, snapshots } = store.all;
    if (now.step === undefined) return;
    const newest = now.snapshot;
    root.dataset.step = now.step;
    progress.value = now.step;
    setText(formula, now.formula);
    tiles.at.set(now.step, now.step.toLocaleString("en"));
    tiles.speed.set(now.speed, now.speed === null ? "–" : now.speed.toFixed(1));
    tiles.left.set(now.left, now.left === null ? "–" : seconds(now.left));
    tiles.loss.set(now.loss, now.loss === null ? "–" : number(now.loss));
    runs.forEach((who, i) => {
      const score = scores.length ? scores[scores.length - 1][i + 1] : null;
      tiles[`score-${who}`].set(score, score === null ? "–" : plan.fraction ? percent(score, 1) : number(score));
    });

    const best = Math.max(0, ...scores.flatMap((row) => row.slice(1)));
    scoreChart.update({ ymax: plan.fraction && best < 0.1 ? 0.1 : undefined, series: runs.map((who, i) => ({ name: who, look: LIVE_LOOKS[who], points: scores.map((row) => [row[0], row[i + 1]]) })), label: model.get("summary") });
    scoreChart.root.dataset.points = scores.length;
    const seen = {};
    lossChart.update({
      series: plan.losses.map(({ who, name }, i) => {
        const nth = (seen[who] = (seen[who] ?? -1) + 1);
        const look = who === "student" ? TERM_LOOKS[nth % TERM_LOOKS.length] : nth ? TERM_LOOKS[(nth + 1) % TERM_LOOKS.length] : LIVE_LOOKS[who];
        return { name, look, points: smooth(losses.map((row) => [row[0], row[i + 1]]), window).filter(([, y]) => y !== null) };
      }),
      label: `Loss terms up to step ${now.step}: ${lossesSaid(losses)}`,
    });
    lossChart.root.dataset.points = losses.length;

    let shown = newest;
    if (follows) replay.set(newest.step);
    else shown = snapshots.findLast((s) => s.step <= replay.value()) ?? snapshots[0] ?? newest;
    const said = plan.probe.who.map((who, i) => `${who} ${shown.names[indexOfLargest(shown.values[i])]} ${isValue ? shown.values[i][0] : percent(Math.max(...shown.values[i]))}`);
    probeChart.update({
      title: `${isValue ? "Answers" : "Probabilities"} at step ${shown.step.toLocaleString("en")}`,
      rows: shown.names, star: shown.star, max: isValue ? null : Math.ceil(5 * Math.max(...shown.values.flat())) / 5,
      series: plan.probe.who.map((who, i) => ({ name: who, look: LIVE_LOOKS[who], values: shown.values[i] })),
      label: `Step ${shown.step}, likeliest: ${said.join(", ")}.`,
    });
    probeChart.root.dataset.points = snapshots.length;
    runs.forEach((who, i) => tiles[`kl-${who}`]?.set(shown.distance[i] ?? null, shown.distance[i] === undefined ? "–" : number(shown.distance[i])));
  });
  cleanups.push(draw.cancel);

  function lossesSaid(losses) {
    const last = losses[losses.length - 1];
    if (!last) return "none yet.";
    return `${plan.losses.map(({ name }, i) => `${name} ${last[i + 1] === null ? "not computed" : number(last[i + 1])}`).join(", ")}.`;
  }

  // ------------------------------------------------------------------------------------------ what comes from Python

  let quarter = 0;
  const tell = () => say(model.get("summary"));
  const heard = () => {
    clearTimeout(alive.timer);
    alive.known = true;
    showKernel("");
  };
  cleanups.push(
    follow(model, "now", () => {
      heard();
      store.takeNow();
      const at = Math.floor((4 * model.get("now").step) / plan.total);
      if (at > quarter) say(`Step ${model.get("now").step} of ${plan.total}.`);
      quarter = at;
      draw();
    }),
    follow(model, "curves", () => { store.takeWhole(); draw(); }),
    follow(model, "status", () => { showStatus(); draw(); }),
    follow(model, "summary", tell),
    follow(model, "problem", () => complain(model.get("problem"))),
    () => clearTimeout(alive.timer),
  );
  model.on("msg:custom", heard);
  cleanups.push(() => model.off("msg:custom", heard));

  showKernel("");
  showStatus();
  complain(model.get("problem"));
  store.takeWhole();
  store.takeNow();
  draw();
  host.append(root);
  send("whole"); // also finds out whether there is a kernel
  return () => {
    for (const end of cleanups) end();
    root.remove();
  };
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const indexOfLargest = (values) => values.indexOf(Math.max(...values));

export default { render };
