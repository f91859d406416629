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
//   replay play                                          the slider over what was recorded (the step shown), and the button that runs it
//   end                                                  what happened, in one sentence, when training is over
//   no-kernel problem notes                              sentences

const OTHER_LOOKS = ["pink", "sky", "orange"]; // of terms that are neither hard labels nor soft targets
const NO_KERNEL = "This is the recorded run. To train and to steer it yourself needs a running kernel: open the notebook.";
const REPLAY = 8000; // ms that a replay takes
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

/** The look of each column of losses, by name: the twin's is the twin's, hard labels and soft targets have theirs. */
function looksOf(columns) {
  let left = 0;
  const taken = new Set();
  return columns.map(({ who, name }) => {
    const term = name.replace(/^\w+, /, ""), first = /^(hard|soft)/.exec(term)?.[0];
    const known = who === "twin" && first === "hard" ? "twin" : first;
    const look = known && !taken.has(known) ? known : OTHER_LOOKS[left++ % OTHER_LOOKS.length];
    taken.add(look);
    return look;
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

  // ------------------------------------------------------------------------------------------ parts

  const buttons = {};
  const line = lifeline(model, (sentence) => showKernel(sentence), { nobody: NO_KERNEL, greeting: { do: "whole" } }); // "whole": also finds out whether there is a kernel
  const send = (action) => line.ask({ do: action });
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
  if (start.alpha !== null) setting("alpha", { label: "α", help: "weight of hard labels", min: 0, max: 1, step: 0.01, marks: [0, 0.25, 0.5, 0.75, 1] });
  setting("learning_rate", {
    label: "Learning rate", help: "at its peak", log: true, format: (v) => (v < 0.001 ? minus(v.toExponential()) : plainNumber(v)),
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

  const state = el("strong"), formula = el("code", { "data-kd": "formula" });
  const controls = el("fieldset", { class: "kd-live-controls", hidden: exported() },
    el("legend", { class: "kd-hidden-text" }, "Training"),
    el("div", { class: "kd-row kd-live-buttons" }, Object.values(buttons), el("span", { class: "kd-live-state" }, state, " ", formula)),
    el("div", { class: "kd-row kd-live-sliders" }, Object.values(sliders).map((s) => s.root), weights.map((s) => s.root)));

  const tiles = {
    at: tile({ label: `step of ${plan.total.toLocaleString("en")}`, name: "at" }),
    speed: tile({ label: "steps/s", name: "speed" }),
    left: tile({ label: "time left", name: "left" }),
    loss: tile({ label: "its loss", name: "loss" }),
  };
  for (const who of runs) tiles[`score-${who}`] = tile({ label: `${plan.fraction ? "accuracy" : "correlation"}, ${who}`, name: `score-${who}`, help: plan.score, look: who });
  if (plan.probe.who.includes("teacher") && plan.probe.kind !== "value") {
    for (const who of runs) tiles[`kl-${who}`] = tile({ label: `KL, ${who}`, name: `kl-${who}`, help: `KL(teacher ‖ ${who}) on the probe text, in nats, at the step shown`, look: who });
  }
  for (const name of ["speed", "left"]) tiles[name].root.hidden = exported();
  if (!plan.scored) for (const who of runs) tiles[`score-${who}`].root.hidden = true;

  const progress = el("progress", { class: "kd-live-progress", max: plan.total, value: 0, "aria-label": "Training", "data-kd": "progress", hidden: exported() });
  const end = el("p", { class: "kd-live-end", "data-kd": "end", hidden: true });
  const noKernel = el("p", { class: "kd-note kd-live-warning", "data-kd": "no-kernel", hidden: true });

  const scoreChart = lineChart({ title: capital(plan.score), xmin: 0, xmax: plan.total, ymin: plan.fraction ? 0 : undefined, ymax: plan.fraction ? 1 : undefined, height: 134,
    guides: plan.goal === null ? [] : [{ y: plan.goal, label: `the teacher: ${plan.fraction ? percent(plan.goal, 1) : number(plan.goal)}`, look: "teacher" }],
    formatY: plan.fraction ? (v) => percent(v) : (v) => minus(String(v)), series: [] });
  const points = Math.ceil(plan.total / plan.width), window = Math.max(1, Math.floor(points / 20));
  const over = window * plan.width;
  const lossChart = lineChart({ title: "Losses", xlabel: over > 1 ? `step (each point is the mean over ${over})` : "step", xmin: 0, xmax: plan.total, ymin: 0, height: 160, formatY: (v) => minus(String(v)), series: [] });
  const isValue = plan.probe.kind === "value";
  const probeChart = barChart({ thickness: 12, room: 54, title: isValue ? "Their answers" : "Their probabilities", format: isValue ? (v) => minus(v.toFixed(2)) : (v) => percent(v, 1), tickFormat: isValue ? undefined : (v) => percent(v), signed: isValue,
    rows: [], series: plan.probe.who.map((who) => ({ name: who, look: who, values: [] })) });
  for (const [name, chart] of [["score", scoreChart], ["losses", lossChart], ["probe", probeChart]]) {
    chart.root.setAttribute("data-kd", `chart-${name}`);
    cleanups.push(chart.dispose);
  }
  const replay = slider({ label: "At step", min: 0, max: plan.total, step: 1, value: 0, format: (v) => v.toLocaleString("en"), name: "replay" });
  replay.input.step = 1;
  let follows = true; // the replay shows the newest
  let playing = null;
  const halt = () => { cancelAnimationFrame(playing); playing = null; setText(play, "▶ Replay"); };
  replay.onchange((v) => {
    halt();
    const last = store.all.snapshots[store.all.snapshots.length - 1];
    follows = !last || v >= last.step;
    draw();
  });
  const play = button("▶ Replay", () => {
    if (playing !== null) { halt(); return; }
    const last = (model.get("now") ?? {}).step ?? 0, began = performance.now();
    if (!last || prefersReducedMotion()) return; // the slider shows the same, step by step
    setText(play, "■ Stop");
    const tick = (time) => {
      const done = Math.min(1, Math.max(0, time - began) / REPLAY);
      follows = done >= 1;
      replay.set(Math.round(done * last));
      draw();
      if (follows) halt(); else playing = requestAnimationFrame(tick);
    };
    playing = requestAnimationFrame(tick);
  }, { name: "play", help: "Play what was recorded" });
  play.classList.add("kd-live-play");
  play.hidden = exported() && prefersReducedMotion();
  cleanups.push(halt);
  const truth = plan.probe.truth === null ? null : el("span", null, isValue ? " — true value " : " — true: ", el("strong", { dir: "auto" }, plan.probe.truth));
  const probe = el("div", null,
    el("p", { class: "kd-live-text" }, "Probe: ", el("q", { dir: "auto", "data-kd": "probe-text" }, plan.probe.text), truth),
    probeChart.root);

  const root = el("section", { class: "kd kd-live", "aria-label": `Live distillation on ${plan.task}` },
    el("div", { class: "kd-live-title" }, el("strong", null, `Live distillation on ${plan.task}`), plan.twin ? ` · beside the student its twin: ${plan.twin}` : ""));
  const top = el("div", { class: "kd-stays" }, controls, el("div", { class: "kd-live-replay" }, play, replay.root));
  root.append(top, noKernel);
  const complain = alertBox(root);
  root.append(progress, end,
    el("div", { class: "kd-tiles" }, Object.values(tiles).map((t) => t.root)),
    el("div", { class: "kd-columns kd-live-charts" }, el("div", null, el("div", { hidden: !plan.scored }, scoreChart.root), lossChart.root), probe),
    el("details", { class: "kd-more" }, el("summary", OWN_KEYS, "How this is measured"), el("div", { "data-kd": "notes" }, plan.notes.map((note) => el("p", { class: "kd-note" }, note)))));
  lights(root);
  const say = announcer(root);
  cleanups.push(say.dispose, themed(root), keepKeys(root), stuck(top), line.dispose);

  // ------------------------------------------------------------------------------------------ drawing

  const store = liveStore(model, () => model.send({ do: "whole" }));

  function showKernel(sentence) {
    noKernel.hidden = !sentence;
    setText(noKernel, sentence);
    controls.disabled = !line.alive();
    controls.hidden = exported() && !line.alive(); // dead controls are not shown
    root.dataset.kernel = line.alive() ? "yes" : "no";
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
    end.hidden = status !== "finished";
    setText(end, model.get("summary"));
  }

  const lossLooks = looksOf(plan.losses);
  const draw = onFrame(() => {
    const now = model.get("now") ?? {}, { snapshots } = store.all;
    if (now.step === undefined) return;
    const newest = now.snapshot, until = follows ? Infinity : replay.value();
    const scores = store.all.scores.filter((row) => row[0] <= until), losses = store.all.losses.filter((row) => row[0] <= until);
    root.dataset.step = now.step;
    progress.value = follows ? now.step : replay.value();
    setText(formula, now.formula);
    setAttribute(formula, "title", now.formula);
    tiles.at.set(now.step, now.step.toLocaleString("en"));
    tiles.speed.set(now.speed, now.speed === null ? "–" : now.speed.toFixed(1));
    tiles.left.set(now.left, now.left === null ? "–" : seconds(now.left));
    tiles.loss.set(now.loss, now.loss === null ? "–" : number(now.loss));
    runs.forEach((who, i) => {
      const score = scores.length ? scores[scores.length - 1][i + 1] : null;
      tiles[`score-${who}`].set(score, score === null ? "–" : plan.fraction ? percent(score, 1) : number(score));
    });

    scoreChart.update({ series: runs.map((who, i) => ({ name: who, look: who, points: scores.map((row) => [row[0], row[i + 1]]) })), label: model.get("summary") });
    scoreChart.root.dataset.points = scores.length;
    lossChart.update({
      series: plan.losses.map(({ name }, i) => ({ name: name.replace(/^student, /, ""), look: lossLooks[i], points: smooth(losses.map((row) => [row[0], row[i + 1]]), window).filter(([, y]) => y !== null) })),
      label: `Loss terms up to step ${now.step}: ${lossesSaid(losses)}`,
    });
    lossChart.root.dataset.points = losses.length;

    let shown = newest;
    if (follows) replay.set(newest.step);
    else shown = snapshots.findLast((s) => s.step <= replay.value()) ?? snapshots[0] ?? newest;
    const said = plan.probe.who.map((who, i) => `${who} ${shown.names[indexOfLargest(shown.values[i])]} ${isValue ? shown.values[i][0] : percent(Math.max(...shown.values[i]))}`);
    probeChart.update({
      title: `At step ${shown.step.toLocaleString("en")}`,
      rows: shown.names, star: shown.star, max: isValue ? null : 1,
      series: plan.probe.who.map((who, i) => ({ name: who, look: who, values: shown.values[i] })),
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
  cleanups.push(
    follow(model, "now", () => {
      line.heard();
      store.takeNow();
      const at = Math.floor((4 * model.get("now").step) / plan.total);
      if (at > quarter) say(`Step ${model.get("now").step} of ${plan.total}.`);
      quarter = at;
      draw();
    }),
    follow(model, "curves", () => { store.takeWhole(); draw(); }),
    follow(model, "status", () => { showStatus(); draw(); }),
    follow(model, "summary", () => { showStatus(); tell(); }),
    follow(model, "problem", () => complain(model.get("problem"))),
  );

  showKernel(exported() ? NO_KERNEL : "");
  showStatus();
  complain(model.get("problem"));
  store.takeWhole();
  store.takeNow();
  draw();
  host.append(root);
  line.greet(NO_KERNEL);
  return () => {
    for (const end of cleanups) end();
    root.remove();
  };
}

const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);
const indexOfLargest = (values) => values.indexOf(Math.max(...values));

export default { render };
