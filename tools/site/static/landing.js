// The instrument of the first page: what the teacher says of one text, at any temperature. Drawn from its logits, here.
addEventListener("DOMContentLoaded", () => {
  const place = document.getElementById("kd-landing");
  if (!place) return;
  const { names, logits } = JSON.parse(place.dataset.answer);
  const SHOWN = 6; // classes, before the rest is added up: temperature changes no rank
  const slider = place.querySelector("input"), output = place.querySelector("output"), rows = place.querySelector("ol");
  const order = [...logits.keys()].sort((a, b) => logits[b] - logits[a]);
  const bars = [...order.slice(0, SHOWN).map((c) => names[c]), `${names.length - SHOWN} others`].map((name) => {
    const row = rows.appendChild(document.createElement("li"));
    const parts = ["name", "bar", "share"].map((part) => row.appendChild(Object.assign(document.createElement("span"), { className: `kd-${part}` })));
    parts[0].textContent = name;
    return parts.slice(1);
  });
  const draw = () => {
    const t = Number(slider.value), top = logits[order[0]];
    const e = order.map((c) => Math.exp((logits[c] - top) / t)), total = e.reduce((a, b) => a + b);
    const p = e.map((x) => x / total);
    const shown = [...p.slice(0, SHOWN), p.slice(SHOWN).reduce((a, b) => a + b)];
    shown.forEach((share, i) => {
      bars[i][0].style.setProperty("--share", share);
      bars[i][1].textContent = `${(100 * share).toFixed(1)} %`;
    });
    output.textContent = `T = ${t.toFixed(1)}`;
    slider.setAttribute("aria-valuetext", `T = ${t.toFixed(1)}: ${names[order[0]]} ${(100 * p[0]).toFixed(0)} percent, ${names[order[1]]} ${(100 * p[1]).toFixed(0)} percent`);
  };
  slider.addEventListener("input", draw);
  place.hidden = false;
  draw();
});
