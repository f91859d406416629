// A student of kdtutor in a browser page: `kdtutor export` made its folder, onnxruntime-web computes, wordpiece.js reads.
//
//   const runtime = await loadRuntime(folder, size);
//   const student = await loadModel(runtime, about);      // about: its entry in page.json
//   const { logits, probabilities, pieces, cut, read, computed } = await student("a red fruit with a stone");
//
// read, computed: milliseconds of tokenizer and model. All comes from `folder`; nothing else is asked for.
import { makeTokenizer } from "./wordpiece.js";

export const RUNTIME = "ort-wasm-simd-threaded.wasm";

// The bytes of a file, with onBytes(how many so far) on the way. Throws in one sentence what is wrong.
async function fetched(address, size, onBytes = () => {}) {
  const name = address.href.slice(new URL(".", address).href.length);
  const answer = await fetch(address).catch(() => { throw new Error(`${name} did not come: is the server still there?`); });
  if (!answer.ok) throw new Error(`${name} did not come: the server says ${answer.status}.`);
  const parts = [], reader = answer.body.getReader();
  let come = 0;
  for (let { done, value } = await reader.read(); !done; { done, value } = await reader.read()) {
    parts.push(value);
    onBytes((come += value.length));
  }
  if (come !== size) throw new Error(`${name} has ${come.toLocaleString("en")} bytes of ${size.toLocaleString("en")}: load the page again.`);
  return new Uint8Array(await new Blob(parts).arrayBuffer());
}

// onnxruntime-web in one thread: several would need a server that sends headers of its own.
export async function loadRuntime(folder, size, onBytes) {
  const [ort, wasmBinary] = await Promise.all([
    import(new URL("ort.wasm.bundle.min.mjs", folder)),
    fetched(new URL(RUNTIME, folder), size, onBytes),
  ]);
  Object.assign(ort.env.wasm, { numThreads: 1, wasmBinary });
  return { ort, folder };
}

export async function loadModel({ ort, folder }, { model, bytes, tokenizer, max_length }, onBytes) {
  const answer = await fetch(new URL(tokenizer, folder));
  if (!answer.ok) throw new Error(`${tokenizer} did not come: the server says ${answer.status}.`);
  const tokenize = makeTokenizer(await answer.json(), max_length);
  const session = await ort.InferenceSession.create(await fetched(new URL(model, folder), bytes, onBytes));

  async function answerTo(text) {
    const start = performance.now();
    const { ids, pieces, cut } = tokenize(text);
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, values.length]);
    const inputs = { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
    const read = performance.now() - start;

    const outputs = await session.run(inputs);
    const logits = Array.from(outputs.logits.data);
    const computed = performance.now() - start - read;
    return { logits, probabilities: softmax(logits), pieces, cut, read, computed };
  }
  await answerTo("warm up"); // the first answer of any model is slow
  return answerTo;
}

export function softmax(logits) {
  const most = Math.max(...logits), e = logits.map((z) => Math.exp(z - most));
  const total = e.reduce((a, b) => a + b);
  return e.map((x) => x / total);
}
