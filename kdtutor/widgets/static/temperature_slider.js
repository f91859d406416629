// The first slider: softmax(logits / T) of one text. The model holds the logits; all else is computed here.
//
// For tests, data-kd="…" marks what can be driven and read:
//   controls  temperature (range), temperature-box (number box: Enter)
//   picture   probabilities: the chart; summary: the sentence below it

const SHOWN = 6; // classes, before the others are added up: a temperature changes no rank

/** What is seen, in one sentence: the same as TemperatureSlider.summary. */
const sentence = (t, said) => `At T = ${Number(t.toPrecision(3))} the probabilities are ${said.slice(0, -1).join(", ")} and ${said.at(-1)}.`;

function render({ model, el: place }) {
  const draft = drafts(model), { names, logits, text } = model.get("plan");
  const order = logits.map((_, c) => c).sort((a, b) => logits[b] - logits[a] || a - b);
  const shown = order.slice(0, SHOWN), rest = order.slice(SHOWN);
  const rows = [...shown.map((c) => names[c]), ...(rest.length ? [rest.length === 1 ? names[rest[0]] : `${rest.length} others`] : [])];

  const T = slider({
    label: "Temperature T", name: "temperature", min: 0.1, max: 20, value: model.get("temperature"), log: true, box: true,
    marks: [0.1, 0.5, 1, 2, 5, 10, 20], format: (v) => String(Number(v.toPrecision(3))),
  });
  const bars = barChart({ rows, thickness: 18, room: 64, max: 1, format: (p) => percent(p, 1), tickFormat: (p) => percent(p) });
  bars.root.dataset.kd = "probabilities";
  const inWords = el("p", { class: "kd-note", "data-kd": "summary" });
  const root = el("div", { class: "kd-softener", role: "group", "aria-label": "One answer, at any temperature" },
    text ? el("div", { class: "kd-title" }, `“${text}”`) : null, T.root, bars.root, inWords);
  place.append(root);
  const say = announcer(root), { glide, still, dispose } = glides(root);

  let seen = null;
  const redraw = onFrame(() => {
    const t = draft.get("temperature"), p = softmax(logits, t);
    T.set(t);
    const values = shown.map((c) => p[c]);
    if (rest.length) values.push(rest.reduce((sum, c) => sum + p[c], 0));
    bars.update({ series: [{ name: "teacher", look: "teacher", values }] });
    const words = sentence(t, order.slice(0, 3).map((c) => `${names[c]} ${percent(p[c])}`));
    bars.describe(`Bar chart. ${words}`);
    setText(inWords, words);
    if (seen !== null && seen !== words) say(words);
    seen = words;
  });
  T.onchange((v, moving) => {
    (moving ? still : glide)();
    draft.set("temperature", v);
    redraw();
    if (!moving) draft.send();
  });
  const moved = () => { glide(); redraw(); };
  const ends = [themed(root), bars.dispose, say.dispose, dispose, draft.dispose, redraw.cancel, follow(model, "temperature", moved), () => root.remove()];
  redraw();
  return () => ends.forEach((end) => end());
}

export default { render };
