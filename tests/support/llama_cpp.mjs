// Perplexity of windows of tokens by llama.cpp on the CPU, with keys and values in f32:
//     node llama_cpp.mjs FOLDER FILE.gguf WINDOWS.json TEXT
// FOLDER holds node_modules/node-llama-cpp. Prints {nll, count, ids}: the windows' mean, and the tokens of TEXT.
import { readFileSync } from "node:fs";
import { resolve } from "node:path";
import { pathToFileURL } from "node:url";

const [folder, file, windows, text] = process.argv.slice(2);
const entry = pathToFileURL(resolve(folder, "node_modules/node-llama-cpp/dist/index.js"));
const { getLlama, LlamaLogLevel } = await import(entry.href);
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, progressLogs: false });
const model = await llama.loadModel({ modelPath: file });
const options = { temperature: 1, topK: 0, topP: 1, minP: 0 };
let sum = 0;
let count = 0;
for (const ids of JSON.parse(readFileSync(windows, "utf-8"))) {
  const context = await model.createContext({
    contextSize: ids.length,
    batchSize: ids.length,
    flashAttention: false,
    experimentalKvCacheKeyType: "F32",
    experimentalKvCacheValueType: "F32",
  });
  const items = ids.map((id) => [id, { generateNext: { logits: true, options } }]);
  await context.getSequence().controlledEvaluate(items, {
    onTokenResult(at, { next }) {
      if (at + 1 === ids.length) return;
      const logits = [...next.logits.values()];
      const largest = logits.reduce((a, b) => Math.max(a, b));
      const total = logits.reduce((all, logit) => all + Math.exp(logit - largest), 0);
      sum += largest + Math.log(total) - next.logits.get(ids[at + 1]);
      count++;
      next.logits.clear();
    },
  });
  await context.dispose();
}
console.log(JSON.stringify({ nll: sum / count, count, ids: model.tokenize(text) }));
process.exit(0);
