// Beat the optimiser: a hidden grid of α and T on which a few trials are placed, and two rivals with the same budget
// (kdtutor/widgets/beat_the_optimiser.py).
//
// A trial is placed by clicking a cell, by Enter or Space on it (arrow keys move from cell to cell), or with the two sliders and
// their button. Nothing here needs a kernel.
//
// What tests and other scripts can rely on: the root has the class kd-beat-the-optimiser and data-unveiled (yes, no). Inside it
// data-kd, with R and C from 0, is
//   cell-R-C            the cells: buttons, data-state (hidden, tried, shown), data-best
//   alpha temperature   the sliders; try: their button
//   unveil again        the buttons
//   you tpe random      the rows of the table, data-validation and, once unveiled, data-test
//   summary             a sentence

const MARKS = { TPE: "T", "random search": "R" };

function render({ model, el: host }) {
  const plan = model.get("plan"), cleanups = [];
  const rows = plan.alphas.length, columns = plan.temperatures.length;
  const root = el("section", { class: "kd kd-beat-the-optimiser", "aria-label": "Beat the optimiser" });
  const say = announcer(root);
  const told = (r, c) => `α = ${plan.alphas[r]}, T = ${plan.temperatures[c]}`;
  const isOver = () => model.get("unveiled") || model.get("placed").length >= plan.budget;

  function place(r, c) {
    const placed = model.get("placed");
    if (isOver() || placed.some(([x, y]) => x === r && y === c)) return;
    model.set("placed", [...placed, [r, c]]);
    model.save_changes();
    say(`${told(r, c)}: validation ${percent(plan.found[r][c], 1)}. ${plan.budget - placed.length - 1} trials left.`);
    draw();
  }
  function keys(event, r, c) {
    const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
    if (!step) return;
    event.preventDefault();
    const clamp = (value, size) => Math.max(0, Math.min(size - 1, value));
    cells[clamp(r + step[0], rows)][clamp(c + step[1], columns)].button.focus();
  }

  const cells = plan.alphas.map((_, r) => plan.temperatures.map((_, c) => {
    const number = el("span");
    const node = el("button", { type: "button", class: "kd-bo-cell", "data-kd": `cell-${r}-${c}`, ...OWN_KEYS,
      onclick: () => place(r, c), onkeydown: (event) => keys(event, r, c) }, number);
    return { button: node, number };
  }));
  const axis = (text) => el("span", { class: "kd-bo-axis", "aria-hidden": "true" }, text);
  const grid = el("div", { class: "kd-bo-grid", role: "group", "aria-label": "The grid of α (rows) and T (columns)",
    style: { "grid-template-columns": `56px repeat(${columns}, minmax(0, 1fr))` } },
    axis("α \\ T"), plan.temperatures.map((t) => axis(String(t))),
    cells.flatMap((row, r) => [axis(String(plan.alphas[r])), ...row.map((cell) => cell.button)]));

  const alpha = slider({ label: "α", min: 0, max: rows - 1, step: 1, value: 0, format: (i) => String(plan.alphas[i]), name: "alpha" });
  const temperature = slider({ label: "T", min: 0, max: columns - 1, step: 1, value: 0, format: (i) => String(plan.temperatures[i]), name: "temperature" });
  const attempt = button("Try this point", () => place(alpha.value(), temperature.value()), { name: "try" });
  const unveil = button("Unveil the landscape", () => { model.set("unveiled", true); model.save_changes(); draw(); say(outcome()); }, { name: "unveil" });
  const again = button("Play again", () => { model.set("placed", []); model.set("unveiled", false); model.save_changes(); draw(); }, { name: "again" });
  const table = el("table", { class: "kd-bo-table" }), summary = el("p", { class: "kd-note", "data-kd": "summary" });

  root.append(el("div", { class: "kd-title" }, "Beat the optimiser"),
    el("div", { class: "kd-bo-columns" },
      el("div", null,
        el("p", { class: "kd-note" }, `${plan.budget} trials. Each trains one student and shows its accuracy on validation. Find the best α and T.`),
        grid),
      el("div", null, alpha.root, temperature.root, el("div", { class: "kd-row kd-bo-tools" }, attempt),
        table, el("div", { class: "kd-row kd-bo-tools" }, unveil, again))),
    summary);
  cleanups.push(say.dispose, themed(root), keepKeys(root));
  host.append(root);

  const trialsIn = (trials) => `${trials.length} trial${trials.length === 1 ? "" : "s"}`;
  const best = (trials) => trials.reduce((a, b) => (plan.found[b[0]][b[1]] > plan.found[a[0]][a[1]] ? b : a));
  const names = { you: "you", TPE: "tpe", "random search": "random" };
  const players = () => ({ you: model.get("placed"), ...plan.rivals });
  const outcome = () => Object.entries(players()).filter(([, trials]) => trials.length).map(([name, trials]) => {
    const [r, c] = best(trials);
    return `${name} chose ${told(r, c)}: ${percent(plan.found[r][c], 1)} on validation, ${percent(plan.means[r][c], 1)} on test`;
  }).join("; ") + ".";

  const all = plan.means.flat(), low = Math.min(...all), high = Math.max(...all);
  const draw = onFrame(() => {
    const placed = model.get("placed"), unveiled = model.get("unveiled");
    root.dataset.unveiled = unveiled ? "yes" : "no";
    cells.forEach((row, r) => row.forEach(({ button: node, number }, c) => {
      const turn = placed.findIndex(([x, y]) => x === r && y === c), state = unveiled ? "shown" : turn >= 0 ? "tried" : "hidden";
      const value = unveiled ? plan.means[r][c] : plan.found[r][c];
      setAttribute(node, "data-state", state);
      setAttribute(node, "data-best", unveiled && value === high ? "yes" : "no");
      node.style.setProperty("--kd-value", unveiled && high > low ? ((value - low) / (high - low)).toFixed(3) : "0");
      setText(number, state === "hidden" ? "?" : (100 * value).toFixed(1));
      const rivals = unveiled ? Object.entries(plan.rivals).filter(([, trials]) => { const [x, y] = best(trials); return x === r && y === c; }).map(([name]) => name) : [];
      setAttribute(node, "data-mark", [turn >= 0 ? String(turn + 1) : "", ...rivals.map((name) => MARKS[name] ?? name[0])].filter(Boolean).join(" "));
      const seen = state === "hidden" ? "not tried" : `${unveiled ? "test, mean of the seeds," : "validation"} ${percent(value, 1)}${turn >= 0 ? `, your trial ${turn + 1}` : ""}${rivals.map((name) => `, chosen by ${name}`).join("")}`;
      setAttribute(node, "aria-label", `${told(r, c)}: ${seen}`);
    }));
    const head = el("tr", null, ["player", "best on validation", unveiled ? "that point on test" : null].filter((t) => t !== null).map((text) => el("th", { scope: "col" }, text)));
    table.replaceChildren(el("tbody", null, head, Object.entries(players()).map(([name, trials]) => {
      // The rivals are as far as you are: what they did with as many trials.
      const some = unveiled || name === "you" ? trials : trials.slice(0, placed.length);
      const at = some.length ? best(some) : null;
      return el("tr", { "data-kd": names[name], "data-validation": at ? plan.found[at[0]][at[1]] : null, "data-test": unveiled && at ? plan.means[at[0]][at[1]] : null },
        el("th", { scope: "row" }, `${name}, ${trialsIn(some)}`), el("td", null, at ? percent(plan.found[at[0]][at[1]], 1) : "–"),
        unveiled ? el("td", null, at ? percent(plan.means[at[0]][at[1]], 1) : "–") : null);
    })));
    attempt.disabled = isOver();
    unveil.disabled = unveiled;
    setText(summary, unveiled ? `Unveiled: means on test over the seeds. T marks TPE's choice, R random search's; ${outcome()}` : `${placed.length} of ${plan.budget} trials made.`);
  });
  cleanups.push(draw.cancel, follow(model, "placed unveiled", draw));
  draw();
  return () => {
    for (const ends of cleanups) ends();
    root.remove();
  };
}

export default { render };
