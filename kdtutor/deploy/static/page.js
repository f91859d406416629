// The page of student.js: a text, what student and teacher make of it, and how long each takes.
// page.json, beside this file, says what there is to load and how large it is.
import { RUNTIME, loadModel, loadRuntime } from "./student.js";

const SHOWN = 5; // classes, before the others are added up
const HERE = new URL(".", import.meta.url);

const megabytes = (bytes) => `${(bytes / 1e6).toFixed(1)} MB`;
const percent = (share) => `${(100 * share).toFixed(1)} %`;
const milliseconds = (ms) => `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;

function made(tag, className, text, ...children) {
  const node = Object.assign(document.createElement(tag), { className, textContent: text ?? "" });
  node.append(...children);
  return node;
}

async function start(place) {
  const page = await (await fetch(new URL("page.json", HERE))).json();
  const models = []; // loaded: { name, answerTo }
  const status = made("p", "kd-status");
  status.setAttribute("role", "status");
  const load = made("button", "kd-load"), more = made("button", "kd-load");
  const box = made("textarea", "kd-text"), pieces = made("p", "kd-pieces"), said = made("p", "kd-said"), key = made("p", "kd-key"), rows = made("ol", "kd-rows");
  box.rows = 2;
  box.value = page.texts[0] ?? "";
  const tries = made("p", "kd-tries", "Try: ", ...page.texts.map((text) => {
    const button = made("button", "kd-try", text.length > 40 ? `${text.slice(0, 38)} …` : text);
    button.addEventListener("click", () => { box.value = text; answer(); });
    return button;
  }));
  const room = made("div", "kd-room", "", made("label", "", "Your text ", box), tries, pieces, key, rows, said, more);
  room.hidden = true;
  place.replaceChildren(load, status, room);
  for (const button of place.querySelectorAll("button")) button.type = "button";

  // ------------------------------------------------------------------------------------------------ loading

  const [student, teacher] = page.models;
  let runtime;
  offer(load, student, page.runtime);
  if (teacher) offer(more, teacher, 0);
  else more.hidden = true;

  function offer(button, about, besides) {
    const words = besides ? ` and the program that computes it, ${megabytes(besides)}` : " beside it";
    button.textContent = `Load the ${about.name} (${megabytes(about.bytes)}${besides ? "" : ")"}${words}${besides ? ")" : ""}`;
    button.addEventListener("click", async () => {
      button.disabled = true;
      try {
        const come = [0, 0], told = (which) => (bytes) => {
          come[which] = bytes;
          status.textContent = `Loading: ${megabytes(come[0] + come[1])} of ${megabytes(about.bytes + besides)}`;
        };
        runtime ??= await loadRuntime(HERE, page.runtime, told(1));
        models.push({ name: about.name, answerTo: await loadModel(runtime, about, told(0)) });
        button.hidden = true;
        room.hidden = false;
        status.textContent = "";
        await answer();
        box.focus();
      } catch (error) {
        status.textContent = error.message;
        button.disabled = false;
      }
    });
  }

  // ---------------------------------------------------------------------------------------------- answering

  box.addEventListener("input", answer);
  let busy = false;

  // The newest text only: what was typed while the models were at work is answered next, and nothing queues up.
  async function answer() {
    if (busy) return;
    busy = true;
    try {
      let text, asked;
      do {
        [text, asked] = [box.value, models.length];
        const answers = [];
        for (const { answerTo } of models) answers.push(await answerTo(text));
        show(answers);
      } while (text !== box.value || asked !== models.length);
      place.dataset.answered = text;
    } catch (error) {
      said.textContent = `This text could not be answered: ${error.message}`;
    } finally {
      busy = false;
    }
  }

  function show(answers) {
    const p = answers.map((one) => one.probabilities), best = p.map((shares) => shares.indexOf(Math.max(...shares)));
    const names = student.labels, strength = names.map((_, c) => Math.max(...p.map((shares) => shares[c])));
    const order = names.map((_, c) => c).sort((a, b) => strength[b] - strength[a]);
    const rest = order.slice(SHOWN);
    const parts = order.slice(0, SHOWN).map((c) => [names[c], p.map((shares) => shares[c])]);
    if (rest.length) parts.push([`${rest.length} others`, p.map((shares) => rest.reduce((sum, c) => sum + shares[c], 0))]);
    key.replaceChildren(...models.map(({ name }) => {
      const bar = made("span", `kd-bar kd-${name}`);
      bar.style.setProperty("--share", 1);
      return made("span", "", "", bar, made("span", "", name));
    }));
    rows.replaceChildren(...parts.map(([name, shares]) => made("li", "", "", made("span", "kd-name", name),
      ...shares.map((share, which) => {
        const bar = made("span", `kd-bar kd-${models[which].name}`);
        bar.style.setProperty("--share", share);
        return made("span", "kd-half", "", bar, made("span", "kd-share", percent(share)));
      }))));

    const [{ pieces: read, cut }] = answers, unknown = read.filter((piece) => piece === "[UNK]").length;
    const inside = read.length - 2;
    pieces.textContent = `${inside} ${inside === 1 ? "piece" : "pieces"}: ${read.slice(1, -1).slice(0, 24).join(" ")}${inside > 24 ? " …" : ""}`;
    if (cut) pieces.textContent += ` · the text is longer: only its first ${inside} pieces are read`;
    if (unknown > inside / 4) pieces.textContent += ` · ${unknown} of them are unknown: believe none of these numbers`;

    const times = answers.map((one, which) => `${models[which].name} ${milliseconds(one.computed)}`).join(", ");
    const words = [`Computed here: ${times}, the tokenizer ${milliseconds(answers[0].read)}.`];
    if (answers.length > 1) {
      const kl = p[1].reduce((sum, share, c) => sum + (share > 0 ? share * Math.log(share / p[0][c]) : 0), 0);
      const together = best[0] === best[1] ? `Both say ${names[best[0]]}` : `The student says ${names[best[0]]}, the teacher ${names[best[1]]}`;
      words.unshift(`${together}; KL(teacher ‖ student) is ${kl.toFixed(2)} nats.`);
    }
    said.textContent = words.join(" ");
    place.dataset.logits = JSON.stringify(answers.map((one) => one.logits));
  }
}

for (const place of document.querySelectorAll(".kd-browser")) {
  start(place).catch(() => { place.textContent = "The student is not beside this page: page.json is missing."; });
}
